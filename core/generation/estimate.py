"""A job whose activations were run dry at exactly its sizes, where the fitted formula is only near."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from core.generation import alike
from core.generation.dummy_inputs import Size
from core.generation.exact import exact
from core.generation.fit import fit
from core.generation.parts import Part
from core.hardware.profile import HardwareProfile
from core.messages import Phase, UserError
from core.models.profile import PhaseNeed
from core.planning.choices import TILE
from core.planning.demand import TILED
from core.planning.job import Job
from core.planning.options import Options

# As many as there are sizes make a polynomial that goes through all of them, and it is asked for no others.
_THROUGH = ("1", "N", "N*N")


def run_dry(
    job: Job, parts: Mapping[str, Part], hardware: HardwareProfile, options: Options, *, cache: Path | None = None
) -> Job:
    """The job with the peaks of its components' passes as dry runs count them; a second or two, nothing the next time.

    Args:
        parts: what the networks are made from; a component that is not among them keeps its formula.
        hardware: which attention kernel runs.
        options: in which tiles the VAE may run.
        cache: where results are kept between programs.

    Raises:
        UserError: a network cannot be run dry; the sentence names it.
    """
    kernel = "efficient" if {"flash", "efficient"} & set(hardware.attention) else "math"
    components = dict(job.model.components)
    for (name, encode), sizes in _sizes(job, options).items():
        if name not in parts:
            continue
        points = sorted(sizes, key=lambda size: size.variables["N"])
        try:
            runs = [exact(parts[name], size, kernel=kernel, encode=encode, cache=cache) for size in points]
        except (UserError, ValueError) as error:
            raise UserError(
                f"The {name} of {job.model.name} ({parts[name].class_name}) cannot be run dry; use --estimate formula."
            ) from error
        variables, monomials = [size.variables for size in points], _THROUGH[: len(points)]
        figures = {
            "activation": fit(monomials, variables, [run.peak for run in runs]),
            "attention_matrix": {},  # it is in the peak where that kernel ran
            "growth": alike.growth(runs, variables, monomials),
        }
        if encode:
            figures = {f"encode_{field}": value for field, value in figures.items()}
        components[name] = msgspec.structs.replace(components[name], **figures)
    model = msgspec.structs.replace(job.model, components=components)
    return msgspec.structs.replace(job, model=model, exact=True)


def _sizes(job: Job, options: Options) -> dict[tuple[str, bool], set[Size]]:
    """The sizes that planning will ask for, by component and direction (whether a VAE encodes): of each phase that runs
    it, and of a VAE's tile."""
    sizes: dict[tuple[str, bool], set[Size]] = {}
    for need in job.model.phases:
        for name in need.components:
            key = (name, need.phase is Phase.IMAGE_ENCODE)
            sizes.setdefault(key, set()).update(_of_phase(job, need, options))
    return sizes


def _of_phase(job: Job, need: PhaseNeed, options: Options) -> Iterator[Size]:
    limits, variables = job.model.defaults, job.variables(need)
    frames = round(variables["N"] / variables["A"])
    if limits.positions_per_second is not None:
        yield Size(frames, 1, 1, job.text_tokens)
        return
    height, width = (round(side * need.scale) // limits.spatial for side in (job.height, job.width))
    yield Size(frames, height, width, job.text_tokens)
    edge = TILE // limits.spatial if options.tiles == "auto" else int(options.tiles) if options.tiles != "off" else 0
    if need.phase in TILED and edge and edge * edge < variables["A"]:
        yield Size(frames, edge, edge, job.text_tokens)
