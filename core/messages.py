"""The types that cross rooms and processes: requests, commands, events, ledger records, results and errors.

Everything here is plain data (msgspec Structs, no torch, no Qt), so that the window, the durable queue, the engine
process and the files that results are kept in share one vocabulary. Bytes are integers, seconds are floats.
"""

from __future__ import annotations

import os
from enum import StrEnum

import msgspec

from core.plans import Phase as Phase  # told again: whoever reads messages needs the phases
from core.plans import Plan


class ErrorKind(StrEnum):
    """Whose error it is, and so what the reader can do about it."""

    USER = "user"
    MODEL_FILE = "model_file"
    INTERNAL = "internal"


class ResidencyError(Exception):
    """Base of the errors that are told to a person. `str(error)` is one clear sentence that says what to do."""

    kind = ErrorKind.INTERNAL


class UserError(ResidencyError):
    """The request cannot be done as it stands; the sentence says what to change."""

    kind = ErrorKind.USER


class ModelFileError(ResidencyError):
    """A model's files are missing, damaged or of an unknown kind; the sentence names the file and what was expected."""

    kind = ErrorKind.MODEL_FILE


def new_id() -> str:
    """A fresh identifier for a request: 12 hexadecimal digits."""
    return os.urandom(6).hex()


OFFLOAD = ("none", "encoder", "phases", "aggressive", "stream")  # other programs' words for what leaves the device
ESTIMATES = ("formula", "dryrun")


class How(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a person wants a request to run; what is left out is the planner's to choose.

    `formats` and `residency` are by component: a format's name, and `resident`, `streamed` or how many blocks are to be
    resident. `tile` is auto, off or a tile's edge in pixels. `offload` is one of OFFLOAD, or empty. Without `cache` the
    text's encoding is neither read from disk nor kept there. `estimate` is one of ESTIMATES: the bytes of activations
    come from a fitted formula, or from a dry run at exactly this size. Without `lockstep` each call of the denoiser
    streams its blocks for itself. For pictures that wait the first may come later than alone by a share of `latency`.
    """

    prefer: float = 0.5  # 0: the fastest plan, 1: the best weights
    formats: dict[str, str] = {}
    residency: dict[str, str] = {}
    slots: int | None = None
    tile: str = "auto"
    fold: bool = True
    offload: str = ""
    headroom_bytes: int | None = None
    cache: bool = True
    estimate: str = "formula"
    lockstep: bool = True
    latency: float = 0.2  # assumed to be hardly felt


AS_PLANNED = How()


class Adapter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A LoRA beside a model's weights: its file, and how strongly it counts (1: as it was trained).

    `sha256` is that of the file's content: filled in by the engine, and in a result what its picture was made with.
    """

    file: str
    weight: float = 1.0
    sha256: str = ""


class Init(msgspec.Struct, frozen=True, omit_defaults=True):
    """The picture that a request starts from: its file, and how far the result may go from it.

    A `strength` near 0 returns the picture nearly as it is, 1 starts from noise alone; None is the family's own
    default. `sha256` is that of the file's content: filled in by the engine, and in a result what it was made from.
    """

    file: str
    strength: float | None = None
    sha256: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person asked for. `None` means: the model's own default.

    `draft` marks a quick picture made while the person types: few steps, not kept in the library, and superseded by
    the next draft. `out` is the file to write; empty for a draft, whose pixels come back in `Finished`. `frames` are
    those of a clip, 1 is a still. With `init` a size of None is that of the picture that it starts from.
    """

    id: str = msgspec.field(default_factory=new_id)
    prompt: str
    negative_prompt: str = ""
    model: str = "starter"
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    draft: bool = False
    out: str = ""
    how: How = AS_PLANNED
    loras: tuple[Adapter, ...] = ()
    init: Init | None = None


# -- commands: client to worker -------------------------------------------------------------------------------------


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Queue a request. The worker knows all waiting requests, so that it may order their phases.

    `alone` keeps it apart from others: an engine died over it, and they shall not be taken along.
    """

    request: Request
    alone: bool = False


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Drop a waiting request, or stop a running one at the next block of its network."""

    id: str


class WarmUp(msgspec.Struct, frozen=True, tag=True):
    """Load a model while nobody waits for it, so that the first picture, made as `how` says, comes sooner."""

    model: str
    how: How = AS_PLANNED


Command = Submit | Cancel | WarmUp


# -- events: worker to client ---------------------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The engine is up. `accelerator` is cpu, cuda, xpu or mps; `device` its name for people.

    `hardware` is the profile that it plans with, as core.hardware.told writes it (empty: not told); `budget_bytes` is
    what weights and activations may use now, by its own count.
    """

    accelerator: str
    device: str
    torch: str
    total_bytes: int
    free_bytes: int
    hardware: bytes = b""
    budget_bytes: int | None = None


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """Sent from a thread of its own about once a second; `busy` names the running request, if any."""

    busy: str = ""


class Started(msgspec.Struct, frozen=True, tag=True):
    """A request left the queue. `request` has every default filled in."""

    id: str
    request: Request


class Planned(msgspec.Struct, frozen=True, tag=True):
    """What the engine is about to do for a request; a second one replaces the first and says why in its reasons."""

    id: str
    plan: Plan


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How far a request is. `step` counts finished steps of `steps`; `seconds_left` is None while nothing is known."""

    id: str
    phase: Phase
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    note: str = ""


class Preview(msgspec.Struct, frozen=True, tag=True):
    """What the picture will look like, after `step` steps: `width` x `height` pixels, RGB, 8 bit, row by row."""

    id: str
    step: int
    steps: int
    width: int
    height: int
    pixels: bytes


class LedgerRecord(msgspec.Struct, frozen=True, tag=True):
    """One arrival or departure in device memory.

    `seconds` is the wall clock (Unix time), `change` is the bytes that arrived (positive) or left (negative),
    `resident_bytes` what the ledger holds after it, `format` the stored format (ggml's names, e.g. F32). Of what is
    `folded` the modulation is computed before it runs, and is not among these weights.
    """

    seconds: float
    owner: str
    model: str
    component: str
    format: str
    change: int
    resident_bytes: int
    reason: str
    folded: bool = False


class ComponentUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one component was in a run: its format, its bytes as stored on the device, and its peak.

    `folded_bytes` are those of modulation weights, which were off the device while it ran.
    """

    format: str
    bytes: int
    peak_bytes: int
    resident_bytes: int = 0
    streamed_bytes: int = 0
    folded_bytes: int = 0


class Prediction(msgspec.Struct, frozen=True):
    """What the plan said before the run; `seconds` is None where nothing was known to tell it from."""

    seconds: float | None
    peak_device_bytes: int
    phases: dict[str, float] = {}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A finished picture or clip and everything needed to make it again. Written into the file itself as JSON.

    `pixels_sha256` is the SHA-256 of the RGB bytes, row by row, frame after frame, before a clip is compressed. `fps`
    is how many frames a clip shows in a second, None where the model makes stills. `seconds` has one entry per phase,
    `load` for all reading of weights, and `total`, from taking the request up to the decoded picture. `scheduler` is
    diffusers' class. `steps` are those of the whole schedule, of which what starts from a picture makes `made_steps`.
    """

    id: str
    file: str = ""
    pixels_sha256: str
    width: int
    height: int
    frames: int = 1
    fps: float | None = None
    model: str
    family: str
    fingerprint: str
    prompt: str
    negative_prompt: str = ""
    seed: int
    steps: int
    made_steps: int | None = None
    guidance: float | None = None
    scheduler: str = ""
    draft: bool = False
    accelerator: str
    device: str
    tiling: str = "off"
    seconds: dict[str, float]
    link_bytes: int = 0
    budget_bytes: int = 0
    peak_device_bytes: int = 0
    predicted: Prediction | None = None
    components: dict[str, ComponentUse]
    reasons: list[str] = []
    versions: dict[str, str] = {}
    created: str = ""
    how: How = AS_PLANNED
    loras: tuple[Adapter, ...] = ()
    init: Init | None = None

    def request(self) -> Request:
        """The request that would make it again."""
        return Request(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            model=self.model,
            seed=self.seed,
            steps=self.steps,
            guidance=self.guidance,
            width=self.width,
            height=self.height,
            frames=self.frames if self.fps is not None else None,
            how=self.how,
            loras=self.loras,
            init=self.init,
        )


class Finished(msgspec.Struct, frozen=True, tag=True):
    """A request is done. `pixels` is filled for drafts only; else `result.file` is there.

    They are RGB, 8 bit, row by row; of a clip, the first frame's.
    """

    id: str
    result: Result
    pixels: bytes = b""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A request ended in an error: one sentence for the person, `details` (a traceback) for the log."""

    id: str
    kind: ErrorKind
    sentence: str
    details: str = ""


class Cancelled(msgspec.Struct, frozen=True, tag=True):
    """A request was stopped because its person asked for it."""

    id: str


class WarmedUp(msgspec.Struct, frozen=True, tag=True):
    """A model is loaded and waiting, after `seconds`; or it is not, and `problem` says why."""

    model: str
    seconds: float
    problem: str = ""


# -- events the client adds about the engine itself --------------------------------------------------------------------


class EngineStarting(msgspec.Struct, frozen=True, tag=True):
    """The engine process was started; `attempt` counts from 1 and grows with each restart."""

    attempt: int


class EngineStopped(msgspec.Struct, frozen=True, tag=True):
    """The engine ended. `expected` when it was told to; else `reason` says how it died and what happens next.

    `kind` tells an engine that broke down from one that the machine cannot run as it was asked to.
    """

    expected: bool
    reason: str = ""
    will_restart: bool = False
    kind: ErrorKind = ErrorKind.INTERNAL


class SetAside(msgspec.Struct, frozen=True, tag=True):
    """A request killed the engine twice and will not be tried again by itself."""

    id: str
    reason: str


Event = (
    Ready
    | Heartbeat
    | Started
    | Planned
    | Progress
    | Preview
    | LedgerRecord
    | Finished
    | Failed
    | Cancelled
    | WarmedUp
    | EngineStarting
    | EngineStopped
    | SetAside
)
