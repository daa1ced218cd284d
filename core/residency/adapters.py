"""LoRA as a side branch: y + scale * B(A(x)) beside a layer, never a change of its weights.

The matrices of a block that streams lie behind its slab and come with it, in the same copy. Those of everything that
is resident have one arena of their own for each adapter, so that one more or one less moves nothing else, and a new
weight moves nothing at all. The code that adds a branch is the same wherever its matrices are.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from core.residency.binding import Binding
from core.residency.slabs import Division, Piece, Slab, aligned
from core.residency.store import HostStore, Source

OUTSIDE = -1  # where layers are that belong to no block; the streamer's REST
_FIRST = OUTSIDE - 1  # the number of the first adapter's slab of what is resident; others follow below


@dataclass(frozen=True)
class Matrix:
    """A tensor of an adapter in host memory or in a file."""

    shape: tuple[int, ...]
    source: Source


@dataclass(frozen=True)
class Branch:
    """What an adapter adds to one layer: `scale` * up(down(x)) (+ `scale` * bias).

    Shapes: `down` [rank, inputs] and `up` [outputs, rank] beside nn.Linear; [rank, inputs, height, width] and
    [outputs, rank, 1, 1] beside nn.Conv2d; `bias` [outputs].
    """

    layer: str
    scale: float
    down: Matrix
    up: Matrix
    bias: Matrix | None = None

    @property
    def matrices(self) -> dict[str, Matrix]:
        """By name."""
        found = {"lora_A": self.down, "lora_B": self.up}
        return found if self.bias is None else found | {"bias": self.bias}

    @property
    def rank(self) -> int:
        """How many numbers there are between the two matrices."""
        return self.down.shape[0]


@dataclass(frozen=True, eq=False)
class Branches:
    """One adapter's branches in one network, at most one for each layer."""

    name: str
    branches: tuple[Branch, ...]


Weighted = tuple[Branches, float]
"""An adapter in one network, and how strongly it counts."""


class Sides:
    """The side branches of one network. One thread uses it: the launching one.

    `division` is the network's with side matrices behind the tensors of each slab, `store` has the bytes of both.
    """

    def __init__(self, module: nn.Module, division: Division, store: HostStore) -> None:
        """Nothing is beside the network yet. To be made before anything else takes the place of layers' `forward`s."""
        self._module, self._base, self._base_store = module, division, store
        self.division, self.store = division, store
        self._tensors = nn.Module()  # of flat names; what is bound in it is what branches compute with
        self._places = {name: number for number, name in enumerate(slab.name for _, slab in division.blocks)}
        self._folded = {slab.name: number for number, slab in enumerate(division.folded)}
        self._tags = itertools.count()
        self._beside: dict[int, tuple[Branches, float]] = {}  # by tag, in the order of adding
        self._ports: dict[str, _Port] = {}
        self._streamed: dict[int, Binding] = {}
        self.folded: dict[int, Binding] = {}
        # these will be run through something that keeps the `forward` of now
        self._lasting = {name for name in (*self._places, *self._folded) if _takes(module.get_submodule(name))}
        for name in self._lasting:
            self._ports[name] = _Port(module.get_submodule(name))

    @property
    def weighted(self) -> list[Weighted]:
        """The adapters beside the network."""
        return list(self._beside.values())

    def change(self, wanted: Sequence[Weighted]) -> bool:
        """Let these adapters be beside the network, in this order; False where at most weights are others.

        What was bound before is not any more where it is True.
        """
        now = {id(branches): tag for tag, (branches, _) in self._beside.items()}
        tags = [now.get(id(branches)) for branches, _ in wanted]
        changed = tags != list(self._beside)
        self._beside = {next(self._tags) if tag is None else tag: pair for tag, pair in zip(tags, wanted, strict=True)}
        if changed:
            self._lay_out()
        self._connect()
        return changed

    def resident(self, numbers: Collection[int]) -> dict[int, Slab]:
        """The slab of each adapter for what is resident, blocks and OUTSIDE, by a number that stays its own."""
        slabs = {}
        for tag, (branches, _) in self._beside.items():
            here = [branch for branch in branches.branches if self._number(branch.layer) in numbers]
            if here:
                slabs[_FIRST - tag] = Slab(f"{branches.name} beside the network", tuple(self._pieces(tag, here, 0)))
        return slabs

    def binding(self, slab: Slab, absent: Callable[[torch.Tensor], torch.Tensor]) -> Binding:
        """What binds the matrices of an adapter's slab."""
        return Binding(self._tensors, slab, {piece.path: (piece.path,) for piece in slab.pieces}, absent)

    def bind(self, number: int, slot: torch.Tensor) -> None:
        """A streamed block is in this slot, and its side matrices with it."""
        if number in self._streamed:
            self._streamed[number].bind(slot)

    def check(self, number: int) -> None:
        """See that the matrices of a streamed block are there. Raises RuntimeError."""
        if number in self._streamed:
            self._streamed[number].check()

    def unbind(self, number: int) -> None:
        """It is in its slot no longer."""
        if number in self._streamed:
            self._streamed[number].unbind()

    def forget(self, slot: torch.Tensor) -> None:
        """A slot is about to be freed."""
        for binding in self._streamed.values():
            binding.forget(slot)

    def close(self) -> None:
        """Let the layers be what they were."""
        for port in self._ports.values():
            port.close()
        self._ports.clear()
        self._beside.clear()

    # ---------------------------------------------------------------------------------------------------------------

    def _number(self, layer: str) -> int | None:
        """The block of a layer, OUTSIDE of blocks, or None where it is folded."""
        if layer in self._folded:
            return None
        while layer:
            if layer in self._places:
                return self._places[layer]
            layer = layer.rpartition(".")[0]
        return OUTSIDE

    def _lay_out(self) -> None:
        """Give each matrix a place behind the slab of its layer."""
        self._tensors._buffers.clear()
        sources = dict(self._base_store.sources)
        behind: dict[str, list[Piece]] = {}
        same = dict(self._base.same)
        starts = {slab.name: slab.size for slab in self._base.slabs}
        for tag, (branches, _) in self._beside.items():
            for branch in branches.branches:
                number = self._number(branch.layer)
                if number is None:
                    owner = branch.layer
                else:
                    owner = (self._base.rest if number == OUTSIDE else self._base.blocks[number][1]).name
                for piece in self._pieces(tag, [branch], starts[owner]):
                    starts[owner] += aligned(piece.nbytes)
                    behind.setdefault(owner, []).append(piece)
                    same[piece.path] = (piece.path,)
                    self._tensors._buffers[piece.path] = torch.empty(piece.shape, dtype=piece.dtype, device="meta")
                for name, matrix in branch.matrices.items():
                    sources[_path(branch.layer, name, tag)] = matrix.source

        def joined(slab: Slab) -> Slab:
            added = behind.get(slab.name)
            return slab if added is None else Slab(slab.name, (*slab.pieces, *added))

        def only(slab: Slab) -> Binding:
            return self.binding(Slab(slab.name, tuple(behind[slab.name])), lambda tensor: tensor)

        base = self._base
        blocks = tuple((block, joined(slab)) for block, slab in base.blocks)
        self.division = Division(joined(base.rest), blocks, same, tuple(joined(slab) for slab in base.folded))
        self.store = HostStore(sources)
        self._streamed = {n: only(slab) for n, (_, slab) in enumerate(base.blocks) if slab.name in behind}
        self.folded = {n: only(slab) for n, slab in enumerate(base.folded) if slab.name in behind}

    def _pieces(self, tag: int, branches: Iterable[Branch], start: int) -> Iterable[Piece]:
        """The matrices of an adapter's branches from `start` on, in the dtype that their layers compute in."""
        for branch in branches:
            dtype = self._module.get_submodule(branch.layer).weight.dtype
            for name, matrix in branch.matrices.items():
                piece = Piece(_path(branch.layer, name, tag), matrix.shape, dtype, start)  # type: ignore[arg-type]
                yield piece
                start += aligned(piece.nbytes)

    def _connect(self) -> None:
        """Have every layer run through the branches beside it."""
        tensors: Mapping[str, torch.Tensor | None] = self._tensors._buffers
        beside: dict[str, list[_Run]] = {name: [] for name in self._lasting}
        for tag, (branches, weight) in self._beside.items():
            for branch in branches.branches:
                names = {name: _path(branch.layer, name, tag) for name in branch.matrices}
                beside.setdefault(branch.layer, []).append(_Run(tensors, names, branch.scale * weight))
        for layer in [layer for layer in self._ports if layer not in beside]:
            self._ports.pop(layer).close()
        for layer, runs in beside.items():
            if layer not in self._ports:
                self._ports[layer] = _Port(self._module.get_submodule(layer))
            self._ports[layer].runs = runs


@dataclass(frozen=True)
class _Run:
    """One branch: where its matrices are bound, and its scale times its adapter's weight."""

    tensors: Mapping[str, torch.Tensor | None]
    names: Mapping[str, str]
    factor: float

    def add(self, layer: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Add the branch to what the layer made, in the same memory: nothing else has seen it yet."""
        if not self.factor:
            return y
        down, up = self.tensors[self.names["lora_A"]], self.tensors[self.names["lora_B"]]
        assert down is not None
        assert up is not None
        x = x.to(down.dtype)
        if isinstance(layer, nn.Conv2d):
            y.add_(functional.conv2d(layer._conv_forward(x, down, None), up), alpha=self.factor)
        elif y.dtype == up.dtype and y.is_contiguous():
            # one kernel reads and writes y once; the product would be as large as y
            between = functional.linear(x, down)
            y.view(-1, up.shape[0]).addmm_(between.view(-1, up.shape[1]), up.t(), alpha=self.factor)
        else:
            y = y.add(functional.linear(functional.linear(x, down), up), alpha=self.factor)
        if "bias" in self.names:
            bias = self.tensors[self.names["bias"]]
            assert bias is not None
            y.add_(bias.view(-1, 1, 1) if isinstance(layer, nn.Conv2d) else bias, alpha=self.factor)
        return y


class _Port:
    """In the place of a layer's `forward`."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer, self._forward = layer, layer.forward
        self._own = layer.__dict__.get("forward")
        self.runs: Sequence[_Run] = ()
        functools.update_wrapper(self, layer.forward, updated=())
        layer.forward = self

    def __call__(self, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 (the name in nn.Linear)
        y = self._forward(input, *args, **kwargs)
        for run in self.runs:
            y = run.add(self._layer, input, y)
        return y

    def close(self) -> None:
        """Take it away, unless something else took its place."""
        if self._layer.__dict__.get("forward") is self:
            del self._layer.forward
            if self._own is not None:
                self._layer.forward = self._own


def takes(layer: nn.Module) -> str:
    """Why a layer cannot have a side branch; empty where it can."""
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        return "convolves in groups"
    return "" if _takes(layer) else f"is a {type(layer).__name__}"


def _takes(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _path(layer: str, name: str, tag: int) -> str:
    """A matrix's name in slabs, without dots."""
    return f"{layer.replace('.', '/')}/{name}/{tag}"
