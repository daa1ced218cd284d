"""The plan holds each phase whole, never beyond the budget, and keeps what fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.messages import Phase, UserError
from core.planning.hold import solve

PHASES = [
    (Phase.ENCODE, ("text_encoder", "text_encoder_2")),
    (Phase.DENOISE, ("transformer",)),
    (Phase.DECODE, ("vae",)),
]
NAMES = [name for _, names in PHASES for name in names]


@given(sizes=st.lists(st.integers(0, 10**10), min_size=4, max_size=4), budget=st.integers(0, 3 * 10**10))
def test_no_phase_passes_the_budget(sizes: list[int], budget: int) -> None:
    weights = dict(zip(NAMES, sizes, strict=True))
    largest = max(sum(weights[name] for name in names) for _, names in PHASES)
    if largest > budget:
        with pytest.raises(UserError, match="GB"):
            solve(PHASES, weights, budget)
        return
    plan = solve(PHASES, weights, budget)
    assert plan.peak_bytes <= budget
    assert plan.keep_warm == (sum(sizes) <= budget)
    assert [phase.phase for phase in plan.phases] == [phase for phase, _ in PHASES]
    assert plan.reasons


def test_a_component_of_two_phases_counts_once() -> None:
    plan = solve([(Phase.ENCODE, ("vae",)), (Phase.DECODE, ("vae",))], {"vae": 10}, 15)
    assert plan.keep_warm
    assert plan.peak_bytes == 10
