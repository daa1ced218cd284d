"""One-step error against bytes, as an SVG drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 820, 480, 70, 30, 40, 50
_KINDS = {  # marks of Okabe and Ito's palette, which colour-blind people can tell apart
    "uniform": ("#56b4e9", "one type (--format)"),
    "rmse": ("#e69f00", "threshold (--rmse)"),
    "fitted": ("#cc79a7", "one type, rounding fitted"),
    "table": ("#999999", "target size, shipped table"),
    "plain": ("#0072b2", "target size, measured"),
    "target": ("#009e73", "the same, rounding fitted"),
}


def draw(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """The drawing; error on a logarithmic axis."""
    points = [
        (_kind(name), name, found["bytes"] / 1e6, found["one_step_error"])
        for name, found in variants.items()
        if found.get("bytes") and found["one_step_error"] > 0 and name != "BF16"
    ]
    sizes, errors = [size for *_, size, _ in points], [error for *_, error in points]
    low, high = math.floor(min(sizes) * 2) / 2, math.ceil(max(sizes) * 2) / 2
    least, most = min(errors) / 1.2, max(errors) * 1.2

    def x(size: float) -> float:
        return _LEFT + (size - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(error: float) -> float:
        return _HEIGHT - _BOTTOM - math.log(error / least) / math.log(most / least) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">The starter: error of one step against bytes</text>',
    ]
    steps = round((high - low) * 2)
    for step in range(steps + 1):
        at = low + step / 2
        parts.append(_line(x(at), _TOP, x(at), _HEIGHT - _BOTTOM))
        parts.append(_text(x(at), _HEIGHT - _BOTTOM + 16, f"{at:g}", "middle"))
    parts.append(_text(_WIDTH / 2, _HEIGHT - 12, "megabytes", "middle"))
    for tick in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
        if least <= tick <= most:
            parts.append(_line(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick)))
            parts.append(_text(_LEFT - 8, y(tick) + 4, f"{tick:.1%}", "end"))
    for number, (kind, (colour, words)) in enumerate(_KINDS.items()):
        own = sorted((size, error, name) for which, name, size, error in points if which == kind)
        if kind in ("target", "plain", "table") and own:
            path = " ".join(f"{x(size):.1f},{y(error):.1f}" for size, error, _ in own)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for place, (size, error, name) in enumerate(own):
            title = escape(f"{name}: {size:.2f} MB, {error:.2%}")
            parts.append(
                f'<circle cx="{x(size):.1f}" cy="{y(error):.1f}" r="4" fill="{colour}"><title>{title}</title></circle>'
            )
            if kind == "uniform":
                above = place % 2 == 0  # neighbours often lie close
                parts.append(_text(x(size), y(error) + (-8 if above else 17), name, "start" if above else "end"))
        top = _TOP + 16 + 18 * number
        parts.append(f'<circle cx="{_WIDTH - 220}" cy="{top - 4}" r="4" fill="{colour}"/>')
        parts.append(_text(_WIDTH - 208, top, words, "start"))
    return "\n".join([*parts, "</svg>", ""])


def _kind(name: str) -> str:
    kind = name.split(" ")[0].replace("threshold", "rmse")
    return kind if kind in _KINDS else "uniform"


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#e0e0e0"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
