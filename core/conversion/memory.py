"""How much memory this process holds: what a conversion reports about itself."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS, _PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> int:
    """Bytes of memory that the process has now; 0 where the system does not say."""
    return _status("VmRSS") or peak()


def start_peak() -> None:
    """Let `peak` count from here, where the system can."""
    try:
        _PEAK.write_text("5")  # resets VmHWM (proc_pid_clear_refs(5))
    except OSError:
        pass


def peak() -> int:
    """The most that it had, in bytes; 0 where the system does not say."""
    if found := _status("VmHWM"):
        return found
    try:
        import resource
    except ImportError:
        return 0  # Windows
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _status(key: str) -> int:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)
