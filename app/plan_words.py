"""What the residency panels say: plans, phases and what lies where, in sentences. No Qt."""

from __future__ import annotations

import re

from app import formatting
from app.forecast import Forecast, article
from app.formatting import seconds, size
from app.outline import ACTIVATIONS, OTHERS, SLOTS, Layers, Outline, Span
from app.view import View
from core.messages import How, Phase, Result
from core.plans import ComponentPlan, PhasePlan, Placement, Plan

# Below this share of what this prompt takes, what the next one takes is worth saying.
_QUICKER = 0.93
_LAYERS = {
    ACTIVATIONS: "What a pass needs beside its weights",
    SLOTS: "Where streamed blocks arrive",
    OTHERS: "Kept from another model until the room is needed",
}


# -- the whole plan ---------------------------------------------------------------------------------------------------


def expected(outline: Outline) -> str:
    """What the plan promises: `17 s, the next prompt 11 s · peak 14.1 of 14.2 GB`."""
    plan = outline.plan
    if plan is None:
        return ""
    return f"{_times(outline, plan, 'the next prompt')}  ·  {_of(plan.peak_bytes, plan.budget_bytes)}"


def running(outline: Outline, resident: int) -> str:
    """While a picture is made."""
    words = f"{size(resident)} in memory"
    return f"predicted {seconds(outline.seconds)}  ·  {words}" if outline.plan is not None else words


def compared(result: Result, outline: Outline, happened: Layers | None) -> str:
    """After it: what was promised and what came."""
    took = result.seconds.get("total", 0.0)
    peak = result.peak_device_bytes or (happened.peak if happened is not None else 0)
    if outline.plan is None:
        return f"took {seconds(took)}  ·  peak {size(peak)}"
    return (
        f"predicted {seconds(outline.seconds)}, took {seconds(took)}  ·  "
        f"predicted peak {size(outline.plan.peak_bytes)}, was {size(peak)}"
    )


def what_if(made: Forecast, *, other_model: bool) -> str:
    """That a plan is not what the engine will do: `As it would be on an RTX 3060 12 GB`; empty where it is."""
    wish = made.wish
    if wish.here and not other_model:
        return ""
    card = made.card or wish.card
    where = f"on {article(card)} {card}" if wish.card else "here"
    if not wish.card and wish.memory_bytes is not None:
        where += f" with {size_of_card(wish.memory_bytes)}"
    return f"As it would be {where}{f', with {made.model}' if other_model else ''}"


def size_of_card(count: int) -> str:
    """Memory as cards are sold by it: powers of two, called GB."""
    return f"{round(count / 2**30)} GB"


def unknown(model: str) -> str:
    """A model that only the engine can plan."""
    return f"The plan of {model} appears here once the engine has planned it: make a draft or a picture."


def effect(outline: Outline, *, settled: bool = False) -> str:
    """What the choice between speed and quality comes to; `settled` where it comes to the same at both ends."""
    plan = outline.plan
    if plan is None:
        return ""
    rounding = 100 * plan.loss**0.5
    if plan.loss == 0:
        quality = "as published"
    else:
        quality = f"rounded by {rounding:.1f} %" if rounding >= 0.05 else "hardly rounded"
    words = f"{_times(outline, plan, 'next')} · {quality}"
    return f"{words}, however you choose" if settled else words


def fixed(how: How) -> str:
    """What a request leaves not to the planner, but for speed or quality; empty where that is nothing."""
    words = [f"{_spoken(name)} as {wanted}" for name, wanted in how.formats.items()]
    words += [
        f"{value} blocks of the {_spoken(name)} resident" if value.isdigit() else f"{_spoken(name)} {value}"
        for name, value in how.residency.items()
    ]
    words += [f"{how.slots} slots"] if how.slots is not None else []
    words += [] if how.tile == "auto" else ["no tiles" if how.tile == "off" else f"tiles of {how.tile} pixels"]
    words += [] if how.fold else ["modulation not folded"]
    words += [f"offloaded by “{how.offload}”"] if how.offload else []
    words += [f"{size(how.headroom_bytes)} left to others"] if how.headroom_bytes is not None else []
    words += [] if how.cache else ["encodings not kept"]
    words += [] if how.estimate == "formula" else ["activations run dry"]
    return ", ".join(words)


def reasons(plan: Plan) -> list[str]:
    """Why, as sentences for people."""
    return [_sentence(reason, plan) for reason in plan.reasons]


# -- one phase --------------------------------------------------------------------------------------------------------


def phase(view: View, number: int) -> str:
    """One phase in words: its seconds, what runs in it and what lies beside it."""
    assert view.outline is not None
    span = view.outline.spans[number]
    words = [f"{span.label}: {phase_seconds(view, span)}"]
    if span.plan is None:
        return words[0] + "."
    if span.plan.steps > 1:
        words.append(f"{span.plan.steps} steps of {_precise(span.plan.step_seconds)}")
    words += [
        f"{formatting.component(placement.component)} {_format(view.plan, placement.component)}: {_placed(placement)}"
        for placement in span.plan.placements
    ]
    if span.plan.kept_bytes:
        words.append(f"{size(span.plan.kept_bytes)} of other components kept beside")
    if span.plan.tile is not None:
        words.append("in tiles, because whole it would need too much memory")
    return "; ".join(words) + f"; peak {size(span.plan.peak_bytes)}."


def phase_seconds(view: View, span: Span) -> str:
    """Predicted seconds, and measured ones beside them once they are known."""
    result = view.result
    alone = view.outline is not None and sum(other.phase is span.phase for other in view.outline.spans) == 1
    measured = result.seconds.get(span.phase) if result is not None and alone else None
    if span.plan is None:
        return _precise(span.seconds)
    if measured is None:
        return f"{_precise(span.seconds)} predicted"
    return f"{_precise(span.seconds)} predicted, {_precise(measured)} measured without loading"


def phase_label(view: View, span: Span) -> str:
    """As it stands on the time axis: the label and its seconds."""
    steps = span.plan.steps if span.plan is not None and span.phase is Phase.DENOISE else 1
    if steps > 1 and span.plan is not None:
        return f"{span.label} {_precise(span.seconds)}  ({steps} × {_precise(span.plan.step_seconds)})"
    return f"{span.label} {_precise(span.seconds)}"


# -- one layer --------------------------------------------------------------------------------------------------------


def layer(view: View, name: str, amount: int, at: float, *, happened: bool) -> list[str]:
    """The lines of a tooltip: which component, how many bytes, how it is there, in which format, why."""
    assert view.outline is not None
    if name in _LAYERS:
        return [f"{title(name)} · {size(amount)}", _LAYERS[name] + "."]
    known, span = _component(view.plan, name), view.outline.spans[view.outline.span_at(at)]
    record = _record(view, name) if happened else None
    stored = record[0] if record is not None else (known.format if known is not None else "")
    lines = [" · ".join(word for word in (title(name), stored, size(amount)) if word)]
    if happened:
        lines.append(f"It was there in {span.label}." if view.now is None else "It is there now or was a moment ago.")
        if record is not None:
            lines.append(_capital(record[1]) + ".")
    elif span.plan is not None:
        lines.append(f"In {span.label}: {how(span.plan, known, name)}.")
    if view.plan is not None and not happened and (why := why_of(view.plan, name)):
        lines.append(why)
    return lines


def title(name: str) -> str:
    """A layer's name as a person says it."""
    return {ACTIVATIONS: "Activations", SLOTS: "Slots", OTHERS: "Other models"}.get(name) or formatting.component(name)


def how(plan: PhasePlan, known: ComponentPlan | None, name: str) -> str:
    """How a component is there in a phase: resident, streamed or kept."""
    for placement in plan.placements:
        if placement.component == name:
            return _placed(placement)
    kept = known.kept_bytes if known is not None else 0
    return f"{size(kept)} kept for the next prompt" if kept else "not needed, and on its way out"


def stays(known: ComponentPlan) -> str:
    """What of a component stays between prompts."""
    if known.kept_bytes >= known.bytes:
        return "stays between prompts"
    if known.kept_bytes:
        return f"{size(known.kept_bytes)} of it stays between prompts"
    return "leaves when its part is done"


def why_of(plan: Plan, name: str) -> str:
    """The reason that speaks of a component: its own, else the plan's first that names it."""
    own = plan.component(name).reason if any(known.name == name for known in plan.components) else ""
    named = (reason for reason in plan.reasons if re.search(rf"\b{re.escape(name)}\b(?!_)", reason))
    found = own or next(named, "")
    return _sentence(found, plan) if found else ""


# -- small parts ------------------------------------------------------------------------------------------------------


def _times(outline: Outline, plan: Plan, following: str) -> str:
    """Seconds of this prompt, and of the next where that is quicker."""
    first, second = seconds(outline.seconds), seconds(plan.next_seconds)
    quicker = plan.next_seconds < _QUICKER * outline.seconds and first != second
    return f"{first}, {following} {second}" if quicker else first


def _placed(placement: Placement) -> str:
    if placement.streamed_bytes:
        return f"{size(placement.resident_bytes)} resident, {size(placement.streamed_bytes)} streamed in every pass"
    return f"{size(placement.resident_bytes)} resident"


def _sentence(reason: str, plan: Plan) -> str:
    """A reason of the planner's, with components called as everywhere in the window."""
    for known in sorted(plan.components, key=lambda component: -len(component.name)):
        reason = re.sub(rf"\b{re.escape(known.name)}\b", _spoken(known.name), reason)
    return _capital(reason.rstrip(".")) + "."


def _spoken(name: str) -> str:
    """A component's name inside of a sentence."""
    spoken = formatting.component(name)
    return spoken if spoken.isupper() or spoken == "UNet" else spoken[:1].lower() + spoken[1:]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _format(plan: Plan | None, name: str) -> str:
    known = _component(plan, name)
    return known.format if known is not None else ""


def _component(plan: Plan | None, name: str) -> ComponentPlan | None:
    return next((known for known in plan.components if known.name == name), None) if plan is not None else None


def _record(view: View, name: str) -> tuple[str, str] | None:
    """(format, reason) of the newest record of a component in the run."""
    if view.run is None:
        return None
    found = [record for record in view.run.records if record.component == name and record.change > 0]
    return (found[-1].format, found[-1].reason) if found else None


def _of(part: int, whole: int) -> str:
    """`peak 14.1 of 14.2 GB`, the unit once where it is the same."""
    first, second = size(part), size(whole)
    if first.split(" ")[1] == second.split(" ")[1]:
        first = first.split(" ")[0]
    return f"peak {first} of {second}"


def _precise(value: float) -> str:
    """Seconds where a tenth would be too coarse."""
    if value < 0.0095:
        return f"{value * 1000:.1f} ms"
    return f"{value * 1000:.0f} ms" if value < 0.095 else seconds(value)
