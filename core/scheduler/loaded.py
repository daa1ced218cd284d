"""The models at hand: their pipelines, what a run of theirs needs, and holding it for a phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from core.generation import adapters
from core.generation.adapters import Attached, Loaded
from core.generation.experts import shares
from core.generation.packing import Tick
from core.generation.pipeline import Pipeline, build
from core.generation.preview import Previewer
from core.hardware.interface import Accelerator
from core.messages import Adapter, ComponentUse, LedgerRecord, ModelFileError, Phase, Request
from core.models.adapters import find
from core.models.info import ModelInfo
from core.planning.leaving import Return
from core.plans import PhasePlan, Placement, Plan, formats_of
from core.precision.dtypes import component_dtype
from core.residency.ledger import Key, Ledger
from core.residency.wanted import Opened, Want
from core.residency.warm import WarmCache
from core.scheduler.planner import Planner
from core.sizes import in_words

# Models whose tokenizers and skeletons (and, memory allowing, weights) are kept at hand.
KEPT = 4
KEPT_ADAPTERS = 8  # those whose headers have been read


Prepare = Callable[[str, str, Callable[[Tick], Opened]], Opened]


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
        self._warm = WarmCache(accelerator, self._ledger, self._returns)
        self._models: dict[Path, LoadedModel] = {}
        self._adapters: dict[tuple[str, Path, int, int], Loaded] = {}  # the last that was used is last
        self._link_bytes = 0
        self.planner = Planner(accelerator)

    def get(self, info: ModelInfo, owner: str) -> LoadedModel:
        """The model of a folder, built anew where its files changed. Raises as `build` does."""
        known = self._models.pop(info.path, None)
        if known is not None and known.identity != info.identity:
            self._warm.drop_model(known.identity, owner, "its files changed")
            known = None
        model = known or LoadedModel(build(info, self._accelerator), Previewer(info))
        for name in (name for group in model.pipeline.phases for name in group.networks):
            if name not in info.networks:
                raise ModelFileError(f"{info.path / name} holds no weights in safetensors; download the model again.")
        self._models[info.path] = model
        if len(self._models) > KEPT:
            oldest = self._models.pop(next(iter(self._models)))
            self._warm.drop_model(oldest.identity, owner, "other models were used since")
        return model

    def plan(
        self,
        model: LoadedModel,
        request: Request,
        budget: int,
        *,
        encoded: bool = False,
        pictured: bool = False,
        formats: Mapping[str, str] | None = None,
        fold: bool | None = None,
        tiles: str | None = None,
        companions: Sequence[Request] = (),
        together: bool = False,
    ) -> Plan:
        """What a resolved request of the model will hold and take, with so many bytes of memory.

        `encoded` says that the text's encoding is known, `pictured` that of the picture that it starts from; `formats`,
        `fold` and `tiles` are what has been decided about these already. `companions` are resolved requests that may be
        made with it, or with `together` that will be. Raises UserError when it does not fit.
        """
        attached = _by_component(self.attached(model, request.loras))
        beside = {
            name: adapters.beside(
                model.pipeline, name, [one.loaded.components[name] for one in those], self._dtype(model, name)
            )
            for name, those in attached.items()
        }
        unfoldable = model.pipeline.unfoldable
        plan = self.planner.plan(
            model.pipeline.info,
            request,
            model.pipeline.held(request),
            shares=shares(model.pipeline.modular, request.steps or 1) if model.pipeline.experts else (),
            sizes=self._sizes(model),
            warm=self._warm.held(model.identity),
            folded=self._warm.folded(model.identity),
            in_memory=self._warm.in_memory(model.identity),
            encoded=encoded,
            pictured=pictured,
            formats=formats or {},
            fold=False if unfoldable else fold,
            tiles=tiles,
            companions=companions,
            together=together,
            adapters=beside,
            held=self.peak_bytes,
            others=self._others(model),
            budget=budget,
        )
        reasons = [
            f"{' and '.join(one.loaded.name for one in those)} beside the {name}: {in_words(beside[name].bytes)}"
            for name, those in attached.items()
        ]
        reasons += [unfoldable] if unfoldable else []
        return msgspec.structs.replace(plan, reasons=(*plan.reasons, *reasons, *self._leaving(model, plan)))

    def _leaving(self, model: LoadedModel, plan: Plan) -> list[str]:
        """What a plan takes from other models, in words."""
        others = self._others(model)
        leavers = self._warm.leaving(model.identity, others + plan.reserved_bytes - plan.budget_bytes)
        stay = others - sum(leaver.bytes for leaver in leavers)
        words = [
            f"the {leaver.key[1]} of {leaver.model} makes room, being worth least on the device: {leaver.words}"
            for leaver in leavers
        ]
        return [*words, f"{in_words(stay)} of other models stay on the device"] if stay else words

    def _others(self, model: LoadedModel) -> int:
        """Bytes of other models on the device."""
        return self._warm.held_bytes - sum(size for size, _ in self._warm.held(model.identity).values())

    def _returns(self, running: str, keys: Sequence[Key]) -> dict[Key, Return]:
        """What bringing components back takes, the last used one first, and how likely they are wanted."""
        models = {model.identity: model.pipeline for model in self._models.values()}
        encoders = set()
        for identity, pipeline in models.items():
            roles = {name: group.phase for group in pipeline.phases for name in group.networks}  # of the last phase
            encoders |= {(identity, name) for name, phase in roles.items() if phase is Phase.ENCODE}
        parts = [(models[key[0]].info, key in encoders) for key in keys]
        return dict(zip(keys, self.planner.returns(running, parts, self._warm.known_bytes), strict=True))

    def attached(self, model: LoadedModel, loras: Sequence[Adapter]) -> list[Attached]:
        """The LoRAs of a request of a model, read where they are not known yet.

        Raises:
            UserError: there is no such file, or nothing is known of LoRAs of the model's family.
            ModelFileError: it is damaged, no LoRA, or made for another model.
        """
        attached = []
        for asked in loras:
            path = find(asked)
            status = path.stat()
            key = (model.identity, path, status.st_size, status.st_mtime_ns)
            loaded = self._adapters.pop(key, None) or adapters.load(path, model.pipeline)
            self._adapters[key] = loaded
            known = msgspec.structs.replace(asked, file=str(path), sha256=loaded.sha256)
            attached.append(Attached(known, loaded, asked.sha256 not in ("", loaded.sha256)))
        while len(self._adapters) > max(KEPT_ADAPTERS, len(loras)):
            self._adapters.pop(next(iter(self._adapters)))
        return attached

    @contextmanager
    def hold(
        self,
        model: LoadedModel,
        plan: Plan,
        phase: PhasePlan,
        owner: str,
        prepare: Prepare,
        give_way: Callable[[str], bool] | None = None,
        check: Callable[[], None] = lambda: None,
        loras: Sequence[Adapter] = (),
    ) -> Iterator[None]:
        """Have a phase's components ready to run, in the pipeline, for the length of a `with`.

        What is not known yet is opened through `prepare(component, owner, open)`, which returns what `open(tick)` does.
        When memory runs out inside of a block `give_way(reason)` is asked for more (see `move`). `check` may raise
        while weights are waited for. `loras` are beside its components meanwhile.
        """
        pipeline = model.pipeline
        attached = self.attached(model, loras)
        with self._warm.hold(
            model.identity,
            pipeline.info.name,
            _wants(plan, phase),
            lambda name, wanted: prepare(
                name, owner, lambda tick: pipeline.open(name, wanted, tick, fold=_folds(plan, name))
            ),
            sizes=self._sizes(model),
            kept=_kept(plan),
            owner=owner,
            budget_bytes=_for_weights(plan, phase),
            give_way=give_way,
            check=check,
            adapters={
                name: [(one.loaded.components[name], one.asked.weight) for one in those]
                for name, those in _by_component(attached).items()
            },
            ahead=_ahead(plan, phase),
        ) as modules:
            pipeline.attach(modules, self._warm.foldings(model.identity))
            try:
                yield
            finally:
                pipeline.detach([placement.component for placement in phase.placements])

    def move(self, model: LoadedModel, plan: Plan, phase: PhasePlan, reason: str) -> None:
        """Place what a phase holds as another plan says, between two blocks. Raises torch.OutOfMemoryError."""
        self._warm.move(model.identity, _wants(plan, phase), _kept(plan), _for_weights(plan, phase), reason)

    def budget_of(self, request: Request) -> int:
        """What weights and activations of a request may take now, as the driver tells."""
        return self._accelerator.budget_bytes(self._ledger.resident_bytes, request.how.headroom_bytes)

    def evict_all(self, owner: str, reason: str) -> None:
        """Let everything leave the device."""
        self._warm.evict_all(owner, reason)

    # -- the account of a run ---------------------------------------------------------------------------------------

    def start_run(self) -> None:
        """Begin the account of a run."""
        self._ledger.start_run()
        self._accelerator.reset_peak()
        self._link_bytes = self._warm.link_bytes

    @property
    def link_bytes(self) -> int:
        """Bytes that crossed the link since `start_run`."""
        return self._warm.link_bytes - self._link_bytes

    @property
    def peak_bytes(self) -> int:
        """The most bytes on the device since `start_run`, as torch's allocator or else the ledger counts them."""
        return max(self._accelerator.peak_bytes(), self._ledger.peak_bytes)

    def use(self, model: LoadedModel, plan: Plan) -> dict[str, ComponentUse]:
        """What each of a model's components was since `start_run`."""
        planned = {component.name: component.bytes for component in plan.components}
        sizes = planned | self._warm.sizes(model.identity, formats_of(plan))
        streamed = self._warm.streamed_bytes(model.identity)
        folded = self._warm.folded_bytes(model.identity)
        return {
            name: self._ledger.use(
                (model.identity, name),
                plan.component(name).format,
                sizes[name],
                streamed.get(name, 0),
                folded.get(name, 0),
            )
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


def _by_component(attached: Sequence[Attached]) -> dict[str, list[Attached]]:
    """The LoRAs that change each component."""
    names = dict.fromkeys(name for one in attached for name in one.loaded.components)
    return {name: [one for one in attached if name in one.loaded.components] for name in names}


def _wants(plan: Plan, phase: PhasePlan) -> list[Want]:
    return [_want(placement, plan, phase) for placement in phase.placements]


def _ahead(plan: Plan, phase: PhasePlan) -> list[tuple[Want, int]]:
    """What later phases need of which a part comes while this one runs, and how many bytes."""
    later = plan.phases[plan.phases.index(phase) + 1 :]
    first = {p.component: (p, each) for each in reversed(later) for p in each.placements}
    return [(_want(first[name][0], plan, first[name][1]), size) for name, size in phase.ahead.items() if name in first]


def _want(placement: Placement, plan: Plan, phase: PhasePlan) -> Want:
    whole = placement.streamed_bytes == 0
    return Want(
        name=placement.component,
        format=plan.component(placement.component).format,
        counts=None if whole else placement.resident_blocks,
        slots=0 if whole else phase.slots,
        room_bytes=placement.resident_bytes + phase.slots * placement.slot_bytes,
        # encoders also run for the prompts that wait
        passes=phase.passes if phase.phase is Phase.DENOISE else None,
        folds=_folds(plan, placement.component),
        pinned=plan.pinned,
        hosted=plan.hosted.get(placement.component),
    )


def _folds(plan: Plan, name: str) -> bool:
    """Whether some layers of a component are computed before it runs."""
    return plan.component(name).folded_bytes > 0


def _for_weights(plan: Plan, phase: PhasePlan) -> int:
    """The part of the budget that is not for what the phase computes with."""
    return plan.budget_bytes - phase.activation_bytes - phase.scratch_bytes


def _kept(plan: Plan) -> dict[str, int | None]:
    """Bytes of each component that may stay when it does not run; None where the plan keeps all that is resident."""
    resident = {p.component: p.resident_bytes for phase in plan.phases for p in phase.placements}
    return {
        component.name: None if component.kept_bytes >= resident[component.name] else component.kept_bytes
        for component in plan.components
    }
