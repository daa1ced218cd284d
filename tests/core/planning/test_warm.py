"""What lies on the device counts only for a plan that holds it in the same way; else its return is part of the plan."""

from __future__ import annotations

import msgspec
import pytest

from core.hardware.profile import load as card
from core.models.profile import load as model
from core.planning.job import Job, job_of
from core.planning.options import Options
from core.planning.simulate import simulate
from core.planning.solve import solve
from core.plans import Plan, formats_of

CARD = card("rtx-4090")
FLUX = job_of(model("flux-schnell"), steps=4)


def planned(job: Job, *, fold: bool, transformer: str = "Q8_0") -> Plan:
    options = Options(fold=fold, formats={"transformer": transformer, "text_encoder_2": "Q8_0"})
    return solve(job, CARD, options)[0]


def after(plan: Plan) -> Job:
    """The same again when a plan was carried out."""
    components = plan.components
    return msgspec.structs.replace(
        FLUX,
        warm={component.name: component.kept_bytes for component in components},
        warm_formats=formats_of(plan),
        warm_folded={component.name: component.folded_bytes > 0 for component in components},
        in_memory=frozenset(FLUX.model.components),
    )


@pytest.mark.parametrize("fold", [True, False])
def test_weights_without_their_modulation_are_of_no_use_with_it(*, fold: bool) -> None:
    before = planned(FLUX, fold=fold)
    assert before.component("transformer").kept_bytes > 1e9
    same, other = planned(after(before), fold=fold), planned(after(before), fold=not fold)
    cold = planned(msgspec.structs.replace(after(before), warm={}), fold=not fold)
    size = other.component("transformer").bytes
    assert other.link_bytes >= size
    assert same.link_bytes < size / 2
    assert same.total_seconds < other.total_seconds <= cold.total_seconds
    assert not any("brought anew" in reason for reason in same.reasons)
    how = "with" if fold else "without"
    assert any(f"transformer is brought anew, as Q8_0, {how} its modulation" in reason for reason in other.reasons)
    # in virtual time, too
    job = after(before)
    played = simulate(other, job, CARD, Options(fold=not fold))
    assert played.total_seconds == pytest.approx(other.total_seconds, rel=0.1)


def test_weights_in_another_format_are_of_no_use() -> None:
    before = planned(FLUX, fold=False)
    other = planned(after(before), fold=False, transformer="Q6_K")
    assert other.link_bytes >= other.component("transformer").bytes
    assert any("transformer is brought anew, as Q6_K" in reason for reason in other.reasons)


def test_left_to_the_planner_it_stays_as_it_is() -> None:
    for fold in (True, False):
        before = planned(FLUX, fold=fold)
        formats = {"transformer": "Q8_0", "text_encoder_2": "Q8_0"}
        free = solve(after(before), CARD, Options(formats=formats))[0]
        assert (free.component("transformer").folded_bytes > 0) is fold


def test_what_is_not_known_of_it_is_not_held_against_it() -> None:
    before = planned(FLUX, fold=True)
    job = msgspec.structs.replace(after(before), warm_formats={}, warm_folded={})
    for fold in (True, False):
        assert planned(job, fold=fold).link_bytes < before.component("transformer").bytes / 2
