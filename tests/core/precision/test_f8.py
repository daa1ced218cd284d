"""F8 on a CPU is decoded by our own arithmetic, which must give what torch's cast gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.generation.packing import power_of_two
from core.precision import decode, decode_rows, encode
from core.precision.formats import FORMATS

EVERY = torch.arange(256, dtype=torch.uint8)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Bit for bit, to the sign of a zero; one NaN is as good as another."""
    bits = torch.int32 if found.dtype == torch.float32 else torch.int16
    nan = expected.isnan()
    return torch.equal(found.isnan(), nan) and torch.equal(found.view(bits)[~nan], expected.view(bits)[~nan])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("finite", [True, False])
def test_every_byte_is_what_torch_makes_of_it(dtype: torch.dtype, *, finite: bool) -> None:
    data = EVERY[(EVERY & 0x7F) != 0x7F] if finite else EVERY
    expected = data.view(torch.float8_e4m3fn).to(dtype)
    assert same(decode(data, "F8_E4M3", data.shape, dtype), expected)


@given(st.integers(0, 3000), st.integers(0, 7), st.sampled_from(DTYPES), st.integers(0, 2**32))
def test_any_length_at_any_place(length: int, begin: int, dtype: torch.dtype, seed: int) -> None:
    bytes_ = torch.randint(0, 256, (begin + length,), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    data = bytes_[begin:]
    out = torch.full((length + 2,), 7.0, dtype=dtype)
    decode(data, "F8_E4M3", (length,), out=out[1:-1])
    assert same(out[1:-1], data.view(torch.float8_e4m3fn).to(dtype))
    assert (out[0], out[-1]) == (7, 7)


def test_tensors_of_several_chunks_and_single_rows() -> None:
    data = torch.randint(0, 256, (3, 1 << 19), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    data[:, 0] = 0x7F  # NaN in every chunk
    whole = decode(data, "F8_E4M3", data.shape, torch.bfloat16)
    assert same(whole, data.view(torch.float8_e4m3fn).to(torch.bfloat16))
    assert same(decode_rows(data, "F8_E4M3", data.shape, torch.tensor([2, 0]), torch.bfloat16), whole[[2, 0]])


@given(st.integers(1, 40), st.floats(1e-30, 1e30), st.integers(0, 2**32))
def test_a_power_of_two_brings_numbers_of_any_size_into_reach(rows: int, size: float, seed: int) -> None:
    numbers = torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed)) * size
    largest = float(numbers.abs().max())
    scale = power_of_two(largest)
    assert torch.frexp(torch.tensor(scale)).mantissa == 0.5  # a power of two: no digit of a number changes
    assert 224 < largest / scale <= 448
    data = encode(numbers / scale, "F8_E4M3")
    back = decode(data, "F8_E4M3", numbers.shape) * scale
    # half of the last digit, or of the smallest number that there is
    assert ((back.double() - numbers.double()).abs() <= numbers.double().abs() * 2**-4 + scale * 2**-10).all()
    assert torch.equal(encode(back / scale, "F8_E4M3"), data)


@pytest.mark.parametrize("size", [1e-4, 0.02, 1.0, 1e6])
def test_the_error_is_that_of_the_table_whatever_the_size(size: float) -> None:
    numbers = torch.randn(512, 2048, generator=torch.Generator().manual_seed(4)) * size
    scale = power_of_two(float(numbers.abs().max()))
    back = decode(encode(numbers / scale, "F8_E4M3"), "F8_E4M3", numbers.shape) * scale
    error = float(torch.linalg.vector_norm(back - numbers) / torch.linalg.vector_norm(numbers))
    assert error == pytest.approx(FORMATS["F8_E4M3"].rel_rmse, rel=0.01)


@pytest.mark.parametrize("largest", [0.0, float("inf"), float("nan")])
def test_what_cannot_be_scaled_stays(largest: float) -> None:
    assert power_of_two(largest) == 1.0
