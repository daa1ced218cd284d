"""A pipeline's components, some of them replaced for one run."""

from __future__ import annotations

import copy
from typing import Any

from diffusers import SchedulerMixin
from diffusers.guiders import BaseGuidance


class Apart:
    """Looks like a modular pipeline to its blocks: shared with all others but for what is given here."""

    def __init__(self, components: Any, **replaced: Any) -> None:
        """`components` is a modular pipeline, or one of these."""
        own = {} if not isinstance(components, Apart) else components.__dict__
        self.__dict__.update({"_shared": components, **own, **replaced})

    def __getattr__(self, name: str) -> Any:
        # what a pipeline's properties and methods ask for may be replaced
        attribute: Any = getattr(type(self._shared), name, None)
        if hasattr(attribute, "__get__") and name not in vars(self._shared):
            return attribute.__get__(self, type(self._shared))
        return getattr(self._shared, name)


def for_one_run(components: Any, guider: Any = None, *, everywhere: bool = False) -> Apart:
    """Components whose schedulers and guiders, which count steps, are its own.

    `guider`, where there is one, is the guider from now on; `everywhere` also that of a second expert.
    """
    parts = {name: getattr(components, name) for name in components.components}
    own = {name: part for name, part in parts.items() if isinstance(part, (SchedulerMixin, BaseGuidance))}
    if guider is not None:
        guided = [name for name, part in own.items() if isinstance(part, BaseGuidance)] if everywhere else []
        own |= dict.fromkeys([*guided, "guider"], guider)
    return Apart(components, **{name: copy.deepcopy(part) for name, part in own.items()})
