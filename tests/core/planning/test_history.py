"""Runs teach the next plan, and nothing about their file can stop a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.hardware import profile as cards
from core.models import profile as models
from core.planning.history import History, PastRun, errors
from core.planning.job import job_of
from core.planning.solve import solve


def run_of(measured: float, planned: float = 1.0, pace: float = 1.0, **changes: object) -> PastRun:
    fields = {
        "created": "2026-01-01T00:00:00+00:00",
        "model": "m",
        "fingerprint": "f",
        "gpu": "g",
        "width": 64,
        "height": 64,
        "planned": {"denoise": planned},
        "measured": {"denoise": measured},
        "pace": {"denoise": pace} if pace != 1.0 else {},
    }
    return PastRun(**{**fields, **changes})


def test_the_median_of_the_last_runs_corrects_the_next(tmp_path: Path) -> None:
    history = History(tmp_path / "runs.jsonl")
    for measured in (50.0, 2.0, 2.0, 9.0, 2.0, 2.0):  # the first is forgotten, the odd one does not count
        history.add(run_of(measured))
    assert History(tmp_path / "runs.jsonl").pace("f", "g", 64, 64) == {"denoise": 2.0}
    # what was already corrected is not corrected twice
    history = History(tmp_path / "again.jsonl")
    history.add(run_of(3.0, planned=3.0, pace=3.0))
    assert history.pace("f", "g", 64, 64) == {"denoise": 3.0}
    assert history.pace("f", "g", 128, 64) == {}
    assert history.pace("other", "g", 64, 64) == {}


def test_a_clip_and_a_still_are_told_apart(tmp_path: Path) -> None:
    history = History(tmp_path / "runs.jsonl")
    history.add(run_of(2.0))
    history.add(run_of(5.0, frames=81))
    history = History(tmp_path / "runs.jsonl")
    assert history.pace("f", "g", 64, 64) == {"denoise": 2.0}
    assert history.pace("f", "g", 64, 64, 81) == {"denoise": 5.0}
    assert history.pace("f", "g", 64, 64, 17) == {}


def test_a_corrected_plan_takes_what_was_measured() -> None:
    job, card = job_of(models.load("sdxl")), cards.load("rtx-4090")
    plan, _ = solve(job, card)
    slower, _ = solve(job_of(models.load("sdxl"), pace={"denoise": 2.5}), card)
    step = next(phase.step_seconds for phase in plan.phases if phase.label == "denoise")
    assert next(p.step_seconds for p in slower.phases if p.label == "denoise") == pytest.approx(2.5 * step)


def test_first_runs_are_told_apart(tmp_path: Path) -> None:
    found = errors([run_of(5.0), run_of(1.1, pace=4.0), run_of(1.0, planned_bytes=100, measured_bytes=103)])
    assert found["first denoise"] == [4.0, 0.0]
    assert found["denoise"] == [pytest.approx(0.1)]
    assert found["peak"] == [pytest.approx(0.03)]


def test_damaged_lines_and_folders_cost_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    history = History(file)
    history.add(run_of(2.0))
    file.write_bytes(file.read_bytes() + b'{"created": "2026\n\xff\xfe\n[]\n')
    assert len(History(file).runs) == 1
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    history = History(blocked / "runs.jsonl")
    history.add(run_of(2.0))  # cannot be written
    assert history.pace("f", "g", 64, 64) == {"denoise": 2.0}


def test_the_file_stays_small(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    line = History(file)
    line.add(run_of(1.0))
    file.write_bytes(file.read_bytes() * 2600)
    history = History(file)
    for _ in range(600):
        history.add(run_of(1.0))
    assert len(file.read_bytes().splitlines()) <= 3100
