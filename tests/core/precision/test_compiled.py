"""numba's kernels: that they do the work on a CPU, that nothing needs them, and where their machine code is kept."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.precision import choice, compiled, decode, encode, kernels
from core.precision.formats import FORMATS
from tests.core.precision.ggml import quantize

ROOT = Path(__file__).parents[3]
PACKED = [entry for entry in FORMATS.values() if entry.packed]


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stderr


def test_calibrating_what_has_no_kernel_takes_none_away() -> None:
    cpu, entry = torch.device("cpu"), FORMATS["F8_E4M3"]
    kernels.choose(torch.zeros(4, entry.block_bytes, dtype=torch.uint8), entry, torch.float32)
    assert not kernels.uses_kernel(cpu, entry, torch.float32)
    assert kernels.available(cpu)


@pytest.mark.parametrize("entry", PACKED, ids=lambda entry: entry.name)
def test_a_processor_decodes_by_them(entry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "eager_on", lambda _device: frozenset())  # whatever a calibration has found
    for dtype in kernels.DTYPES:
        assert decode(torch.empty(0, dtype=torch.uint8), entry.name, (0, 256), dtype).shape == (0, 256)
        assert kernels.uses_kernel(torch.device("cpu"), entry, dtype)
    assert not kernels.uses_kernel(torch.device("cpu"), entry, torch.float64)


def test_a_processor_searches_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    found = compiled.search

    def heard(name: str, *arguments: Any, **others: Any) -> bool:
        done = found(name, *arguments, **others)
        names.append((name, done))
        return done

    monkeypatch.setattr(compiled, "search", heard)
    x = torch.randn(4, 512, generator=torch.Generator().manual_seed(0))
    for entry in PACKED:
        encode(x, entry.name)
        encode(x, entry.name, torch.ones(512))
    assert {name for name, _ in names} >= {"fit_symmetric", "fit_range", "fit_levels", "improve", "sum_rows"}
    assert all(done for _, done in names)


def test_plain_formats_bring_no_numba_in() -> None:
    run(
        "import sys, torch; from core.precision import decode, encode;"
        "decode(encode(torch.zeros(2, 32), 'BF16'), 'BF16', (2, 32)); sys.exit('numba' in sys.modules)"
    )


def test_nothing_needs_numba() -> None:
    said = run(
        "import sys; sys.modules['numba'] = None; import logging, torch; logging.basicConfig();"
        "from core.precision import decode, encode; x = torch.linspace(-3, 3, 512).view(2, 256);"
        "error = decode(encode(x, 'Q6_K'), 'Q6_K', (2, 256)) - x; sys.exit(float(error.abs().max()) > 0.1)"
    )
    assert said.count("numba_search is not used") == 1
    assert said.count("numba_decode is not used") == 1


def test_what_fails_is_done_by_torch(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from core.precision import numba_search

    def fails(*_: object) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(compiled, "_failed", set())
    monkeypatch.setattr(numba_search, "fit_range", fails)
    x = torch.randn(8, 256, generator=torch.Generator().manual_seed(1))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(encode(x, "Q4_K"), quantize(x, "Q4_K"))
        assert torch.equal(encode(x, "Q3_K"), quantize(x, "Q3_K"))
    assert [record.getMessage() for record in caplog.records] == [
        "numba_search is not used: RuntimeError: no such instruction"
    ]


def test_machine_code_lies_in_the_cache_folder(tmp_path: Path) -> None:
    code = (
        "import torch; from core import folders; from core.precision import decode, encode; x = torch.ones(2, 256);"
        "decode(encode(x, 'Q6_K'), 'Q6_K', x.shape); print(*[p.name for p in folders.cache().rglob('numba/**/*.nbc')])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment["RESIDENCY_HOME"] = str(tmp_path)
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    kept = process.stdout.split()
    assert any(name.startswith("numba_search.fit_symmetric") for name in kept)
    assert any(name.startswith("numba_decode._q6_k") for name in kept)
