"""Plans over time: what lies there in each phase."""

from __future__ import annotations

import pytest

from app.chart_scale import Frame, Scale
from app.outline import ACTIVATIONS, OTHERS, SLOTS, Layers, Steps, from_plan, layer_rank
from core.plans import Phase
from tests.app.plans import GB, plan


def test_a_plan_alone_becomes_phases_one_after_another() -> None:
    outline = from_plan(plan(), {})
    assert [(span.label, span.begin, span.end) for span in outline.spans] == [
        ("encode", 0.0, 2.0),
        ("denoise", 2.0, 10.0),
        ("decode", 10.0, 11.0),
    ]
    assert outline.seconds == 11.0
    assert outline.range_of(Phase.DENOISE) == (2.0, 10.0)
    assert [outline.span_at(at) for at in (-1.0, 1.0, 2.0, 10.5, 99.0)] == [0, 0, 1, 2, 2]


def test_weights_arrive_stay_and_leave_as_planned() -> None:
    layers = from_plan(plan(), {}).layers
    assert layers is not None
    assert layers.at(0.0) == {ACTIVATIONS: GB // 2}
    assert 0 < layers.at(0.5)["text_encoder"] < 2 * GB
    assert layers.at(1.9) == {"text_encoder": 2 * GB, ACTIVATIONS: GB // 2}
    assert layers.at(9.0) == {"text_encoder": GB, "transformer": 6 * GB, SLOTS: GB // 5, ACTIVATIONS: GB // 2}
    assert layers.at(10.9) == {"text_encoder": GB, "vae": GB, ACTIVATIONS: GB // 2}
    assert layers.peak == GB + 6 * GB + GB // 5 + GB // 2


def test_what_is_warm_is_there_from_the_beginning() -> None:
    layers = from_plan(plan(), {"vae": GB, "text_encoder": 5 * GB, "unknown": GB}).layers
    assert layers is not None
    assert layers.at(0.0)["vae"] == GB
    assert layers.at(0.0)["text_encoder"] == 2 * GB  # no more of it can be of use


def test_a_simulation_counts_what_was_warm() -> None:
    from app.forecast import Wish, forecast

    cold = forecast(Wish("starter", card="rtx-3060"))
    assert cold.outline is not None
    assert cold.outline.plan is not None
    size = cold.outline.plan.component("transformer").bytes
    warm = forecast(Wish("starter", card="rtx-3060", warm=(("transformer", size),)))
    assert warm.outline is not None
    assert warm.outline.layers is not None
    assert warm.outline.layers.at(0.0)["transformer"] == size
    assert warm.outline.seconds < cold.outline.seconds


def test_layers_lie_in_the_order_of_the_work() -> None:
    names = [ACTIVATIONS, "vae", SLOTS, "transformer", "text_encoder_2", OTHERS, "text_encoder"]
    in_order = [OTHERS, "text_encoder", "text_encoder_2", "transformer", "vae", SLOTS, ACTIVATIONS]
    assert sorted(names, key=layer_rank) == in_order


def test_steps_keep_the_newest_of_one_moment() -> None:
    steps = Steps()
    steps.add(0.0, {"vae": 1})
    steps.add(0.0, {"vae": 2})
    steps.add(1.0, {"vae": 2})
    steps.add(2.0, {})
    assert steps.layers(3.0) == Layers((0.0, 2.0), {"vae": (2, 0)}, 3.0)


# -- where it stands on the chart -----------------------------------------------------------------------------


def scale(budget: int = 10 * GB, most: int = 8 * GB, least: float = 50.0) -> Scale:
    spans = from_plan(plan(), {}).spans
    return Scale(Frame(60, 4, 550, 100), spans, budget, most, [least] * len(spans))


def test_seconds_and_bytes_come_back_from_their_places() -> None:
    chart = scale()
    for seconds in (0.0, 1.3, 2.0, 7.5, 10.9):
        assert chart.seconds(chart.x(seconds)) == pytest.approx(seconds)
    for amount in (0, GB, 10 * GB):
        assert chart.amount(chart.y(amount)) == pytest.approx(amount, abs=1)
    assert chart.frame.top < chart.y(10 * GB) < chart.frame.bottom


def test_a_short_phase_has_room_for_its_name() -> None:
    chart = scale(least=90.0)
    widths = [chart.edges(number)[1] - chart.edges(number)[0] for number in range(3)]
    assert sum(widths) == pytest.approx(550)
    assert min(widths) == pytest.approx(90)
    assert widths[1] > 300


def test_more_names_than_room_share_it() -> None:
    chart = scale(least=400.0)
    assert chart.edges(2)[1] == pytest.approx(610)


def test_a_plan_far_below_its_budget_is_drawn_at_its_own_scale() -> None:
    assert not scale().beyond
    small = scale(most=GB // 100)
    assert small.beyond
    assert small.y(GB // 100) < small.frame.top + 25


def test_ticks_are_few_and_round() -> None:
    assert scale().ticks(4) == [0, 4 * GB, 8 * GB]
    assert len(scale(most=123).ticks(3)) <= 5
