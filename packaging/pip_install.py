"""Runs pip inside an environment: progress to the terminal, errors as one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

from system_packages import SetupError

_PROBE_SECONDS = 4.0


def python_of(venv: Path) -> Path:
    """The interpreter of an environment, whether it exists or not."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def pip(venv: Path, arguments: list[str], what: str) -> None:
    """Run pip with its progress shown and its errors turned into one sentence.

    Raises:
        SetupError: pip failed; the sentence names `what`.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    options = ["--disable-pip-version-check", "--no-input", "--retries", "2"]
    with tempfile.TemporaryDirectory(dir=venv, prefix="tmp-", ignore_cleanup_errors=True) as temporary:
        # beside the environment, because /tmp is often a small part of memory and a GPU build is gigabytes
        environment |= {"TMPDIR": temporary, "TEMP": temporary, "TMP": temporary, "PIP_USER": "0"}
        done = subprocess.run(
            [python_of(venv), "-m", "pip", *arguments, *options],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    if done.returncode:
        raise SetupError(explain(done.stderr, what))


def explain(errors: str, what: str) -> str:
    """One sentence for what pip wrote to stderr."""
    text = errors.lower()

    def has(*needles: str) -> bool:
        return any(needle in text for needle in needles)

    if has("no space left", "errno 28", "not enough space", "disk quota"):
        return f"The disk is full: there was no space for {what}; free some and run this again."
    if has("certificate_verify_failed", "certificate verify failed"):
        return f"{what} could not be downloaded, a certificate is not trusted; check the clock and the network's proxy."
    if has("name resolution", "name or service not known", "getaddrinfo", "establish a new connection", "unreachable"):
        return f"{what} could not be downloaded: the network cannot be reached; check it and run this again."
    if has("timed out", "connection reset", "connection broken", "proxyerror", "connection aborted", "incompleteread"):
        return f"{what} could not be downloaded: the network broke off; run this again."
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if has("no matching distribution", "could not find a version"):
        return f"There is no build of {what} for Python {version} here; Python 3.11 to 3.13 are known to work."
    if has("permission denied", "errno 13"):
        return f"{what} could not be written: no permission in this folder."
    lines = [line.strip() for line in errors.splitlines() if line.strip() and not line.startswith("WARNING")]
    return f"pip could not install {what}" + (f": {lines[-1]}" if lines else ".")


def reachable(url: str) -> bool:
    """Whether a server answers at all, within seconds; what it answers is pip's matter."""
    answered = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(url + "/", timeout=_PROBE_SECONDS):
                answered.set()
        except urllib.error.HTTPError:
            answered.set()
        except urllib.error.URLError as error:
            if "CERTIFICATE" in str(error.reason):  # bare systems lack certificates; pip brings its own
                answered.set()
        except (OSError, ValueError):
            pass

    # in a thread, because looking up a name has no time limit of its own
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS + 1)
    return answered.is_set()
