"""The choice between formats against solving every one of them, and what is said of those that lost."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.hardware import profile as cards
from core.messages import Phase, UserError
from core.models import profile as models
from core.planning.choices import Stages, choices_of, roles_of
from core.planning.decide import decide
from core.planning.hosting import machine_for
from core.planning.job import Job, job_of
from core.planning.options import Options, budget_of, slowest_good
from core.planning.search import Search
from core.planning.solve import solve

GB = 10**9


class Known(NamedTuple):
    """A choice that fits, and what it takes; `pace` is the next picture's seconds, `whole` that all stays."""

    formats: dict[str, str]
    loss: float
    expected: float
    pace: float
    whole: bool


def every(job: Job, hardware: cards.HardwareProfile, options: Options) -> list[Known]:
    """Each choice that fits, searched on its own."""
    known, result = Stages(job, hardware, options), []
    for formats, fold, tile in choices_of(job, hardware, options):
        stages = known.of(formats, fold, tile)
        machine = machine_for(stages, job.next, hardware, options, budget_of(hardware, options))
        search = Search(stages, machine, job.next, job.warm, job.in_memory)
        found, after = search.run(), job.next
        losses = {part.name: part.loss for stage in stages for part in stage.demands}
        if found is not None:
            pace = (after.text * found.next_text + after.seed * found.next_seed) / (after.text + after.seed)
            result.append(Known(formats, sum(losses.values()), found.expected, pace, search.whole is not None))
    return result


@settings(max_examples=10, deadline=None)
@given(
    model=st.sampled_from(["flux-schnell", "z-image-turbo", "wan22-a14b", "stable-audio-open", "starter"]),
    card=st.sampled_from(["rx-7800-xt", "rtx-3060", "rtx-4090"]),
    memory=st.sampled_from([None, 6 * GB, 8 * GB, 20 * GB]),
    prefer=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    steps=st.integers(1, 30),
)
def test_the_best_quality_within_the_preferences_time(model, card, memory, prefer, steps):
    job, hardware, options = job_of(models.load(model), steps=steps), cards.load(card), Options(prefer=prefer)
    if memory is not None:
        hardware = msgspec.structs.replace(hardware, memory_bytes=memory)
    known = every(job, hardware, options)
    decision = decide(job, hardware, options, budget_of(hardware, options))
    assert (decision is None) == (not known)
    if decision is None:
        return
    limit = slowest_good(min(one.expected for one in known), prefer)
    denoisers = [name for name, role in roles_of(job.model).items() if role is Phase.DENOISE]
    groups: dict[tuple[str, ...], list[Known]] = {}
    for one in known:
        groups.setdefault(tuple(one.formats[name] for name in denoisers), []).append(one)
    quickest = min(min(some, key=lambda one: one.expected).pace for some in groups.values())
    good = [one for one in known if one.expected <= limit * (1 + 1e-9)]
    if prefer > 0:  # the first loading of what stays whole is no reason for coarser weights
        good += [one for one in known if one.whole and one.pace <= slowest_good(quickest, prefer)]
    loss, expected = min((one.loss, one.expected) for one in good)
    assert decision.limit == pytest.approx(limit)
    assert decision.chosen.loss == loss
    assert decision.chosen.found.expected == pytest.approx(expected)
    mine = [decision.chosen.formats[name] for name in denoisers]
    others: dict[tuple[str, ...], float] = {}  # the fastest of each other format of what denoises; () for the rest
    for formats, _, seconds, *_ in known:
        key = tuple(formats[name] for name in denoisers)
        if formats != decision.chosen.formats:
            key = () if list(key) == mine else key
            others[key] = min(seconds, others.get(key, seconds))
    assert sorted(runner.found.expected for runner in decision.runners) == pytest.approx(sorted(others.values()))


@settings(max_examples=15, deadline=None)
@given(
    model=st.sampled_from(["flux-schnell", "flux2-klein-4b", "z-image-turbo", "sd35-medium", "wan22-a14b"]),
    card=st.sampled_from(["rx-7800-xt", "rtx-3060", "rtx-4090"]),
    memory=st.sampled_from([None, 8 * GB, 12 * GB]),
    prefer=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_what_is_said_of_the_plans_that_lost_is_true(model, card, memory, prefer):
    job, hardware, options = job_of(models.load(model)), cards.load(card), Options(prefer=prefer)
    if memory is not None:
        hardware = msgspec.structs.replace(hardware, memory_bytes=memory)
    try:
        plan, alternatives = solve(job, hardware, options)
    except UserError:
        return
    assert plan.peak_bytes <= plan.budget_bytes
    for alternative in alternatives:
        assert alternative.peak_bytes <= plan.budget_bytes
        slower = alternative.expected_seconds / plan.expected_seconds - 1
        words = alternative.why_not
        assert ("better quality" in words) == (alternative.loss < plan.loss)
        assert ("coarser" in words) == (alternative.loss > plan.loss)
        assert ("the same quality" in words) == (alternative.loss == plan.loss)
        assert ("not faster" in words) == (alternative.loss > plan.loss and slower >= 0)
        if abs(slower) >= 0.01 and "not faster" not in words:
            assert f"{abs(slower):.0%} {'faster' if slower < 0 else 'slower'}" in words
        assert ("not afterwards" in words) == (
            "coarser" in words and slower < 0 and alternative.next_seconds >= plan.next_seconds
        )
        if prefer == 1:
            assert alternative.loss >= plan.loss  # with all the time in the world nothing better is left
    if prefer == 0:  # and with none nothing faster; formats are decided before what shares and hides copies
        apart = msgspec.structs.replace(options, lockstep=False, ahead=False)
        plan, alternatives = solve(job, hardware, apart)
        assert all(each.expected_seconds >= plan.expected_seconds * (1 - 1e-9) for each in alternatives)
