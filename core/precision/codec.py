"""Tensors to stored bytes and back, for every format of core.precision.formats, on any torch device.

`data` is always uint8 with one row of the tensor after another: a row is the last dimension, and the leading ones are
flattened. Bytes are ggml's, so a tensor of a GGUF file is `data` as it lies there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from core.precision import kernels
from core.precision.decode_f8 import f8_e4m3
from core.precision.encode_rows import encode_rows
from core.precision.formats import FORMATS, Format
from core.precision.scratch import scratch_on

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}

# The largest magnitude of each format that does not scale by a float16. F8_E4M3 saturates.
_LIMITS = {
    "F32": torch.finfo(torch.float32).max,
    "BF16": torch.finfo(torch.bfloat16).max,
    "F8_E4M3": torch.finfo(torch.float32).max,
    "MXFP4": torch.finfo(torch.float32).max,
}


@torch.no_grad()
def encode(tensor: Tensor, format: str, importance: Tensor | None = None) -> Tensor:  # noqa: A002
    """The bytes that store a tensor: those of ggml's own quantizer (ggml_quantize_chunk), bit for bit.

    Bytes may differ from ggml's where weights of importance are beyond 1e9, with which its sums overflow float32.
    F8_E4M3, which ggml does not have, is torch's float8_e4m3fn without a scale; magnitudes above 448 become 448, as in
    most tools that write it (torch's own cast would make NaN of them).

    Args:
        tensor: numbers of any floating dtype and shape; the last dimension is a row.
        format: ggml's name, a key of core.precision.formats.FORMATS.
        importance: float32 [row length], how much an error in each column matters (an importance matrix of llama.cpp),
            none negative. F32, F16, BF16, F8_E4M3, Q8_0 and MXFP4 have no use for it.

    Returns:
        uint8 [rows, bytes per row] on the tensor's device; the leading dimensions are flattened.

    Raises:
        ValueError: an unknown format, rows that do not divide into blocks, NaN, infinity or values beyond the format's
            reach (named by row and column), or weights of importance that do not fit.
    """
    entry = known(format)
    count, length = _rows(entry, tuple(tensor.shape))
    rows = tensor.detach().reshape(count, length)
    if rows.dtype.itemsize == 1:
        rows = rows.to(torch.float32)  # torch compares no float8
    out = torch.empty(
        (count, length // entry.block_elements * entry.block_bytes), dtype=torch.uint8, device=rows.device
    )
    if importance is not None:
        _check_importance(importance, length)
    if not rows.numel():
        return out
    _check_values(rows, format)
    if format in PLAIN:
        source = rows.clamp(-448, 448) if format == "F8_E4M3" else rows
        out.view(PLAIN[format]).copy_(source)
    else:
        encode_rows(rows, entry, importance, out)
    return out


@torch.no_grad()
def decode(
    data: Tensor,
    format: str,  # noqa: A002
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """The tensor that stored bytes stand for.

    The float32 values are those of gguf-py bit for bit; another dtype gets them rounded to the nearest.

    Args:
        data: uint8, the tensor's bytes; any shape that holds exactly as many as `shape` needs.
        format: ggml's name, a key of core.precision.formats.FORMATS.
        shape: of the tensor; its last dimension is a row.
        dtype: of the result; ignored where `out` is given.
        out: a contiguous tensor of that many elements on data's device, to be filled and returned in `shape`. Then
            nothing is allocated on a device but buffers of at most 8 Mi elements.

    Raises:
        ValueError: an unknown format, rows that do not divide into blocks, or a size that does not fit.
    """
    entry = known(format)
    shape = tuple(shape)
    _check_size(data, entry, shape)
    elements = math.prod(shape)
    if out is None:
        out = torch.empty(shape, dtype=dtype, device=data.device)
    elif out.numel() != elements or not out.is_contiguous():
        raise ValueError(f"out has {out.numel()} elements; a contiguous tensor of {elements} is needed")
    if data.storage_offset() % 4 or not data.is_contiguous():
        data = data.clone(memory_format=torch.contiguous_format)  # to be seen as wider numbers
    if format not in PLAIN:
        kernels.decode_blocks(data.view(-1, entry.block_bytes), entry, out.view(-1, entry.block_elements))
    else:
        _cast(data.view(-1).view(PLAIN[format]), out.view(-1))
    return out.view(shape)


def decode_rows(
    data: Tensor,
    format: str,  # noqa: A002
    shape: Sequence[int],
    rows: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Only the wanted rows of a stored tensor: an embedding without its whole table in memory.

    Args:
        data: uint8, the whole tensor's bytes.
        format: ggml's name.
        shape: of the whole tensor, [rows, row length].
        rows: integers of any shape, on data's device.
        dtype: of the result.

    Returns:
        [*rows.shape, row length].

    Raises:
        ValueError: as decode does.
        IndexError: a row that is not there.
    """
    entry = known(format)
    count, length = _rows(entry, tuple(shape))
    _check_size(data, entry, tuple(shape))
    picked = data.reshape(count, -1).index_select(0, rows.reshape(-1))
    return decode(picked, format, (*rows.shape, length), dtype)


def known(name: str) -> Format:
    """The entry of a format.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in FORMATS:
        raise ValueError(f"{name} is not a format that can be stored here; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def _rows(entry: Format, shape: tuple[int, ...]) -> tuple[int, int]:
    """Number and length of a tensor's rows.

    Raises:
        ValueError: they do not divide into blocks.
    """
    length = shape[-1] if shape else 1
    if length % entry.block_elements:
        raise ValueError(f"rows of {length} do not divide by {entry.block_elements} ({entry.name})")
    return math.prod(shape[:-1]), length


def _check_size(data: Tensor, entry: Format, shape: tuple[int, ...]) -> None:
    count, length = _rows(entry, shape)
    expected = count * length // entry.block_elements * entry.block_bytes
    if data.dtype != torch.uint8 or data.numel() != expected:
        kind = str(data.dtype).removeprefix("torch.")
        raise ValueError(
            f"{entry.name} of shape {list(shape)} is {expected} bytes of uint8, not {data.numel()} of {kind}"
        )


def _cast(source: Tensor, out: Tensor) -> None:
    """Copy [n] into another dtype; between two small ones on a CPU through float32, for which there are quick casts."""
    eight = source.dtype == torch.float8_e4m3fn
    direct = source.dtype == out.dtype or (torch.float32 in (source.dtype, out.dtype) and not eight)
    if direct or source.device.type != "cpu":
        out.copy_(source)
        return
    scratch = scratch_on(source.device)
    for start in range(0, len(source), scratch.decoded):
        part, target = source[start : start + scratch.decoded], out[start : start + scratch.decoded]
        numbers = target if out.dtype == torch.float32 else scratch.floats("values", (len(part),))
        if eight:
            f8_e4m3(part.view(torch.uint8), numbers, scratch.take("shifted", (len(part),), torch.int16))
        else:
            numbers.copy_(part)
        if numbers is not target:
            target.copy_(numbers)


def _check_values(rows: Tensor, name: str) -> None:
    """Refuse what the format cannot hold; one pass finds whether there is any, and only then where.

    Raises:
        ValueError: with the first row in question.
    """
    limit = _LIMITS.get(name, torch.finfo(torch.float16).max)
    lowest, highest = (float(value) for value in torch.aminmax(rows))
    if -limit <= lowest and highest <= limit:
        return
    wrong = ~torch.isfinite(rows)
    what = "is not a finite number"
    if not wrong.any():
        wrong = rows.abs() > limit
        what = f"is too large for {name}, which reaches to {limit:g}"
    row, column = (int(index) for index in wrong.nonzero()[0])
    raise ValueError(f"the value {float(rows[row, column]):g} at row {row}, column {column} {what}")


def _check_importance(importance: Tensor, length: int) -> None:
    if importance.shape != (length,):
        raise ValueError(f"importance has shape {list(importance.shape)}; the rows need [{length}]")
    if not (torch.isfinite(importance).all() and (importance >= 0).all()):
        raise ValueError("importance must be finite and not negative")
