"""Our Triton kernels in Triton's interpreter, on a CPU: run by test_kernels.py in a process of its own, where
TRITON_INTERPRET is set before anything imports triton.

Sizes are small: the interpreter takes tenths of a second for a few thousand numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from triton.runtime import interpreter

from core.hardware.calibrate_decoders import eager as decoders
from core.precision import choice, decode, decode_rows, eager, kernels, triton_blocks
from core.precision.formats import FORMATS
from tests.bench import report
from tests.gpu import bench_decode

assert os.environ.get("TRITON_INTERPRET") == "1", "run by test_kernels.py"

# numpy, which the interpreter computes with, tells of what the tests are about: infinities and NaNs
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

CPU = torch.device("cpu")
# Float16 from its smallest denormal to NaN.
SCALES = (0.0, -0.0, 2.0**-24, -(2.0**-24), 1023 * 2.0**-24, 2.0**-14, -0.37, 65504.0, float("inf"), float("nan"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A device of which nothing is known yet."""
    monkeypatch.setenv("RESIDENCY_HOME", str(tmp_path))
    monkeypatch.setattr(kernels, "_unfit", set())
    monkeypatch.setattr(kernels, "_proved", {})
    choice._known.cache_clear()
    yield tmp_path
    choice._known.cache_clear()


@pytest.fixture
def rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 to BF16 as devices do it, to the nearest (test_kernels.py sees it in the machine code).

    The interpreter of Triton 3.9 cuts the low half off.
    """
    cut = interpreter._convert_float

    def convert(values: Any, source: Any, target: Any, mode: Any) -> Any:
        if source.is_fp32() and target.is_bf16():
            return torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view("uint16")
        return cut(values, source, target, mode)

    monkeypatch.setattr(interpreter, "_convert_float", convert)


def random_blocks(name: str, count: int, seed: int = 1) -> torch.Tensor:
    """Every pattern of bits."""
    shape = (count, FORMATS[name].block_bytes)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def by_torch(blocks: torch.Tensor, name: str, dtype: torch.dtype) -> torch.Tensor:
    out = torch.empty((len(blocks), FORMATS[name].block_elements), dtype=dtype)
    eager.decode_blocks(blocks, FORMATS[name], out)
    return out


def assert_same_bits(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to the sign of a zero; any NaN is as good as another."""
    kind = torch.int32 if expected.dtype == torch.float32 else torch.int16
    same = (found.view(kind) == expected.view(kind)) | (found.isnan() & expected.isnan())
    assert same.all(), (found[~same][:4], expected[~same][:4])


@pytest.mark.usefixtures("rounding")
@pytest.mark.parametrize("dtype", kernels.DTYPES)
@pytest.mark.parametrize("name", kernels.FORMATS)
def test_random_bytes_in_any_number(name: str, dtype: torch.dtype) -> None:
    rows = triton_blocks.ROWS[name]
    for count in (1, rows - 1, 2 * rows, 2 * rows + 3):
        blocks = random_blocks(name, count, seed=count)
        around = torch.full((count + 2, FORMATS[name].block_elements), 7.0, dtype=dtype)
        triton_blocks.launch(blocks, name, around[1:-1])
        assert_same_bits(around[1:-1], by_torch(blocks, name, dtype))
        assert (around[0] == 7).all()
        assert (around[-1] == 7).all()


@pytest.mark.usefixtures("rounding")
@pytest.mark.parametrize("dtype", kernels.DTYPES)
@pytest.mark.parametrize("name", kernels.FORMATS)
def test_scales_at_the_edge(name: str, dtype: torch.dtype) -> None:
    """Scale by minimum, where a format has one: zeros of both signs, denormals, the largest, infinity, NaN."""
    scales = torch.tensor(SCALES, dtype=torch.float16)
    pairs = torch.cartesian_prod(scales, scales).view(torch.uint8)
    blocks = random_blocks(name, len(pairs))
    if name in ("Q5_K", "Q4_K"):
        blocks[:, :4] = pairs
    else:
        place = {"Q8_0": 0, "Q6_K": 208}[name]
        blocks[:, place : place + 2] = pairs[:, :2]
    found = torch.empty((len(blocks), FORMATS[name].block_elements), dtype=dtype)
    triton_blocks.launch(blocks, name, found)
    assert_same_bits(found, by_torch(blocks, name, dtype))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Formats in the order in which kernels were launched for more than a proof."""
    seen: list[str] = []
    launch = triton_blocks.launch

    def counted(blocks: torch.Tensor, name: str, out: torch.Tensor) -> None:
        launch(blocks, name, out)
        if len(blocks) != kernels._PROOF_BLOCKS:
            seen.append(name)

    monkeypatch.setattr(triton_blocks, "launch", counted)
    return seen


@pytest.mark.usefixtures("rounding")
@pytest.mark.parametrize("dtype", kernels.DTYPES)
def test_decode_goes_by_the_kernel(dtype: torch.dtype, launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_PROOF_BLOCKS", 131)
    blocks = random_blocks("Q4_K", 6)
    slot = torch.full((3 + 6 * 256 + 5,), 7.0, dtype=dtype)
    result = decode(blocks, "Q4_K", (3, 512), out=slot[3:-5])
    assert launches == ["Q4_K"]
    assert_same_bits(result.view(6, 256), by_torch(blocks, "Q4_K", dtype))
    assert slot[:3].tolist() == [7.0] * 3
    assert slot[-5:].tolist() == [7.0] * 5
    rows = decode_rows(blocks, "Q4_K", (3, 512), torch.tensor([2, 0]), dtype)
    assert_same_bits(rows, result[[2, 0]])
    assert launches == ["Q4_K"] * 2
    decode(blocks[:, :84].contiguous(), "Q2_K", (6, 256), dtype)  # there is no kernel
    decode(blocks, "Q4_K", (3, 512), torch.float64)
    assert launches == ["Q4_K"] * 2


def test_a_kernel_whose_numbers_differ_is_not_used(launches: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """The interpreter's own rounding to BF16 is wrong; that of F16 is right."""
    blocks = random_blocks("Q8_0", 5)
    for _ in range(2):
        assert_same_bits(decode(blocks, "Q8_0", (5, 32), torch.bfloat16), by_torch(blocks, "Q8_0", torch.bfloat16))
    assert launches == []
    assert [record.message for record in caplog.records] == [
        "The kernel for Q8_0 in bfloat16 is not used on cpu: its numbers differ"
    ]
    decode(blocks, "Q8_0", (5, 32), torch.float16)
    assert launches == ["Q8_0"]


def test_a_device_that_cannot_compile_decodes_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no compiler\nand a page of assembler")

    monkeypatch.setattr(triton_blocks, "launch", fail)
    for name in ("Q6_K", "Q5_K"):
        blocks = random_blocks(name, 3)
        assert_same_bits(decode(blocks, name, (3, 256)), by_torch(blocks, name, torch.float32))
    assert [record.message for record in caplog.records] == [
        "Decode kernels are not used on cpu: RuntimeError: no compiler"
    ]
    assert not kernels.available(CPU)


def test_calibration_chooses_and_keeps_the_faster(home: Path, launches: list[str]) -> None:
    """Here torch, by a thousand times."""
    blocks, entry = random_blocks("Q8_0", 300), FORMATS["Q8_0"]
    assert kernels.uses_kernel(CPU, entry, torch.float32)
    numbers = decoders()["Q8_0"].decode(blocks, torch.float32)
    assert_same_bits(numbers, by_torch(blocks, "Q8_0", torch.float32))
    assert launches  # it was timed
    launches.clear()
    for _ in range(2):
        assert not kernels.uses_kernel(CPU, entry, torch.float32)
        assert_same_bits(decode(blocks, "Q8_0", (300, 32)), numbers)
        assert kernels.uses_kernel(CPU, FORMATS["Q4_K"], torch.float32)
        choice._known.cache_clear()  # another process, which has only the file
    assert launches == []
    choice.keep(CPU, "Q8_0", eager=False)
    decode(blocks, "Q8_0", (300, 32))
    assert launches == ["Q8_0"]
    file = home / "cache" / "decoders.json"
    assert list(json.loads(file.read_text()).values()) == [[]]
    file.write_text("{")
    choice._known.cache_clear()
    assert kernels.uses_kernel(CPU, entry, torch.float32)


@pytest.mark.usefixtures("rounding")
def test_the_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    bench_decode.main(["--elements", "1024", "--layer", "32", "--rounds", "1", "--calls", "1", "--rows", "8"])
    found = json.loads((tmp_path / "decode.json").read_text())
    assert set(found["formats"]) == set(kernels.FORMATS)
    for figures in found["formats"].values():
        for dtype in ("bfloat16", "float16", "float32"):
            assert figures[dtype]["kernel"]["gb_per_second"] > 0
            assert figures[dtype]["eager"]["of_floor"] > 0
    assert found["machine"]
    assert found["device"] == "cpu"
