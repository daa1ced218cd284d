"""Small instances of placement, and the best one of all by trying every placement."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from core.planning.cost import Costs, Found, Kept, Machine, Stage
from core.planning.demand import Blocks, Demand
from core.planning.fronts import Way, ways
from core.planning.job import Next


def component(name: str, sizes: list[tuple[int, int]], rest: int, seconds: float, streams: bool = True) -> Demand:
    """A component with blocks given as (count, bytes)."""
    blocks = tuple(
        Blocks((f"k{i}",), count, size) for i, (count, size) in enumerate(sorted(sizes, key=lambda s: -s[1]))
    )
    return Demand(
        name=name,
        format="F16",
        loss=0.0,
        blocks=blocks,
        rest_bytes=rest,
        bytes=rest + sum(part.bytes * part.count for part in blocks),
        folded_bytes=0,
        seconds=seconds,
        scratch_bytes=0,
        activation_bytes=0,
        streams=streams,
    )


def kept_sizes(demand: Demand, counts: tuple[int, ...]) -> set[int]:
    """Every size that some of a placement's blocks with the weights outside of blocks can have, and nothing."""
    sums = {
        sum(n * part.bytes for n, part in zip(some, demand.blocks, strict=True))
        for some in itertools.product(*(range(count + 1) for count in counts))
    }
    if not demand.streams:
        return {0, demand.bytes}
    return {0} | {total + demand.rest_bytes for total in sums}


def brute_force(stages: Sequence[Stage], machine: Machine, chances: Next, warm: dict[str, int]) -> Found | None:
    """The placement with the fewest expected seconds, of all placements of every component."""
    cost = Costs(stages, machine, chances, warm, frozenset(), {})
    options: dict[str, list[tuple[int, dict[int, Way]]]] = {}
    for name, runs in cost.runs.items():
        demands = [cost.demands[s, name] for s in runs]
        options[name] = [
            (kept, dict(zip(runs, chosen, strict=True)))
            for chosen in itertools.product(*(ways(demand) for demand in demands))
            for kept in set.intersection(*(kept_sizes(d, way.counts) for d, way in zip(demands, chosen, strict=True)))
        ]
    best = None
    for chosen in itertools.product(*options.values()):
        placed = {
            (s, n): Kept(way, kept) for n, (kept, by) in zip(options, chosen, strict=True) for s, way in by.items()
        }
        if all(need <= machine.budget for need in needs_of(stages, machine, placed)):
            found = cost.found(placed)
            best = found if best is None or found.expected < best.expected else best
    return best


def needs_of(stages: Sequence[Stage], machine: Machine, placed: dict[tuple[int, str], Kept]) -> list[int]:
    """Device bytes in each stage."""
    kept = {name: each.kept for (_, name), each in placed.items()}
    needs = []
    for s, stage in enumerate(stages):
        running = {demand.name: placed[s, demand.name].way for demand in stage.demands}
        need = stage.overhead + sum(way.resident for way in running.values())
        need += machine.slots * max(way.slot for way in running.values())
        needs.append(need + sum(size for name, size in kept.items() if name not in running))
    return needs
