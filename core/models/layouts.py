"""How a file for a whole model names and joins a component's tensors: as stable-diffusion.cpp does, where it has names.

These are mostly the names of the models' original code, in which projections that see the same input are one tensor.
The tables are data, resources/families/layouts.json, in which each cites its source. No torch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

import msgspec

from core.models.stored import Place, Rows
from core.resources import resource

PLAIN = "plain"
"""The layout of a component without a table: its own names behind its own name."""

_STAR = "weight|bias"
_PORTION = re.compile(r"(.+)\[(\d)/(\d)\]")  # some of a tensor's rows: the first half is [1/2]
_KERNEL = "@1x1"  # the original has the kernel of a convolution where the library has a matrix
_FIELD = re.compile(r"\\\{(\w+)\\\}")
# What diffusers' VAEs called the layers of their attention before 0.17 (Attention._from_deprecated_attn_block).
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Part(msgspec.Struct, frozen=True):
    """Some rows of a component's tensor."""

    name: str
    first: int
    count: int


class Arranged(msgspec.Struct, frozen=True):
    """One tensor of the file: its name, its name in its network, its shape, and what it is put together from."""

    name: str
    inner: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


class Arrangement(msgspec.Struct, frozen=True):
    """A component in the file. `layout` is the name of its table."""

    layout: str
    tensors: tuple[Arranged, ...]


class _Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    class_names: tuple[str, ...]
    source: str
    tensors: tuple[tuple[str, ...], ...]
    """A name in the file, then what it is put together from. `*` is weight or bias, {i} and {j} are numbers."""


class _Prefixes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    family: str
    source: str
    components: dict[str, str]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prefixes: tuple[_Prefixes, ...]
    layouts: tuple[_Layout, ...]


def arrange(
    family: str, component: str, class_name: str, shapes: Mapping[str, tuple[int, ...]], *, alone: bool = False
) -> Arrangement:
    """The tensors of a file that hold a component.

    Args:
        family: the class of the model's pipeline.
        shapes: of the component's tensors by their names there.
        alone: the file is for this component only, so that its names take no prefix.
    """
    known = next((entry for entry in _tables().prefixes if entry.family == family), None)
    prefix = known.components.get(component) if known else None
    layout = next((entry for entry in _tables().layouts if class_name in entry.class_names), None)
    # a part of a model goes by the library's names where the rest of the model does
    found = _arranged(layout, shapes) if layout is not None and prefix is not None else None
    if layout is None or prefix is None or found is None:
        layout_name, prefix = PLAIN, f"{component}."
        found = [
            Arranged(name, name, shape, (Part(name, 0, shape[0] if shape else 1),)) for name, shape in shapes.items()
        ]
    else:
        layout_name = layout.name
    if alone:
        return Arrangement(layout_name, tuple(found))
    return Arrangement(layout_name, tuple(msgspec.structs.replace(entry, name=prefix + entry.name) for entry in found))


def places(arranged: Iterable[Arranged], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Place]:
    """Where the file has each tensor of a component: an arrangement read backwards."""
    rows: dict[str, list[tuple[int, Rows]]] = {}
    for entry in arranged:
        at = 0
        for part in entry.parts:
            rows.setdefault(part.name, []).append((part.first, (entry.name, at, part.count)))
            at += part.count
    return {name: Place(shapes[name], tuple(found for _, found in sorted(some))) for name, some in rows.items()}


def present(name: str, class_name: str) -> str:
    """The name that the library gives a tensor today."""
    if not class_name.startswith("Autoencoder") or ".attentions." not in name:
        return name
    return ".".join(_OLD.get(part, part) for part in name.split("."))


@functools.cache
def _tables() -> _File:
    return msgspec.json.decode(resource("families", "layouts.json").read_bytes(), type=_File)


def _arranged(layout: _Layout, shapes: Mapping[str, tuple[int, ...]]) -> list[Arranged] | None:
    """None where a tensor is not in the table, or one that it belongs with is missing."""
    patterns = _patterns(layout)
    numbers = _Numbers(shapes)
    found: dict[str, dict[int, Part]] = {}
    templates: dict[str, tuple[str, ...]] = {}
    for name, shape in shapes.items():
        hit = None
        for entry, number, pattern, portion in patterns:
            if hit is not None and entry is not hit:
                break  # only portions of one tensor are in an entry twice
            match = pattern.fullmatch(name)
            if match is None or not numbers.fits(match):
                continue
            rows = shape[0] if shape else 1
            if portion is not None:
                if rows % portion[1]:
                    return None
                rows //= portion[1]
            original = numbers.fill(entry[0], match)
            first = rows * (portion[0] - 1) if portion is not None else 0
            found.setdefault(original, {})[number] = Part(name, first, rows)
            templates[original] = entry
            hit = entry
        if hit is None:
            return None
    result = []
    for original, parts in found.items():
        if len(parts) != len(templates[original]) - 1:
            return None
        ordered = tuple(parts[number] for number in sorted(parts))
        columns = {shapes[part.name][1:] for part in ordered}
        if len(columns) != 1:
            return None
        own = shapes[ordered[0].name]
        shape = (sum(part.count for part in ordered), *own[1:]) if own else own
        if original.endswith(_KERNEL):
            if len(shape) != 2:
                return None
            shape = (*shape, 1, 1)
        named = original.removesuffix(_KERNEL)
        result.append(Arranged(named, named, shape, ordered))
    return result


class _Numbers:
    """The numbers of blocks and layers in names, and those that follow from them."""

    def __init__(self, names: Iterable[str]) -> None:
        listed = list(names)
        self._names = listed
        self._last = self._most(r"transformer_blocks\.(\d+)\..*")
        self._down = self._most(r"down_blocks\.\d+\.resnets\.(\d+)\..*") + 1
        self._up = self._most(r"up_blocks\.\d+\.resnets\.(\d+)\..*") + 1
        self._stages = self._most(r"(?:decoder\.)?up_blocks\.(\d+)\..*")

    def _most(self, pattern: str) -> int:
        compiled = re.compile(pattern)
        return max((int(found[1]) for name in self._names if (found := compiled.fullmatch(name))), default=0)

    def fits(self, match: re.Match[str]) -> bool:
        """Whether what must be the last block is."""
        said = match.groupdict()
        return "last" not in said or int(said["last"]) == self._last

    def fill(self, template: str, match: re.Match[str]) -> str:
        """A name of the file."""
        said = {key: value for key, value in match.groupdict().items() if value is not None}
        i, j = int(said.get("i", 0)), int(said.get("j", 0))
        behind = any(name.startswith(f"up_blocks.{i}.attentions.") for name in self._names)
        known = {
            **said,
            # a UNet counts layers through its stages: on the way down behind conv_in and each downsampler
            "down": 1 + i * (self._down + 1) + j,
            "downsampled": 1 + i * (self._down + 1) + self._down,
            "middle": 2 * j,
            "up": i * self._up + j,
            "upsampled": i * self._up + self._up - 1,
            "behind": 2 if behind else 1,
            # a VAE counts its decoder's stages from the picture
            "back": self._stages - i,
            "next": j + 1,
        }
        return template.replace("*", said.get("star", "")).format(**known)


_Pattern = tuple[tuple[str, ...], int, re.Pattern[str], tuple[int, int] | None]


@functools.cache
def _patterns(layout: _Layout) -> tuple[_Pattern, ...]:
    """Each part of each entry: the entry, the part's number, what matches its name, and which portion it is."""
    result = []
    for entry in layout.tensors:
        for number, text in enumerate(entry[1:]):
            portion = None
            if found := _PORTION.fullmatch(text):
                text, portion = found[1], (int(found[2]), int(found[3]))
            pattern = _FIELD.sub(
                lambda field: f"(?P<{field[1]}>{'.+' if field[1] == 'rest' else '[0-9]+'})", re.escape(text)
            )
            pattern = pattern.replace(r"\*", f"(?P<star>{_STAR})")
            result.append((entry, number, re.compile(pattern), portion))
    return tuple(result)
