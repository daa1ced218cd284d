"""What a person fixes becomes options to plan with; what does not exist or cannot be done is one sentence."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.hardware.profile import load as card
from core.messages import OFFLOAD, How, UserError
from core.models.profile import load as model
from core.planning.how import options_of
from core.planning.job import job_of
from core.planning.options import DEFAULT, Options, engine_on
from core.planning.solve import solve
from core.precision.formats import FORMATS

FLUX = model("flux-schnell")
CARD = card("rtx-4090")
# An engine that holds components whole, in the precision that they compute in.
PLAIN = Options(streaming=False, packing=False, fold=False, tiles="off", prefer=0.0)


def placements(how: How, able: Options = DEFAULT):
    plan, _ = solve(job_of(FLUX), CARD, options_of(how, FLUX, CARD, able))
    return plan, {placed.component: placed for phase in plan.phases for placed in phase.placements}


def test_nothing_fixed_leaves_everything_to_what_is_able() -> None:
    assert options_of(How(), FLUX, CARD) == DEFAULT
    assert options_of(How(prefer=0.0), FLUX, CARD, PLAIN) == PLAIN


def test_the_plan_is_as_it_was_asked_for() -> None:
    how = How(
        prefer=1.0,
        formats={"transformer": "Q6_K", "text_encoder_2": "q8_0"},
        residency={"transformer": "12", "text_encoder_2": "streamed"},
        slots=3,
        tile="off",
        fold=False,
    )
    plan, placed = placements(how)
    assert plan.component("transformer").format == "Q6_K"
    assert plan.component("text_encoder_2").format == "Q8_0"
    assert sum(placed["transformer"].resident_blocks) == 12
    assert sum(placed["text_encoder_2"].resident_blocks) == 0
    assert all(component.folded_bytes == 0 for component in plan.components)
    assert {phase.slots for phase in plan.phases} <= {0, 3}
    _, placed = placements(How(residency={"transformer": "resident"}))
    assert placed["transformer"].streamed_bytes == 0


def test_how_much_later_the_first_of_several_may_come_is_a_preference() -> None:
    assert options_of(How(), FLUX, CARD).latency == 0.2
    assert options_of(How(latency=0.0), FLUX, CARD).latency == 0.0
    for latency in (-0.1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="latency"):
            options_of(How(latency=latency), FLUX, CARD)


def test_lockstep_needs_both_the_person_and_the_engine() -> None:
    assert options_of(How(), FLUX, CARD).lockstep
    assert not options_of(How(lockstep=False), FLUX, CARD).lockstep
    assert not options_of(How(), FLUX, CARD, engine_on(own_memory=False)).lockstep


def test_headroom_leaves_the_budget_smaller() -> None:
    plan, _ = placements(How(headroom_bytes=8_000_000_000))
    assert plan.budget_bytes == CARD.memory_bytes - CARD.context_bytes - 8_000_000_000


def test_a_tile_is_counted_in_latent_positions() -> None:
    options = options_of(How(tile="768"), FLUX, CARD)
    assert options.tiles == str(768 // FLUX.defaults.spatial)


def test_other_programs_words() -> None:
    assert set(OFFLOAD) == {"none", "encoder", "phases", "aggressive", "stream"}
    kept = {word: options_of(How(offload=word), FLUX, CARD).keep for word in OFFLOAD}
    assert set(kept["none"].values()) == {True}
    assert {name for name, stays in kept["encoder"].items() if not stays} == {"text_encoder", "text_encoder_2"}
    assert set(kept["phases"].values()) == set(kept["aggressive"].values()) == {False}
    blocks = options_of(How(offload="stream", residency={"transformer": "5"}), FLUX, CARD).blocks
    assert blocks == {"transformer": 5}  # what is said of a component counts more than the word


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (How(formats={"transformr": "Q8_0"}), "no component called transformr; did you mean transformer?"),
        (How(residency={"motor": "resident"}), "no component called motor; choose one of text_encoder"),
        (How(formats={"vae": "Q8"}), "no format called Q8; did you mean Q8_0"),
        (How(formats={"vae": "F32"}), "held as the device computes, and that is BF16 here"),
        (How(residency={"transformer": "58"}), "58 blocks of the transformer cannot be resident"),
        (How(residency={"transformer": "-1"}), "A residency of -1 is not possible"),
        (How(residency={"transformer": "²"}), "A residency of ² is not possible"),
        (How(residency={"vae": "streamed"}), "The vae has no blocks that could be streamed"),
        (How(slots=1), "1 slots are not possible"),
        (How(slots=9), "9 slots are not possible"),
        (How(tile="16"), "A tile of 16 is not possible"),
        (How(tile="wide"), "A tile of wide is not possible"),
        (How(offload="everything"), "no way to offload called everything"),
        (How(estimate="guess"), "no estimate called guess"),
        (How(prefer=1.5), "A preference of 1.5"),
        (How(prefer=float("nan")), "A preference of nan"),
        (How(headroom_bytes=-1), "A headroom of -1 bytes"),
    ],
)
def test_what_does_not_exist_is_a_sentence(how: How, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        options_of(how, FLUX, CARD)
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "how",
    [
        How(formats={"transformer": "Q6_K"}),
        How(residency={"transformer": "streamed"}),
        How(residency={"transformer": "56"}),
        How(offload="stream"),
        How(slots=3),
        How(tile="512"),
    ],
)
def test_what_an_engine_cannot_do_yet_is_refused_by_what_it_says_of_itself(how: How) -> None:
    options_of(how, FLUX, CARD)
    with pytest.raises(UserError, match="The engine cannot"):
        options_of(how, FLUX, CARD, PLAIN)
    with pytest.raises(UserError, match="The engine cannot"):
        options_of(how, FLUX, None, PLAIN)  # before the device is known
    able = msgspec.structs.replace(PLAIN, streaming=True, packing=True, tiles="auto")
    options_of(how, FLUX, CARD, able)


@pytest.mark.parametrize(
    "how",
    [
        How(formats={"transformer": "BF16"}),
        How(residency={"transformer": "resident", "vae": "resident"}),
        How(residency={"transformer": "57"}),
        How(offload="phases"),
        How(tile="off", fold=False, cache=False, prefer=1.0),
    ],
)
def test_what_it_can_do_is_not_refused(how: How) -> None:
    options_of(how, FLUX, CARD, PLAIN)


def test_unified_memory_has_nothing_to_stream_over() -> None:
    with pytest.raises(UserError, match="computes in the host's own memory"):
        options_of(How(offload="stream"), FLUX, card("apple-m2-max"))


@given(
    how=st.builds(
        How,
        prefer=st.floats(0, 1),
        formats=st.dictionaries(st.sampled_from(list(FLUX.components)), st.sampled_from(sorted(FORMATS))),
        residency=st.dictionaries(
            st.sampled_from(list(FLUX.components)), st.sampled_from(["resident", "streamed", "0", "7", "60", "x"])
        ),
        slots=st.none() | st.integers(0, 10),
        tile=st.sampled_from(["auto", "off", "512", "64", "8", ""]),
        fold=st.booleans(),
        offload=st.sampled_from(["", *OFFLOAD]),
        headroom_bytes=st.none() | st.integers(0, 2**40),
    ),
    able=st.sampled_from([DEFAULT, PLAIN]),
)
def test_anything_becomes_options_or_one_sentence_and_survives_the_wire(how: How, able: Options) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(how), type=How) == how
    try:
        options = options_of(how, FLUX, CARD, able)
    except UserError:
        return
    assert options.prefer == how.prefer
    assert able.packing or not any(FORMATS[name].packed for name in options.formats.values())
    streams = ("text_encoder", "text_encoder_2", "transformer")
    blocks = {name: sum(count for _, count in FLUX.components[name].order) for name in streams}
    assert able.streaming or all(options.blocks.get(name, blocks[name]) == blocks[name] for name in streams)
