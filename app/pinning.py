"""Keeps Python alive under a fault of PySide6 6.12.0: before Python 3.12, its calls that return None lose a reference.

Every `painter.drawText(...)` and `widget.setText(...)` takes one reference of None without having added it, until the
interpreter ends with "Fatal Python error: none_dealloc". From Python 3.12 on None is immortal (PEP 683) and nothing
happens. Here the same is done by hand for the older ones: the counts start where no session can use them up.
"""

from __future__ import annotations

import sys

_OUT_OF_REACH = 1 << 40


def pin_singletons() -> None:
    """Make the objects that are never freed practically immortal. Does nothing where they are; call it once."""
    if sys.version_info >= (3, 12) or sys.implementation.name != "cpython":
        return
    import ctypes

    for singleton in (None, True, False, NotImplemented):
        # the reference count is the first field of every object (CPython, Include/object.h)
        ctypes.c_ssize_t.from_address(id(singleton)).value += _OUT_OF_REACH
