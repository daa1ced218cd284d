"""Plans requests on the accelerator at hand: what this engine can do, what is warm, what past runs taught."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from core import folders
from core.generation.estimate import run_dry
from core.generation.measure_folder import profile_of_folder
from core.generation.parts import parts_of
from core.hardware.calibrate import known
from core.hardware.interface import Accelerator
from core.hardware.told import tell
from core.messages import Phase, Ready, Request, ResidencyError
from core.models.info import ModelInfo
from core.models.profile import BlockKind, ComponentProfile, Limits, ModelProfile, PhaseNeed, Tensor
from core.models.starting import made_by, words_of
from core.planning import chances
from core.planning.choices import HOST_RESERVE_BYTES
from core.planning.history import History, PastRun
from core.planning.how import options_of
from core.planning.job import Beside, Companion, Job
from core.planning.leaving import Return
from core.planning.options import engine_on
from core.planning.policy import as_filed, sixteen_bit
from core.planning.solve import solve
from core.plans import Plan, computing_seconds
from core.precision.formats import FORMATS


class Planner:
    """Makes the plans of one accelerator and learns from how they went. One thread uses it."""

    def __init__(self, accelerator: Accelerator) -> None:
        """The accelerator is measured if it never was and nothing else says what it can do."""
        self._accelerator = accelerator
        self.hardware = known(accelerator)
        self._history = History()
        self._able = engine_on(own_memory=accelerator.has_own_memory)
        self._profiles: dict[str, ModelProfile] = {}

    def ready(self, torch: str) -> Ready:
        """What the window is told of this engine when it is up, `torch` being the build's version."""
        total, free = self._accelerator.memory()
        return Ready(
            self._accelerator.kind,
            self._accelerator.name,
            torch,
            total,
            free,
            hardware=tell(self.hardware),
            budget_bytes=self._accelerator.budget_bytes(),
        )

    def plan(
        self,
        info: ModelInfo,
        request: Request,
        phases: Sequence[tuple[Phase, Sequence[str]]],
        *,
        shares: Sequence[float] = (),
        sizes: Mapping[str, int],
        warm: Mapping[str, tuple[int, str]],
        folded: Mapping[str, bool],
        in_memory: Sequence[str],
        encoded: bool,
        pictured: bool = False,
        formats: Mapping[str, str],
        fold: bool | None,
        tiles: str | None,
        companions: Sequence[Request],
        together: bool,
        adapters: Mapping[str, Beside],
        held: int,
        others: int,
        budget: int,
    ) -> Plan:
        """The plan of a resolved request.

        Args:
            phases: what the pipeline will really run, in order, with the networks of each phase.
            shares: of the steps, for each denoise phase, where there are several.
            sizes: bytes of each network as it will be held.
            warm: bytes of each network that are on the device now, and their format.
            folded: which of these are without their modulation.
            in_memory: the networks that need not be read from a cold file.
            encoded: the text's encoding is cached.
            pictured: the latents of the picture that it starts from are cached.
            formats: those of components that have been decided already.
            fold: whether modulation is computed before the loop, where that has been decided.
            tiles: how the VAE decodes (see Options), where that has been decided.
            companions: resolved requests that wait for the same model, in their order, to be made in the same way.
            together: all of them are made with it, which has been decided.
            adapters: what is beside each network.
            held: bytes on the device now, as they are counted here, with what an allocator keeps.
            others: bytes of other models' networks on the device.
            budget: bytes of device memory that the job may use.

        Raises:
            UserError: it does not fit, and the sentence says the smallest budget that would do; or the request fixes
                what does not exist or what this engine cannot do.
        """
        model = _shared(self._profile(info, phases, sizes), shares)
        options = options_of(request.how, model, self.hardware, self._able)
        options = msgspec.structs.replace(
            options,
            formats=options.formats | _decided(model, formats),
            fold=options.fold if fold is None else fold,
            tiles=tiles or options.tiles,
            together=together,
        )
        job = Job(
            model=model,
            width=request.width or model.defaults.width,
            height=request.height or model.defaults.height,
            frames=request.frames or 1,
            steps=made_by(request, info.family),
            started=words_of(request, info.family),
            pictured=pictured,
            guidance=request.guidance if request.guidance is not None else model.defaults.guidance,
            negative=bool(request.negative_prompt),
            text_tokens=model.defaults.text_tokens,
            encoded=encoded,
            warm={name: held for name, (held, _) in warm.items()},
            warm_formats=_decided(model, {name: wanted for name, (_, wanted) in warm.items()}),
            warm_folded=dict(folded),
            in_memory=frozenset(in_memory),
            next=chances.of_this_user(),
            companions=tuple(_companion(each, model, info.family, encoded) for each in companions),
            adapters=dict(adapters),
            held_bytes=held,
            others_bytes=others,
            pace=self._pace(info, request),
        )
        if request.how.estimate == "dryrun":
            job = run_dry(job, parts_of(info), self.hardware, options, cache=folders.cache() / "dryruns")
        plan, _ = solve(job, self.hardware, options, budget)
        return plan

    def pixels_of(self, info: ModelInfo, latents: int) -> int:
        """Pixels of an edge of so many latent positions of a model that was planned."""
        return latents * self._profiles[info.identity].defaults.spatial

    def returns(self, running: str, parts: Sequence[tuple[ModelInfo, bool]], stored: int) -> list[Return]:
        """What bringing parts of models back to the device takes, and the chance that the next prompt wants them.

        A text encoder is wanted if the words are others, too: encodings are kept.

        Args:
            running: the identity of the model that runs.
            parts: a component's model and whether it encodes text, the last used one first.
            stored: bytes of all the components that are known; more than host memory takes comes from the disk.
        """
        hardware, expected = self.hardware, chances.of_this_user()
        others = list(dict.fromkeys(info.fingerprint or info.name for info, _ in parts if info.identity != running))
        wanted = dict(zip(others, chances.returning_of_this_user(others), strict=True))
        goes_on = expected.text + expected.seed
        rate = hardware.disk_rate if hardware.unified else hardware.link_rate(pinned=False)
        if stored > hardware.host_bytes - HOST_RESERVE_BYTES:
            rate = min(rate, hardware.disk_rate)

        def chance(info: ModelInfo, encodes: bool) -> float:
            same = info.identity == running
            model = goes_on if same else expected.model * wanted[info.fingerprint or info.name]
            return model * (expected.text / goes_on if encodes else 1.0)

        return [Return(1 / rate, chance(info, encodes)) for info, encodes in parts]

    def knows(self, info: ModelInfo, request: Request) -> bool:
        """Whether a run of this model at this size has taught anything."""
        return bool(self._pace(info, request))

    def counted_bytes(self, plan: Plan) -> int:
        """A plan's peak as it is counted here: what torch's allocator takes from the driver, without the driver's own
        context; where nobody counts activations (CPU, MPS), weights, slots and scratch.
        """
        return plan.peak_bytes if self._accelerator.has_own_memory else plan.peak_weight_bytes

    def _pace(self, info: ModelInfo, request: Request) -> dict[str, float]:
        return self._history.pace(info.fingerprint, self.hardware.name, *_size(request))

    def learn(
        self,
        info: ModelInfo,
        request: Request,
        plan: Plan,
        measured: Mapping[str, float],
        total: float,
        peak: int,
    ) -> None:
        """Note what a run took: seconds by phase (of one step for what has steps), all of it, and its peak bytes.

        `peak` is on the basis of `counted_bytes`.
        """
        planned = {phase.label: computing_seconds(phase) for phase in plan.phases if not phase.skipped}
        width, height, frames = _size(request)
        self._history.add(
            PastRun(
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                model=info.name,
                fingerprint=info.fingerprint,
                gpu=self.hardware.name,
                width=width,
                height=height,
                frames=frames,
                planned=planned,
                measured={label: seconds for label, seconds in measured.items() if label in planned},
                pace=self._pace(info, request),
                planned_total=plan.total_seconds,
                measured_total=total,
                planned_bytes=self.counted_bytes(plan),
                measured_bytes=peak,
            )
        )

    def _profile(
        self, info: ModelInfo, phases: Sequence[tuple[Phase, Sequence[str]]], sizes: Mapping[str, int]
    ) -> ModelProfile:
        """The model's profile, with the phases that its pipeline really has."""
        # what starts from a picture has a phase more than what starts from noise
        key = f"{info.identity} {' '.join(phase for phase, _ in phases)}"
        if key not in self._profiles:
            try:
                profile = profile_of_folder(info)
            except ResidencyError:
                profile = _bare(info, sizes)
            except Exception:  # a class that cannot be run on the meta device; it can be held all the same
                traceback.print_exc()
                profile = _bare(info, sizes)
            phased = [
                msgspec.structs.replace(
                    need, components=list(names), passes="steps" if need.phase is Phase.DENOISE else "once"
                )
                for need, (_, names) in zip(_needs(profile, [phase for phase, _ in phases]), phases, strict=True)
            ]
            # whatever the pipeline runs must be held, also what no profile describes
            components = {**_bare(info, sizes).components, **profile.components}
            profile = msgspec.structs.replace(profile, components=components, phases=phased)
            self._profiles[info.identity] = self._profiles[key] = profile
        return self._profiles[key]


def _size(request: Request) -> tuple[int, int, int]:
    """Width, height and frames that a resolved request is remembered by."""
    return request.width or 0, request.height or 0, request.frames or 1


def _needs(profile: ModelProfile, phases: Sequence[Phase]) -> list[PhaseNeed]:
    """What a profile says of phases; of several that are alike, each in its turn."""
    known, found = list(profile.phases), list[PhaseNeed]()
    for phase in phases:
        need = next((need for need in known if need.phase is phase), None)
        if need is not None:
            known.remove(need)
        before = sum(other.phase is phase for other in found)
        label = f"{phase.value} {before + 1}" if before else phase.value
        found.append(need or PhaseNeed(phase=phase, label=label, components=[]))
    return found


def _shared(model: ModelProfile, shares: Sequence[float]) -> ModelProfile:
    """A model whose denoise phases make these parts of the steps, where they are not all made in one."""
    if not shares:
        return model
    left = iter(shares)
    phases = [
        msgspec.structs.replace(need, share=next(left)) if need.phase is Phase.DENOISE else need
        for need in model.phases
    ]
    return msgspec.structs.replace(model, phases=phases)


def _companion(request: Request, model: ModelProfile, family: str, encoded: bool) -> Companion:
    return Companion(
        width=request.width or model.defaults.width,
        height=request.height or model.defaults.height,
        frames=request.frames or 1,
        steps=made_by(request, family),
        guidance=request.guidance if request.guidance is not None else model.defaults.guidance,
        negative=bool(request.negative_prompt),
        encoded=encoded,
    )


def _decided(model: ModelProfile, formats: Mapping[str, str]) -> dict[str, str]:
    """Formats as options say them: what is not packed is as its files have it, unless these are decoded."""
    sources = {name: model.components[name].source_format for name in formats if name in model.components}
    return {
        name: formats[name] if FORMATS[formats[name]].held_packed or as_filed(source) else sixteen_bit(source)
        for name, source in sources.items()
    }


def _bare(info: ModelInfo, sizes: Mapping[str, int]) -> ModelProfile:
    """A model of which nothing is known but its bytes: it can be held, but not timed, nor its activations counted."""
    components = {
        name: ComponentProfile(
            class_name=component.class_name,
            source_format="F32",
            rest=BlockKind(tensors=[Tensor("weights", (max(1, component.parameters),), "keep")]),
        )
        for name, component in info.networks.items()
        if name in sizes
    }
    limits = Limits(width=1024, height=1024, steps=1, spatial=8, size_multiple=info.size_multiple)
    return ModelProfile(
        name=info.name,
        title=info.name,
        family=info.family,
        defaults=limits,
        components=components,
        phases=[],
    )
