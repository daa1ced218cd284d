"""A request as planning sees it: what is made of which size, in how many passes, and what is there already."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from core.messages import UserError
from core.models.check import MAX_BATCH, MAX_FRAMES, MAX_SIDE, check_guidance, check_size, check_steps
from core.models.guidance import guides
from core.models.profile import ModelProfile, PhaseNeed
from core.precision.formats import FORMATS

# What the next prompt is, until the person's own history says otherwise: most people change words and look again.
# Assumed; core.planning.chances has what a history says.
NEXT_TEXT, NEXT_SEED, NEXT_MODEL = 0.6, 0.3, 0.1


class Next(msgspec.Struct, frozen=True):
    """Chances of what follows this job: other words, the same words with another seed or size, another model.

    `seen` is how many finished pictures they were counted from; 0 for the stated defaults.
    """

    text: float = NEXT_TEXT
    seed: float = NEXT_SEED
    model: float = NEXT_MODEL
    seen: int = 0


class Companion(msgspec.Struct, frozen=True, kw_only=True):
    """A queued request of the same model, to be made in the same way, with every default filled in.

    `negative` says that it has a negative prompt, `encoded` that the encoding of its text is cached.
    """

    width: int
    height: int
    frames: int = 1
    steps: int
    guidance: float | None = None
    negative: bool = False
    batch: int = 1
    encoded: bool = False


class Beside(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What adapters (LoRA) add to a component: bytes of each block in execution order, and of what lies outside.

    `folded_...` are those beside modulation layers. `share` is their numbers by the component's own, which operations
    grow by, too; `width` the most numbers that one branch makes of each position.
    """

    blocks: tuple[int, ...] = ()
    rest: int = 0
    folded_blocks: tuple[int, ...] = ()
    folded_rest: int = 0
    share: float = 0.0
    width: int = 0

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.blocks) + self.rest + sum(self.folded_blocks) + self.folded_rest


NOTHING_BESIDE = Beside()


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A picture, clip or sound to make with a model; every default is filled in.

    `negative` says that there is a negative prompt, without which some families do not guide. `encoded` says that the
    encoding of this text is cached. `warm` counts bytes of each component that lie on the device already, in the
    formats of `warm_formats` (where it is not said, in the one that is planned), without modulation where `warm_folded`
    says so (where it says nothing, as it is planned); `in_memory` names components whose
    files are in host memory. `pace` says, by a phase's label, how many times longer than by the profile's rates its
    passes took before. `exact` says that the model's activations were run dry at exactly this size. `companions` wait
    for the same model, in the order in which they were asked for, and may be denoised together with this one.
    `adapters` is what LoRAs add, by component. `started` says in words what picture it starts from, if it does, and
    `pictured` that the latents of that picture are cached; `steps` are then those that are made of the schedule.
    `held_bytes` are on the device when it begins, as they are counted there, `others_bytes` of these other models'.
    """

    model: ModelProfile
    width: int
    height: int
    frames: int = 1
    steps: int
    guidance: float | None = None
    negative: bool = False
    batch: int = 1
    text_tokens: int
    encoded: bool = False
    warm: dict[str, int] = {}
    warm_formats: dict[str, str] = {}
    warm_folded: dict[str, bool] = {}
    in_memory: frozenset[str] = frozenset()
    next: Next = Next()
    pace: dict[str, float] = {}
    exact: bool = False
    companions: tuple[Companion, ...] = ()
    adapters: dict[str, Beside] = {}
    started: str = ""
    pictured: bool = False
    held_bytes: int = 0
    others_bytes: int = 0

    def beside(self, companion: Companion) -> Job:
        """A companion as a job of its own, on the same machine."""
        return msgspec.structs.replace(
            self,
            width=companion.width,
            height=companion.height,
            frames=companion.frames,
            steps=companion.steps,
            guidance=companion.guidance,
            negative=companion.negative,
            batch=companion.batch,
            encoded=companion.encoded,
            companions=(),
        )

    def warm_in(self, formats: Mapping[str, str], folded: Collection[str]) -> dict[str, int]:
        """Bytes of each component on the device that are of use to one held in these formats, some `folded`.

        What is held otherwise is brought anew. Weights that are not packed are held as the device computes.
        """
        return {
            name: size
            for name, size in self.warm.items()
            if (name not in self.warm_formats or _held(self.warm_formats[name]) == _held(formats.get(name, "")))
            and self.warm_folded.get(name, name in folded) == (name in folded)
        }

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance runs a second, unguided pass a step."""
        return guides(self.model.family, self.guidance, negative=self.negative)

    def passes(self, need: PhaseNeed) -> int:
        """How often the components of a phase run."""
        return self.steps_of(need) * self.calls_of(need)

    def calls_of(self, need: PhaseNeed) -> int:
        """How often the components of a phase run in each of its steps."""
        return 2 if need.passes != "once" and need.guided and self.guided else 1

    def steps_of(self, need: PhaseNeed) -> int:
        """Sampling steps of a phase; 1 where it has none."""
        if need.passes == "once":
            return 1
        return need.steps if need.steps is not None else max(1, round(self.steps * need.share))

    def variables(self, need: PhaseNeed) -> dict[str, float]:
        """N, A and T of a phase, as core.models.profile.Polynomial means them."""
        limits = self.model.defaults
        if limits.positions_per_second is not None:
            area, frames = 1.0, (limits.seconds or 1.0) * limits.positions_per_second
        else:
            area = (self.width * need.scale // limits.spatial) * (self.height * need.scale // limits.spatial)
            frames = (self.frames - 1) // limits.temporal + 1
        return {"N": area * frames, "A": area, "T": float(self.text_tokens)}


def _held(name: str) -> str:
    """What tells formats on a device apart: which packed one it is, if it is one."""
    return name if name in FORMATS and FORMATS[name].held_packed else ""


def job_of(
    model: ModelProfile,
    *,
    width: int | None = None,
    height: int | None = None,
    frames: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    negative: bool = False,
    batch: int = 1,
    encoded: bool = False,
    warm: dict[str, int] | None = None,
    in_memory: frozenset[str] = frozenset(),
    pace: dict[str, float] | None = None,
    following: Next | None = None,
) -> Job:
    """A job with the model's own defaults filled in.

    Raises:
        UserError: a number is out of range; the sentence says which and what would do.
    """
    limits = model.defaults
    job = Job(
        model=model,
        width=limits.width if width is None else width,
        height=limits.height if height is None else height,
        frames=limits.frames if frames is None else frames,
        steps=limits.steps if steps is None else steps,
        guidance=guidance if guidance is not None else limits.guidance,
        negative=negative,
        batch=batch,
        text_tokens=limits.text_tokens,
        encoded=encoded,
        warm=warm or {},
        in_memory=in_memory,
        pace=pace or {},
        next=following or Next(),
    )
    multiple = limits.size_multiple
    for name, value in (("width", job.width), ("height", job.height)):
        if limits.positions_per_second is None and not (multiple <= value <= MAX_SIDE and value % multiple == 0):
            near = max(multiple, min(MAX_SIDE // multiple * multiple, round(value / multiple) * multiple))
            raise UserError(f"A {name} of {value} is not possible with {model.name}; {near} is the nearest that is.")
    check_size(job.width, job.height)
    check_steps(job.steps)
    check_guidance(guidance)
    if not 1 <= job.batch <= MAX_BATCH:
        raise UserError(f"{job.batch} pictures at once are not possible; give 1 to {MAX_BATCH}.")
    if not 1 <= job.frames <= MAX_FRAMES:
        raise UserError(f"{job.frames} frames are not possible; give 1 to {MAX_FRAMES}.")
    if job.frames > 1 and model.makes == "image":
        raise UserError(f"{model.name} makes still pictures; leave --frames away.")
    return job
