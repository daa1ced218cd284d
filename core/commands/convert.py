"""`residency convert`: progress on stderr, what came out on stdout, and the report in a file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from core.commands.convert_sensitivity import sensitivities
from core.conversion.run import Conversion, run
from core.messages import UserError


def convert(
    asked: Conversion,
    report_file: Path | None,
    *,
    sensitivity: str = "auto",
    keep_measured: Path | None = None,
    as_json: bool,
) -> int:
    """Convert, print what came out, and write the report.

    Args:
        sensitivity: where it is from what an error in a tensor costs (core.commands.convert_sensitivity); where a size
            or a card is asked for.
        keep_measured: where to keep what was measured of that.

    Raises:
        UserError: something asked for cannot be done, or the disk is full.
        ModelFileError: a source is damaged; names file and tensor.
    """
    progress = Progress()
    try:
        words = ""
        if asked.target_bytes is not None or asked.fit:
            measured, words = sensitivities(sensitivity, asked.sources, keep_measured, progress.tell)
            asked = msgspec.structs.replace(asked, measured=measured)
        report = run(asked, progress.tell)
        if words:
            report["sensitivity"] = words
    finally:
        progress.close()
    if report_file is not None:
        _write(report_file, report)
    if as_json:
        print(json.dumps(report))
    else:
        print(summary(asked.out, report))
    return 0


class Progress:
    """A line on stderr: what is being done, how far it is, and how long it will take."""

    def __init__(self) -> None:
        self._what, self._started, self._first, self._said = "", 0.0, 0.0, 0.0
        self._live = sys.stderr.isatty()

    def tell(self, what: str, share: float) -> None:
        """Say it, now and then. Another `what` begins another line."""
        now = time.perf_counter()
        if what != self._what:
            self.close()
            self._what, self._started, self._first, self._said = what, now, share, 0.0
        if now - self._said < (0.5 if self._live else 5) or now - self._started < 1:
            return
        self._said = now
        left = (now - self._started) * (1 - share) / max(share - self._first, 1e-9)  # some may have been there
        line = f"{what}: {share:.0%}, {_duration(left)} left"
        print(f"\r{line:60}" if self._live else line, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line."""
        if self._live and self._said:
            print(file=sys.stderr)


def summary(out: Path, report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"{out}: {report['bytes'] / 1e9:.2f} GB in {_duration(report['seconds'])}, error {report['rel_rmse']:.2%}, "
        f"{(report['peak_rss_bytes'] - report['baseline_rss_bytes']) / 1e6:.0f} MB of memory."
    ]
    for name, part in report["components"].items():
        types = ", ".join(f"{kind} {size / 1e6:.1f} MB" for kind, size in _by_size(part["types"]))
        lines.append(f"  {name:18} {part['bytes'] / 1e6:9.1f} MB  error {part['rel_rmse']:7.2%}  {types}")
    if "sensitivity" in report:
        lines.append(f"  what an error in a tensor costs: {report['sensitivity']}")
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


def _write(path: Path, report: Mapping[str, Any]) -> None:
    try:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {path} ({error.strerror}); the model was converted."
        ) from error
