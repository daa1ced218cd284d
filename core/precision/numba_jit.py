"""What numba's kernels share: how they are compiled and kept, and float16 by its bits.

Only this module imports numba; core.precision.compiled decides whether it is. Machine code lies in the cache folder, in
a subfolder for these very sources: numba looks at the file of the function that is called, and not at those of the
functions that it calls.

Two rules make loops quick. LLVM unrolls loops of a known small length before it could vectorise them, so lengths come
from the shapes of arguments. And numba's arithmetic on integers is that of 64 bits unless each result is cut.
Arithmetic is never contracted or reordered, and division by zero gives infinity.
"""

# mypy: disable-error-code="no-untyped-def"
# numba reads no annotations.

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from core import folders

f32, i32, u16, u32 = np.float32, np.int32, np.uint16, np.uint32

if platform.machine() in ("x86_64", "AMD64") and not llvm.get_host_cpu_features().get("f16c"):
    raise ImportError("this processor has no instructions for float16")  # of before 2013: LLVM would call a function


def _cache() -> bool:
    """Have numba keep what it compiles in our cache folder, or in that of NUMBA_CACHE_DIR; whether that can be."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return True
    sources = hashlib.sha256()
    try:
        for path in sorted(Path(__file__).parent.glob("numba_*.py")):
            sources.update(path.read_bytes())
        folder = folders.cache() / "numba" / sources.hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]  # asked for when a function is decorated
    return os.access(folder, os.W_OK)


jit: Callable[[Callable[..., Any]], Any] = numba.njit(nogil=True, error_model="numpy", cache=_cache())
_intrinsic: Callable[[Callable[..., Any]], Any] = intrinsic
_overload: Callable[[Callable[..., Any]], Callable[[Callable[..., Any]], Any]] = overload


@_intrinsic
def bits(context, number):
    """The bits of a float32 as uint32."""
    return types.uint32(types.float32), lambda _context, builder, _signature, arguments: builder.bitcast(
        arguments[0], ir.IntType(32)
    )


@_intrinsic
def from_bits(context, number):
    """The float32 of a uint32's bits."""
    return types.float32(types.uint32), lambda _context, builder, _signature, arguments: builder.bitcast(
        arguments[0], ir.FloatType()
    )


@_intrinsic
def _widen(context, stored):
    """The float32 of a float16's bits in a uint16."""

    def build(_context, builder, _signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), build


@_intrinsic
def _to_half(context, number):
    """The bits of the nearest float16 as uint16."""

    def build(_context, builder, _signature, arguments):
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), build


@jit
def half(low, high):
    """The float32 of a float16's two bytes."""
    return _widen(u16(u32(low) | u32(high) << 8))


@jit
def _to_bfloat16(number):
    """The bits of the nearest bfloat16, ties to even, as uint32."""
    whole = bits(number)
    odd = u32(u32(whole >> 16) & 1)
    return u32(0x7FC0) if u32(whole & 0x7FFFFFFF) > 0x7F800000 else u32(u32(whole + 0x7FFF + odd) >> 16)


def rounded(number: Any, out: Any) -> Any:
    """A float32 as an array stores it: float32, the bits of float16 in uint16, or those of bfloat16 in int16."""
    raise NotImplementedError("only for numba's kernels")


@_overload(rounded)
def _rounded(number, out):
    if out.dtype == types.float32:
        return lambda number, out: number
    if out.dtype == types.uint16:
        return lambda number, out: _to_half(number)
    return lambda number, out: np.int16(_to_bfloat16(number))
