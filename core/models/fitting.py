"""Which networks of a model a file of weights has, and where: told by trying every layout that they have.

A network must be there in every name and every shape, and that which denoises with nothing else; the two experts of
one model are told apart by the file's name. No torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from core.messages import UserError
from core.models.checkpoint import Checkpoint
from core.models.info import ComponentInfo, ModelInfo
from core.models.layouts import Arrangement, prefix_of, present, ways
from core.models.roles import DENOISER, kind_of
from core.models.scales import with_scales
from core.models.stored import Stored, stored_tensors

# What one file keeps and another leaves away: counters, positions that are numbered anyway, heads that no picture
# needs, a second copy of an embedding. Where a file lacks it, it is the base's.
_SPARE = re.compile(r"(.*\.)?(position_ids|num_batches_tracked|lm_head\.weight|encoder\.embed_tokens\.weight)")
# What single files have in the network that denoises beside its weights: marks of how they are stored or were trained,
# and of Z-Image a norm that is not used (diffusers, convert_z_image_transformer_checkpoint_to_diffusers).
_BESIDE = re.compile(
    r"scaled_fp8|norm_final\.weight|__\w+__|(.*\.)?(scale_weight|scale_input|weight_scale|input_scale)"
)
_EXPERTS = ("transformer", "transformer_2")  # of Wan 2.2: for much noise, and for little
_NETWORK = 10  # tensors: fewer are marks that stand beside a network


class MisfitError(UserError):
    """A file and a base make no model. `said` is why, in a few words; `fitting` how many tensors are as they should."""

    def __init__(self, sentence: str, fitting: int = 0, said: str = "") -> None:
        super().__init__(sentence)
        self.fitting, self.said = fitting, said


class Found(msgspec.Struct, frozen=True):
    """A network in a file: how it lies there, behind which prefix."""

    prefix: str
    arrangement: Arrangement


def find(path: Path, checkpoint: Checkpoint, base: ModelInfo) -> dict[str, Found]:
    """The networks of a base that a file has, by their names in the base; at least one.

    Raises:
        MisfitError: nothing in the file fits the base, or a network of its own does not.
        UserError: what fits does not say which of two networks it is.
    """
    found = _assign(path, base, _candidates(base, with_scales(checkpoint.tensors)))
    if not found:
        raise _misfit(path, checkpoint, base)
    _check_others(path, base, found, checkpoint)
    return found


def related(family: str, base: str) -> bool:
    """Whether a file that looks like one family may be of another: Flux.2's network and that of klein are alike."""
    return family.removesuffix("Pipeline") == base.removesuffix("Pipeline").removesuffix("Klein")


def _check_others(path: Path, base: ModelInfo, found: Mapping[str, Found], checkpoint: Checkpoint) -> None:
    """Refuse a file that has a network of its own where the base's would be taken silently."""
    prefixes = tuple(entry.prefix for entry in found.values())
    lacking = {kind_of(name, part.class_name): name for name, part in base.networks.items() if name not in found}
    others = Counter(
        component
        for name, component in checkpoint.recognised.components.items()
        if component != "other" and not name.startswith(prefixes)
    )
    for component, count in others.items():
        name = lacking.get(kind_of(component, ""))
        if name is not None and count >= _NETWORK:
            if kind_of(component, "") == DENOISER:
                raise _misfit(path, checkpoint, base)
            raise MisfitError(
                f"{path.name} has a {component} of its own that does not fit the {name} of {base.name}; choose the "
                "base that it was made for, or a file without it.",
                len(checkpoint.tensors),
                f"its {component} does not fit the {name}",
            )


def _misfit(path: Path, checkpoint: Checkpoint, base: ModelInfo) -> MisfitError:
    """Why a file and a base make no model: what differs in the network that denoises, where its names are there."""
    family = checkpoint.recognised.family
    if family and not related(family, base.family):
        return MisfitError(
            f"{path.name} is of a {family} and {base.name} is a {base.family}; choose a base of the same family as "
            "the file."
        )
    tensors = with_scales(checkpoint.tensors)
    missed, denoiser = [(0, "")], "network"
    for name, component in base.networks.items():
        if kind_of(name, component.class_name) == DENOISER:
            denoiser = name
            for arrangement in ways(component.class_name, _shapes(component)):
                missed += [_miss(arrangement, prefix, name, tensors) for prefix in _prefixes(arrangement, tensors)]
    fitting, said = max(missed)
    if said:
        return MisfitError(
            f"{path.name} does not fit {base.name}: {said}; choose the base that it was made for.", fitting, said
        )
    return MisfitError(
        f"{path.name} holds no {denoiser} like that of {base.name}; choose another base, or a file of such a model."
    )


def _miss(arrangement: Arrangement, prefix: str, name: str, tensors: Mapping[str, Stored]) -> tuple[int, str]:
    fitting, said = 0, ""
    for entry in arrangement.tensors:
        tensor = tensors.get(prefix + entry.name)
        if tensor is not None and _alike(tensor.shape, entry.shape):
            fitting += 1
        elif not said:
            said = (
                f"it has no {entry.name} for the {name}"
                if tensor is None
                else f"its {entry.name} is {list(tensor.shape)}, not {list(entry.shape)}"
            )
    return fitting, said or f"it has more tensors than the {name}"


def _candidates(base: ModelInfo, tensors: Mapping[str, Stored]) -> dict[str, list[Found]]:
    """The places in a file where each network of the base may be."""
    return {
        name: [
            Found(prefix, arrangement)
            for arrangement in ways(component.class_name, _shapes(component))
            for prefix in _prefixes(arrangement, tensors)
            if _fits(arrangement, prefix, tensors, whole=kind_of(name, component.class_name) == DENOISER)
        ]
        for name, component in base.networks.items()
    }


def _assign(path: Path, base: ModelInfo, candidates: Mapping[str, list[Found]]) -> dict[str, Found]:
    """Each network's place. No two networks have the same, which small encoders of one shape otherwise might."""
    given: dict[str, Found] = {}
    for name, fitting in candidates.items():
        own = prefix_of(base.family, name, base.networks.keys())
        free = [entry for entry in fitting if entry.prefix not in {other.prefix for other in given.values()}]
        if not free or (name in _EXPERTS and not _is_expert(path, name, candidates)):
            continue
        given[name] = min(free, key=lambda entry: entry.prefix != own)
    return given


def _is_expert(path: Path, name: str, candidates: Mapping[str, list[Found]]) -> bool:
    """Whether a file that holds one of two experts alike holds this one."""
    both = [{entry.prefix for entry in candidates.get(expert, ())} for expert in _EXPERTS]
    if both[0] != both[1] or len(both[0]) != 1:
        return True
    said = path.stem.lower() + next(iter(both[0]))
    high, low = "high" in said, "low" in said
    if high == low:
        raise UserError(
            f"{path.name} does not say whether it is the network for much noise or for little; put high or low into "
            "its name."
        )
    return high == (name == _EXPERTS[0])


def _shapes(component: ComponentInfo) -> dict[str, tuple[int, ...]]:
    return {
        named: tensor.shape
        for key, tensor in stored_tensors(component).items()
        if not _SPARE.fullmatch(named := present(key, component.class_name))
    }


def _prefixes(arrangement: Arrangement, tensors: Mapping[str, Stored]) -> Iterator[str]:
    """What the names in a file may begin with, if they are those of an arrangement."""
    probe = max((entry.name for entry in arrangement.tensors), key=len, default="")
    for name in tensors:
        if probe and name.endswith(probe) and (name == probe or name[: -len(probe)].endswith(".")):
            yield name.removesuffix(probe)


def _fits(arrangement: Arrangement, prefix: str, tensors: Mapping[str, Stored], *, whole: bool) -> bool:
    """Whether a file has every tensor in its shape and, if `whole`, no other there."""
    for entry in arrangement.tensors:
        tensor = tensors.get(prefix + entry.name)
        if tensor is None or not _alike(tensor.shape, entry.shape):
            return False
    if not whole:
        return True
    known = {prefix + entry.name for entry in arrangement.tensors}
    others = (name.removeprefix(prefix) for name in tensors if name.startswith(prefix) and name not in known)
    return all(_BESIDE.fullmatch(name) or _SPARE.fullmatch(name) for name in others)


def _alike(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether two shapes are the same but for ones, which conversions put in and leave away at either end."""
    return [extent for extent in shape if extent != 1] == [extent for extent in wanted if extent != 1]
