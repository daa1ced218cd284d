"""Plans made in the window: what a picture would need here or on another card. No Qt, and slow: work for a thread.

The planner is read when first asked, after the first frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from app import formatting
from app.outline import OTHERS, Outline, from_simulation
from core.messages import How, Init, ResidencyError, UserError

if TYPE_CHECKING:
    from core.hardware.profile import HardwareProfile
    from core.models.profile import ModelProfile
    from core.planning.job import Job
    from core.planning.options import Options

GB = 2**30  # cards are sold by these
# What lies there and what a plan counts may differ by a few bytes of padding; so much of it is all of it.
_ALL = 0.97
_VENDORS = ("NVIDIA", "GeForce", "AMD", "Radeon", "Intel", "Instinct")
_AS_AN = "AEFHILMNORSX"  # capitals whose names begin with a vowel


@dataclass(frozen=True)
class Wish:
    """What to plan. None leaves a value to the model or to the card; an empty card is this machine.

    `warm` counts bytes on the device already, `held` says in which format they are there and whether without their
    modulation (name, format, folded), and `loaded` names components whose files are in host memory. `runs`
    counts pictures and warm-ups: each teaches how long the next will take. `told` is what the engine measured of this
    machine (core.hardware.told) and `budget_bytes` what it may use; without them the window's own reading counts.
    """

    model: str
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    how: How = field(default=How(), hash=False)  # it holds dictionaries
    card: str = ""
    memory_bytes: int | None = None
    warm: tuple[tuple[str, int], ...] = ()
    held: tuple[tuple[str, str, bool], ...] = ()
    loaded: frozenset[str] = frozenset()
    runs: int = 0
    told: bytes = b""
    budget_bytes: int | None = None
    negative: bool = False
    frames: int | None = None
    init: Init | None = None

    @property
    def here(self) -> bool:
        """Whether it is what the engine would do, and no "what if"."""
        return not self.card and self.memory_bytes is None


@dataclass(frozen=True)
class Forecast:
    """A plan over time, or one sentence why there is none. `known` is false where the model has no profile.

    `settled` says that no other plan was to be considered, whatever is preferred.
    """

    wish: Wish
    model: str = ""
    card: str = ""
    outline: Outline | None = None
    sentence: str = ""
    known: bool = True
    settled: bool = False


@dataclass(frozen=True)
class Card:
    """A choice of "what if": a profile's name, how people say it, and its memory."""

    name: str
    title: str
    memory_bytes: int


def forecast(wish: Wish) -> Forecast:
    """Plan a wish and run the plan in virtual time. Never raises for what a person can ask."""
    from core.models import profile as models

    if wish.model not in models.names():
        return Forecast(wish, model=wish.model, known=False)
    try:
        return _planned(wish)
    except ResidencyError as error:
        return Forecast(wish, model=wish.model, sentence=str(error))


def cards() -> list[Card]:
    """This machine first (its name is empty), then the cards that ship, by name."""
    from core.hardware import profile

    here = this_machine()
    first = Card("", short_title(here.title) if here else "unknown card", here.memory_bytes if here else 0)
    found = [profile.load(name) for name in profile.names()]
    shipped = [Card(card.name, short_title(card.title), card.memory_bytes) for card in found]
    return [first, *sorted(shipped, key=lambda card: _natural(card.title))]


def models() -> list[tuple[str, str]]:
    """(name, title) of the models that can be planned before they are here."""
    from core.models import profile

    return [(name, profile.load(name).title) for name in profile.names()]


@lru_cache(maxsize=1)
def this_machine() -> HardwareProfile | None:
    """The profile of the machine that the window runs on; None where its card is unknown."""
    from core.hardware import kept

    return kept.this_machine()


def short_title(title: str) -> str:
    """A card as people call it: "NVIDIA GeForce RTX 3060 12 GB" is "RTX 3060 12 GB"."""
    return " ".join(word for word in title.split() if word not in _VENDORS) or title


def article(title: str) -> str:
    """The article of a card's name: an RTX, a T4."""
    first = title.split(" ")[0]
    spelled = any(letter.isdigit() for letter in first) or first.isupper()
    vowel = title[:1] in _AS_AN if spelled else title[:1].lower() in "aeiou"
    return "an" if vowel and not first.startswith("GTX") else "a"


def _planned(wish: Wish) -> Forecast:
    from core.models import profile
    from core.models.starting import start
    from core.planning import chances
    from core.planning.how import options_of
    from core.planning.job import job_of
    from core.planning.options import engine_for
    from core.planning.simulate import simulate
    from core.planning.solve import solve
    from core.planning.starting import from_picture
    from core.plans import formats_of

    model = profile.load(wish.model)
    hardware = _hardware(wish)
    warm = {name: size for name, size in wish.warm if name in model.components}
    options = options_of(wish.how, model, hardware, engine_for(hardware))
    budget = _budget(wish, hardware)
    width, height, init = wish.width, wish.height, wish.init
    if init is not None:
        limits = model.defaults
        own = (limits.width, limits.height)
        init, size = start(init, model.family, model.title, limits.size_multiple, own)
        width, height = (width, height) if width is not None else size
    job = job_of(
        model,
        width=width,
        height=height,
        frames=wish.frames if model.makes == "video" else None,
        steps=wish.steps,
        guidance=wish.guidance,
        negative=wish.negative,
        warm=warm,
        in_memory=frozenset(wish.loaded & model.components.keys()),
        pace=_pace(wish, model, hardware) if wish.here else None,
        following=chances.of_this_user(),
    )
    if init is not None:
        job = from_picture(job, init)
    held = {name: (stored, folded) for name, stored, folded in wish.held if name in warm}
    job = msgspec.structs.replace(
        job,
        warm_formats={name: stored for name, (stored, _) in held.items()},
        warm_folded={name: folded for name, (_, folded) in held.items()},
    )
    named = Forecast(wish, model=model.title, card=_named(hardware, wish))
    try:
        plan, others = solve(job, hardware, options, budget)
    except UserError as error:
        return replace(named, sentence=_too_large(job, hardware, options, budget) or str(error))
    # more than the plan's bytes cannot be of use, nor what is held otherwise
    sizes = {component.name: component.bytes for component in plan.components}
    warm = {name: sizes[name] if size > _ALL * sizes[name] else size for name, size in warm.items()}
    here = dict.fromkeys(job.warm_in(formats_of(plan), {c.name for c in plan.components if c.folded_bytes}))
    warm = {name: size for name, size in warm.items() if name in here or name not in sizes}
    simulation = simulate(plan, msgspec.structs.replace(job, warm=warm), hardware, options)
    return replace(named, outline=from_simulation(plan, simulation, warm), settled=not others)


def _pace(wish: Wish, model: ModelProfile, hardware: HardwareProfile) -> dict[str, float]:
    """How past runs of the model here compare with its plans, so that the window promises what the engine will."""
    from core.models import catalogue
    from core.planning.history import History

    try:
        fingerprint = catalogue.find(wish.model).fingerprint
    except (ResidencyError, OSError):
        return {}
    limits = model.defaults
    size = (wish.width or limits.width, wish.height or limits.height, wish.frames or limits.frames)
    return History().pace(fingerprint, hardware.name, *size)


def _named(hardware: HardwareProfile, wish: Wish) -> str:
    """A card as it is wished for: "RTX 3060 12 GB", "RTX 3060 with 8 GB"."""
    title = short_title(hardware.title)
    if wish.memory_bytes is None:
        return title
    return f"{re.sub(r' [(]?[0-9]+ GB[)]?$', '', title)} with {round(wish.memory_bytes / GB)} GB"


def _hardware(wish: Wish) -> HardwareProfile:
    from core.hardware import profile
    from core.hardware.told import heard

    hardware = profile.load(wish.card) if wish.card else heard(wish.told) or this_machine()
    if hardware is None:
        raise UserError("This machine's graphics card is not known; choose a similar one under What if.")
    if wish.memory_bytes is None:
        return hardware
    # headroom and the driver's share cannot be all that a small card has
    spare = min(hardware.headroom_bytes, wish.memory_bytes // 4)
    context = min(hardware.context_bytes, wish.memory_bytes // 4)
    return msgspec.structs.replace(
        hardware, memory_bytes=wish.memory_bytes, headroom_bytes=spare, context_bytes=context
    )


def _budget(wish: Wish, hardware: HardwareProfile) -> int | None:
    """What the engine says that it may use; None leaves it to the profile."""
    if not wish.here or wish.budget_bytes is None:
        return None
    wanted = wish.how.headroom_bytes
    return wish.budget_bytes if wanted is None else wish.budget_bytes + hardware.headroom_bytes - wanted


def _too_large(job: Job, hardware: HardwareProfile, options: Options, budget: int | None) -> str:
    """The sentence for a picture that does not fit; empty where that is not the trouble."""
    from core.planning.choices import smallest_budget
    from core.planning.options import budget_of

    least, budget = smallest_budget(job, hardware, options), budget_of(hardware, options) if budget is None else budget
    if least <= budget:
        return ""
    return (
        f"{job.model.title} at {job.width} × {job.height} does not fit: it needs at least {formatting.size(least)} and "
        f"{formatting.size(max(0, budget))} may be used; choose a smaller size or a card with more memory."
    )


def _natural(title: str) -> tuple[str, ...]:
    """So that an RX 7600 comes before an RX 7900, and an L4 before an L40."""
    return tuple(word.zfill(8) if word[:1].isdigit() else word for word in title.split())


def usable(held: dict[str, int]) -> tuple[tuple[str, int], ...]:
    """What is held, as a wish takes it: components only, in a fixed order."""
    return tuple(sorted((name, size) for name, size in held.items() if name != OTHERS))
