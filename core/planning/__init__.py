"""Decides before a run what will be on the device, when and why. Pure Python: no torch."""
