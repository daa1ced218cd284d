"""Whether the parts of a model belong together: what one makes must be as wide as what another takes. No torch.

The rules are data, resources/families/together.json, each with its source. A rule whose values no config gives is
passed over: the libraries have defaults that nobody here knows.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from core.messages import ModelFileError
from core.models.headers import read_json
from core.models.info import ComponentInfo
from core.models.recognise import recognise
from core.models.recognise import rules as recognising
from core.models.stored import stored_tensors
from core.resources import resource


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`value`, a sum of configs' entries, `times` something must be the config's entry `of`; else `part` is wrong."""

    family: str
    part: str
    value: str
    times: int = 1
    of: str
    source: str


@functools.cache
def rules() -> tuple[Rule, ...]:
    """The shipped rules."""

    class _File(msgspec.Struct, forbid_unknown_fields=True):
        rules: tuple[Rule, ...]

    return msgspec.json.decode(resource("families", "together.json").read_bytes(), type=_File).rules


def check_together(model: Path, family: str, folder: Path, components: Mapping[str, ComponentInfo]) -> None:
    """Check that the parts of a model are all there and fit each other.

    Args:
        model: what the sentence calls it by.
        family: the class of its pipeline.
        folder: where the configs are.

    Raises:
        ModelFileError: they do not; one sentence, which names the part.
    """
    for name, component in components.items():
        networks = component.class_name.startswith(("Autoencoder", "UNet")) or "Model" in component.class_name
        if networks and not component.is_network:
            raise ModelFileError(f"{model} names a {name} and holds no weights of it; get the whole model.")
        if component.is_network and not (folder / name / "config.json").is_file():
            raise ModelFileError(f"{model} holds no config of its {name}; get the whole model.")
    _check_tokenizers(model, folder, components)
    configs = {
        name: read_json(folder / name / "config.json")
        for name in components
        if (folder / name / "config.json").is_file()
    }
    _check_family(model, family, components)
    for rule in rules():
        if rule.family == family:
            _check(model, rule, configs)


def _check_tokenizers(model: Path, folder: Path, components: Mapping[str, ComponentInfo]) -> None:
    for name, component in components.items():
        if not name.startswith("text_encoder") or not component.is_network:
            continue
        tokenizer = name.replace("text_encoder", "tokenizer")
        if tokenizer not in components and "processor" not in components:
            raise ModelFileError(f"{model} has no {tokenizer} for its {name}; get the whole model.")
    for name in components:
        if name.startswith("tokenizer") and not any((folder / name).glob("*")):
            raise ModelFileError(f"{model} names a {name} and does not hold it; get the whole model.")


def _check(model: Path, rule: Rule, configs: Mapping[str, dict[str, Any]]) -> None:
    values = [_entry(term.strip(), configs) for term in rule.value.split("+")]
    wanted = _entry(rule.of, configs)
    if wanted is None or any(value is None for value in values):
        return
    found = sum(value for value in values if value is not None)
    if found * rule.times != wanted:
        times = f"{rule.times} times " if rule.times != 1 else ""
        raise ModelFileError(
            f"The {rule.part} of {model} does not belong to it: {times}{rule.value} is {found * rule.times}, but "
            f"{rule.of} is {wanted}; use the {rule.part} that the model was made with."
        )


def _entry(path: str, configs: Mapping[str, dict[str, Any]]) -> int | None:
    value: Any = configs
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int) else None


def _check_family(model: Path, family: str, components: Mapping[str, ComponentInfo]) -> None:
    """What the tensors of the network that denoises look like must be the family that the index names."""
    for name in ("transformer", "unet"):
        component = components.get(name)
        if component is None or not component.is_network:
            continue
        seen = recognise({key: tensor.shape for key, tensor in stored_tensors(component).items()}).family
        if seen and seen != family and family in {entry.family for entry in recognising().families}:
            raise ModelFileError(
                f"The {name} of {model} does not belong to it: it is that of a {seen}, and the model is a {family}."
            )
