"""What past runs took against what was planned: shown by `residency plan --accuracy`, and used to plan the next better.

One JSON object a line in the user's data folder. A run of the same model, size and frames on the same device took so
many times what the profile's rates say; the median of the last few such ratios, phase by phase, corrects the next plan.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec

from core import folders
from core.files import write_atomically

_KEPT = 2000  # runs in the file
_LAST = 5  # runs that a correction is taken from


class PastRun(msgspec.Struct, frozen=True, kw_only=True):
    """One finished job. Seconds are by phase's label and leave loading out; of phases with steps, they are of one step.

    `planned` is what the plan said, with the `pace` that corrected it. Bytes are of device memory at its peak. `frames`
    are 1 of a still; runs that were noted when nobody wrote them down count as stills.
    """

    created: str
    model: str
    fingerprint: str
    gpu: str
    width: int
    height: int
    frames: int = 1
    planned: dict[str, float]
    measured: dict[str, float]
    pace: dict[str, float] = {}
    planned_total: float = 0.0
    measured_total: float = 0.0
    planned_bytes: int = 0
    measured_bytes: int = 0


class History:
    """The runs of this machine. A file that cannot be read or written costs the memory of runs, never a run."""

    def __init__(self, file: Path | None = None) -> None:
        """Runs are kept in `file`, in the user's data folder where none is given."""
        self._file = file or folders.data() / "runs.jsonl"
        self.runs: list[PastRun] = self._read()

    def add(self, run: PastRun) -> None:
        """Remember a run."""
        self.runs.append(run)
        try:
            if len(self.runs) > _KEPT + _KEPT // 4:
                self.runs = self.runs[-_KEPT:]
                text = b"".join(msgspec.json.encode(entry) + b"\n" for entry in self.runs)
                write_atomically(self._file, lambda file: file.write(text))
                return
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as file:
                file.write(msgspec.json.encode(run) + b"\n")
        except OSError:
            pass

    def pace(self, fingerprint: str, gpu: str, width: int, height: int, frames: int = 1) -> dict[str, float]:
        """How many times longer than by the profile's rates each phase took lately; empty for what never ran."""
        wanted = (fingerprint, gpu, width, height, frames)
        alike = [run for run in self.runs if (run.fingerprint, run.gpu, run.width, run.height, run.frames) == wanted]
        ratios: dict[str, list[float]] = {}
        for run in alike[-_LAST:]:
            for label, seconds in run.measured.items():
                planned = run.planned.get(label, 0.0)
                if planned > 0 and seconds > 0:
                    ratios.setdefault(label, []).append(run.pace.get(label, 1.0) * seconds / planned)
        return {label: statistics.median(values) for label, values in ratios.items()}

    def _read(self) -> list[PastRun]:
        try:
            lines = self._file.read_bytes().splitlines()
        except OSError:
            return []
        return [run for line in lines[-_KEPT:] if (run := _decode(line)) is not None]


def errors(runs: Sequence[PastRun]) -> dict[str, list[float]]:
    """By phase's label: measured over planned minus one, for the runs that had both; `peak` and `total` likewise.

    The first run of a model at a size on a device is told apart, as `first ...`: its plan knew rates only.
    """
    found: dict[str, list[float]] = {}
    for run in runs:
        pairs = {label: (seconds, run.planned.get(label, 0.0)) for label, seconds in run.measured.items()}
        pairs["total"] = (run.measured_total, run.planned_total)
        pairs["peak"] = (run.measured_bytes, run.planned_bytes)
        for label, (measured, planned) in pairs.items():
            if planned > 0 and measured > 0:
                name = label if run.pace or label == "peak" else f"first {label}"
                found.setdefault(name, []).append(measured / planned - 1)
    return found


def _decode(line: bytes) -> PastRun | None:
    try:
        return msgspec.json.decode(line, type=PastRun)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None  # a line that a full disk or a kill cut off
