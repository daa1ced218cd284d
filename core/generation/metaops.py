"""Remembers what operations on the meta device return: their kernels are Python and take most of a dry run's time.

A network repeats its blocks, so the same operation meets the same shapes over and over. What it returns is decided by
shapes, strides, types and numbers alone; only operations that return new tensors are remembered.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class _Made(NamedTuple):
    """What makes a result again: shape, strides and type of each tensor, and whether there are several."""

    tensors: tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...]
    several: bool

    def again(self) -> Any:
        made = tuple(
            torch.empty_strided(size, stride, dtype=dtype, device="meta") for size, stride, dtype in self.tensors
        )
        return made if self.several else made[0]


class MetaOps:
    """Calls operations, or makes what they returned before."""

    def __init__(self) -> None:
        self._known: dict[Any, _Made | None] = {}
        self._fresh: dict[Any, bool] = {}

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation on meta tensors, or of any other operation as it is."""
        if not self._returns_fresh(func):
            return func(*args, **kwargs)
        try:
            key = (func, _key(args), _key(tuple(kwargs.items())))
            found = key in self._known
        except (TypeError, _Elsewhere):  # an argument without a hash, a tensor on another device
            return func(*args, **kwargs)
        known = self._known.get(key)
        if known is not None:
            return known.again()
        out = func(*args, **kwargs)
        if not found:
            self._known[key] = _remember(out, args)
        return out

    def _returns_fresh(self, func: Any) -> bool:
        """Whether its schema says that it changes nothing and returns no view."""
        known = self._fresh.get(func)
        if known is None:
            schema = func._schema
            known = not schema.is_mutable and not any(result.alias_info for result in schema.returns)
            self._fresh[func] = known
        return known


class _Elsewhere(Exception):
    pass


def _key(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if not value.is_meta:
            raise _Elsewhere
        return (value.shape, value.stride(), value.dtype)
    if isinstance(value, (tuple, list)):
        return tuple(_key(part) for part in value)
    return (type(value), value)  # 1 and 1.0 and True are equal, but promote differently


def _remember(out: Any, args: Any) -> _Made | None:
    """None where the result is not of new meta tensors only (not every view is declared as one)."""
    parts = out if isinstance(out, tuple) else (out,)
    given = {tensor.untyped_storage()._cdata for tensor in _inputs(args)}
    for part in parts:
        if not isinstance(part, torch.Tensor) or not part.is_meta or part.untyped_storage()._cdata in given:
            return None
    return _Made(tuple((part.shape, part.stride(), part.dtype) for part in parts), isinstance(out, tuple))


def _inputs(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value for tensor in _inputs(part)] if isinstance(value, (tuple, list)) else []
