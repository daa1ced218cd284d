"""`residency plan` and `residency simulate`: what would sit in memory, when, for how long, and why."""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import msgspec

from core import folders
from core.commands.arguments import how_of
from core.commands.asked import read
from core.commands.outputs import check_output
from core.files import write_atomically
from core.hardware import profile as cards
from core.hardware.profile import HardwareProfile
from core.messages import LedgerRecord, UserError
from core.planning import chart
from core.planning.explain import seconds
from core.planning.history import History, errors
from core.planning.job import Job
from core.planning.queue import queue_of
from core.planning.simulate import Simulation
from core.planning.simulate import simulate as run_simulation
from core.planning.solve import solve
from core.plans import Alternative, Plan
from core.precision.formats import FORMATS
from core.sizes import in_words


def plan(options: argparse.Namespace) -> int:
    """Print the plan of a request; with `--chart`, draw its simulation."""
    if options.gpu == "list":
        return _list_cards(as_json=options.json)
    if options.accuracy:
        return _accuracy(as_json=options.json)
    chart_file = _chart_file(options)
    job, hardware, wanted = read(options)
    decided, alternatives = solve(job, hardware, wanted)
    if chart_file is not None:
        _write_chart(chart_file, decided, run_simulation(decided, job, hardware, wanted), job, hardware)
    more: dict[str, Any] = {}
    if job.companions:
        more["queue"] = queue = queue_of(decided, job, hardware, wanted, cache=how_of(options).cache)
        decided = msgspec.structs.replace(decided, reasons=(*decided.reasons, queue.words))
    if options.json:
        print(msgspec.json.encode(report(decided, alternatives, hardware) | more).decode())
    else:
        _print(decided, alternatives, job, hardware)
    return 0


def simulate(options: argparse.Namespace) -> int:
    """Run the plan of a request in virtual time and print its phases and, as JSON, its ledger."""
    if options.gpu == "list":
        return _list_cards(as_json=options.json)
    chart_file = _chart_file(options)
    job, hardware, wanted = read(options)
    decided, alternatives = solve(job, hardware, wanted)
    simulation = run_simulation(decided, job, hardware, wanted)
    if chart_file is not None:
        _write_chart(chart_file, decided, simulation, job, hardware)
    if options.json:
        data = report(decided, alternatives, hardware)
        simulated = {phase.label: phase for phase in simulation.phases}
        for phase in data["phases"]:
            if phase["name"] in simulated:
                phase["seconds"] = simulated[phase["name"]].seconds
                phase["step_seconds"] = simulated[phase["name"]].step_seconds
        data |= {
            "total_seconds": simulation.total_seconds,
            "peak_device_bytes": simulation.peak_bytes,
            "link_bytes": simulation.link_bytes,
            "ledger": [_record(record) for record in simulation.ledger],
        }
        print(msgspec.json.encode(data).decode())
    else:
        print(f"{job.model.title} on {hardware.title}, in virtual time")
        label = max(14, *(len(phase.label) for phase in simulation.phases))
        for phase in simulation.phases:
            print(f"  {phase.label:{label}} {seconds(phase.seconds):>13}   {seconds(phase.step_seconds):>13} a step")
        print(
            f"  {'together':{label}} {seconds(simulation.total_seconds):>13}   peak {in_words(simulation.peak_bytes)}, "
            f"{in_words(simulation.link_bytes)} over the link, {len(simulation.ledger)} ledger records"
        )
    return 0


def report(decided: Plan, alternatives: list[Alternative], hardware: HardwareProfile) -> dict[str, Any]:
    """A plan as the JSON object of the contract."""
    return {
        "model": decided.model,
        "gpu": decided.gpu,
        "budget_bytes": decided.budget_bytes,
        "total_seconds": decided.total_seconds,
        "next_prompt_seconds": decided.next_seconds,
        "expected_seconds": decided.expected_seconds,
        "peak_device_bytes": decided.peak_bytes,
        "reserved_bytes": decided.reserved_bytes,
        "peak_weight_bytes": decided.peak_weight_bytes,
        "link_bytes": decided.link_bytes,
        "together": decided.together,
        "quality_loss": decided.loss,
        "pinned": decided.pinned,
        "hosted": decided.hosted,
        "calibrated": hardware.calibrated,
        "components": {
            component.name: {
                "format": component.format,
                "bytes": component.bytes,
                "kept_bytes": component.kept_bytes,
                "folded_bytes": component.folded_bytes,
                "reason": component.reason,
            }
            for component in decided.components
        },
        "phases": [
            {
                "name": phase.label,
                "seconds": phase.seconds,
                "step_seconds": phase.step_seconds,
                "load_seconds": phase.load_seconds,
                "passes": phase.passes,
                "resident_bytes": phase.resident_bytes,
                "streamed_bytes": phase.streamed_bytes,
                "kept_bytes": phase.kept_bytes,
                "activation_bytes": phase.activation_bytes,
                "slots": phase.slots,
                "lockstep": phase.lockstep,
                "ahead": phase.ahead,
                "tile": phase.tile,
                "skipped": phase.skipped,
                "peak_device_bytes": phase.peak_bytes,
                "reserved_bytes": phase.reserved_bytes,
            }
            for phase in decided.phases
        ],
        "alternatives": [msgspec.to_builtins(alternative) for alternative in alternatives],
        "reasons": list(decided.reasons),
    }


def _print(decided: Plan, alternatives: list[Alternative], job: Job, hardware: HardwareProfile) -> None:
    print(f"{job.model.title} on {hardware.title}: {_size(job)}, {job.steps} steps")
    print(
        f"this prompt {seconds(decided.total_seconds)} with loading, the next {seconds(decided.next_seconds)}; "
        f"peak {in_words(decided.peak_bytes)} of {in_words(decided.budget_bytes)} that may be used"
    )
    if decided.reserved_bytes > decided.peak_bytes:
        print(f"{in_words(decided.reserved_bytes)} are reserved: the next prompt may need what this one does not load")
    print()
    heads = ("phase", "seconds", "a step", "resident", "streamed", "slots", "activations", "peak")
    label = max(14, *(len(phase.label) + 2 for phase in decided.phases))
    print(f"{heads[0]:{label}}" + "{:>13}{:>13}{:>11}{:>11}{:>7}{:>13}{:>10}".format(*heads[1:]))
    for phase in decided.phases:
        print(
            f"{phase.label:{label}}{'cached' if phase.skipped else seconds(phase.seconds):>13}"
            f"{seconds(phase.step_seconds):>13}{in_words(phase.resident_bytes):>11}"
            f"{in_words(phase.streamed_bytes) if phase.streamed_bytes else '-':>11}{phase.slots or '-':>7}"
            f"{in_words(phase.activation_bytes):>13}{in_words(phase.peak_bytes):>10}"
        )
    wide = max(18, *(len(component.name) + 2 for component in decided.components))
    print(f"\n{'component':{wide}}" + "{:>8}{:>11}{:>23}".format("format", "bytes", "stays between prompts"))
    for component in decided.components:
        print(
            f"{component.name:{wide}}{component.format:>8}{in_words(component.bytes):>11}"
            f"{in_words(component.kept_bytes) if component.kept_bytes else 'nothing':>23}"
        )
    print()
    for line in chart.bars(decided, colour=sys.stdout.isatty()):
        print(line)
    print("\nWhy")
    for reason in decided.reasons:
        print(f"- {reason}")
    if alternatives:
        print("\nAlso considered")
    for alternative in alternatives:
        formats = ", ".join(
            f"{name} {value}"
            for name, value in alternative.formats.items()
            if value != (held := decided.component(name).format)
            and (FORMATS[value].held_packed or FORMATS[held].held_packed)
        )
        print(
            f"- {formats or 'the same formats'}: {seconds(alternative.total_seconds)}, next "
            f"{seconds(alternative.next_seconds)}; {alternative.why_not}"
        )


def _size(job: Job) -> str:
    """Of what is made: pixels and frames, or seconds of sound."""
    if job.model.defaults.positions_per_second is not None:
        return f"{job.model.defaults.seconds or 1.0:g} s of sound"
    return f"{job.width}x{job.height}" + (f", {job.frames} frames" if job.frames > 1 else "")


def _record(record: LedgerRecord) -> dict[str, Any]:
    return {key: value for key, value in msgspec.to_builtins(record).items() if key != "type"}


def _chart_file(options: argparse.Namespace) -> Path | None:
    """Where the chart goes. Raises UserError where it cannot be written."""
    if options.chart is None:
        return None
    path = folders.user_path(options.chart)
    check_output(path, ".svg", "charts")
    return path


def _write_chart(path: Path, decided: Plan, simulation: Simulation, job: Job, hardware: HardwareProfile) -> None:
    title = f"{job.model.title} on {hardware.title}, {_size(job)}, {job.steps} steps"
    text = chart.svg(simulation, decided, title)
    try:
        write_atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); give another file with --chart.") from error


def _accuracy(*, as_json: bool) -> int:
    """How far past runs were from their plans: by phase, the middle and the worst tenth of the errors."""
    runs = History().runs
    rows = {}
    for label, found in errors(runs).items():
        sizes = sorted(abs(error) for error in found)
        rows[label] = {
            "runs": len(found),
            "median_error": statistics.median(found),
            "median_size": statistics.median(sizes),
            "ninth_decile": sizes[min(len(sizes) - 1, len(sizes) * 9 // 10)],
        }
    if as_json:
        print(msgspec.json.encode({"runs": len(runs), "errors": rows}).decode())
        return 0
    if not rows:
        print("Nothing was run on this machine yet: make a picture, and look again.")
        return 0
    print(f"{len(runs)} runs on this machine, measured against planned\n")
    print("{:14}{:>7}{:>12}{:>18}{:>22}".format("", "runs", "median", "half are within", "nine of ten within"))
    for label, row in rows.items():
        print(
            f"{label:14}{row['runs']:>7}{row['median_error']:>+12.1%}{row['median_size']:>18.1%}"
            f"{row['ninth_decile']:>22.1%}"
        )
    print("\nSeconds leave loading out (but for total) and are of one step where a phase has steps.")
    return 0


def _list_cards(*, as_json: bool) -> int:
    known = [cards.load(name) for name in cards.names()]
    if as_json:
        fields = ("name", "title", "memory_bytes", "link")
        listed = [{field: getattr(card, field) for field in fields} for card in known]
        print(msgspec.json.encode({"cards": listed}).decode())
        return 0
    for name, card in zip(cards.names(), known, strict=True):
        print(f"{name:22} {card.title:36} {card.memory_bytes / 2**30:6.0f} GiB  {card.link}")
    return 0
