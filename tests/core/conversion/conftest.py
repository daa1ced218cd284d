"""A small checkpoint, made once a module."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.core.conversion.written import flux_like


@pytest.fixture(scope="module")
def flux_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flux") / "flux.safetensors"
    save_file(flux_like(), path, {"modelspec.title": "small"})
    return path
