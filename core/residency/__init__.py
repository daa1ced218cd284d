"""Where weights are: on the device, in host memory or in their file; and the record of every move."""

from core.residency.stream import Handle, stream

__all__ = ["Handle", "stream"]
