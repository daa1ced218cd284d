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
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.emulated_card import EmulatedCard
from core.messages import LedgerRecord
from core.residency import staging, warm
from core.residency.ledger import Ledger
from core.residency.slabs import Piece, Slab
from core.residency.staging import PinnedSlabs, Ring
from core.residency.store import HostStore, Source
from core.residency.warm import Opened, Want, WarmCache

MIB = 2**20


class Numbered:
    """A tensor whose bytes are all one number, with a count of how often it was read."""

    def __init__(self, number: int) -> None:
        self.number, self.reads = number, 0

    def read(self, piece: Piece, target: torch.Tensor, start: int = 0) -> None:
        self.reads += 1
        target.fill_(self.number)

    def advise(self, advice: str) -> None:
        pass


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


@pytest.mark.parametrize("room", [True, False])
def test_a_plan_that_pins_reads_once(monkeypatch: pytest.MonkeyPatch, *, room: bool) -> None:
    if not room:
        monkeypatch.setattr(warm, "memory", lambda: (4 << 30, warm.HOST_RESERVE_BYTES))
    torch.manual_seed(0)
    card = EmulatedAccelerator(
        EmulatedCard(
            name="card",
            title="card",
            memory_bytes=64 * MIB,
            context_bytes=MIB,
            headroom_bytes=MIB,
            pinned_rate=2e9,
            pageable_rate=1e9,
        )
    )
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
            [Want("net", "F32", counts=[2], slots=2, pinned=True)],
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
    streamed = [name for name, count in reads.items() if count > 1]
    assert (not streamed) is room
