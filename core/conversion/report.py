"""What a conversion says about its result: bytes and errors by type and component."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from core.conversion.choice import Candidate
from core.conversion.write import Sums

_WORST = 10


def counted(listed: Sequence[Candidate], formats: Mapping[str, str], sums: Mapping[str, Sums]) -> dict[str, Any]:
    """Bytes and errors by type and component, and the tensors with the largest error."""
    types: dict[str, int] = {}
    components: dict[str, dict[str, Any]] = {}
    squares: dict[str, list[float]] = {}
    for candidate in listed:
        stored, own = formats[candidate.name], sums[candidate.name]
        size = candidate.bytes_in(stored)
        types[stored] = types.get(stored, 0) + size
        part = components.setdefault(candidate.component, {"tensors": 0, "parameters": 0, "bytes": 0, "types": {}})
        part["tensors"] += 1
        part["parameters"] += candidate.source.stored.elements
        part["bytes"] += size
        part["types"][stored] = part["types"].get(stored, 0) + size
        for name in (candidate.component, ""):
            total = squares.setdefault(name, [0.0, 0.0])
            total[0] += own.error
            total[1] += own.numbers
    for name, part in components.items():
        part["rel_rmse"] = _ratio(*squares[name])
    worst = sorted(listed, key=lambda candidate: -sums[candidate.name].rel_rmse)[:_WORST]
    return {
        "types": types,
        "components": components,
        "rel_rmse": _ratio(*squares[""]),
        "worst": [
            {"name": entry.name, "type": formats[entry.name], "rel_rmse": sums[entry.name].rel_rmse}
            for entry in worst
            if sums[entry.name].error
        ],
    }


def _ratio(error: float, numbers: float) -> float:
    return math.sqrt(error / numbers) if numbers else 0.0
