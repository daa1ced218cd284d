"""Installs packages of the operating system where this process may, and else says the exact command."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass


class SetupError(Exception):
    """Set-up cannot go on; `str(error)` is one sentence that says what to do."""


@dataclass(frozen=True)
class PackageManager:
    """How one family of distributions installs packages; `refresh` is run when the package lists are missing or old."""

    name: str
    install: tuple[str, ...]
    refresh: tuple[str, ...] = ()


APT = PackageManager(
    "apt",
    ("apt-get", "-o", "DPkg::Lock::Timeout=120", "install", "-y", "--no-install-recommends"),
    ("apt-get", "update"),
)
DNF = PackageManager("dnf", ("dnf", "install", "-y"))
PACMAN = PackageManager("pacman", ("pacman", "-S", "--needed", "--noconfirm"))
_BY_PROGRAM = {"apt-get": APT, "dnf": DNF, "pacman": PACMAN}


def find_manager() -> PackageManager | None:
    """The package manager of this system, None where it is not one that we know."""
    return next((manager for program, manager in _BY_PROGRAM.items() if shutil.which(program)), None)


def root_prefix() -> list[str] | None:
    """What to put before a command that needs root: nothing for root, `sudo -n` if it asks no password, else None."""
    if not hasattr(os, "geteuid"):
        return None
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def command_line(manager: PackageManager, packages: list[str]) -> str:
    """The command a person would type to install the packages."""
    short = {"apt": "apt-get install -y", "dnf": "dnf install -y", "pacman": "pacman -S --needed"}[manager.name]
    return f"sudo {short} {' '.join(packages)}"


def install(manager: PackageManager, packages: list[str], what_for: str) -> None:
    """Install the packages, refreshing the package lists once if the first attempt fails.

    Raises:
        SetupError: this process may not install packages, or the package manager failed; with the command to run.
    """
    by_hand = command_line(manager, packages)
    prefix = root_prefix()
    if prefix is None:
        raise SetupError(f"Packages of the operating system are missing for {what_for}; run: {by_hand}")
    print(f"Installing for {what_for}: {' '.join(packages)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if prefix:
        prefix = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive"]  # sudo drops the variable otherwise

    def attempt() -> subprocess.CompletedProcess[str]:
        return _captured([*prefix, *manager.install, *packages], environment)

    done = attempt()
    if done.returncode and manager.refresh:
        _captured([*prefix, *manager.refresh], environment)
        done = attempt()
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        why = f" ({lines[-1]})" if lines else ""
        raise SetupError(f"{manager.name} could not install packages for {what_for}{why}; to do it by hand: {by_hand}")


def _captured(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
