"""The settings a person sees: plain data, turned into requests and back, kept from session to session."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from core import folders
from core.messages import How, Init, Request

SIZE_STEP = 16
LARGEST_SIZE = 4096


class Settings(msgspec.Struct, kw_only=True, omit_defaults=True):
    """All that the window's controls hold. `None` leaves a value to the model."""

    prompt: str = ""
    negative_prompt: str = ""
    model: str = "starter"
    seed: int = 7
    seed_locked: bool = True
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    init: Init | None = None
    live: bool = True
    how: How = How()

    def request(self, *, draft: bool = False, draft_steps: int | None = None) -> Request:
        """The request that these settings ask for."""
        return Request(
            prompt=self.prompt.strip(),
            negative_prompt=self.negative_prompt.strip(),
            model=self.model,
            seed=self.seed,
            steps=draft_steps if draft else self.steps,
            guidance=self.guidance,
            width=self.width,
            height=self.height,
            frames=None if draft else self.frames,  # while typing, a clip is shown by one frame
            draft=draft,
            how=self.how,
            init=self.init,
        )

    def take(self, request: Request) -> None:
        """Take over a request's settings, so that pressing Generate makes the same picture again."""
        self.prompt = request.prompt
        self.negative_prompt = request.negative_prompt
        self.seed = request.seed
        self.seed_locked = True
        self.steps = request.steps
        self.guidance = request.guidance
        self.width, self.height, self.frames = request.width, request.height, request.frames
        self.how, self.init = request.how, request.init

    def prefer(self, preference: float) -> None:
        """Choose between speed (0) and quality (1)."""
        self.how = msgspec.structs.replace(self.how, prefer=preference)

    def free(self) -> None:
        """Leave all but that choice to the planner again."""
        self.how = How(prefer=self.how.prefer)


class Session(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the window remembers between two starts.

    `theme` is system, dark or light; `geometry` is Qt's, in base64. `draft_seconds` says how long drafts take, by model
    and size (see `app.pace`); `drafted_anyway` names the models that are drafted while typing although they are slow.
    `chart_open` is None until the person folds or unfolds the memory chart: then low windows fold it.
    """

    settings: Settings = msgspec.field(default_factory=Settings)
    theme: str = "system"
    geometry: str = ""
    more_open: bool = False
    chart_open: bool | None = None
    why_open: bool = False
    draft_seconds: dict[str, float] = {}
    drafted_anyway: list[str] = []


def snapped(size: int) -> int:
    """The nearest size that models accept: a multiple of 16, at least 16; 0 stays 0 (the model's own)."""
    if size <= 0:
        return 0
    return max(SIZE_STEP, min(LARGEST_SIZE, (size + SIZE_STEP // 2) // SIZE_STEP * SIZE_STEP))


def new_seed() -> int:
    """A seed short enough to read aloud."""
    return int.from_bytes(os.urandom(8), "little") % 1_000_000


def session_file() -> Path:
    """Where the session is kept."""
    return folders.data() / "session.json"


def load_session() -> Session:
    """The last session, or a new one where there is none that can be read."""
    try:
        return msgspec.json.decode(session_file().read_bytes(), type=Session)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return Session()


def write_session(encoded: bytes) -> bool:
    """Keep a session that is JSON already; waits for the disk."""
    from core.files import write_atomically  # the first frame saves nothing

    try:
        write_atomically(session_file(), lambda file: file.write(encoded))
    except OSError:
        return False
    return True
