"""What the residency panels show, and what a person wants to see instead: plain data. No Qt."""

from __future__ import annotations

from dataclasses import dataclass

from app.outline import Layers, Outline
from app.runs import Run
from core.messages import Result
from core.plans import Plan


@dataclass(frozen=True)
class WhatIf:
    """What a person wants to see planned in place of what the engine will do. Empty: nothing."""

    model: str = ""
    card: str = ""
    memory_bytes: int | None = None

    def __bool__(self) -> bool:
        return self != WhatIf()


@dataclass(frozen=True)
class View:
    """What the residency panels show. `sentence` stands in the chart's place where there is no outline.

    `now` is the present moment on the time axis while a picture is made. `what_if` says in words that it is none of
    what the engine will do. `settled` says that speed and quality are not to be chosen between: there is one plan.
    """

    outline: Outline | None = None
    happened: Layers | None = None
    now: float | None = None
    run: Run | None = None
    what_if: str = ""
    summary: str = ""
    sentence: str = ""
    resident_bytes: int = 0
    settled: bool = False

    @property
    def plan(self) -> Plan | None:
        """What was decided."""
        return self.outline.plan if self.outline is not None else None

    @property
    def result(self) -> Result | None:
        """The finished picture whose run is shown."""
        return self.run.result if self.run is not None else None
