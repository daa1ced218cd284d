"""What a conversion says about itself: how far it is, and afterwards bytes and errors by type and component."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.commands.convert_choice import Candidate
from core.commands.convert_write import Sums
from core.messages import UserError

_WORST = 10


class Progress:
    """A line on stderr: how far it is, and how long it will take."""

    def __init__(self, what: str) -> None:
        self._what, self._started, self._said = what, time.perf_counter(), 0.0
        self._live = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._said:
            print(file=sys.stderr)

    def tick(self, share: float) -> None:
        """Say it, now and then."""
        now = time.perf_counter()
        if now - self._said < (0.5 if self._live else 5) or now - self._started < 1:
            return
        self._said = now
        left = (now - self._started) * (1 - share) / max(share, 1e-9)
        line = f"{self._what}: {share:.0%}, {_duration(left)} left"
        print(f"\r{line:60}" if self._live else line, end="" if self._live else "\n", file=sys.stderr, flush=True)


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


def summary(out: Path, report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"{out}: {report['bytes'] / 1e9:.2f} GB in {_duration(report['seconds'])}, error {report['rel_rmse']:.2%}, "
        f"{(report['peak_rss_bytes'] - report['baseline_rss_bytes']) / 1e6:.0f} MB of memory."
    ]
    for name, part in report["components"].items():
        types = ", ".join(f"{kind} {size / 1e6:.1f} MB" for kind, size in _by_size(part["types"]))
        lines.append(f"  {name:18} {part['bytes'] / 1e6:9.1f} MB  error {part['rel_rmse']:7.2%}  {types}")
    lines += [
        f"  if {entry['rule']} counted {entry['times']:g} times as much: {entry['bytes_changed']:.0%} of the bytes "
        f"would take other types; this choice is {entry['loss_above_best']:.1%} above the best"
        for entry in report.get("assumed", [])
        if entry["bytes_changed"]
    ]
    lines += [f"  worst: {entry['name']} ({entry['type']}) {entry['rel_rmse']:.2%}" for entry in report["worst"][:3]]
    return "\n".join(lines)


def _by_size(types: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(types.items(), key=lambda entry: -entry[1])


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    try:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {path} ({error.strerror}); the model was converted."
        ) from error
