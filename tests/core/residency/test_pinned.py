"""What streams may stay in pinned memory: it is read once, in buffers of powers of two. Others go through a ring."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.generation.weights import in_memory
from core.hardware.accelerator import TorchAccelerator
from core.messages import LedgerRecord
from core.residency import staging, warm
from core.residency.ledger import Ledger
from core.residency.slabs import Piece, Slab
from core.residency.staging import HostedSlabs, PinnedSlabs, Ring, spread
from core.residency.store import HostStore, Source
from core.residency.wanted import Opened, Want
from core.residency.warm import WarmCache
from tests.cards import emulated

MIB = 2**20


class Numbered:
    """A tensor whose bytes are all one number, with a count of how often it was read."""

    def __init__(self, number: int) -> None:
        self.number, self.reads, self.forgotten = number, 0, 0

    def read(self, piece: Piece, target: torch.Tensor, start: int = 0) -> None:
        self.reads += 1
        target.fill_(self.number)

    def advise(self, advice: str) -> None:
        self.forgotten += advice == "DONTNEED"


@given(sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=30), data=st.data())
def test_slabs_stay_as_they_are_in_buffers_of_powers_of_two(sizes: list[int], data: st.DataObject) -> None:
    cpu = TorchAccelerator("cpu", "CPU")
    sources = {f"weight{number}": Numbered(number) for number in range(len(sizes))}
    slabs = [Slab(f"block{n}", (Piece(f"weight{n}", (size,), torch.uint8, 0),)) for n, size in enumerate(sizes)]
    store = HostStore(sources)
    staying = [slab for slab in slabs if data.draw(st.booleans())]
    pinned = PinnedSlabs(cpu, Ring(cpu, 8192), store, staying)
    assert pinned.keeps(store, staying)
    assert not pinned.keeps(HostStore(sources), staying) or not staying
    for _ in range(3):
        for number in data.draw(st.permutations(range(len(sizes)))):
            held = pinned.stage(store, slabs[number])
            assert held.numel() == slabs[number].size
            assert torch.all(held[: sizes[number]] == number)
    for number, slab in enumerate(slabs):
        assert sources[f"weight{number}"].reads == (1 if slab in staying else 3)
    buffers = Counter(buffer.nbytes for buffer in pinned._buffers)
    assert all(size & (size - 1) == 0 for size in buffers)
    assert sum(size * count for size, count in buffers.items()) == pinned.nbytes
    assert sum(slab.size for slab in staying) <= pinned.nbytes
    assert pinned.nbytes <= 2 * sum(slab.size for slab in staying)


def test_equal_blocks_waste_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_MOST_PINNED_BYTES", 1 << 20)
    cpu = TorchAccelerator("cpu", "CPU")
    slabs = [Slab(f"block{n}", (Piece("w", (330_000 - n,), torch.uint8, 0),)) for n in range(30)]
    pinned = PinnedSlabs(cpu, Ring(cpu, 1), HostStore({}), slabs)
    assert pinned.nbytes < 1.07 * sum(slab.size for slab in slabs)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Counting:
    def __init__(self, source: Source, reads: Counter[str]) -> None:
        self.source, self.reads = source, reads

    def read(self, piece: Piece, target: torch.Tensor, start: int = 0) -> None:
        self.reads[piece.path] += 1
        self.source.read(piece, target, start)

    def advise(self, advice: str) -> None:
        pass


@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=30),
    share=st.floats(0, 1.2),
    room=st.sampled_from([2.0, 0.5, 0.1]),
    data=st.data(),
)
def test_where_host_memory_is_short_some_slabs_are_read_each_time(
    sizes: list[int], share: float, room: float, data: st.DataObject
) -> None:
    cpu = TorchAccelerator("cpu", "CPU")
    sources = {f"weight{number}": Numbered(number) for number in range(len(sizes))}
    slabs = [Slab(f"block{n}", (Piece(f"weight{n}", (size,), torch.uint8, 0),)) for n, size in enumerate(sizes)]
    total = sum(slab.size for slab in slabs)
    staying = spread(slabs, int(share * total))
    assert sum(slab.size for slab in staying) <= share * total
    store = HostStore(sources)
    hosted = HostedSlabs(Ring(cpu, 1024), store, staying, int(room * total))
    assert hosted.keeps(store, staying)
    if room >= 1:
        assert hosted.nbytes == sum(slab.size for slab in staying)
    else:
        assert hosted.nbytes <= room * total
        staying = spread(staying, int(room * total))  # other programs took what was to stay there
    for _ in range(3):
        for number in data.draw(st.permutations(range(len(sizes)))):
            start = 0
            while start < slabs[number].size:  # in parts of what the ring takes
                part = hosted.stage(store, slabs[number], start)
                assert torch.all(part[: sizes[number] - start] == number)
                start += part.numel()
    for number, slab in enumerate(slabs):
        parts = -(-slab.size // 1024)
        assert sources[f"weight{number}"].reads == (1 if slab in staying else 3 * parts)
        assert sources[f"weight{number}"].forgotten == (0 if slab in staying else 3)


@given(count=st.integers(1, 60), share=st.floats(0, 1))
def test_what_stays_is_spread_evenly(count: int, share: float) -> None:
    slabs = [Slab(f"block{n}", (Piece(f"weight{n}", (256,), torch.uint8, 0),)) for n in range(count)]
    size = int(share * count * 256)
    staying = set(spread(slabs, size))
    assert len(staying) >= size // 256 - 1
    for number in range(count + 1):
        before = sum(slab in staying for slab in slabs[:number])
        assert abs(before - number * size / (count * 256)) <= 1.5


@pytest.mark.parametrize("hosted", [None, 35_000])
@pytest.mark.parametrize("room", [True, False])
def test_a_plan_that_pins_reads_once(monkeypatch: pytest.MonkeyPatch, *, room: bool, hosted: int | None) -> None:
    if not room:
        monkeypatch.setattr(warm, "memory", lambda: (4 << 30, warm.HOST_RESERVE_BYTES))
    torch.manual_seed(0)
    card = emulated(context_bytes=MIB, headroom_bytes=MIB)
    records: list[LedgerRecord] = []
    cache = WarmCache(card, Ledger(records.append))
    network = Layers().eval().requires_grad_(False)
    x = torch.randn(2, 64)
    expected = network(x)
    reads: Counter[str] = Counter()
    division, store = in_memory(network, [])
    store = HostStore({name: Counting(source, reads) for name, source in store.sources.items()})
    for _ in range(3):
        with cache.hold(
            "model",
            "model",
            [Want("net", "F32", counts=[2], slots=2, pinned=hosted is None, hosted=hosted)],
            lambda name, wanted: Opened(network, wanted, (division, store)),
            sizes={"net": 0},
            kept={"net": None},
            owner="job",
            budget_bytes=60 * MIB,
        ) as held:
            with card.computing():
                for _ in range(2):
                    result = held["net"](x.clone())
            card.synchronize()
            assert torch.equal(torch.Tensor(result), expected)
    again = {name.split(".")[1] for name, count in reads.items() if count > 1}
    if not room:
        assert len(again) == 4  # all that stream
    elif hosted is None:
        assert not again
    else:
        assert len(again) == 2  # of four blocks of 17 KB two stay in host memory
