"""The models at hand: their pipelines, what a run of theirs needs, and holding it for a phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from core.generation.pipeline import Pipeline, build
from core.generation.preview import Previewer
from core.hardware.interface import Accelerator
from core.messages import ComponentUse, LedgerRecord, Request
from core.models.info import ModelInfo
from core.plans import PhasePlan, Plan
from core.precision.dtypes import component_dtype, format_name
from core.residency.ledger import Ledger
from core.residency.warm import WarmCache
from core.scheduler.planner import Planner

# Models whose tokenizers and skeletons (and, memory allowing, weights) are kept at hand.
KEPT = 4


@dataclass(frozen=True)
class LoadedModel:
    """A model whose pipeline stands; its weights come and go."""

    pipeline: Pipeline
    previewer: Previewer

    @property
    def identity(self) -> str:
        """The identity of its files when the pipeline was built."""
        return self.pipeline.info.identity


class LoadedModels:
    """Pipelines by folder over one warm cache. One thread uses it: the one that runs the accelerator."""

    def __init__(self, accelerator: Accelerator, emit: Callable[[LedgerRecord], None]) -> None:
        """Every arrival and departure of weights is told to `emit`."""
        self._accelerator = accelerator
        self._ledger = Ledger(emit)
        self._warm = WarmCache(accelerator, self._ledger)
        self._models: dict[Path, LoadedModel] = {}
        self.planner = Planner(accelerator)

    def get(self, info: ModelInfo, owner: str) -> LoadedModel:
        """The model of a folder, built anew where its files changed. Raises as `build` does."""
        known = self._models.pop(info.path, None)
        if known is not None and known.identity != info.identity:
            self._warm.drop_model(known.identity, owner, "its files changed")
            known = None
        model = self._models[info.path] = known or LoadedModel(build(info, self._accelerator), Previewer(info))
        if len(self._models) > KEPT:
            oldest = self._models.pop(next(iter(self._models)))
            self._warm.drop_model(oldest.identity, owner, "other models were used since")
        return model

    def plan(self, model: LoadedModel, request: Request, *, encoded: bool) -> Plan:
        """What a resolved request of the model will hold and take. Raises UserError when it does not fit."""
        return self.planner.plan(
            model.pipeline.info,
            request,
            [(group.phase, group.networks) for group in model.pipeline.phases],
            sizes=self._sizes(model),
            warm=self._warm.held(model.identity),
            in_memory=self._warm.in_memory(model.identity),
            encoded=encoded,
            held_bytes=self._ledger.resident_bytes,
        )

    @contextmanager
    def hold(
        self,
        model: LoadedModel,
        plan: Plan,
        phase: PhasePlan,
        owner: str,
        prepare: Callable[[str, str, Callable[[], nn.Module]], nn.Module],
    ) -> Iterator[None]:
        """Have a phase's components on the device and in the pipeline for the length of a `with`.

        What is not in memory yet is read through `prepare(component, owner, load)`, which returns what `load()` does.
        """
        pipeline = model.pipeline
        with self._warm.hold(
            model.identity,
            pipeline.info.name,
            _components(phase),
            lambda name: prepare(name, owner, lambda: pipeline.load(name)),
            sizes=self._sizes(model),
            owner=owner,
            keep={component.name for component in plan.components if component.kept_bytes},
            # the rest of the budget is for what the phase computes with
            budget_bytes=plan.budget_bytes - phase.activation_bytes - phase.scratch_bytes,
        ) as modules:
            pipeline.attach(modules)
            try:
                yield
            finally:
                pipeline.detach(_components(phase))

    def evict_all(self, owner: str, reason: str) -> None:
        """Let everything leave the device."""
        self._warm.evict_all(owner, reason)

    # -- the account of a run ---------------------------------------------------------------------------------------

    def start_run(self) -> None:
        """Begin the account of a run."""
        self._ledger.start_run()
        self._accelerator.reset_peak()
        self._warm.link_bytes = 0

    @property
    def link_bytes(self) -> int:
        """Bytes that crossed the link since `start_run`."""
        return self._warm.link_bytes

    @property
    def peak_bytes(self) -> int:
        """The most bytes on the device since `start_run`, as torch's allocator or else the ledger counts them."""
        return max(self._accelerator.peak_bytes(), self._ledger.peak_bytes)

    def use(self, model: LoadedModel) -> dict[str, ComponentUse]:
        """What each of a model's components was since `start_run`."""
        return {
            name: self._ledger.use((model.identity, name), format_name(self._dtype(model, name)))
            for name in model.pipeline.skeletons
        }

    def _sizes(self, model: LoadedModel) -> dict[str, int]:
        """Bytes of each network as it will be held: parameters in their compute dtype, buffers as they are."""
        return {
            name: sum(parameter.numel() for parameter in skeleton.parameters()) * self._dtype(model, name).itemsize
            + sum(buffer.nbytes for buffer in skeleton.buffers())
            for name, skeleton in model.pipeline.skeletons.items()
        }

    def _dtype(self, model: LoadedModel, name: str) -> torch.dtype:
        config = getattr(model.pipeline.skeletons[name], "config", None)
        return component_dtype(self._accelerator.compute_dtype, config)


def _components(phase: PhasePlan) -> tuple[str, ...]:
    return tuple(placement.component for placement in phase.placements)
