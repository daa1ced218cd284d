"""Finds the repeated layers of a network: the unit that is resident or streamed, and the place to stop a run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from torch import nn

# A UNet's stages hold lists of their own, and one stage may be half of the network: their entries are the blocks. The
# entries with one number run in this order.
_INNER = ("resnets", "temp_convs", "attentions", "temp_attentions", "motion_modules")


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The entries of a network's outermost `ModuleList`s, in the order in which they run.

    Networks of diffusers and transformers keep their repeated layers there: `transformer_blocks`, `layers`, T5's
    `block`. A stage of a UNet or VAE (an entry of `down_blocks`, the `mid_block`) gives the entries of its own lists
    instead, and an attention among them its `transformer_blocks`.
    """
    if (stage := _lists(module)) is not None:
        for entry in itertools.chain.from_iterable(itertools.zip_longest(*stage)):
            layers = getattr(entry, "transformer_blocks", None)
            if isinstance(layers, nn.ModuleList):
                yield from layers
            elif isinstance(entry, nn.Module):  # some lists hold None
                yield entry
        return
    children = dict(module.named_children())
    if "mid_block" in children and "up_blocks" in children:
        children["up_blocks"] = children.pop("up_blocks")  # defined before the middle, but run after it
    for child in children.values():
        if isinstance(child, nn.ModuleList):
            for entry in child:
                if isinstance(entry, nn.Module) and _lists(entry) is not None:
                    yield from blocks(entry)
                elif isinstance(entry, nn.Module):
                    yield entry
        else:
            yield from blocks(child)


def _lists(module: nn.Module) -> list[nn.ModuleList] | None:
    """The lists of a stage in the order in which their entries run, or None where it is no stage."""
    lists = [part for name in _INNER if isinstance(part := getattr(module, name, None), nn.ModuleList) and len(part)]
    return lists or None
