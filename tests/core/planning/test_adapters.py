"""Adapters are part of a plan: their bytes lie with their blocks, fold away with modulation, and cost time."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from core.cli import main
from core.hardware import profile as cards
from core.messages import Phase
from core.models import profile as models
from core.planning.adapters import added, spread
from core.planning.demand import demand
from core.planning.job import Beside, Job, job_of
from core.planning.options import DEFAULT
from core.planning.solve import solve

MODEL = models.load("flux-schnell")
TRANSFORMER = MODEL.components["transformer"]
BLOCKS = sum(count for _, count in TRANSFORMER.order)
BESIDE = Beside(
    blocks=tuple(range(1, BLOCKS + 1)),
    rest=1000,
    folded_blocks=(10_000,) * BLOCKS,
    folded_rest=100,
    share=0.02,
    width=32,
)


def job(*, beside: Beside | None = None) -> Job:
    plain = job_of(MODEL)
    return plain if beside is None else msgspec.structs.replace(plain, adapters={"transformer": beside})


def test_a_kind_of_blocks_counts_as_the_one_with_the_most() -> None:
    whole, folding = added(TRANSFORMER, BESIDE, False), added(TRANSFORMER, BESIDE, True)
    (first, doubles), (second, _) = TRANSFORMER.order
    assert folding.kinds == {first: doubles, second: BLOCKS}
    assert whole.kinds == {first: doubles + 10_000, second: BLOCKS + 10_000}
    assert (whole.rest, whole.folded) == (1100, 0)
    assert (folding.rest, folding.folded) == (1000, 10_000 * BLOCKS + 100)


def test_blocks_that_no_profile_knows_count_as_resident() -> None:
    other = Beside(blocks=(5, 6), rest=1, folded_blocks=(0, 0))
    assert added(TRANSFORMER, other, False) == added(TRANSFORMER, other, True)
    assert added(TRANSFORMER, other, False).rest == 12


@pytest.mark.parametrize("fold", [False, True])
def test_what_a_component_needs_grows_by_them(fold: bool) -> None:
    need = next(need for need in MODEL.phases if need.phase is Phase.DENOISE)
    card = cards.load("rx-7800-xt")
    plain, more = (
        demand("transformer", TRANSFORMER, need, job(beside=beside), card, "Q8_0", fold=fold)
        for beside in (None, BESIDE)
    )
    extra = added(TRANSFORMER, BESIDE, fold)
    assert more.rest_bytes - plain.rest_bytes == extra.rest
    assert more.folded_bytes - plain.folded_bytes == extra.folded
    counts = dict(TRANSFORMER.order)
    assert more.bytes - plain.bytes == extra.rest + sum(extra.kinds[kind] * counts[kind] for kind in counts)
    assert more.seconds > plain.seconds * 1.015
    assert more.activation_bytes > plain.activation_bytes


def test_a_plan_keeps_to_the_budget_with_them() -> None:
    card = cards.load("rx-7800-xt")
    large = spread(TRANSFORMER, 600_000_000, 128, 2)
    assert large.bytes >= 1_200_000_000
    assert len(large.blocks) == BLOCKS
    budget = 6_000_000_000
    plans = [solve(job(beside=beside), card, DEFAULT, budget)[0] for beside in (None, large)]
    assert all(plan.peak_bytes <= budget for plan in plans)
    plain, more = (plan.component("transformer") for plan in plans)
    if plain.format == more.format:
        assert more.bytes - plain.bytes >= 1_150_000_000
    assert plans[1].total_seconds > plans[0].total_seconds


def test_plan_takes_loras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.safetensors"
    pair = {"lora_A": torch.ones(8, 4096), "lora_B": torch.ones(4096, 8)}
    save_file({f"transformer.x.{part}.weight": value for part, value in pair.items()}, file)

    def planned(*words: str) -> dict[str, int]:
        assert main(["plan", "--model", "starter", "--gpu", "rx-7800-xt", "--json", *words]) == 0
        plan = json.loads(capsys.readouterr().out)
        return {name: component["bytes"] for name, component in plan["components"].items()}

    plain, more = planned(), planned("--lora", f"{file}:0.5")
    assert more["transformer"] - plain["transformer"] >= 2 * 8 * 4096 * 2
    assert {**more, "transformer": 0} == {**plain, "transformer": 0}
    assert main(["plan", "--model", "starter", "--gpu", "rx-7800-xt", "--lora", "nowhere"]) == 2
    assert "There is no LoRA called nowhere" in capsys.readouterr().err
