"""Where `residency convert` has it from how much an error in each tensor costs, and what rounding is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from core.conversion.moments import SUFFIX, Moments, read_moments, write_moments
from core.hardware.machine import memory
from core.messages import UserError
from core.models.folder import INDEX, read_folder
from core.models.info import ModelInfo
from core.models.sensitivity import Measured, read_measured, write_measured
from core.models.stored import stored_tensors
from core.sizes import in_words

if TYPE_CHECKING:
    from core.generation.onestep import OneStep

# Of a denoiser that is measured without being asked. The starter has 6.4 M, which takes a minute or two on one core.
_SMALL_PARAMETERS = 50_000_000
_WIDEST = 4096  # core.generation.onestep.WIDEST, which needs torch
_F32, _COPIES = 4, 4  # bytes of a number; weights, their gradients, squares of these, and what a pass leaves behind

# What is tried on each tensor. A tensor's own type costs nothing and is left out by who reads it.
FORMATS = (
    "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K", "Q2_K",
)  # fmt: skip

Tell = Callable[[str, float], None]


class Known(msgspec.Struct, frozen=True):
    """What is known of a model: both are None where the shipped table is used. `words` say which, and why."""

    measured: Measured | None
    moments: Moments | None
    words: str


def sensitivities(how: str, sources: Sequence[Path], keep: Path | None, tell: Tell) -> Known:
    """Measure, read what was measured, or find that it cannot be had.

    Args:
        how: auto, measured, table, or the path of a file that `keep` wrote.
        keep: a file to write what is measured to; what rounding is fitted to lies beside it, as safetensors.

    Raises:
        UserError: measuring was asked for and cannot be done; the sentence says why.
        ModelFileError: the model or the file of what was measured is damaged.
    """
    if how == "table":
        return Known(None, None, "the shipped table")
    if how not in ("auto", "measured"):
        file = Path(how).expanduser()
        measured, beside = read_measured(file), file.with_suffix(SUFFIX)
        moments = read_moments(beside) if beside.is_file() else None
        return Known(measured, moments, f"{how}, measured on {measured.model}")
    folder = _model_folder(sources)
    if folder is None:
        why = f"{sources[0]} is not part of a model folder, which could be run"
        return _table(how, why)
    model = read_folder(folder)
    why = _unable(model, small=how == "auto")
    if why:
        return _table(how, why)
    try:
        measured, moments = measure(model, tell)
    except UserError as error:  # no modular blocks for this family
        return _table(how, str(error).rstrip("."))
    if keep is not None:
        try:
            write_measured(keep, measured)
            write_moments(keep.with_suffix(SUFFIX), moments)
        except OSError as error:
            raise UserError(f"{keep} cannot be written ({error.strerror}); give another file to --measured.") from error
    return Known(measured, moments, f"measured on {model.name}, in {measured.calls} calls")


def measure(model: ModelInfo, tell: Tell) -> tuple[Measured, Moments]:
    """Run a model and see what each format of each linear layer's weights costs, and what these layers are given.

    Raises:
        UserError: diffusers has no modular blocks for this family.
        ModelFileError: a file of it is damaged.
    """
    from core.engine.libraries import prepare

    prepare()
    from core.generation.onestep import OneStep

    tell("Running the model", 0.0)
    return measure_on(OneStep(model), model, tell)


def measure_on(
    onestep: OneStep, model: ModelInfo, tell: Tell, formats: Sequence[str] = FORMATS
) -> tuple[Measured, Moments]:
    """The same of a model that was run already, trying some formats."""
    from core.conversion.fitted import fitted_losses
    from core.generation.onestep import losses

    curvature = onestep.curvature(partial(tell, "Measuring sensitivities"))
    halves = [onestep.moments(calls) for calls in onestep.halves if calls]
    halves = halves * (3 - len(halves))  # one call may be all that there is
    plain: dict[str, dict[str, dict[str, float]]] = {}
    fitted: dict[str, dict[str, dict[str, float]]] = {}
    trying, fitting = partial(tell, "Trying formats"), partial(tell, "Fitting roundings")
    for name in onestep.denoisers:
        weights = onestep.weights(name)
        plain[name] = losses(weights, curvature[name], formats, trying)
        fitted[name] = fitted_losses(weights, curvature[name], (halves[0][name], halves[1][name]), plain[name], fitting)
    measured = Measured(
        model=model.name,
        family=model.family,
        fingerprint=model.fingerprint,
        calls=len(onestep.calls),
        losses=plain,
        fitted=fitted,
    )
    together = {
        name: {key: (first + halves[1][name][key]) / 2 for key, first in some.items() if key in halves[1][name]}
        for name, some in halves[0].items()
    }
    return measured, Moments(model.name, sum(len(calls) for calls in onestep.halves), together)


def _table(how: str, why: str) -> Known:
    if how == "measured":
        raise UserError(f"Sensitivities cannot be measured: {why}. Use --sensitivity table.")
    return Known(None, None, f"the shipped table, since {why}")


def _model_folder(sources: Sequence[Path]) -> Path | None:
    """The model that a source is, or lies in."""
    if len(sources) != 1:
        return None
    source = sources[0]
    around = (source, source.parent, source.parent.parent)
    return next((folder for folder in around if (folder / INDEX).is_file()), None)


def _unable(model: ModelInfo, *, small: bool) -> str:
    """Why a model is not measured here; nothing where it is. `small` asks for little work too."""
    denoisers = [part for name, part in model.networks.items() if name.startswith(("transformer", "unet"))]
    parameters = sum(part.parameters for part in denoisers)
    if small and parameters > _SMALL_PARAMETERS:
        return f"{model.name} is not small; --sensitivity measured takes its time"
    squares = sum(
        min(tensor.shape[1], _WIDEST) ** 2
        for part in denoisers
        for tensor in stored_tensors(part).values()
        if len(tensor.shape) == 2
    )
    needed = _F32 * (
        sum(part.parameters for part in model.networks.values()) + (_COPIES - 1) * parameters + 3 * squares
    )
    _, free = memory()
    if needed > free:
        return f"{model.name} takes about {in_words(needed)} of memory to measure and {in_words(free)} are free"
    return ""
