"""The engine of Residency: from a request to pixels, without a window. No module below imports Qt."""

__version__ = "0.1.0"
