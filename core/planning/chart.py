"""The residency chart: bytes of device memory against time by component, for the terminal and as an SVG file.

Drawn only from a plan's phases or from ledger records, never from anything else.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from core.messages import LedgerRecord
from core.planning.explain import seconds
from core.planning.simulate import Simulation
from core.plans import Plan
from core.sizes import in_words

Scale = Callable[[float], float]  # from bytes or seconds to pixels

# One colour a component, the same as in the window's light theme.
COLOURS = {
    "text_encoder": "#c07a12",
    "text_encoder_2": "#c2593d",
    "text_encoder_3": "#8a5a9e",
    "transformer": "#2f6fb5",
    "transformer_2": "#3f95a8",
    "unet": "#2f6fb5",
    "vae": "#3c8a57",
    "activations": "#9aa0a8",
    "slots": "#d3a4c4",
}
_OTHER = "#6b7280"
_ANSI = {"text_encoder": 214, "text_encoder_2": 173, "text_encoder_3": 133, "transformer": 67, "transformer_2": 73,
         "unet": 67, "vae": 71, "activations": 245, "slots": 182}  # fmt: skip
_LETTERS = {"text_encoder": "E", "text_encoder_2": "F", "text_encoder_3": "G", "transformer": "T", "transformer_2": "U",
            "unet": "T", "vae": "V", "activations": "a", "slots": "s"}  # fmt: skip


def bars(plan: Plan, *, width: int = 60, colour: bool = False) -> list[str]:
    """A line for each phase of a plan: what lies on the device in it, over the whole budget, and a legend."""
    used: dict[str, None] = {}
    lines = []
    # a plan far below its budget gets a scale of its own, or nothing could be seen of it
    scale = min(plan.budget_bytes, round(plan.peak_bytes * 1.25)) if plan.peak_bytes * 8 < plan.budget_bytes else 0
    scale = scale or plan.budget_bytes
    letters = _letters([component.name for component in plan.components])
    label = max(12, *(len(phase.label) for phase in plan.phases))
    for phase in plan.phases:
        there = phase.beside | {placement.component: placement.resident_bytes for placement in phase.placements}
        parts = {component.name: there.get(component.name, 0) for component in plan.components}
        slot = max((placement.slot_bytes for placement in phase.placements), default=0)
        extra = phase.activation_bytes + phase.scratch_bytes + phase.allocator_bytes
        parts |= {"slots": slot * phase.slots, "activations": max(0, extra)}
        if phase.skipped:
            parts = {}
        drawn, at, total = "", 0, 0
        for name, amount in parts.items():
            total += amount
            end = round(total / scale * width)
            if end > at:
                used[name] = None
                drawn += _segment(name, letters[name] * (end - at), colour)
                at = end
        when = "not needed" if phase.skipped else seconds(phase.seconds)
        lines.append(
            f"{phase.label:{label}} {drawn}{'·' * max(0, width - at)}  {in_words(phase.peak_bytes):>8}  {when}"
        )
    legend = "  ".join(f"{_segment(name, letters[name], colour)} {name}" for name in used)
    free = f"free of {in_words(plan.budget_bytes)}"
    if scale < plan.budget_bytes:
        free = f"to {in_words(scale)}; {in_words(plan.budget_bytes)} may be used"
    return [*lines, f"{'':{label}} {legend}  · {free}"]


def svg(simulation: Simulation, plan: Plan, title: str, *, width: int = 960, height: int = 420) -> str:
    """The chart of a simulated (or recorded) run: stacked bytes over time, the budget dashed, phases named."""
    left, right, top, bottom = 64, 16, 44, 56
    inner, tall = width - left - right, height - top - bottom
    total = max(simulation.total_seconds, 1e-9)
    most = max(plan.budget_bytes, simulation.peak_bytes) * 1.06

    def x(at: float) -> float:
        return left + min(1.0, at / total) * inner

    def y(amount: float) -> float:
        return top + tall * (1 - amount / most)

    times, layers = stacked(simulation.ledger, total)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="24" font-size="15" fill="#1f2328">{escape(title)}</text>',
    ]
    base = [0] * len(times)
    for name, amounts in layers.items():
        upper = [b + a for b, a in zip(base, amounts, strict=True)]
        points = _steps(times, upper, total, x, y) + list(reversed(_steps(times, base, total, x, y)))
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        fill = COLOURS.get(name, _OTHER)
        drawn.append(f'<polygon points="{path}" fill="{fill}"><title>{escape(name)}</title></polygon>')
        base = upper
    for phase in simulation.phases:
        drawn.append(
            f'<line x1="{x(phase.begin):.1f}" x2="{x(phase.begin):.1f}" y1="{top}" y2="{top + tall}" stroke="#1f2328" '
            'stroke-opacity="0.25"/>'
        )
        if phase.seconds / total > 0.04:
            drawn.append(
                f'<text x="{x(phase.begin) + 4:.1f}" y="{top + 14}" fill="#1f2328">{escape(phase.label)} '
                f"{seconds(phase.seconds)}</text>"
            )
    drawn += _axes(plan, total, most, (left, right, top, bottom, width, height), x, y)
    drawn += _legend(list(layers), left, height - 14)
    return "\n".join([*drawn, "</svg>"]) + "\n"


def stacked(ledger: Sequence[LedgerRecord], total: float) -> tuple[list[float], dict[str, list[int]]]:
    """(times, bytes by component at each time): the ledger as layers; activations and slots come last."""
    records = sorted(ledger, key=lambda record: record.seconds)
    names = list(dict.fromkeys(record.component for record in records))
    names.sort(key=lambda name: name in ("activations", "slots"))
    times, held = [0.0], dict.fromkeys(names, 0)
    layers: dict[str, list[int]] = {name: [0] for name in names}
    for record in records:
        held[record.component] += record.change
        if record.seconds > times[-1] + total * 1e-9:
            times.append(record.seconds)
            for name in names:
                layers[name].append(held[name])
        else:
            for name in names:
                layers[name][-1] = held[name]
    return times, layers


def _letters(components: Sequence[str]) -> dict[str, str]:
    """A letter for each component, no two the same, and for what else is drawn."""
    given = {name: _LETTERS[name] for name in ("activations", "slots")}
    free = string.ascii_letters + string.digits
    for name in sorted(components, key=lambda name: name not in _LETTERS):
        wanted = (_LETTERS.get(name, ""), *name, *name.upper(), *free)
        given[name] = next(
            (letter for letter in wanted if letter and letter in free and letter not in given.values()), "?"
        )
    return given


def _segment(name: str, letters: str, colour: bool) -> str:
    return f"\x1b[48;5;{_ANSI.get(name, 240)}m\x1b[38;5;16m{letters}\x1b[0m" if colour else letters


def _steps(times: list[float], amounts: list[int], total: float, x: Scale, y: Scale) -> list[tuple[float, float]]:
    """Corners of a step line: each amount holds until the next time."""
    points = []
    for i, (at, amount) in enumerate(zip(times, amounts, strict=True)):
        until = times[i + 1] if i + 1 < len(times) else total
        points += [(x(at), y(amount)), (x(until), y(amount))]
    return points


def _axes(plan: Plan, total: float, most: float, frame: tuple[int, ...], x: Scale, y: Scale) -> list[str]:
    left, right, top, bottom, width, height = frame
    drawn = [
        f'<line x1="{left}" x2="{width - right}" y1="{y(plan.budget_bytes):.1f}" y2="{y(plan.budget_bytes):.1f}" '
        'stroke="#b42318" stroke-dasharray="6 4"/>',
        f'<text x="{width - right - 4}" y="{y(plan.budget_bytes) - 5:.1f}" text-anchor="end" fill="#b42318">budget '
        f"{in_words(plan.budget_bytes)}</text>",
    ]
    for part in range(5):
        amount = most / 1.06 * part / 4
        drawn.append(
            f'<text x="{left - 8}" y="{y(amount) + 4:.1f}" text-anchor="end" fill="#57606a">{amount / 1e9:.1f}</text>'
        )
        at = total * part / 4
        anchor = "start" if part == 0 else "end" if part == 4 else "middle"
        drawn.append(
            f'<text x="{x(at):.1f}" y="{height - bottom + 18}" text-anchor="{anchor}" '
            f'fill="#57606a">{seconds(at)}</text>'
        )
    drawn.append(f'<text x="14" y="{top - 8}" fill="#57606a">GB</text>')
    return drawn


def _legend(names: list[str], left: int, bottom: int) -> list[str]:
    drawn, at = [], left
    for name in names:
        drawn.append(f'<rect x="{at}" y="{bottom - 10}" width="12" height="12" fill="{COLOURS.get(name, _OTHER)}"/>')
        drawn.append(f'<text x="{at + 17}" y="{bottom}" fill="#1f2328">{escape(name)}</text>')
        at += 30 + 7 * len(name)
    return drawn
