"""Which plan is shown when, and in which words. The real planner, without Qt."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from app import forecast as planning
from app import plan_words
from app.forecast import Wish, article, forecast, short_title
from app.outline import from_plan
from app.outlook import Outlook
from app.runs import Runs
from app.settings import Settings
from app.view import View, WhatIf
from core.hardware.profile import load
from core.hardware.told import tell
from core.messages import Finished, How, LedgerRecord, Phase, Planned, Progress, Ready, Request, Started
from core.models.info import Defaults
from tests.app.fake_engine import make_result, plain_picture
from tests.app.plans import GB, plan

DEFAULTS = Defaults(steps=8, width=128, height=128)


@pytest.fixture
def outlook() -> Outlook:
    return Outlook(Runs())


def planned(outlook: Outlook, settings: Settings) -> View:
    wish = outlook.wish(settings, DEFAULTS)
    assert wish is not None
    outlook.forecast = forecast(wish)
    return outlook.view(settings, DEFAULTS)


def test_before_anything_runs_it_is_the_plan_of_the_settings(outlook: Outlook) -> None:
    view = planned(outlook, Settings(steps=5))
    assert view.outline is not None
    assert view.happened is None
    assert view.what_if == ""
    denoise = next(span for span in view.outline.spans if span.phase is Phase.DENOISE)
    assert denoise.plan is not None
    assert denoise.plan.steps == 5
    assert "peak" in view.summary


def test_what_lies_there_already_is_planned_with(outlook: Outlook) -> None:
    outlook.runs.take(LedgerRecord(1.0, "a", "starter", "vae", "F32", 1000, 1000, "loaded"))
    wish = outlook.wish(Settings(), DEFAULTS)
    held = (("vae", "F32", False),)
    assert wish == Wish("starter", 128, 128, 8, warm=(("vae", 1000),), held=held, loaded=frozenset({"vae"}))


def test_what_lies_there_in_another_way_is_of_no_use(outlook: Outlook) -> None:
    outlook.what_if = WhatIf("flux-schnell", "rtx-3060")
    wish = outlook.wish(Settings(), DEFAULTS)
    assert wish is not None
    cold = forecast(wish).outline
    assert cold is not None
    assert cold.plan is not None
    part = cold.plan.component("transformer")
    warm = (("transformer", part.kept_bytes),)
    seconds = []
    for stored, folded in ((part.format, part.folded_bytes > 0), (part.format, not part.folded_bytes), ("Q4_1", False)):
        made = forecast(replace(wish, warm=warm, held=(("transformer", stored, folded),))).outline
        assert made is not None
        assert made.plan is not None
        seconds.append(made.plan.total_seconds)
    assert seconds[0] < min(seconds[1:])


def test_a_clip_is_planned_with_the_frames_that_are_asked_for(outlook: Outlook) -> None:
    outlook.what_if = WhatIf(card="rtx-4090")
    steps = []
    for frames in (17, 81, None):
        wish = outlook.wish(Settings(model="wan22-5b", frames=frames), Defaults())
        assert wish is not None
        assert wish.frames == frames
        outline = forecast(wish).outline
        assert outline is not None
        denoise = next(span for span in outline.spans if span.phase is Phase.DENOISE)
        assert denoise.plan is not None
        steps.append(denoise.plan.step_seconds)
    assert steps[0] < steps[1] / 3  # attention grows faster than the clip
    assert steps[1] < steps[2]  # the model's own: 121


def test_what_if_changes_only_what_is_shown(outlook: Outlook) -> None:
    outlook.what_if = WhatIf("flux-schnell", "rtx-3060")
    view = planned(outlook, Settings(steps=5))
    assert view.what_if == "As it would be on an RTX 3060 12 GB, with FLUX.1 [schnell]"
    assert view.plan is not None
    assert (view.plan.gpu, view.plan.model) == ("rtx-3060", "flux-schnell")
    outlook.what_if = WhatIf()
    assert planned(outlook, Settings(steps=5)).what_if == ""


def test_speed_or_quality_shows_in_formats_and_seconds(outlook: Outlook) -> None:
    plans = []
    outlook.what_if = WhatIf("flux-schnell", "rx-7800-xt")
    for prefer in (0.0, 1.0):
        view = planned(outlook, Settings(how=How(prefer=prefer)))
        assert view.plan is not None
        assert not view.settled
        plans.append(view.plan)
    fast, fine = plans
    assert fast.component("transformer").format == "Q4_K"
    assert fine.component("transformer").format == "BF16"
    assert fast.total_seconds < fine.total_seconds
    assert "rounded by" in plan_words.effect(from_plan(fast, {}))
    assert "as published" in plan_words.effect(from_plan(fine, {}))


def test_the_engine_plans_by_the_preference_of_the_settings(outlook: Outlook) -> None:
    wish = outlook.wish(Settings(how=How(prefer=0.9, cache=False)), DEFAULTS)
    assert wish is not None
    assert wish.here
    assert wish.how == How(prefer=0.9, cache=False)
    # of another model's components nothing was said
    outlook.what_if = WhatIf("flux-schnell")
    other = outlook.wish(Settings(how=How(prefer=0.9, formats={"unet": "Q8_0"})), DEFAULTS)
    assert other is not None
    assert other.how == How(prefer=0.9)


def test_a_run_by_another_preference_is_not_the_plan_of_this_one(outlook: Outlook) -> None:
    settings = Settings()
    planned(outlook, settings)
    request = Request(prompt="a", steps=8, width=128, height=128)
    outlook.runs.take(Started(request.id, request))
    outlook.runs.take(Planned(request.id, plan()))
    outlook.runs.take(Finished(request.id, make_result(request, plain_picture(request, 1.0), 3.0, 8)))
    assert outlook.view(settings, DEFAULTS).run is not None
    assert outlook.view(Settings(how=How(prefer=1.0)), DEFAULTS).run is None


def test_what_the_engine_cannot_do_is_a_sentence(outlook: Outlook) -> None:
    view = planned(outlook, Settings(how=How(formats={"motor": "Q8_0"})))
    assert view.sentence.startswith("starter has no component called motor")


def told(outlook: Outlook, *, title: str, memory_bytes: int, budget_bytes: int) -> None:
    """The engine says what it measured and what it may use."""
    measured = msgspec.structs.replace(
        load("rx-7800-xt"), name="measured", title=title, memory_bytes=memory_bytes, calibrated=True
    )
    outlook.runs.take(Ready("cuda", title, "2.13.0", memory_bytes, budget_bytes, tell(measured), budget_bytes))


def test_it_is_planned_with_what_the_engine_measured(outlook: Outlook) -> None:
    before = planned(outlook, Settings())
    assert before.plan is not None
    assert before.plan.gpu != "measured"
    told(outlook, title="A card of its own", memory_bytes=9 * GB, budget_bytes=5 * GB)
    view = planned(outlook, Settings())
    assert view.plan is not None
    assert (view.plan.gpu, view.plan.budget_bytes) == ("measured", 5 * GB)
    # a headroom of one's own replaces the engine's
    view = planned(outlook, Settings(how=How(headroom_bytes=0)))
    assert view.plan is not None
    assert view.plan.budget_bytes == 5 * GB + load("rx-7800-xt").headroom_bytes
    # with another memory it is that card, and no budget of now
    outlook.what_if = WhatIf(memory_bytes=8 * 2**30)
    view = planned(outlook, Settings())
    assert view.plan is not None
    assert view.plan.gpu == "measured"
    assert view.plan.budget_bytes < 8 * 2**30
    assert view.what_if == "As it would be here with 8 GB"
    # another card is not this one
    outlook.what_if = WhatIf(card="rtx-3060")
    wish = outlook.wish(Settings(), DEFAULTS)
    assert wish is not None
    assert (wish.told, wish.budget_bytes) == (b"", None)


def test_the_budget_follows_the_engines_plans(outlook: Outlook) -> None:
    told(outlook, title="A card", memory_bytes=16 * GB, budget_bytes=12 * GB)

    def after(budget_bytes: int, how: How) -> int | None:
        request = Request(prompt="a", draft=True, how=how)
        outlook.runs.take(Started(request.id, request))
        outlook.runs.take(Planned(request.id, msgspec.structs.replace(plan(), budget_bytes=budget_bytes)))
        wish = outlook.wish(Settings(), DEFAULTS)
        assert wish is not None
        return wish.budget_bytes

    assert after(12 * GB - 1000, How()) == 12 * GB  # free memory always moves a little
    assert after(6 * GB, How()) == 6 * GB
    assert after(9 * GB, How(headroom_bytes=0)) == 6 * GB  # that was not the engine's own headroom


def test_an_engine_that_tells_nothing_of_use_is_not_heard(outlook: Outlook) -> None:
    outlook.runs.take(Ready("cpu", "CPU", "2.13.0", 0, 0, b"\x93noise"))
    view = planned(outlook, Settings())
    assert view.plan is not None
    assert view.sentence == ""


def test_what_does_not_fit_is_a_sentence_with_the_smallest_budget(outlook: Outlook) -> None:
    outlook.what_if = WhatIf("flux-schnell", "rtx-3060", GB // 2)
    view = planned(outlook, Settings())
    assert view.outline is None
    assert "does not fit: it needs at least" in view.sentence
    assert "--" not in view.sentence  # nothing of the command line


def test_an_impossible_number_is_a_sentence(outlook: Outlook) -> None:
    view = planned(outlook, Settings(steps=5000))
    assert view.sentence.startswith("5000 steps are not possible")


def test_a_card_that_nobody_knows(outlook: Outlook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "this_machine", lambda: None)
    assert "choose a similar one" in planned(outlook, Settings()).sentence


def test_a_model_without_a_profile_waits_for_the_engines_plan(outlook: Outlook) -> None:
    settings = Settings(model="mine")
    view = planned(outlook, settings)
    assert view.sentence.startswith("The plan of mine appears here once the engine has planned it")
    request = Request(prompt="a", model="mine", draft=True, steps=8, width=128, height=128)
    outlook.runs.take(Started(request.id, request))
    outlook.runs.take(Planned(request.id, plan("mine")))
    view = outlook.view(settings, DEFAULTS)
    assert view.plan == plan("mine")
    assert view.sentence == ""
    assert outlook.view(Settings(model="mine", steps=20), DEFAULTS).plan is None  # that was not planned


def test_a_run_is_laid_over_the_engines_plan_and_stays(outlook: Outlook) -> None:
    settings = Settings()
    planned(outlook, settings)
    request = Request(prompt="a", steps=8, width=128, height=128)
    outlook.runs.take(Started(request.id, request))
    before = outlook.view(settings, DEFAULTS)
    assert before.run is outlook.runs.current
    assert outlook.wish(settings, DEFAULTS) is None  # what is planned stays while it runs
    outlook.runs.take(Planned(request.id, plan()))
    outlook.runs.take(Progress(request.id, Phase.ENCODE))
    running = outlook.view(settings, DEFAULTS)
    assert running.plan == plan()
    assert running.now is not None
    assert running.summary.startswith("predicted 11 s")
    outlook.runs.take(Finished(request.id, make_result(request, plain_picture(request, 1.0), 3.0, 8)))
    done = outlook.view(settings, DEFAULTS)
    assert done.now is None
    assert done.summary.startswith("predicted 11 s, took 3.0 s")
    assert "predicted peak 7.5 GB, was" in done.summary
    other = outlook.view(Settings(steps=20), DEFAULTS)
    assert other.run is None


def test_a_what_if_stays_while_a_picture_is_made(outlook: Outlook) -> None:
    outlook.what_if = WhatIf(card="rtx-3060")
    planned(outlook, Settings())
    request = Request(prompt="a")
    outlook.runs.take(Started(request.id, request))
    view = outlook.view(Settings(), DEFAULTS)
    assert view.what_if == "As it would be on an RTX 3060 12 GB"
    assert view.happened is None


def test_a_run_of_other_settings_is_planned_for_itself(outlook: Outlook) -> None:
    request = Request(prompt="a", steps=3, width=128, height=128)
    outlook.runs.take(Started(request.id, request))
    wish = outlook.wish(Settings(steps=20), DEFAULTS)
    assert wish is not None
    assert wish.steps == 3


# -- words ----------------------------------------------------------------------------------------------------


def test_phases_in_words() -> None:
    view = View(from_plan(plan(), {}))
    text = plan_words.phase(view, 1)
    assert text.startswith("denoise: 8.0 s predicted; 4 steps of 2.0 s; Transformer Q6_K: 6.0 GB resident, 4.0 GB")
    assert "1.0 GB of other components kept beside" in text


def test_layers_in_words() -> None:
    view = View(from_plan(plan(), {}))
    lines = plan_words.layer(view, "transformer", 6 * GB, 5.0, happened=False)
    assert lines == [
        "Transformer · Q6_K · 6.0 GB",
        "In denoise: 6.0 GB resident, 4.0 GB streamed in every pass.",
        "4.0 GB of the transformer stream in every pass.",
    ]
    assert "kept for the next prompt" in plan_words.layer(view, "text_encoder", GB, 5.0, happened=False)[1]
    assert plan_words.layer(view, "activations", GB, 5.0, happened=False)[0] == "Activations · 1.0 GB"


def test_reasons_speak_as_the_window_does() -> None:
    assert plan_words.reasons(plan())[1] == "The text encoder is held as Q8_0."


@pytest.mark.parametrize(
    ("title", "spoken"),
    [
        ("NVIDIA GeForce RTX 3060 12 GB", "an RTX 3060 12 GB"),
        ("AMD Radeon RX 7800 XT", "an RX 7800 XT"),
        ("NVIDIA GeForce GTX 1070", "a GTX 1070"),
        ("NVIDIA T4", "a T4"),
        ("Intel Arc A770", "an Arc A770"),
        ("Apple M1 (16 GB)", "an Apple M1 (16 GB)"),
    ],
)
def test_cards_have_their_article(title: str, spoken: str) -> None:
    short = short_title(title)
    assert f"{article(short)} {short}" == spoken


def test_this_machine_is_the_first_card() -> None:
    cards = planning.cards()
    assert cards[0].name == ""
    titles = [card.title for card in cards[1:]]
    assert titles.index("RTX 3060 12 GB") < titles.index("RTX 4090")
    assert len(titles) > 60


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (How(), ""),
        (How(prefer=1.0), ""),
        (How(formats={"text_encoder_2": "Q8_0"}), "text encoder 2 as Q8_0"),
        (How(residency={"transformer": "12"}), "12 blocks of the transformer resident"),
        (How(residency={"vae": "streamed"}, slots=3), "VAE streamed, 3 slots"),
        (How(tile="off", fold=False, offload="phases"), "no tiles, modulation not folded, offloaded by “phases”"),
        (How(headroom_bytes=2 * GB, cache=False), "2.0 GB left to others, encodings not kept"),
        (How(tile="512", estimate="dryrun"), "tiles of 512 pixels, activations run dry"),
    ],
)
def test_what_is_fixed_in_words(how: How, words: str) -> None:
    assert plan_words.fixed(how) == words
