"""Formats: how tensors are stored and what they are computed in.

`encode`, `decode` and `decode_rows` need torch and are brought in when they are first asked for; `formats` does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.precision.codec import decode as decode
    from core.precision.codec import decode_rows as decode_rows
    from core.precision.codec import encode as encode

__all__ = ["decode", "decode_rows", "encode"]


def __getattr__(name: str) -> Any:
    # lazy, because codec leads to torch and planning imports core.precision.formats
    if name in __all__:
        from core.precision import codec

        return getattr(codec, name)
    raise AttributeError(name)
