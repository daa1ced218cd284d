"""Encoders against ggml's own: the same bytes, with and without weights of importance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.precision import decode, encode
from core.precision.formats import FORMATS
from tests.core.precision.ggml import quantize

pytestmark = pytest.mark.usefixtures("code")

GGML = [name for name in FORMATS if name not in ("F32", "F8_E4M3")]
PACKED = [name for name, entry in FORMATS.items() if entry.packed]
K_FORMATS = [name for name, entry in FORMATS.items() if entry.block_elements == 256]


def gaussian(seed: int, rows: int = 24, length: int = 512) -> torch.Tensor:
    return torch.randn(rows, length, generator=torch.Generator().manual_seed(seed))


def odd_rows(seed: int) -> torch.Tensor:
    """Rows that searches trip over: zeros, constants, one sign, ties, wide ranges in a block, sparse ones, -0."""
    x = gaussian(seed)
    x[0] = 0
    x[1] = 0.25
    x[2] = -0.25
    x[3] = x[3].abs() + 3
    x[4] = -x[4].abs() - 3
    x[5, 100:400] *= 1e-4
    x[6, :300] = x[6, 0]
    x[7] = x[7].round()
    x[8] = x[8].sign()
    x[9] = x[9].sign() * x[9].mul(2).round().exp2()
    x[10] *= torch.rand(x.shape[1], generator=torch.Generator().manual_seed(seed)) < 0.05
    x[11] = torch.where(x[11] < 0, 0.0, x[11])
    x[12] = torch.where(x[12] < 0, -0.0, x[12])
    x[13] *= 1e-39  # denormals
    x[14] *= 1e-30
    x[15] *= 1e-16
    x[16] *= 1e3
    x[17] *= torch.logspace(-8, 2, x.shape[1])
    x[18, ::32] = 40
    x[19, ::16] = -40
    x[20] = x[20].bfloat16().float()
    x[21] = 0
    x[21, 200] = -1
    x[22, 256:] = 0
    return x


def weights(seed: int, length: int = 512) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    importance = torch.rand(length, generator=generator).square() * 100
    importance[::7] = 0
    return importance


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "importance"])
@pytest.mark.parametrize("name", GGML)
@pytest.mark.parametrize("rows", [gaussian, odd_rows], ids=["gaussian", "odd"])
def test_bytes_are_ggmls(name: str, rows: object, weighted: bool) -> None:
    assert callable(rows)
    x = rows(len(name))
    importance = weights(3) if weighted else None
    expected = quantize(x, name, importance)
    assert torch.equal(encode(x, name, importance), expected)


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 40),
    blocks=st.integers(1, 3),
    exponent=st.integers(-12, 3),
    weighted=st.booleans(),
    heavy=st.booleans(),
)
@pytest.mark.parametrize("name", PACKED)
def test_any_rows_have_ggmls_bytes(
    name: str, seed: int, rows: int, blocks: int, exponent: int, weighted: bool, heavy: bool
) -> None:
    length = blocks * FORMATS[name].block_elements
    x = gaussian(seed, rows, length) * 10.0**exponent
    if heavy:
        x = x * gaussian(seed + 1, rows, length).square()
    importance = weights(seed, length) if weighted else None
    assert torch.equal(encode(x, name, importance), quantize(x, name, importance))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_K", "Q3_K", "IQ4_XS"])
def test_chunks_join_seamlessly(name: str) -> None:
    """A tensor of more than one chunk, of which the last is cut short, in a dtype that is cast chunk by chunk."""
    x = gaussian(5, 700, 512).bfloat16()
    importance = weights(5)
    assert torch.equal(encode(x, name), quantize(x.float(), name))
    assert torch.equal(encode(x[::3], name, importance), quantize(x[::3].float(), name, importance))


@pytest.mark.parametrize("name", ["Q8_0", "Q5_1", "Q6_K", "Q3_K", "IQ4_NL", "IQ4_XS"])
def test_importance_goes_on_from_chunk_to_chunk(name: str) -> None:
    """Where a chunk of blocks begins in the middle of a row."""
    length = 37 * 256
    x, importance = gaussian(8, 64, length), weights(8, length)
    assert torch.equal(encode(x, name, importance), quantize(x, name, importance))


def test_integers_change_while_that_helps() -> None:
    x = torch.cat([odd_rows(10), *(odd_rows(seed) * 10.0 ** (seed - 16) for seed in range(11, 17)), gaussian(9, 1800)])
    assert torch.equal(encode(x, "Q3_K"), quantize(x, "Q3_K"))
    for name in ("Q2_K", "Q4_K"):
        assert torch.equal(encode(x[:200], name, weights(9)), quantize(x[:200], name, weights(9)))


def test_threads_change_nothing() -> None:
    x = gaussian(6, 1100, 512)
    torch.set_num_threads(2)
    for name in ("Q6_K", "Q4_K"):
        assert torch.equal(encode(x, name), quantize(x, name))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(512,), (3, 256), (2, 1, 3, 2, 256), (0, 256), (2, 0, 256), (256, 0)])
def test_shapes(name: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    data = encode(x, name)
    rows = math.prod(shape[:-1])
    entry = FORMATS[name]
    assert data.dtype == torch.uint8
    assert data.shape == (rows, shape[-1] // entry.block_elements * entry.block_bytes)
    back = decode(data, name, shape)
    assert back.shape == x.shape
    if x.numel():
        error = float((back - x).norm() / x.norm())
        # the table's errors are measured on 512 x 2048 Gaussian values; F8_E4M3's with a scale, which `data` has not
        assert error <= (0.036 if name == "F8_E4M3" else entry.rel_rmse * 1.35 + 1e-9)


def test_relative_errors_are_the_tables() -> None:
    x = gaussian(11, 128, 2048)
    for name, entry in FORMATS.items():
        if name == "F8_E4M3":
            continue
        error = float((decode(encode(x, name), name, x.shape) - x).norm() / x.norm())
        assert error == pytest.approx(entry.rel_rmse, rel=0.2 if name in ("F16", "BF16") else 0.02)


def test_importance_lowers_the_error_that_it_weighs() -> None:
    x, importance = gaussian(12, 64), weights(12)
    for name in ("Q5_1", "Q4_0", "Q4_1", *K_FORMATS):
        if name == "Q6_K":
            continue  # ggml weighs by x * x without importance, and that is no worse
        plain, weighed = (decode(encode(x, name, w), name, x.shape) - x for w in (None, importance))
        assert float((weighed.square() * importance).sum()) < float((plain.square() * importance).sum())


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_not_finite_is_refused_by_its_place(name: str) -> None:
    for value in (math.nan, math.inf, -math.inf):
        x = gaussian(2, 3, 256)
        x[2, 77] = value
        with pytest.raises(ValueError, match="row 2, column 77 is not a finite number"):
            encode(x, name)


@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_K", "IQ4_NL"])
def test_what_float16_cannot_hold_is_refused(name: str) -> None:
    x = gaussian(2, 2, 256)
    x[1, 5] = -70000
    with pytest.raises(ValueError, match=f"row 1, column 5 is too large for {name}"):
        encode(x, name)
    assert encode(x, "BF16").shape == (2, 512)


def test_bf16_refuses_what_would_round_to_infinity() -> None:
    with pytest.raises(ValueError, match="BF16"):
        encode(torch.full((1, 32), torch.finfo(torch.float32).max), "BF16")


def test_f8_saturates() -> None:
    data = encode(torch.tensor([[1e6, -1e6, 449.0, 448.0, 0.1, 0.0]]), "F8_E4M3")
    back = decode(data, "F8_E4M3", (6,))
    assert back.tolist() == [448.0, -448.0, 448.0, 448.0, 0.1015625, 0.0]
    again = encode(data.view(torch.float8_e4m3fn), "F8_E4M3")
    assert torch.equal(again, data)


def test_rows_must_divide() -> None:
    with pytest.raises(ValueError, match=r"rows of 320 do not divide by 256 \(Q4_K\)"):
        encode(torch.zeros(2, 320), "Q4_K")
    with pytest.raises(ValueError, match=r"rows of 9 do not divide by 32 \(Q8_0\)"):
        encode(torch.zeros(64, 32, 3, 9), "Q8_0")
    with pytest.raises(ValueError, match="Q9_X is not a format"):
        encode(torch.zeros(2, 32), "Q9_X")


def test_importance_must_fit() -> None:
    x = torch.zeros(2, 256)
    with pytest.raises(ValueError, match=r"importance has shape \[255\]; the rows need \[256\]"):
        encode(x, "Q4_K", torch.ones(255))
    with pytest.raises(ValueError, match="finite and not negative"):
        encode(x, "Q4_K", -torch.ones(256))


def test_the_tensor_stays_as_it_was() -> None:
    """Encoders work in place on buffers of their own, also on parameters and inside inference mode."""
    x = gaussian(9, 256, 512)
    before = x.clone()
    parameter = torch.nn.Parameter(x)
    for name in PACKED:
        with torch.inference_mode():
            inside = encode(parameter, name, weights(9))
        assert torch.equal(encode(parameter, name, weights(9)), inside)
    assert torch.equal(x, before)
