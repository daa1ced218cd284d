"""The benchmark for a real card, tried without one: tiny networks on an emulated card, other projects on the CPU."""

from __future__ import annotations

import gc
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel  # noqa: F401 (what is loaded before the tests is frozen once for all)
from torch import nn

from core.hardware.accelerator import choose
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.emulated_card import EmulatedCard
from core.hardware.interface import Accelerator
from core.residency.slabs import divide
from tests.gpu import contenders
from tests.gpu.bench_streaming import collect, read, write
from tests.gpu.comparison import compare, table
from tests.gpu.contenders import CONTENDERS, OURS, PEERS, RESIDENT, Contender, Running
from tests.gpu.networks import PACKED, TINY, WORKLOADS, arguments, make, one_pass, skeleton, weight_bytes
from tests.gpu.passes import Row, measure

CPU = torch.device("cpu")
RING = "residency-ring"


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    """Tiny products are slower on several threads, and looking for garbage among all of diffusers takes a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(before)


@pytest.fixture
def card() -> Iterator[EmulatedAccelerator]:
    made = EmulatedAccelerator(
        EmulatedCard(
            name="card",
            title="Card",
            memory_bytes=64 << 20,
            context_bytes=0,
            headroom_bytes=0,
            pinned_rate=4e9,
            pageable_rate=1e9,
        )
    )
    yield made
    made.close()


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    # parameters in 10^9 times 2 bytes: 11.9, 20.4, 6.15 and 14.3 by the model cards
    [
        ("flux", 23.8),
        ("qwen-image", 40.9),
        ("z-image", 12.3),
        ("wan-14b", 28.6),
        ("flux-q8_0", 12.6),
        ("flux-q4_k", 6.7),
    ],
)
def test_networks_have_their_full_size_and_real_token_counts(name: str, gigabytes: float) -> None:
    module = skeleton(WORKLOADS[name])
    assert weight_bytes(module) == pytest.approx(gigabytes * 1e9, rel=0.01)
    given = arguments(WORKLOADS[name], module, CPU)
    picture = given["x"][0] if "x" in given else given["hidden_states"]
    assert picture.numel() == 128 * 128 * 16  # latents of 1024 x 1024 pixels
    assert any(512 in getattr(value, "shape", ()) for value in [*given.values(), *given.get("cap_feats", ())])


@pytest.mark.parametrize("name", TINY)
def test_ours_gives_the_resident_bits_with_everything_and_with_little(name: str, card: EmulatedAccelerator) -> None:
    module = skeleton(TINY[name])
    division = divide(module)
    scratch = max((getattr(layer, "scratch_bytes", 0) for layer in module.modules()), default=0)
    least = division.rest.size + 2 * max(slab.size for _, slab in division.blocks)
    little, much = int((scratch + least) * 1.04) + 300, scratch + 2 * division.size
    (resident,) = measure(name, TINY[name], RESIDENT, [None], card, passes=2)
    assert resident.error == ""
    assert resident.finite
    for contender in (OURS, RING):
        told: list[Row] = []
        # 1000 bytes are for activations
        rows = measure(
            name, TINY[name], contender, [little + 1000, much], card, activation_bytes=1000, passes=2, told=told.append
        )
        assert told == rows
        assert [row.error for row in rows] == ["", ""]
        assert [row.digest for row in rows] == [resident.digest] * 2
        assert all(row.finite and row.repeatable and len(row.seconds) == 2 for row in rows)
        assert rows[0].streamed_bytes > 0 == rows[1].streamed_bytes
        assert rows[0].weight_bytes == weight_bytes(module)
        assert rows[0].link_rate > 0
    assert card.held_bytes() == {}


def test_a_budget_that_is_too_small_is_a_row_with_its_reason(card: EmulatedAccelerator) -> None:
    rows = measure("tiny-flux", TINY["tiny-flux"], OURS, [100_000, 2_000_000], card, passes=2)
    assert "is the least" in rows[0].error
    assert rows[0].pass_seconds is None
    assert rows[1].error == ""


def test_every_block_counts_in_the_digest() -> None:
    module = make(TINY["tiny-flux"])
    given = arguments(TINY["tiny-flux"], module, CPU)
    before = one_pass(module, given)
    (resident,) = measure("tiny-flux", TINY["tiny-flux"], RESIDENT, [None], choose("cpu"), passes=2)
    assert resident.digest == hashlib.sha256(before.view(torch.uint8).numpy().data).hexdigest()
    assert torch.equal(one_pass(make(TINY["tiny-flux"]), given), before)
    for _, slab in divide(module).blocks:
        weight = module.get_parameter(next(piece.path for piece in slab.pieces if len(piece.shape) == 2))
        saved = weight.data.clone()
        weight.data.zero_()
        assert not torch.equal(one_pass(module, given), before), slab.name
        weight.data.copy_(saved)


def test_packed_numbers_are_those_of_the_pool() -> None:
    from core.precision.codec import decode

    layer = make(TINY["tiny-flux-q4_k"]).get_submodule("single_transformer_blocks.0.proj_mlp")
    numbers = decode(layer.get_buffer(PACKED), layer.stored, (layer.out_features, layer.in_features))
    assert numbers.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("contender", ["group-block", "group-leaf", "sequential", "ramtorch"])
@pytest.mark.parametrize("name", ["tiny-flux", "tiny-wan"])
def test_peers_run_and_are_not_timed_again_where_memory_changes_nothing(name: str, contender: str) -> None:
    if contender == "ramtorch":
        pytest.importorskip("ramtorch")
    (resident,) = measure(name, TINY[name], RESIDENT, [None], choose("cpu"), passes=2)
    rows = measure(name, TINY[name], contender, [400_000, 2_000_000], choose("cpu"), passes=2)
    assert [row.error for row in rows] == ["", ""]
    assert {row.digest for row in rows} == {resident.digest}
    assert ("as under the budget before" in rows[1].setting) == (not CONTENDERS[contender].by_budget)
    assert (rows[0].seconds == rows[1].seconds) == (not CONTENDERS[contender].by_budget)


def test_a_peer_that_is_not_there_is_a_row_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmgp", None)
    (row,) = measure("tiny-wan", TINY["tiny-wan"], "mmgp", [10**6], choose("cpu"))
    assert row.error.startswith("ModuleNotFoundError: ")


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_memory_that_runs_out_means_another_attempt(failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[int] = []

    def start(module: nn.Module, accelerator: Accelerator, room: int, attempt: int) -> Running:
        if attempt < failing:
            raise torch.OutOfMemoryError("no room\nand more lines")
        return Running(f"attempt {attempt}", lambda: stopped.append(attempt))

    monkeypatch.setitem(contenders.CONTENDERS, "fake", Contender(start, attempts=2))
    (row,) = measure("tiny-wan", TINY["tiny-wan"], "fake", [10**6], choose("cpu"), passes=2)
    if failing < 2:
        assert (row.setting, row.error, stopped) == (f"attempt {failing}", "", [failing])
    else:
        assert (row.error, stopped) == ("OutOfMemoryError: no room", [])


def row(contender: str, budget: int | None, seconds: float | None, **fields: object) -> Row:
    common = {"model": "flux", "digest": "a", "finite": True, "repeatable": True} | fields
    return Row(contender=contender, budget_bytes=budget, pass_seconds=seconds, **common)


def test_bound_ratio_and_lead() -> None:
    rows = [
        row(RESIDENT, None, 0.5),
        row(OURS, 4, 1.1, streamed_bytes=20, link_rate=20.0),
        row(RING, 4, 3.0, digest="b"),
        row("mmgp", 4, 2.2),
        row("sequential", 4, 9.0, digest="b"),
        row("ramtorch", 4, None, error="ImportError: none", digest=""),
        row(OURS, 8, 0.6, streamed_bytes=5, link_rate=20.0),
    ]
    first, second = compare(rows)
    assert (first.transfer, first.bound, first.best_peer, first.same) == (1.0, 1.0, "mmgp", False)
    assert first.ratio == pytest.approx(1.1)
    assert first.lead == pytest.approx(2.0)
    assert (second.bound, second.best_peer, second.lead, second.same) == (0.5, "", None, True)
    assert second.ratio == pytest.approx(1.2)
    text = table(rows)
    assert "| 1.10 |" in text
    assert "| NO |" in text
    assert "- flux, ramtorch, 4e-09 GB: ImportError: none" in text
    assert "allocator retries" not in text
    assert "allocator retries 3" in table([row(OURS, 4, 1.0, retries=3)])


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    asked: list[tuple[str, str, tuple[int | None, ...], int]] = []

    def run(
        model: str, contender: str, budgets: Sequence[int | None], activations: int, seconds: float
    ) -> tuple[list[Row], bool]:
        asked.append((model, contender, tuple(budgets), activations))
        if contender == "mmgp":
            return [], False  # too slow
        new = [row(contender, budget, 1.0, model=model, activation_bytes=77) for budget in budgets]
        return (new[:1], True) if contender == "group-leaf" else (new, True)

    rows: list[Row] = []
    path = tmp_path / "result.json"
    names = [RESIDENT, OURS, "mmgp", "group-leaf"]

    def go(budgets: Sequence[int]) -> list[str]:
        return collect(rows, ["flux", "flux-q8_0"], names, budgets, run, lambda: write(path, rows, None))

    assert go([8, 4]) == []
    assert asked[:2] == [("flux", RESIDENT, (None,), 1_500_000_000), ("flux", OURS, (4, 8), 77)]
    assert {one[1] for one in asked if one[0] == "flux-q8_0"} == {RESIDENT, OURS}  # no peers on packed layers
    errors = {(one.contender, one.budget_bytes): one.error for one in rows if one.error}
    assert errors == {
        ("mmgp", 4): "it took longer than 240 s",
        ("mmgp", 8): "it took longer than 240 s",
        ("group-leaf", 8): "its process ended",
    }
    assert read(path, again=False) == rows
    assert read(path, again=True) == [one for one in rows if not one.error]
    assert "Not measured:" in path.with_suffix(".md").read_text()
    asked.clear()
    assert go([4, 8]) == []
    assert asked == []
    go([4, 16])
    assert [one[2] for one in asked] == [(16,)] * 4


def test_time_that_is_over_leaves_the_rest_for_another_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    rows: list[Row] = []
    limits: list[float] = []

    def run(
        model: str, contender: str, budgets: Sequence[int | None], activations: int, seconds: float
    ) -> tuple[list[Row], bool]:
        limits.append(seconds)
        return [], False

    assert collect(rows, ["flux"], [OURS], [4], run, lambda: None, until=1030) == ["flux: resident", "flux: residency"]
    assert limits == []
    left = collect(rows, ["flux"], [OURS], [4], run, lambda: None, limit=300, until=1100)
    assert (left, limits, rows) == (["flux: resident", "flux: residency"], [90, 90], [])


def test_all_peers_of_the_issue_are_there() -> None:
    assert PEERS == ("group-block", "group-leaf", "sequential", "mmgp", "ramtorch")


@pytest.mark.gpu
@pytest.mark.parametrize("contender", [OURS, RING, "group-block", "group-leaf", "sequential"])
@pytest.mark.parametrize("name", ["tiny-flux", "tiny-flux-q8_0", "tiny-z-image", "tiny-qwen-image", "tiny-wan"])
def test_on_a_card_too(name: str, contender: str) -> None:
    (resident,) = measure(name, TINY[name], RESIDENT, [None], choose("cuda"), passes=2)
    (found,) = measure(name, TINY[name], contender, [1 << 30], choose("cuda"), passes=2)
    assert found.error == ""
    assert found.digest == resident.digest or not CONTENDERS[contender].ours
