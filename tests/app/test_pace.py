"""How long drafts are taken to last."""

from __future__ import annotations

import msgspec
import pytest

from app.pace import Pace
from core.messages import Request, Result
from tests.app.fake_engine import make_result, plain_picture

REQUEST = Request(prompt="a red house", model="large", draft=True)


def result(total: float, load: float = 0.0) -> Result:
    made = make_result(REQUEST, plain_picture(REQUEST, 1.0), total, 4)
    return msgspec.structs.replace(made, seconds={"load": load, "denoise": total - load, "total": total})


@pytest.mark.parametrize(
    ("seconds", "slow"),
    [
        ([], False),
        ([9.0], True),
        ([0.5], False),
        ([9.0, 0.5], False),  # the first one chose kernels
        ([0.5, 9.0], False),  # a busy moment
        ([0.5, 9.0, 9.0], True),
        ([9.0, 9.0, 9.0, 0.5], True),
        ([9.0, 9.0, 9.0, 0.5, 0.5], False),
    ],
)
def test_the_middle_of_the_last_drafts_counts(seconds: list[float], slow: bool) -> None:
    pace = Pace()
    for value in seconds:
        pace.record(REQUEST, result(value))
    assert pace.is_slow(REQUEST) is slow


def test_loading_counts_unless_it_is_the_first_time() -> None:
    pace = Pace()
    pace.record(REQUEST, result(12.0, load=11.5))
    assert pace.seconds(REQUEST) == pytest.approx(0.5)
    # a model that does not fit is loaded for each draft
    pace.record(REQUEST, result(9.0, load=8.0))
    pace.record(REQUEST, result(9.0, load=8.0))
    assert pace.is_slow(REQUEST)
    pace = Pace()
    pace.record(REQUEST, result(0.5))
    pace.nothing_loaded()
    pace.record(REQUEST, result(12.0, load=11.0))
    pace.record(REQUEST, result(0.5))
    assert pace.seconds(REQUEST) == pytest.approx(0.5)


def test_models_and_sizes_have_a_pace_each_and_it_is_remembered() -> None:
    pace = Pace()
    pace.record(REQUEST, result(9.0))
    again = Pace(pace.remembered())
    assert again.is_slow(REQUEST)
    assert again.seconds(Request(prompt="a", model="other")) is None
    assert again.seconds(Request(prompt="a", model="large", width=256, height=256)) is None
    # another text is of the same pace
    assert again.is_slow(Request(prompt="anything", model="large", seed=5))


def test_a_draft_that_is_still_not_done_is_slow_until_one_is_measured() -> None:
    pace = Pace()
    pace.at_least(REQUEST, 2.0)
    assert pace.is_slow(REQUEST)
    assert pace.remembered() == {}
    pace.record(REQUEST, result(1.0))
    assert not pace.is_slow(REQUEST)
    pace.at_least(REQUEST, 2.0)
    assert not pace.is_slow(REQUEST)
