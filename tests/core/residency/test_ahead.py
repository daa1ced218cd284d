"""What a later phase needs comes while another one runs, as far as it is told; the rest when its turn comes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

from core.generation.weights import in_memory
from core.messages import LedgerRecord
from core.residency.ledger import Ledger
from core.residency.slabs import Piece
from core.residency.store import HostStore, Source
from core.residency.wanted import Opened, Want
from core.residency.warm import WarmCache
from tests.cards import emulated

MIB = 2**20


class Layers(nn.Module):
    """Eight blocks of 256 KiB and something outside of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(256, 256, bias=False) for _ in range(8))
        self.last = nn.Linear(256, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        result: torch.Tensor = self.last(x)
        return result


class Shelf:
    """A warm cache on an emulated card, two networks, and what they compute on the processor."""

    def __init__(self, rate: float = 2e9) -> None:
        torch.manual_seed(0)
        self.card = emulated(context_bytes=MIB, headroom_bytes=MIB, pinned_rate=rate)
        self.records: list[LedgerRecord] = []
        self.cache = WarmCache(self.card, Ledger(self.records.append))
        self.input = torch.randn(2, 256)
        self.networks = {name: Layers().eval().requires_grad_(False) for name in ("first", "second")}
        self.expected = {name: network(self.input) for name, network in self.networks.items()}

    def load(self, name: str, wanted: str) -> Opened:
        return Opened(self.networks[name], wanted, in_memory(self.networks[name], []))

    def run(self, name: str, ahead: tuple[tuple[Want, int], ...] = (), error: Exception | None = None) -> int:
        """Run one of them; how many bytes crossed the link for it, and for what comes ahead."""
        before = self.cache.link_bytes
        with self.cache.hold(
            "model",
            "model",
            [Want(name, "F32")],
            self.load,
            sizes=dict.fromkeys(self.networks, 0),
            kept=dict.fromkeys(self.networks),
            owner="job",
            budget_bytes=60 * MIB,
            ahead=ahead,
        ) as held:
            if error is not None:
                raise error
            with self.card.computing():
                result = held[name](self.input.clone())
            self.card.synchronize()
            assert torch.equal(torch.Tensor(result), self.expected[name])
            if ahead:
                self.card.copy_queue.synchronize()
        return self.cache.link_bytes - before


def whole(shelf: Shelf) -> int:
    return shelf.cache.held("model")["first"][0]


@pytest.mark.parametrize("part", [0.0, 0.4, 1.0, 5.0])
def test_a_part_comes_while_another_network_runs(part: float) -> None:
    shelf = Shelf()
    alone = shelf.run("first")
    size = whole(shelf)
    assert alone == size
    shelf.run("first", ahead=((Want("second", "F32"), int(part * size)),))
    came = shelf.cache.held("model").get("second", (0, ""))[0]
    assert came <= part * size
    assert came > part * size - 300 * 1024 or came == size
    told = [r for r in shelf.records if r.component == "second"]
    assert sum(record.change for record in told) == came
    assert all("while the phase before" in record.reason for record in told)
    rest = shelf.run("second")
    assert rest + came >= size  # what had been enqueued when the phase ended need not come again
    assert shelf.run("second") == 0


def test_it_leaves_when_its_room_is_needed() -> None:
    shelf = Shelf()
    shelf.run("first", ahead=((Want("second", "F32"), MIB),))
    assert "second" in shelf.cache.held("model")
    shelf.cache.evict_all("job", "asked for")
    assert shelf.cache.held("model") == {}
    assert shelf.run("second") == shelf.run("first")


def test_a_phase_that_fails_ends_what_comes_ahead_of_the_next() -> None:
    shelf = Shelf(rate=4e6)  # half a second for a network
    with pytest.raises(KeyError):
        shelf.run("first", ahead=((Want("second", "F32"), 4 * MIB),), error=KeyError("the phase failed"))
    copied = shelf.cache.link_bytes
    assert copied < 4 * MIB
    shelf.card.copy_queue.synchronize()
    assert shelf.cache.link_bytes == copied
    shelf.run("second")
    shelf.run("first")


class Stuck:
    """A tensor whose bytes do not come before somebody lets them."""

    def __init__(self, source: Source) -> None:
        self.source, self.let = source, threading.Event()

    def read(self, piece: Piece, target: torch.Tensor, start: int = 0) -> None:
        assert self.let.wait(60)
        self.source.read(piece, target, start)

    def advise(self, advice: str) -> None:
        pass


def test_whoever_waits_for_weights_can_be_called_off() -> None:
    shelf = Shelf()
    network = shelf.networks["first"]
    division, store = in_memory(network, [])
    stuck = Stuck(store.sources["layers.5.weight"])
    slow = HostStore({**store.sources, "layers.5.weight": stuck})
    asked = 0

    class CalledOffError(Exception):
        pass

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            threading.Timer(0.1, stuck.let.set).start()  # the copier must come to an end too
            raise CalledOffError

    def load(name: str, wanted: str) -> Opened:
        return Opened(network, wanted, (division, slow))

    def hold(check: Callable[[], None]) -> None:
        with shelf.cache.hold(
            "model",
            "model",
            [Want("first", "F32")],
            load,
            sizes={"first": 0},
            kept={"first": None},
            owner="job",
            budget_bytes=60 * MIB,
            check=check,
        ) as held:
            with shelf.card.computing():
                result = held["first"](shelf.input.clone())
            shelf.card.synchronize()
            assert torch.equal(torch.Tensor(result), shelf.expected["first"])

    with pytest.raises(CalledOffError):
        hold(check)
    assert asked == 3
    hold(lambda: None)
