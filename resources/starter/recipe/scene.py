"""What a picture of the starter model's world can show, and how such a scene is drawn at random.

A scene is plain data: one place, one time of day, one object in a colour, one style, some things in the sky, and a
layout seed that settles everything a caption never mentions (positions, heights, shapes of clouds).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

PLACES = ("mountains", "hills", "sea", "desert", "forest", "city", "meadow", "canyon")
TIMES = ("dawn", "noon", "sunset", "night")
OBJECTS = ("house", "boat", "lighthouse", "castle", "tent", "balloon", "tree", "windmill", "car", "rocket")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
STYLES = ("flat", "ink", "pixel", "paper")
SKY = ("sun", "moon", "stars", "clouds", "birds", "snow", "rainbow")

VOCABULARY: dict[str, tuple[str, ...]] = {
    "place": PLACES,
    "time": TIMES,
    "object": OBJECTS,
    "colour": COLOURS,
    "style": STYLES,
    "sky": SKY,
}

# How often each sky thing appears at each time of day; what is absent cannot be there (no sun at night).
SKY_CHANCE: dict[str, dict[str, float]] = {
    "dawn": {"sun": 0.5, "moon": 0.15, "clouds": 0.35, "birds": 0.35, "snow": 0.13, "rainbow": 0.1},
    "noon": {"sun": 0.5, "clouds": 0.45, "birds": 0.35, "snow": 0.13, "rainbow": 0.14},
    "sunset": {"sun": 0.6, "clouds": 0.35, "birds": 0.4, "snow": 0.1},
    "night": {"moon": 0.6, "stars": 0.6, "clouds": 0.25, "birds": 0.1, "snow": 0.15},
}
STYLE_WEIGHTS = {"flat": 0.46, "ink": 0.18, "pixel": 0.18, "paper": 0.18}


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn. `sky` is sorted in the order of SKY; `layout` seeds the unmentioned rest."""

    place: str
    time: str
    object: str
    colour: str
    style: str
    sky: tuple[str, ...] = ()
    layout: int = 0

    def value(self, attribute: str) -> str:
        """The scene's single value of a named attribute ("place", "time", "object", "colour" or "style")."""
        return str(getattr(self, attribute))


def allowed_sky(time: str) -> tuple[str, ...]:
    """The sky things that make sense at a time of day, in the order of SKY."""
    return tuple(thing for thing in SKY if thing in SKY_CHANCE[time])


def random_sky(time: str, rng: random.Random) -> tuple[str, ...]:
    """A random subset of the sky things of that time; the moon and the sun never share a sky."""
    chosen = {thing for thing, chance in SKY_CHANCE[time].items() if rng.random() < chance}
    if "sun" in chosen:
        chosen.discard("moon")
    if "snow" in chosen:
        chosen.discard("rainbow")
    return tuple(thing for thing in SKY if thing in chosen)


def random_scene(rng: random.Random) -> Scene:
    """A scene with every attribute drawn at random, the split not considered (see `split.py`)."""
    time = rng.choice(TIMES)
    return Scene(
        place=rng.choice(PLACES),
        time=time,
        object=rng.choice(OBJECTS),
        colour=rng.choice(COLOURS),
        style=rng.choices(STYLES, [STYLE_WEIGHTS[s] for s in STYLES])[0],
        sky=random_sky(time, rng),
        layout=rng.getrandbits(32),
    )
