"""Layers that are computed once for all passes of their network, and are not on the device afterwards.

Modulation (adaLN) projections see an activation of one vector that depends on timestep and conditioning only. So the
network runs beforehand as far as the first of them, once for each pass to come. In the first pass their weights come
before those of the blocks that they belong to and pass through slots of their own; what they make of each distinct
vector is kept on the device instead of them. Every layer is called as the pass would call it, with one vector at a
time, so that not a bit of the result changes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from core.hardware.interface import Accelerator
from core.planning.reserve import PASSING_SLOTS
from core.residency.binding import Binding
from core.residency.slabs import Division, Slab, aligned
from core.residency.streamer import REST, Streamer

FOLDED = "folded"  # who owns the outputs, and the slots in which the weights pass through
_PART: ContextVar[int] = ContextVar("part", default=0)  # which of several loops that share the network runs now
_TURN: ContextVar[int] = ContextVar("turn", default=-1)  # which of its passes


class FoldingError(RuntimeError):
    """A network does something else than folding takes for granted; it must run with all of its layers."""


@contextmanager
def as_part(number: int) -> Iterator[None]:
    """What runs within the `with` is the loop that gave `compute` these of its vectors."""
    token = _PART.set(number)
    try:
        yield
    finally:
        _PART.reset(token)


class Folding:
    """The folded layers of one network. One thread uses it: the launching one.

    `rehearsing` and `expect` are for who runs the network, in this order and inside of one hold; the others for
    core.residency.network.
    """

    def __init__(
        self, module: nn.Module, division: Division, accelerator: Accelerator, note: Callable[[str, int, str], None]
    ) -> None:
        """The network and its folded layers run through this from now on, until `close`."""
        self._module, self._accelerator, self._note = module, accelerator, note
        self.slabs: dict[int, Slab] = dict(enumerate(division.folded))
        self._bindings = [Binding(module, slab, division.same, accelerator.absent) for slab in division.folded]
        self._beside: Mapping[int, Binding] = {}  # of adapters' matrices, which come with their layer
        self._layers = [_layer(module, slab.name) for slab in division.folded]
        self._blocks = [_block_of(slab.name, division) for slab in division.folded]
        for number, layer in enumerate(self._layers):
            _wrap(layer.linear, functools.partial(self._answer, number, layer.linear.forward))
        _wrap(module, functools.partial(self._pass, module.forward))
        self._seen: list[torch.Tensor] | None = None  # while rehearsing
        self._computing = False
        self.slots: list[torch.Tensor] = []
        self._streamer: Streamer | None = None
        self._first_number = 0  # of the layers' slabs in the streamer
        self._kept: torch.Tensor | None = None
        self._vectors: list[torch.Tensor] = []  # the distinct ones
        self._places: list[list[torch.Tensor]] = []  # by layer, for what it makes of each of them
        self._computed: set[int] = set()
        self._turns: list[list[int]] = []  # by part, which vector each pass sees
        self._begun: list[int] = []  # by part, how many passes have begun

    # -- for who runs the network -----------------------------------------------------------------------------------

    @contextmanager
    def rehearsing(self) -> Iterator[list[torch.Tensor]]:
        """Within the `with` the network runs only as far as its first folded layer, and answers with zeros.

        Gives the list of the vectors that it got there, one for each pass. What the network is asked for must look like
        its first argument.
        """
        seen = self._seen = []
        hooks = [layer.first.register_forward_pre_hook(_tell) for layer in self._layers]
        try:
            yield seen
        finally:
            self._seen = None
            for hook in hooks:
                hook.remove()

    def expect(self, seen: Sequence[Sequence[torch.Tensor]]) -> None:
        """In the passes to come the layers will be given these vectors, in each of the parts."""
        self._vectors, turns = _distinct([vector for vectors in seen for vector in vectors])
        following = iter(turns)
        self._turns = [[next(following) for _ in vectors] for vectors in seen]
        self._begun = [0] * len(seen)
        self._places = self._room(
            [[(*vector.shape[:-1], layer.linear.out_features) for vector in self._vectors] for layer in self._layers]
        )

    # -- for the network that is held -------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether nobody has said what the layers will be given."""
        return not self._places

    @property
    def largest(self) -> int:
        """Bytes of the largest layer."""
        return max(slab.size for slab in self.slabs.values())

    @property
    def missing_bytes(self) -> int:
        """Bytes of device memory that `place` would take."""
        return (PASSING_SLOTS - len(self.slots)) * self.largest

    def numbers(self, first: int) -> dict[int, int]:
        """The layers that have still to be computed, numbered from `first` on, and the block that each comes before.

        What belongs to no block comes before all of them.
        """
        left = sorted(set(self.slabs) - self._computed, key=lambda layer: (self._blocks[layer], layer))
        return {first + layer: self._blocks[layer] for layer in left}

    def adapt(self, slabs: Sequence[Slab], beside: Mapping[int, Binding]) -> None:
        """The layers come in these slabs from now on, and what lies beside them is bound by `beside`."""
        self._free_slots()
        self.slabs, self._beside = dict(enumerate(slabs)), beside

    def place(self) -> None:
        """Take device memory for slots. Raises torch.OutOfMemoryError."""
        while len(self.slots) < PASSING_SLOTS:  # one by one: allocators take 20 MiB for anything from 1 to 10
            self.slots.append(self._accelerator.allocate(self.largest, FOLDED))
            self._note(FOLDED, self.largest, "modulation weights pass through")

    def begin(self, streamer: Streamer, first: int) -> None:
        """The streamer brings the layers that are not computed, numbered from `first` on."""
        self._streamer, self._first_number = streamer, first

    def compute_until(self, block: int) -> None:
        """Compute what has to be before this block runs, if it is not."""
        for number in self.numbers(0) if len(self._computed) < len(self._layers) else ():
            if self._blocks[number] <= block:
                self._compute(number)

    def end(self) -> None:
        """The phase is over: let go of everything on the device."""
        self._streamer = None
        self._free_slots()
        self._vectors, self._places, self._computed = [], [], set()
        if self._kept is not None:
            self._accelerator.free(self._kept)
            self._note(FOLDED, -self._kept.nbytes, "the phase is over")
            self._kept = None

    def close(self) -> None:
        """Let the network be what it was."""
        self.end()
        for binding in self._bindings:
            binding.restore()
        for layer in self._layers:
            del layer.linear.forward
        del self._module.forward

    # ---------------------------------------------------------------------------------------------------------------

    def _pass(self, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run the network once."""
        if self._seen is None:
            with self._pass_begun():
                return forward(*args, **kwargs)
        try:
            forward(*args, **kwargs)
        except _Seen as seen:
            self._seen.append(seen.vector)
        else:
            raise FoldingError("it made a pass without modulation")
        sample = next(iter(inspect.signature(forward).bind(*args, **kwargs).arguments.values()))
        return (tree_map(torch.zeros_like, sample),)

    @contextmanager
    def _pass_begun(self) -> Iterator[None]:
        """Passes of one part begin in the order that was rehearsed, whatever runs between their layers."""
        part, turn = _PART.get(), -1
        if part < len(self._begun):
            turn = self._begun[part]
            self._begun[part] += 1
        token = _TURN.set(turn)
        try:
            yield
        finally:
            _TURN.reset(token)

    def _answer(self, number: int, forward: Callable[..., Any], /, vector: torch.Tensor) -> Any:
        """What a folded layer makes of what this pass sees."""
        if self._computing:
            return forward(vector)
        turns, turn = self._turns[_PART.get()] if self._turns else [], _TURN.get()
        if not 0 <= turn < len(turns) or not self._places:
            raise FoldingError("it runs more often than was foreseen")
        if number not in self._computed:
            self.compute_until(self._blocks[number])
        output = self._places[number][turns[turn]]
        if output.shape[:-1] != vector.shape[:-1] or output.dtype != vector.dtype:
            raise FoldingError(f"{self.slabs[number].name} is given something else than was foreseen")
        return output

    def _compute(self, number: int) -> None:
        """Let one layer's weights come, and compute what it makes of each vector."""
        streamer, layer = self._streamer, self._layers[number]
        assert streamer is not None
        slot = streamer.enter(self._first_number + number)
        bindings = [self._bindings[number], *([self._beside[number]] if number in self._beside else [])]
        self._computing = True
        try:
            for binding in bindings:
                binding.bind(slot)
            for vector, place in zip(self._vectors, self._places[number], strict=True):
                place.copy_(layer(vector))
        finally:
            self._computing = False
            for binding in bindings:
                binding.unbind()
            streamer.leave(self._first_number + number)
        self._computed.add(number)

    def _room(self, shapes: Sequence[Sequence[tuple[int, ...]]]) -> list[list[torch.Tensor]]:
        """A place on the device for every output of every layer."""
        dtypes = [layer.linear.weight.dtype for layer in self._layers]
        sizes = [
            [torch.Size(shape).numel() * dtype.itemsize for shape in row]
            for row, dtype in zip(shapes, dtypes, strict=True)
        ]
        total = sum(aligned(size) for row in sizes for size in row)
        self._kept = self._accelerator.allocate(total, FOLDED)
        self._note(FOLDED, total, "outputs of modulation layers, for all steps")
        views: list[list[torch.Tensor]] = []
        start = 0
        for row, dtype, places in zip(shapes, dtypes, sizes, strict=True):
            views.append([])
            for shape, size in zip(row, places, strict=True):
                views[-1].append(self._kept[start : start + size].view(dtype).view(shape))
                start += aligned(size)
        return views

    def _free_slots(self) -> None:
        for slot in self.slots:
            for binding in (*self._bindings, *self._beside.values()):
                binding.forget(slot)
            self._accelerator.free(slot)
            self._note(FOLDED, -slot.nbytes, "modulation has been computed")
        self.slots = []


class _Seen(Exception):
    """Carries what the first folded layer of a pass is given out of the network."""

    def __init__(self, vector: torch.Tensor) -> None:
        super().__init__()
        self.vector = vector


def _tell(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    raise _Seen(args[0])


@dataclass(frozen=True)
class _Layer:
    """A projection, and the activations that are applied to the vector before it."""

    before: tuple[nn.Module, ...]
    linear: nn.Linear

    @property
    def first(self) -> nn.Module:
        """What the vector is given to."""
        return (*self.before, self.linear)[0]

    def __call__(self, vector: torch.Tensor) -> torch.Tensor:
        for activation in self.before:
            vector = activation(vector)
        result: torch.Tensor = self.linear(vector)
        return result


def _layer(module: nn.Module, path: str) -> _Layer:
    """A projection with the activation before it: what precedes it in its Sequential, or the SiLU beside it."""
    linear = module.get_submodule(path)
    parent = module.get_submodule(path.rpartition(".")[0])
    children = list(parent.children())
    if isinstance(parent, nn.Sequential):
        before = children[: children.index(linear)]
    else:
        before = [child for child in children if isinstance(child, nn.SiLU)]
    assert isinstance(linear, nn.Linear)
    return _Layer(tuple(before), linear)


def _block_of(layer: str, division: Division) -> int:
    """The number of the block that a layer is part of; REST where it belongs to none."""
    names = [slab.name + "." for _, slab in division.blocks]
    return next((number for number, name in enumerate(names) if layer.startswith(name)), REST)


def _distinct(vectors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[int]]:
    """(the vectors that differ, which of these each one is)."""
    numbers: dict[tuple[object, ...], int] = {}
    different: list[torch.Tensor] = []
    turns: list[int] = []
    for vector in vectors:
        content = vector.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        key = (vector.shape, vector.dtype, content)
        if key not in numbers:
            numbers[key] = len(different)
            different.append(vector)
        turns.append(numbers[key])
    return different, turns


def _wrap(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.forward = functools.update_wrapper(forward, module.forward)
