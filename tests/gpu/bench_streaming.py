"""One pass of full-size transformers on a real card, under capped budgets: ours, the bound, and other projects.

    python -m tests.gpu.bench_streaming [--models flux,z-image] [--budgets 4GB,8GB,12GB,16GB] [--peers mmgp,ramtorch]
        [--passes 6] [--minutes 9] [--out FILE.json]

Every network and contender gets a process of its own, in which torch's allocator may take no more than the budget.
Results are written after each, beside them a table in Markdown; what the file has already is not measured again, so
the same command goes on where the last one ended. README.md beside this has the commands for a lent machine.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from core.files import write_atomically
from core.hardware.machine import detect
from core.sizes import byte_size
from tests.gpu.comparison import table
from tests.gpu.contenders import CONTENDERS, PEERS, RESIDENT
from tests.gpu.networks import TINY, WORKLOADS
from tests.gpu.passes import Row, measure

_ROOT = Path(__file__).resolve().parents[2]
_OUT = _ROOT / "tests" / "bench" / "results" / "gpu_streaming.json"
_ALL = WORKLOADS | TINY
_MODELS = ("flux", "flux-q8_0", "flux-q4_k", "z-image", "qwen-image", "wan-14b")
_LIBRARIES = ("torch", "diffusers", "accelerate", "mmgp", "optimum-quanto", "ramtorch")
_LEAST_SECONDS = 40  # a process that has less left is not started
_ACTIVATIONS = 1_500_000_000  # assumed where the resident pass, which tells, could not run

Runner = Callable[[str, str, Sequence[int | None], int, float], tuple[list[Row], bool]]
"""(model, contender, budgets, activation bytes, seconds it may take) -> (rows, whether it ended in time)."""


def collect(
    rows: list[Row],
    models: Sequence[str],
    contenders: Sequence[str],
    budgets: Sequence[int],
    run: Runner,
    save: Callable[[], None],
    *,
    limit: float = 240.0,
    until: float = float("inf"),
) -> list[str]:
    """Measure what `rows` lacks, and add it there.

    Args:
        run: measures one contender on one network.
        save: called when rows were added.
        limit: seconds that one contender may take on one network; longer is an error of its row.
        until: when to stop, on time.monotonic's clock; what is then cut short is left for the next time.

    Returns:
        What is left to do.
    """
    left = []
    for model in models:
        # packed layers are ours alone: others have weights of their own formats
        named = [name for name in contenders if _ALL[model].stored == "BF16" or name not in PEERS]
        for name in [RESIDENT, *(name for name in named if name != RESIDENT)]:
            known = {row.budget_bytes for row in rows if (row.model, row.contender) == (model, name)}
            wanted: Sequence[int | None] = [None] if name == RESIDENT else sorted(budgets)
            asked = [budget for budget in wanted if budget not in known]
            if not asked:
                continue
            remaining = until - time.monotonic()
            if remaining < _LEAST_SECONDS:
                left.append(f"{model}: {name}")
                continue
            resident = next((row for row in rows if (row.model, row.contender) == (model, RESIDENT)), None)
            needs = resident.activation_bytes if resident is not None else None
            new, in_time = run(model, name, asked, _ACTIVATIONS if needs is None else needs, min(limit, remaining - 10))
            missing = [budget for budget in asked if budget not in {row.budget_bytes for row in new}]
            if missing and not in_time and remaining - 10 < limit:
                left.append(f"{model}: {name}")
                missing = []
            rows += new
            rows += [
                Row(
                    model=model,
                    contender=name,
                    budget_bytes=budget,
                    error="its process ended" if in_time else f"it took longer than {limit:.0f} s",
                )
                for budget in missing
            ]
            save()
    return left


def in_a_process(passes: int, accelerator: str) -> Runner:
    """Measures in a process of its own, so that nothing of one contender is left for the next."""

    def run(
        model: str, contender: str, budgets: Sequence[int | None], activations: int, seconds: float
    ) -> tuple[list[Row], bool]:
        with tempfile.TemporaryDirectory(prefix="residency-bench-") as folder:
            told = Path(folder) / "rows.jsonl"
            command = [sys.executable, "-m", "tests.gpu.bench_streaming", "--one", model, contender, str(told)]
            command += ["--activations", str(activations), "--passes", str(passes), "--accelerator", accelerator]
            command += ["--budgets", ",".join(str(budget) for budget in budgets if budget is not None)]
            begin = time.monotonic()
            in_time = True
            try:
                code = subprocess.run(command, cwd=_ROOT, timeout=seconds).returncode
            except subprocess.TimeoutExpired:
                code, in_time = None, False
            lines = told.read_bytes().splitlines() if told.exists() else []
            rows = [msgspec.json.decode(line, type=Row) for line in lines]
            print(f"{model}, {contender}: {time.monotonic() - begin:.0f} s, exit status {code}", flush=True)
            for row in rows:
                print(f"    {row.budget_bytes}: {row.pass_seconds} s  {row.setting}  {row.error}", flush=True)
            return rows, in_time

    return run


def one(options: argparse.Namespace) -> None:
    """What a process of its own does: measure, and append each row to a file when it is there."""
    from core.hardware.accelerator import choose

    model, contender, path = options.one

    def told(row: Row) -> None:
        with Path(path).open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")

    budgets: list[int | None] = [None] if contender == RESIDENT else list(_sizes(options.budgets))
    measure(
        model,
        _ALL[model],
        contender,
        budgets,
        choose(options.accelerator),
        activation_bytes=options.activations,
        passes=options.passes,
        told=told,
    )


def read(path: Path, *, again: bool) -> list[Row]:
    """The rows of a result file, none where there is none; without failures where they shall be tried again."""
    if not path.exists():
        return []
    rows = msgspec.convert(json.loads(path.read_text("utf-8"))["rows"], list[Row])
    return [row for row in rows if not (again and row.error)]


def write(path: Path, rows: Sequence[Row], load_before: float | None) -> None:
    """The result file and its table."""
    libraries = {}
    for library in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            libraries[library] = importlib.metadata.version(library)
    result = {
        "rows": msgspec.to_builtins(rows),
        "load_average_before": load_before,
        "python": platform.python_version(),
        "libraries": libraries,
        "machine": msgspec.to_builtins(detect()),
        "date": time.strftime("%Y-%m-%d"),
    }
    write_atomically(path, lambda file: file.write((json.dumps(result, indent=1) + "\n").encode()))
    write_atomically(path.with_suffix(".md"), lambda file: file.write(table(rows).encode()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(_MODELS), help=f"of {', '.join(_ALL)}")
    parser.add_argument("--budgets", default="4GB,8GB,12GB,16GB")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {', '.join(PEERS)}; ours always runs")
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after so many; go on another time")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one contender on one network")
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--again", action="store_true", help="try again what failed")
    parser.add_argument("--accelerator", default="cuda", help="cuda or xpu; emulated or cpu try the script itself")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--activations", type=int, default=_ACTIVATIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options)
        return
    until = time.monotonic() + 60 * options.minutes
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    peers = [name for name in options.peers.split(",") if name]
    models = options.models.split(",")
    for name in [*models, *peers]:
        if name not in _ALL and name not in PEERS:
            parser.error(f"there is no {name}")
    rows = read(options.out, again=options.again)
    left = collect(
        rows,
        models,
        [*(name for name in CONTENDERS if name not in PEERS), *peers],
        _sizes(options.budgets),
        in_a_process(options.passes, options.accelerator),
        lambda: write(options.out, rows, load),
        limit=options.limit,
        until=until,
    )
    print(table(rows))
    print(f"Left for the next time: {'; '.join(left)}" if left else f"Everything asked for is in {options.out}.")


def _sizes(text: str) -> list[int]:
    return [byte_size(size) for size in text.split(",") if size]


if __name__ == "__main__":
    main()
