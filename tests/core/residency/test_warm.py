"""Components stay while there is room, leave when they are worth least, and the ledger tells it all."""

from __future__ import annotations

import pytest
from torch import nn

from core.hardware.accelerator import TorchAccelerator
from core.messages import LedgerRecord
from core.planning.leaving import Return
from core.residency.blocks import blocks
from core.residency.ledger import Ledger
from core.residency.wanted import Opened, Returns, Want
from core.residency.warm import WarmCache

KILO = 1000
SIZES = {"a": 4 * KILO, "b": 4 * KILO, "c": 4 * KILO}


class Shelf:
    """A warm cache on the CPU with its records, and a count of how often each component was read."""

    def __init__(self, budget: int, returns: Returns | None = None) -> None:
        self.records: list[LedgerRecord] = []
        self.loads: list[str] = []
        self.ledger = Ledger(self.records.append)
        self.cache = WarmCache(TorchAccelerator("cpu", "CPU"), self.ledger, returns)
        self.budget = budget

    def load(self, name: str, wanted: str) -> Opened:
        self.loads.append(name)
        return Opened(nn.Linear(KILO, 1, bias=False), wanted)

    def hold(self, *names: str, model: str = "model", keep: bool = True) -> None:
        kept = dict.fromkeys(SIZES, None) if keep else {name: None for name in SIZES if name not in names}
        with self.cache.hold(
            model,
            model,
            [Want(name, "F32") for name in names],
            self.load,
            sizes=SIZES,
            kept=kept,
            owner="job",
            budget_bytes=self.budget,
        ) as held:
            assert list(held) == list(names)
            assert self.ledger.resident_bytes <= self.budget


def test_what_fits_stays_warm() -> None:
    shelf = Shelf(12 * KILO)
    for _ in range(3):
        shelf.hold("a", "b")
        shelf.hold("c")
    assert shelf.loads == ["a", "b", "c"]
    assert [record.change for record in shelf.records] == [4 * KILO] * 3
    assert shelf.records[-1].resident_bytes == 12 * KILO


def test_the_least_recently_used_leaves_first() -> None:
    shelf = Shelf(8 * KILO)
    shelf.hold("a", model="one")
    shelf.hold("b", model="two")
    shelf.hold("a", model="one")
    shelf.hold("c", model="three")
    departed = [record.component for record in shelf.records if record.change < 0]
    assert departed == ["b"]
    assert shelf.ledger.resident_bytes == 8 * KILO


def test_what_is_worth_least_leaves_first() -> None:
    chances = {"one": 0.9, "two": 0.2, "three": 0.5}
    shelf = Shelf(12 * KILO, lambda mine, keys: {key: Return(1e-9, chances[key[0]]) for key in keys})
    for name, model in (("a", "three"), ("b", "two"), ("c", "one")):
        shelf.hold(name, model=model)
    shelf.hold("a", model="four")
    departed = [record for record in shelf.records if record.change < 0]
    assert [(record.model, record.component) for record in departed] == [("two", "b")]
    assert departed[0].reason.startswith("made room for the phase: bringing 4 kB back takes ")
    assert departed[0].reason.endswith("and they are wanted next with 20%")
    assert [leaver.model for leaver in shelf.cache.leaving("four", 5 * KILO)] == ["three", "one"]
    assert [leaver.model for leaver in shelf.cache.leaving("four", 4 * KILO)] == ["three"]
    assert shelf.cache.leaving("four", 0) == []


def test_what_a_plan_does_not_keep_leaves_after_its_phase() -> None:
    shelf = Shelf(12 * KILO)
    shelf.hold("a")
    shelf.hold("b", keep=False)
    assert [record.component for record in shelf.records if record.change < 0] == ["b"]
    shelf.hold("c")
    assert shelf.cache.held("model") == {"a": (4 * KILO, "F32"), "c": (4 * KILO, "F32")}


def test_room_is_made_before_a_component_is_read() -> None:
    shelf = Shelf(4 * KILO)
    resident_at_load: list[int] = []
    load = shelf.load

    def watched(name: str, wanted: str) -> Opened:
        resident_at_load.append(shelf.ledger.resident_bytes)
        return load(name, wanted)

    shelf.load = watched  # type: ignore[method-assign]
    for name in ("a", "b", "c"):
        shelf.hold(name, model=f"model of {name}")
    assert resident_at_load == [0, 0, 0]


def test_a_plan_that_keeps_less_lets_go_before_the_phase() -> None:
    shelf = Shelf(12 * KILO)
    shelf.hold("a", "b")
    shelf.hold("c", keep=False)
    assert shelf.cache.held("model") == {"a": (4 * KILO, "F32"), "b": (4 * KILO, "F32")}
    kept = {"a": 0, "b": None, "c": None}
    with shelf.cache.hold(
        "model", "model", [Want("c", "F32")], shelf.load, sizes=SIZES, kept=kept, owner="job", budget_bytes=12 * KILO
    ):
        assert shelf.cache.held("model") == {"b": (4 * KILO, "F32"), "c": (4 * KILO, "F32")}


def test_a_failed_read_leaves_no_trace() -> None:
    shelf = Shelf(12 * KILO)

    def broken(name: str, wanted: str) -> Opened:
        raise OSError(name)

    shelf.load = broken  # type: ignore[method-assign]
    with pytest.raises(OSError, match="a"):
        shelf.hold("a")
    assert shelf.records == []
    assert shelf.ledger.resident_bytes == 0


def test_a_run_has_its_own_peaks() -> None:
    shelf = Shelf(8 * KILO)
    shelf.hold("a", "b")
    shelf.ledger.start_run()
    shelf.hold("c", model="other")
    use = shelf.ledger.use(("other", "c"), "F32", 4 * KILO)
    assert (use.bytes, use.peak_bytes, use.resident_bytes) == (4 * KILO, 4 * KILO, 4 * KILO)
    assert shelf.ledger.peak_bytes == 8 * KILO


def test_a_model_can_be_dropped_whole() -> None:
    shelf = Shelf(12 * KILO)
    shelf.hold("a", "b")
    shelf.cache.drop_model("model", "user", "asked for")
    assert shelf.ledger.resident_bytes == 0
    shelf.hold("a")
    assert shelf.loads == ["a", "b", "a"]


def test_everything_can_be_made_to_leave() -> None:
    shelf = Shelf(12 * KILO)
    shelf.hold("a", "b")
    shelf.cache.evict_all("job", "memory ran out")
    assert shelf.ledger.resident_bytes == 0
    assert [record.reason for record in shelf.records if record.change < 0] == ["memory ran out"] * 2


def test_blocks_are_the_outermost_repeated_layers() -> None:
    inner = nn.ModuleList([nn.Linear(1, 1)])
    outer = nn.ModuleList([nn.Sequential(inner), nn.Linear(1, 1)])
    holes = nn.Module()
    holes.attentions = nn.ModuleList([None])  # type: ignore[list-item]
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(outer), holes)
    assert list(blocks(model)) == list(outer)
