"""The things that the studio shows: plain data, made by `app.state`, read by the panels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from core.messages import Phase, Result


class Topic(StrEnum):
    """What changed, so that only the panels concerned are refreshed."""

    ENGINE = "engine"
    CANVAS = "canvas"
    PROGRESS = "progress"
    QUEUE = "queue"
    HISTORY = "history"
    COMPONENTS = "components"
    MEMORY = "memory"
    NOTICE = "notice"
    TIMES = "times"


class Stage(StrEnum):
    """Where the engine is in its life."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"


class Kind(StrEnum):
    """What a picture on the canvas is."""

    PREVIEW = "preview"
    DRAFT = "draft"
    FULL = "full"


@dataclass(frozen=True)
class Picture:
    """What the canvas shows: RGB pixels, or the file of a finished picture, and the result it belongs to."""

    id: str
    kind: Kind
    width: int
    height: int
    pixels: bytes = b""
    file: str = ""
    result: Result | None = None


@dataclass(frozen=True)
class Work:
    """How far the running picture is."""

    id: str
    phase: Phase = Phase.LOAD
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Component:
    """One network of the model: its stored format and bytes, and how many of them are on the device now."""

    name: str
    format: str
    bytes: int
    resident: int = 0


@dataclass(frozen=True)
class Notice:
    """One sentence to the person. `action` is a label and what the window shall do: ("Start again", "restart")."""

    sentence: str
    error: bool = True
    action: tuple[str, str] | None = None
