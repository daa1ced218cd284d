"""The virtual environment in `.venv`: made, filled, verified, and left alone while nothing has changed.

A stamp, written last, names everything that the environment was made from. No stamp means that set-up never finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pip_install import explain, pip, python_of, reachable
from system_packages import APT, SetupError, find_manager, install
from torch_choice import TORCH, TorchChoice

STAMP = "residency-setup.json"
UNFINISHED = "residency-unfinished"
_BUILD_OF_TORCH = """
import json, torch
v = torch.version
print(json.dumps({"version": torch.__version__, "cuda": v.cuda, "hip": v.hip, "xpu": getattr(v, "xpu", None)}))
"""


def script_of(venv: Path, name: str) -> Path:
    """A console script of an environment."""
    return venv / (f"Scripts/{name}.exe" if os.name == "nt" else f"bin/{name}")


def read_stamp(venv: Path) -> dict[str, Any]:
    """The stamp; empty where there is none or it cannot be read."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def fingerprint(pyproject: str) -> str:
    """A hash of what an installation depends on in pyproject.toml; the settings of tools are not among it.

    Raises:
        SetupError: the file is not valid TOML.
    """
    try:
        tables = tomllib.loads(pyproject)
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"pyproject.toml cannot be read: {error}.") from error
    relevant = [tables.get("build-system"), tables.get("project"), tables.get("tool", {}).get("hatch")]
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def stale_because(stamp: dict[str, Any], venv: Path, project: str, extras: set[str], choice: TorchChoice) -> str:
    """Why an environment does not serve any more, in a few words; empty while it does."""
    python = python_of(venv)
    if not stamp or not python.exists():
        return "there is no finished environment"
    if stamp.get("python") != os.path.realpath(python) or stamp.get("folder") != str(venv):
        return "Python or this folder has moved"
    if stamp.get("torch") != [choice.build, TORCH]:
        return "another torch build is wanted"
    if stamp.get("project") != project:
        return "the requirements have changed"
    if not extras <= set(stamp.get("extras", [])):
        return "more packages are needed"
    return ""


def ensure(root: Path, extras: set[str], choice: TorchChoice, override: str | None) -> Path:
    """Bring `.venv` below `root` up to date, which takes no time when it is, and return its folder.

    Raises:
        SetupError: no network, no space, no permission, no suitable build; with what to do.
    """
    venv = root / ".venv"
    project = fingerprint((root / "pyproject.toml").read_text(encoding="utf-8"))
    if not stale_because(read_stamp(venv), venv, project, extras, choice):
        return venv
    with _locked(root / ".venv.lock"):
        stamp = read_stamp(venv)  # another process may have finished the work while we waited
        why = stale_because(stamp, venv, project, extras, choice)
        if not why:
            return venv
        print(f"Setting up .venv: {why}.", flush=True)
        extras = extras | set(stamp.get("extras", []))
        _discard_if_unusable(venv, stamp, choice)
        _require_space(root, choice)
        (venv / STAMP).unlink(missing_ok=True)
        if not venv.exists():
            _create(venv)
        _install_torch(venv, choice)
        found = _verify(venv, choice)  # before the rest is fetched for nothing
        print(f"torch {found['version']} works.", flush=True)
        print("Installing Residency and what it needs", flush=True)
        pip(venv, ["install", "--editable", f"{root}[{','.join(sorted(extras))}]"], "the requirements")
        (venv / UNFINISHED).unlink(missing_ok=True)
        write_stamp(venv, project, extras, choice, override)
    return venv


def write_stamp(venv: Path, project: str, extras: set[str], choice: TorchChoice, override: str | None) -> None:
    """Record, in one atomic step, what the environment was made from."""
    stamp = {
        "python": os.path.realpath(python_of(venv)),
        "folder": str(venv),
        "torch": [choice.build, TORCH],
        "override": override,
        "project": project,
        "extras": sorted(extras),
    }
    temporary = venv / f"{STAMP}.{os.getpid()}"
    temporary.write_text(json.dumps(stamp, indent=2), encoding="utf-8")
    temporary.replace(venv / STAMP)


def _discard_if_unusable(venv: Path, stamp: dict[str, Any], choice: TorchChoice) -> None:
    """Delete an environment that was left half-made, whose Python is gone, or that holds another build of torch."""
    if not venv.exists():
        return
    half_made = (venv / UNFINISHED).exists()
    other_python = bool(stamp) and stamp.get("python") != os.path.realpath(python_of(venv))
    moved = bool(stamp) and stamp.get("folder") != str(venv)
    other_torch = bool(stamp) and stamp.get("torch") != [choice.build, TORCH]
    if not (half_made or other_python or moved or other_torch) and _runs(venv):
        return
    print("Removing the old environment", flush=True)
    try:
        shutil.rmtree(venv)
    except OSError as error:
        raise SetupError(
            f"The old environment {venv} cannot be removed ({error.strerror}); delete it by hand."
        ) from error


def _runs(venv: Path) -> bool:
    """Whether the environment has a Python that starts, is new enough and has pip."""
    code = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([python_of(venv), "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


def _require_space(root: Path, choice: TorchChoice) -> None:
    """Refuse to begin what cannot end; a running update needs little, so only a missing environment is measured."""
    if (root / ".venv").exists():
        return
    free = shutil.disk_usage(root).free
    if free < choice.disk_bytes:
        smaller = "" if choice.build == "cpu" else ", or choose the small build with --torch cpu"
        raise SetupError(
            f"Set-up needs about {choice.disk_bytes / 1e9:.0f} GB here and {free / 1e9:.1f} GB are free;"
            f" free some space in {root}{smaller}."
        )


def _create(venv: Path) -> None:
    """Make an empty environment, marked as unfinished from its first moment."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        manager = find_manager()
        if manager is not APT:
            raise SetupError("This Python lacks venv and ensurepip; install your system's package for them.")
        install(manager, [f"python3.{sys.version_info.minor}-venv"], "virtual environments")
    try:
        venv.mkdir()
        (venv / UNFINISHED).touch()
    except OSError as error:
        raise SetupError(f"{venv} cannot be made: {error.strerror}.") from error
    # started inside an environment, this process must not base the new one on a Python that may be deleted
    base = getattr(sys, "_base_executable", None) or sys.executable
    made = subprocess.run([base, "-m", "venv", str(venv)], capture_output=True, text=True, errors="replace")
    if made.returncode:
        raise SetupError(explain(made.stderr + made.stdout, "the virtual environment"))


def _install_torch(venv: Path, choice: TorchChoice) -> None:
    if _torch_build(venv):
        return  # torch of an adopted environment; _verify judges it
    print(f"Installing {TORCH}, {choice.build} build: {choice.reason}", flush=True)
    command = ["install", TORCH]
    if choice.index is None:
        pip(venv, command, TORCH)
        return
    if choice.build != "cpu":
        pip(venv, [*command, "--index-url", choice.index], f"{TORCH} ({choice.build})")
        return
    # any build computes on the processor, so PyTorch's own index is the best source here but not the only one
    if reachable(choice.index):
        try:
            pip(venv, [*command, "--index-url", choice.index], TORCH)
            return
        except SetupError as error:
            print(f"{error} Trying pip's configured index.", flush=True)
    else:
        print("PyTorch's own index cannot be reached; using pip's configured index.", flush=True)
    pip(venv, command, TORCH)


def _torch_build(venv: Path) -> dict[str, Any]:
    """Version and kind of the torch that an environment imports; empty where it imports none."""
    done = subprocess.run([python_of(venv), "-c", _BUILD_OF_TORCH], capture_output=True, text=True, errors="replace")
    try:
        found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _verify(venv: Path, choice: TorchChoice) -> dict[str, Any]:
    """Import torch once and compare: a mistyped or shadowed index installs another build without a word."""
    found = _torch_build(venv)
    if not found:
        raise SetupError("torch was installed but cannot be imported; delete .venv and run this again.")
    mark = {"cuda": "cuda", "cuda126": "cuda", "rocm": "hip", "xpu": "xpu"}.get(choice.build)
    if str(found["version"]).split("+")[0] != TORCH.partition("==")[2] or (mark and not found[mark]):
        raise SetupError(
            f"{TORCH} ({choice.build}) was wanted and torch {found['version']} was found;"
            " delete .venv and check pip's configuration."
        )
    return found


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock on set-up; a second set-up waits. The system lets go of it however this process ends."""
    try:
        file = path.open("a+b")
    except OSError as error:
        raise SetupError(f"{path.parent} cannot be written to: {error.strerror}.") from error
    with file:
        if sys.platform == "win32":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):  # LK_LOCK gives up after ten seconds
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                print("Waiting for another set-up of this folder to finish.", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
