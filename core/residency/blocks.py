"""Finds the repeated layers of a network: the unit that is resident or streamed, and the place to stop a run."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The entries of a network's outermost `ModuleList`s, in the order of definition.

    Diffusers' and transformers' networks keep their repeated layers there: `transformer_blocks`, `layers`,
    `down_blocks`, T5's `block`.
    """
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (entry for entry in child if isinstance(entry, nn.Module))  # some lists hold None
        else:
            yield from blocks(child)
