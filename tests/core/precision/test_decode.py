"""Decoders against gguf-py: the same float32 bits, and other dtypes as those rounded."""

from __future__ import annotations

import subprocess
import sys

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.precision import decode, decode_rows, encode
from core.precision.formats import FORMATS

pytestmark = pytest.mark.usefixtures("code")

PACKED = [name for name, entry in FORMATS.items() if entry.packed]


def stored(name: str, seed: int, rows: int = 8, length: int = 512) -> torch.Tensor:
    """Random bytes, so every pattern of bits: also scales that are infinite, denormal or no number."""
    entry = FORMATS[name]
    size = length // entry.block_elements * entry.block_bytes
    return torch.randint(0, 256, (rows, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def reference(data: torch.Tensor, name: str) -> torch.Tensor:
    with np.errstate(all="ignore"):
        return torch.from_numpy(gguf.quants.dequantize(data.numpy(), gguf.GGMLQuantizationType[name]).copy())


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal to the sign of a zero; any NaN is as good as another, whose bits depend on the processor."""
    numbers = ~(first.isnan() & second.isnan())
    kind = torch.int32 if first.dtype == torch.float32 else torch.int16
    return bool((first.view(kind) == second.view(kind))[numbers].all())


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "F8_E4M3"])
def test_bits_are_gguf_pys(name: str) -> None:
    data = stored(name, 1, rows=96)
    expected = reference(data, name).view(torch.float32)
    shape = tuple(expected.shape)
    assert same_bits(decode(data, name, shape), expected)
    for dtype in (torch.float16, torch.bfloat16):
        assert same_bits(decode(data, name, shape, dtype), expected.to(dtype))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 40), blocks=st.integers(1, 4))
@pytest.mark.parametrize("name", PACKED)
def test_any_blocks(name: str, seed: int, rows: int, blocks: int) -> None:
    length = blocks * FORMATS[name].block_elements
    data = stored(name, seed, rows, length)
    assert same_bits(decode(data, name, (rows, length)), reference(data, name))


@pytest.mark.parametrize("name", PACKED)
def test_chunks_join_seamlessly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.precision.scratch._DECODED", 1024)
    monkeypatch.setattr("core.precision.scratch._ENCODED", 1024)
    data = stored(name, 2, rows=33, length=768)
    whole = reference(data, name)
    assert same_bits(decode(data, name, (33, 768)), whole)
    assert same_bits(decode(data, name, (33, 768), torch.bfloat16), whole.bfloat16())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_into_a_given_buffer(name: str, dtype: torch.dtype) -> None:
    """A streamer's slot: one flat buffer for tensors of any shape, here at an odd place in it."""
    data = encode(torch.randn(6, 256, generator=torch.Generator().manual_seed(3)), name)
    slot = torch.full((3 + 6 * 256 + 5,), 7.0, dtype=dtype)
    out = slot[3 : 3 + 6 * 256]
    result = decode(data, name, (2, 3, 256), out=out)
    assert result.shape == (2, 3, 256)
    assert result.data_ptr() == out.data_ptr()
    assert same_bits(result, decode(data, name, (2, 3, 256), dtype))
    assert slot[:3].tolist() == [7.0] * 3
    assert slot[-5:].tolist() == [7.0] * 5


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_at_any_place(name: str) -> None:
    """Bytes of a file's mapping need not be aligned."""
    data = stored(name, 4, rows=3)
    moved = torch.cat((torch.zeros(3, dtype=torch.uint8), data.view(-1)))[3:]
    assert same_bits(decode(moved, name, (3, 512), torch.float16), decode(data, name, (3, 512), torch.float16))


@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_gathered(name: str) -> None:
    table = encode(torch.randn(50, 256, generator=torch.Generator().manual_seed(5)), name)
    rows = torch.tensor([[3, 49, 3], [0, 17, 20]])
    whole = decode(table, name, (50, 256), torch.bfloat16)
    assert torch.equal(decode_rows(table, name, (50, 256), rows, torch.bfloat16), whole[rows])
    assert decode_rows(table, name, (50, 256), rows[:0]).shape == (0, 3, 256)
    with pytest.raises(IndexError):
        decode_rows(table, name, (50, 256), torch.tensor([50]))


def test_plain_formats_of_any_shape() -> None:
    for shape in ((), (7,), (2, 3, 5), (0, 4)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(6))
        for name in ("F32", "F16", "BF16", "F8_E4M3"):
            back = decode(encode(x, name), name, shape)
            assert back.shape == x.shape
            assert torch.allclose(back, x, rtol=0.07, atol=0.002)


def test_what_does_not_fit_is_refused() -> None:
    data = stored("Q4_K", 0, rows=2)
    with pytest.raises(ValueError, match=r"Q4_K of shape \[3, 512\] is 864 bytes of uint8, not 576 of uint8"):
        decode(data, "Q4_K", (3, 512))
    with pytest.raises(ValueError, match="not 576 of int8"):
        decode(data.view(torch.int8), "Q4_K", (2, 512))
    with pytest.raises(ValueError, match=r"rows of 100 do not divide by 256 \(Q4_K\)"):
        decode(data, "Q4_K", (2, 100))
    with pytest.raises(ValueError, match="out has 1000 elements"):
        decode(data, "Q4_K", (2, 512), out=torch.empty(1000))
    with pytest.raises(ValueError, match="is not a format"):
        decode(data, "IQ1_S", (2, 512))


def test_threads_change_nothing() -> None:
    data = stored("Q5_K", 8, rows=1500)
    whole = reference(data, "Q5_K")
    torch.set_num_threads(2)
    for dtype in (torch.float32, torch.bfloat16):
        assert same_bits(decode(data, "Q5_K", (1500, 512), dtype), whole.to(dtype))


def test_buffers_survive_inference_mode() -> None:
    data = stored("Q6_K", 7)
    with torch.inference_mode():
        inside = decode(data, "Q6_K", (8, 512), torch.bfloat16)
    assert same_bits(decode(data, "Q6_K", (8, 512), torch.bfloat16), inside.clone())


def test_the_table_of_formats_needs_no_torch() -> None:
    code = "import sys, core.precision.formats; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
