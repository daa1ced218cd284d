"""Puts the kernels of a block together that are about as large as each other, and fits polynomials to each such group.

A kernel takes as long as the slowest of its launch, its arithmetic and its traffic, so a sum over many of them can be
told from their totals as long as all are of about one size, and only then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from core.generation.dryrun import DryRun, Launch
from core.generation.fit import fit
from core.models.profile import Kernels, Polynomial

_ALIKE = 8  # kernels of one group are within about this factor
_LEAST = 1e-3  # errors are relative to a value, or to this share of the largest
_FEW = 0.005  # allocations smaller than this share of all are taken together

Variables = Sequence[Mapping[str, float]]


def kernels(runs: Sequence[Sequence[Launch]], variables: Variables, monomials: Sequence[str]) -> list[Kernels]:
    """The kernels of one block in groups.

    Args:
        runs: the block's kernels in order, at each of the sizes.
        variables: those sizes.
    """
    groups: dict[tuple[object, ...], list[list[Launch]]] = {}
    if len({tuple(launch.name for launch in run) for run in runs}) == 1:
        for same in zip(*runs, strict=True):  # one kernel at every size
            group = groups.setdefault(_size(same), [[] for _ in runs])
            for launches, launch in zip(group, same, strict=True):
                launches.append(launch)
    else:  # as many kernels as there are frames: of one operation they are of one size
        for number, run in enumerate(runs):
            for launch in run:
                key = (launch.kind, launch.name, launch.wide == 0)
                groups.setdefault(key, [[] for _ in runs])[number].append(launch)
    return [_fitted(group, variables, monomials) for group in groups.values()]


def growth(runs: Sequence[DryRun], variables: Variables, monomials: Sequence[str]) -> list[tuple[int, Polynomial]]:
    """The allocations for which more memory is asked for, as (how many, bytes of each); those of the largest run."""
    largest = max(runs, key=lambda run: sum(run.allocated[number] for number in run.grew))
    total = sum(largest.allocated[number] for number in largest.grew)
    if len({len(run.allocated) for run in runs}) > 1:  # as many as there are frames
        wanted = [sum(run.allocated[number] for number in run.grew) / len(largest.grew) for run in runs]
        return [(len(largest.grew), fit(monomials, variables, wanted))]
    sizes: dict[tuple[int, ...], int] = {}
    few: list[tuple[int, ...]] = []
    for number in largest.grew:
        size = tuple(run.allocated[number] for run in runs)
        if largest.allocated[number] < _FEW * total:
            few.append(size)
        else:
            sizes[size] = sizes.get(size, 0) + 1
    result = [(count, fit(monomials, variables, size)) for size, count in sizes.items()]
    if few:
        result.append((len(few), fit(monomials, variables, [sum(each) / len(few) for each in zip(*few, strict=True)])))
    return result


def _size(same: Sequence[Launch]) -> tuple[object, ...]:
    """What kernels of one group have in common: kind, and magnitude at every size."""
    measures = [launch.flops or max(launch.bytes, 1) for launch in same]
    return (same[0].kind, same[0].wide == 0, *(round(math.log(measure, _ALIKE)) for measure in measures))


def _fitted(group: Sequence[Sequence[Launch]], variables: Variables, monomials: Sequence[str]) -> Kernels:
    def through(values: Sequence[int]) -> Polynomial:
        least = max(values) * _LEAST  # some sizes have none of these kernels
        return fit(monomials, variables, values, [max(value, least) for value in values])

    def polynomial(field: str) -> Polynomial:
        return through([sum(getattr(launch, field) for launch in run) for run in group])

    return Kernels(
        kind=next(launch.kind for run in group for launch in run),
        count=through([len(run) for run in group]),
        flops=polynomial("flops"),
        bytes=polynomial("bytes"),
        wide=polynomial("wide"),
        weights=max(sum(launch.weights for launch in run) for run in group),
    )
