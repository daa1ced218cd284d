"""A dry run in the formula's place: what a plan says is then what a pass of exactly this size needs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from core.generation.dryrun import DryRun
from core.generation.dummy_inputs import Size
from core.generation.estimate import run_dry
from core.generation.measure import Network
from core.generation.parts import Part, model_of
from core.hardware.profile import load as card
from core.messages import UserError
from core.models.profile import activation, evaluate, tiled_activation
from core.models.profile import load as model
from core.planning.job import Job, job_of
from core.planning.options import Options
from core.planning.solve import solve


@pytest.fixture(scope="module")
def starter() -> dict[str, Part]:
    return model_of("starter")[1]


def test_the_plan_counts_what_the_dry_run_counted(starter: dict[str, Part], tmp_path: Path) -> None:
    hardware = card("rtx-4090")
    asked = job_of(model("starter"), width=208, height=336)  # a shape that no formula was fitted at
    job = run_dry(asked, starter, hardware, Options(), cache=tmp_path)
    assert (job.exact, asked.exact) == (True, False)
    spatial = job.model.defaults.spatial
    size = Size(1, 336 // spatial, 208 // spatial, job.text_tokens)
    for need, component in zip(job.model.phases[1:], ("transformer", "vae"), strict=True):
        counted = activation(job.model.components[component], job.variables(need))
        assert counted == pytest.approx(Network(starter[component]).run(size).peak, abs=1)
    plan, _ = solve(job, hardware)
    assert any("dry run at exactly this size" in reason for reason in plan.reasons)
    # nothing but the peaks is another
    assert msgspec.structs.replace(job, model=asked.model, exact=False) == asked
    files = {file.name: msgspec.json.decode(file.read_bytes(), type=DryRun) for file in tmp_path.glob("*.json")}
    assert len(files) == len(starter)
    run_dry(asked, starter, hardware, Options(), cache=tmp_path)
    assert {file.name for file in tmp_path.glob("*.json")} == set(files)  # the second time comes from there


def test_the_plain_attention_kernel_is_run_where_there_is_no_other(starter: dict[str, Part]) -> None:
    hardware = card("rx-6600")
    assert hardware.attention == ("math",)

    def peak(job: Job, kernel: str) -> int:
        need = job.model.phases[1]
        return activation(job.model.components["transformer"], job.variables(need), kernel=kernel)

    asked = job_of(model("starter"))
    plain = peak(run_dry(asked, starter, hardware, Options()), "math")
    assert plain > peak(run_dry(asked, starter, card("rtx-4090"), Options()), "efficient")
    assert plain == pytest.approx(peak(asked, "math"), rel=0.25)


def test_a_tile_is_run_too(starter: dict[str, Part]) -> None:
    edge = 12
    job = run_dry(job_of(model("starter")), starter, card("rtx-4090"), Options(tiles=str(edge)))
    (need,) = [need for need in job.model.phases if need.label == "decode"]
    vae, variables = job.model.components["vae"], job.variables(need)
    side = round(variables["A"] ** 0.5)
    assert side > edge
    whole = Network(starter["vae"]).run(Size(1, side, side, job.text_tokens)).peak
    assert activation(vae, variables) == pytest.approx(whole, abs=1)
    tile = Network(starter["vae"]).run(Size(1, edge, edge, job.text_tokens)).peak
    area = float(edge * edge)
    assert evaluate(vae.activation, {**variables, "A": area, "N": area}) == pytest.approx(tile)
    assert tiled_activation(vae, variables, edge) >= tile


def test_what_cannot_be_run_is_named(starter: dict[str, Part]) -> None:
    unknown = {"vae": msgspec.structs.replace(starter["vae"], class_name="SomethingElse")}
    with pytest.raises(UserError, match=r"vae of starter \(SomethingElse\) cannot be run dry; use --estimate formula"):
        run_dry(job_of(model("starter")), unknown, card("rtx-4090"), Options())


def test_what_nobody_can_build_keeps_its_formula() -> None:
    asked = job_of(model("starter"))
    assert run_dry(asked, {}, card("rtx-4090"), Options()).model == asked.model
