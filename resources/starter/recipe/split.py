"""Which attribute pairs are never shown together in training, so that evaluation asks for new combinations.

One pair in five of each kind is held out, chosen by a fixed seed and spread evenly: no value loses more than its share
of partners, so every value is still seen with most others.
"""

from __future__ import annotations

import random
from functools import cache

from scene import SKY_CHANCE, VOCABULARY, Scene, random_scene

PAIR_KINDS = (("object", "place"), ("colour", "object"), ("time", "place"), ("object", "time"))
HELD_OUT_FRACTION = 0.2
SPLIT_SEED = 20_261

Pair = tuple[str, str]


@cache
def held_out_pairs() -> dict[Pair, frozenset[Pair]]:
    """For each kind of pair, e.g. ("object", "place"), the pairs of values that training never shows."""
    rng = random.Random(SPLIT_SEED)
    held: dict[Pair, frozenset[Pair]] = {}
    for kind in PAIR_KINDS:
        first, second = VOCABULARY[kind[0]], VOCABULARY[kind[1]]
        wanted = round(len(first) * len(second) * HELD_OUT_FRACTION)
        cells = [(a, b) for a in first for b in second]
        rng.shuffle(cells)
        rows, columns = dict.fromkeys(first, 0), dict.fromkeys(second, 0)
        chosen: set[Pair] = set()
        # Fill the emptiest rows and columns first; the shuffle settles ties.
        while len(chosen) < wanted:
            cell = min(
                (c for c in cells if c not in chosen),
                key=lambda c: (
                    max(rows[c[0]], columns[c[1]] * len(second) / len(first)) + 0.5 * (rows[c[0]] + columns[c[1]])
                ),
            )
            chosen.add(cell)
            rows[cell[0]] += 1
            columns[cell[1]] += 1
        held[kind] = frozenset(chosen)
    return held


def held_out_in(scene: Scene) -> list[tuple[Pair, Pair]]:
    """The held-out pairs a scene shows, each as (kind, values); empty for a scene training may show."""
    return [
        (kind, (scene.value(kind[0]), scene.value(kind[1])))
        for kind, pairs in held_out_pairs().items()
        if (scene.value(kind[0]), scene.value(kind[1])) in pairs
    ]


def training_scene(rng: random.Random) -> Scene:
    """A random scene that shows no held-out pair."""
    while True:
        scene = random_scene(rng)
        if not held_out_in(scene):
            return scene


def held_out_scene(rng: random.Random, kind: Pair) -> Scene:
    """A random scene that shows a held-out pair of the given kind."""
    while True:
        scene = random_scene(rng)
        if any(found == kind for found, _ in held_out_in(scene)):
            return scene


def sky_allowed(time: str, thing: str) -> bool:
    """Whether a sky thing can be seen at a time of day at all."""
    return thing in SKY_CHANCE[time]
