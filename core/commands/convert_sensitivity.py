"""Where `residency convert` has it from how much an error in each tensor costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from core.hardware.machine import memory
from core.messages import UserError
from core.models.folder import INDEX, read_folder
from core.models.info import ModelInfo
from core.models.sensitivity import Measured, read_measured, write_measured

# Of a denoiser that is measured without being asked: a minute or two on two cores of a laptop (the starter has 6.4 M).
_SMALL_PARAMETERS = 50_000_000
_F32, _COPIES = 4, 4  # bytes of a number; weights, their gradients, squares of these, and what a pass leaves behind

# What is tried on each tensor. A tensor's own type costs nothing and is left out by who reads it.
FORMATS = (
    "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K", "Q2_K",
)  # fmt: skip

Tell = Callable[[str, float], None]


def sensitivities(how: str, sources: Sequence[Path], keep: Path | None, tell: Tell) -> tuple[Measured | None, str]:
    """What was measured, or None where the shipped table is used; and in words which, and why.

    Args:
        how: auto, measured, table, or the path of a file that `keep` wrote.
        keep: a file to write what is measured to.

    Raises:
        UserError: measuring was asked for and cannot be done; the sentence says why.
        ModelFileError: the model or the file of what was measured is damaged.
    """
    if how == "table":
        return None, "the shipped table"
    if how not in ("auto", "measured"):
        found = read_measured(Path(how).expanduser())
        return found, f"{how}, measured on {found.model}"
    folder = _model_folder(sources)
    if folder is None:
        why = f"{sources[0]} is not part of a model folder, which could be run"
        return _table(how, why)
    model = read_folder(folder)
    why = _unable(model, small=how == "auto")
    if why:
        return _table(how, why)
    try:
        found = measure(model, tell)
    except UserError as error:  # no modular blocks for this family
        return _table(how, str(error).rstrip("."))
    if keep is not None:
        try:
            write_measured(keep, found)
        except OSError as error:
            raise UserError(f"{keep} cannot be written ({error.strerror}); give another file to --measured.") from error
    return found, f"measured on {model.name}, in {found.calls} calls"


def measure(model: ModelInfo, tell: Tell) -> Measured:
    """Run a model and see what each format of each linear layer's weights costs.

    Raises:
        UserError: diffusers has no modular blocks for this family.
        ModelFileError: a file of it is damaged.
    """
    from core.engine.libraries import prepare

    prepare()
    from core.generation.onestep import OneStep, losses

    tell("Running the model", 0.0)
    onestep = OneStep(model)
    curvature = onestep.curvature(partial(tell, "Measuring sensitivities"))
    trying = partial(tell, "Trying formats")
    return Measured(
        model=model.name,
        family=model.family,
        fingerprint=model.fingerprint,
        calls=len(onestep.calls),
        losses={name: losses(onestep.weights(name), curvature[name], FORMATS, trying) for name in onestep.denoisers},
    )


def _table(how: str, why: str) -> tuple[None, str]:
    if how == "measured":
        raise UserError(f"Sensitivities cannot be measured: {why}. Use --sensitivity table.")
    return None, f"the shipped table, since {why}"


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
    needed = _F32 * (sum(part.parameters for part in model.networks.values()) + (_COPIES - 1) * parameters)
    _, free = memory()
    if needed > free:
        return f"{model.name} takes about {needed / 1e9:.1f} GB of memory to measure and {free / 1e9:.1f} GB are free"
    return ""
