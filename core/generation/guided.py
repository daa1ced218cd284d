"""The guided and the unguided call of a step go through each streamed block together.

The library's denoise block makes these calls one after the other: its guider splits the inputs into a batch for each,
and puts the answers together. Here the block runs once for each batch, all of them in lockstep, and the first waits for
the answers of the others.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.modular_pipelines.modular_pipeline import BlockState, ModularPipelineBlocks

from core.generation.apart import Apart
from core.residency.lockstep import Call, beside


class Together:
    """A denoise block whose calls of the network run beside each other; what it takes and gives is the block's."""

    def __init__(self, block: ModularPipelineBlocks) -> None:
        """`block` is the library's. Guiders that change the network between two calls are left alone."""
        self._block = block
        self._names = [spec.name for spec in block.expected_components if spec.type_hint is ClassifierFreeGuidance]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)

    def __call__(self, components: Any, block_state: BlockState, i: int, t: torch.Tensor) -> tuple[Any, BlockState]:
        """Make one step's calls of the network."""
        guiders = {name: getattr(components, name) for name in self._names}
        others: list[Call] = []

        def follow(name: str, batch: BlockState, number: int) -> None:
            def call() -> None:
                following = Apart(components, **{name: _Following(guiders[name], batch, number)})
                try:
                    self._block(following, BlockState(**block_state.__dict__), i=i, t=t)
                except _Answered:
                    pass

            others.append(beside(call))

        # a guider of which the library has made something else guides as it does alone
        leading = {
            name: _Leading(guider, name, others, follow)
            for name, guider in guiders.items()
            if type(guider) is ClassifierFreeGuidance
        }
        try:
            _, block_state = self._block(Apart(components, **leading), block_state, i=i, t=t)
        finally:
            for other in others:
                other.end()
        return components, block_state


class _Guider(ABC):
    """A guider that gives out only one of its batches."""

    def __init__(self, guider: ClassifierFreeGuidance) -> None:
        self._guider = guider

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guider, name)

    def prepare_inputs(self, *args: Any) -> list[BlockState]:
        return self._one_of(self._guider.prepare_inputs(*args))

    def prepare_inputs_from_block_state(self, *args: Any) -> list[BlockState]:
        return self._one_of(self._guider.prepare_inputs_from_block_state(*args))

    @abstractmethod
    def _one_of(self, batches: list[BlockState]) -> list[BlockState]:
        """The batch that the block sees."""


class _Leading(_Guider):
    """Gives out the first batch, has the others computed beside it, and puts all answers together."""

    def __init__(self, guider: ClassifierFreeGuidance, name: str, others: Sequence[Call], follow: Any) -> None:
        super().__init__(guider)
        self._name, self._others, self._follow = name, others, follow
        self._batches: list[BlockState] = []

    def _one_of(self, batches: list[BlockState]) -> list[BlockState]:
        self._batches = batches
        for number, batch in enumerate(batches[1:], start=1):
            self._follow(self._name, batch, number)
        return batches[:1]

    def __call__(self, data: list[BlockState]) -> Any:
        for other in self._others:
            other.join()
        return self._guider(self._batches)


class _Following(_Guider):
    """Gives out one of the other batches, and ends the run of the block when it has its answer."""

    def __init__(self, guider: ClassifierFreeGuidance, batch: BlockState, number: int) -> None:
        alone = copy.copy(guider)
        alone._count_prepared = number  # as if the calls before it had been prepared
        super().__init__(alone)
        self._batch = batch

    def set_state(self, *args: Any, **kwargs: Any) -> None:
        """The leading one's has been copied."""

    def _one_of(self, batches: list[BlockState]) -> list[BlockState]:
        return [self._batch]

    def __call__(self, data: list[BlockState]) -> Any:
        raise _Answered


class _Answered(Exception):
    """A call's answer is in its batch."""
