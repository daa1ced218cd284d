"""The process boundary: the worker that owns the accelerator, and the client that keeps it alive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.engine.inprocess import InProcessEngine as InProcessEngine

__all__ = ["InProcessEngine"]


def __getattr__(name: str) -> Any:
    # lazy, because it leads to torch and the window imports core.engine.client
    if name == "InProcessEngine":
        from core.engine.inprocess import InProcessEngine

        return InProcessEngine
    raise AttributeError(name)
