"""Makes the scripts of packaging/ importable; the folder has no __init__.py, since `packaging` is also on PyPI."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "packaging"))
