"""Set up, run and test Residency from its source tree, with nothing but Python 3.11 or newer.

    python3 packaging/dev.py run [FILE...]         open the studio; without a display, render a picture in the terminal
    python3 packaging/dev.py test [PYTEST OPTION]  every check and every test
    python3 packaging/dev.py check                 the checks without the tests
    python3 packaging/dev.py setup                 only the set-up that the others do by themselves

Set-up makes `.venv` with the build of torch for this machine; `--torch cpu|cuda|cuda126|rocm|xpu|auto` (or the variable
RESIDENCY_TORCH) chooses another and is remembered.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this file is what an older Python meets first
    sys.exit("Residency needs Python 3.11 or newer; this is Python {}.{}.".format(*sys.version_info[:2]))

import argparse
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import environment
import qt_libraries
import torch_choice
from pip_install import python_of
from system_packages import SetupError

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "a red house by the sea at sunset"


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    options, rest = parse(arguments)
    try:
        return int(options.command(options, rest))
    except SetupError as error:
        print(f"dev.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next start goes on from here.", file=sys.stderr)
        return 130


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own options, and all others in their order for the program or for pytest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="run|test|check|setup")
    for name, function in (("run", run), ("test", test), ("check", check), ("setup", setup)):
        command = commands.add_parser(name, allow_abbrev=False)
        command.add_argument("--torch", metavar="BUILD", help="auto, cpu, cuda, cuda126, rocm or xpu")
        command.set_defaults(command=function)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command in (setup, check):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    return options, rest


def displays() -> set[str] | None:
    """Of x11 and wayland, what can show a window here (none need naming on Windows and macOS); None: nothing can."""
    if sys.platform in ("win32", "darwin"):
        return set()
    variables = {"x11": "DISPLAY", "wayland": "WAYLAND_DISPLAY"}
    return {name for name, variable in variables.items() if os.environ.get(variable)} or None


def prepared(options: argparse.Namespace, extras: set[str], platforms: set[str] | None) -> tuple[Path, dict[str, str]]:
    """The environment's folder, brought up to date, and the variables to run its programs with.

    `platforms` are those that a window is to be shown on; None where Qt is not used at all.

    Raises:
        SetupError: set-up cannot be done here; with what to do.
    """
    venv = ROOT / ".venv"
    choice, override = torch_choice.selected(options.torch, environment.read_stamp(venv).get("override"))
    if platforms is not None:
        qt_libraries.ensure(platforms)
    environment.ensure(ROOT, extras, choice, override)
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    return venv, {**choice.environment, **variables}  # what the user has set wins


def setup(options: argparse.Namespace, rest: list[str]) -> int:
    """Do the set-up of all other commands."""
    prepared(options, {"engine", "dev"}, displays() or set())
    print("Residency is set up: python3 packaging/dev.py run")
    return 0


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Open the studio, or render one picture in the terminal where no window can be shown."""
    platforms = displays()
    if platforms is None:
        print(
            "There is no display here (DISPLAY and WAYLAND_DISPLAY are not set), so instead of opening the window"
            f" one picture is rendered in the terminal.\nPrompt: {PROMPT}",
            flush=True,
        )
    venv, variables = prepared(options, {"engine"}, platforms)
    # -P: a folder called core or app in the current directory must not stand in for ours
    command = [str(python_of(venv)), "-P", "-m"]
    command += ["app.main", *rest] if platforms is not None else ["core.cli", "generate", PROMPT, "--show", *rest]
    if os.name == "posix":
        sys.stdout.flush()
        os.execve(command[0], command, variables)  # so that signals reach the program itself
    return subprocess.run(command, env=variables).returncode


def check(options: argparse.Namespace, rest: list[str]) -> int:
    """Run every check, side by side, and say which failed."""
    venv, variables = prepared(options, {"engine", "dev"}, None)
    failed = run_checks(venv, variables)
    print(f"\nFailed: {', '.join(failed)}" if failed else "\nAll checks passed.")
    return 1 if failed else 0


def test(options: argparse.Namespace, rest: list[str]) -> int:
    """Run every check and then the tests; all run even if some fail."""
    venv, variables = prepared(options, {"engine", "dev"}, set())
    failed = run_checks(venv, variables)
    print("\n--- pytest", flush=True)
    command = [str(python_of(venv)), "-P", "-m", "pytest", *rest]
    if subprocess.run(command, cwd=ROOT, env=variables).returncode:
        failed.append("pytest")
    # pytest's own closing line stays the last one unless there is something to add
    if failed:
        print(f"Failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def run_checks(venv: Path, variables: dict[str, str]) -> list[str]:
    """Run the checks, print what they say in a fixed order, and return the names of those that failed."""
    python = str(python_of(venv))
    commands = {
        "ruff check": [python, "-m", "ruff", "check", "."],
        "ruff format": [python, "-m", "ruff", "format", "--check", "."],
        "lint-imports": [str(environment.script_of(venv, "lint-imports")), "--no-logo"],
        "mypy": [python, "-m", "mypy"],
    }

    def one(command: list[str]) -> tuple[int, str, float]:
        start = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, errors="replace")
        return done.returncode, done.stdout + done.stderr, time.monotonic() - start

    failed = []
    with ThreadPoolExecutor() as pool:
        for name, (status, output, seconds) in zip(commands, pool.map(one, commands.values()), strict=True):
            print(f"--- {name}: {'failed' if status else 'passed'} in {seconds:.1f} s", flush=True)
            if status:
                print(output.rstrip(), flush=True)
                failed.append(name)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
