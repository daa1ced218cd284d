"""Formats: how tensors are stored and what they are computed in."""
