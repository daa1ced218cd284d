"""What every test stands on: no screen, no network, and none of the user's own folders."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import Phase, settings

# A failing example is shrunk but not explained: that traces every line and takes minutes.
settings.register_profile("house", deadline=None, phases=[p for p in Phase if p is not Phase.explain])
settings.load_profile("house")

# Before anything imports Qt or a model library, which read these once.
os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ["HF_HUB_OFFLINE"] = "1"
_home = Path(tempfile.mkdtemp(prefix="residency-tests-"))
os.environ["RESIDENCY_HOME"] = str(_home)  # child processes inherit it; a test that needs its own sets it again
# What is compiled for the processor is shared by all tests and their child processes: it takes seconds each time.
os.environ["NUMBA_CACHE_DIR"] = str(_home / "numba")


_status: list[int] = []


def pytest_sessionfinish(exitstatus: int) -> None:
    """Remember what the tests came to."""
    _status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Leave nothing behind, and end here: the tests hold torch and Qt in one process, which may crash when it is torn
    down after all of them (the program itself never does)."""
    shutil.rmtree(_home, ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    if _status:
        os._exit(_status[-1])


def _has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available() or torch.xpu.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none; torch is only imported if a test asks for it."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a real GPU"))
