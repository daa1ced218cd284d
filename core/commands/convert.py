"""`residency convert`: progress on stderr, what came out on stdout, and the report in a file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from core.commands.convert_sensitivity import Known, sensitivities
from core.commands.outputs import check_output
from core.conversion.moments import SUFFIX, are_moments
from core.conversion.run import Conversion, check, fits_as_it_is, run
from core.files import write_atomically
from core.messages import UserError
from core.sizes import in_words


def convert(
    asked: Conversion,
    report_file: Path | None,
    *,
    sensitivity: str = "auto",
    importance: str = "auto",
    keep_measured: Path | None = None,
    as_json: bool,
) -> int:
    """Convert, print what came out, and write the report.

    Args:
        sensitivity: where it is from what an error in a tensor costs (core.commands.convert_sensitivity); where a size
            or a card is asked for.
        importance: what rounding fits: measured is what the model's layers are given in a run of it, none is nothing,
            auto is the first wherever sensitivities are measured, or were and are read from a file.
        keep_measured: where to keep what was measured of that.

    Raises:
        UserError: something asked for cannot be done, or the disk is full.
        ModelFileError: a source is damaged; names file and tensor.
    """
    prepared = check(asked, _beside(report_file, keep_measured))
    progress = Progress()
    try:
        unasked = (sensitivity, keep_measured) == ("auto", None) and importance != "measured"
        if unasked and _by_size_or_card(asked) and fits_as_it_is(asked, prepared):
            known: Known | None = Known(None, None, "not measured, since everything fits without being packed")
        else:
            known = _known(asked, sensitivity, importance, keep_measured, progress)
        if known is not None:
            asked = msgspec.structs.replace(
                asked, measured=known.measured, moments=None if importance == "none" else known.moments
            )
        report = run(asked, progress.tell)
        if known is not None and _by_size_or_card(asked):
            report["sensitivity"] = known.words
        if asked.moments is not None:
            report["importance"] = f"measured on {asked.moments.model}, in {asked.moments.calls} calls"
    finally:
        progress.close()
    if report_file is not None:
        _write(report_file, report)
    if as_json:
        print(json.dumps(report))
    else:
        print(summary(asked.out, report))
    return 0


def _beside(report_file: Path | None, keep_measured: Path | None) -> list[Path]:
    """What will be written beside the model. Raises UserError where it cannot be, or would take a model's place."""
    files = [path for path in (report_file, keep_measured) if path is not None]
    for path in files:
        check_output(path, ".json", "reports")
    if keep_measured is None:
        return files
    moments = keep_measured.with_suffix(SUFFIX)
    if moments.exists() and not are_moments(moments):
        raise UserError(f"{moments} is there already, and would be written beside {keep_measured}; give another name.")
    return [*files, moments]


def _known(
    asked: Conversion, sensitivity: str, importance: str, keep_measured: Path | None, progress: Progress
) -> Known | None:
    """What is known of the model; None where nothing asks for it."""
    if not _by_size_or_card(asked) and importance != "measured":
        return None
    if not _by_size_or_card(asked) and sensitivity == "auto":
        sensitivity = "measured"
    known = sensitivities(sensitivity, asked.sources, keep_measured, progress.tell)
    if importance == "measured" and known.moments is None:
        raise UserError(
            f"--importance measured is to fit what the model's layers are given, and sensitivities are from "
            f"{known.words}; use --sensitivity measured, or leave --importance away."
        )
    return known


def _by_size_or_card(asked: Conversion) -> bool:
    return asked.target_bytes is not None or bool(asked.fit)


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
        f"{out}: {in_words(report['bytes'])} in {_duration(report['seconds'])}, error {report['rel_rmse']:.2%}, "
        f"{in_words(report['peak_rss_bytes'] - report['baseline_rss_bytes'])} of memory."
    ]
    for name, part in report["components"].items():
        types = ", ".join(f"{kind} {in_words(size)}" for kind, size in _by_size(part["types"]))
        lines.append(f"  {name:18} {in_words(part['bytes']):>10}  error {part['rel_rmse']:7.2%}  {types}")
    lines += [f"  note: {note}" for note in report["notes"]]
    if "sensitivity" in report:
        lines.append(f"  what an error in a tensor costs: {report['sensitivity']}")
    if "importance" in report:
        lines.append(
            f"  {report['fitted_tensors']} tensors are rounded to fit what layers are given, {report['importance']}"
        )
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
        text = json.dumps(report, indent=1) + "\n"
        write_atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {path} ({error.strerror}); the model was converted."
        ) from error
