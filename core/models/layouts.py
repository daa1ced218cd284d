"""How a file for a whole model names and joins a component's tensors: as stable-diffusion.cpp does, where it has names.

These are mostly the names of the models' original code, in which projections that see the same input are one tensor.
The tables are data, resources/families/layouts.json, in which each cites its source. LTX-Video has the names of its own
checkpoints, which stable-diffusion.cpp does not know. What no table has, LTX-2 and what makes sound, keeps diffusers'
names. No torch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from core.models.numbering import Numbers
from core.models.stored import Place, Rows
from core.resources import resource

PLAIN = "plain"
"""The layout of a component without a table: its own names behind its own name."""

_STAR = "weight|bias"
_PORTION = re.compile(r"(.+)\[(\d)/(\d)\]")  # some of a tensor's rows: the first half is [1/2]
_KERNEL = "@1x1"  # the original has the kernel of a convolution where the library has a matrix
_TURNED = "@T"  # the original has the transposed matrix; such files are read, not written
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
    turned: bool = False  # it is a matrix that the library has transposed


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
    beside: str = ""  # a component that the model must have


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prefixes: tuple[_Prefixes, ...]
    layouts: tuple[_Layout, ...]


def arrange(
    family: str,
    component: str,
    class_name: str,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    beside: Collection[str] = (),
    alone: bool = False,
) -> Arrangement:
    """The tensors of a file that hold a component.

    Args:
        family: the class of the model's pipeline.
        shapes: of the component's tensors by their names there.
        beside: the components of the whole model.
        alone: the file is for this component only, so that its names take no prefix.
    """
    known = _prefixes_of(family, beside)
    prefix = known.components.get(component) if known else None
    # a part of a model goes by the library's names where the rest of the model does
    layouts = _tables().layouts if prefix is not None else ()
    fitting = (
        (layout.name, found)
        for layout in layouts
        if class_name in layout.class_names and (found := _arranged(layout, shapes)) is not None
    )
    name, tensors = next(fitting, (PLAIN, None))
    if tensors is None:
        prefix, tensors = f"{component}.", _plain(shapes)
    if alone:
        return Arrangement(name, tuple(tensors))
    return Arrangement(name, tuple(msgspec.structs.replace(entry, name=f"{prefix}{entry.name}") for entry in tensors))


def ways(class_name: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Arrangement]:
    """Every way in which a file may hold a network of a class, without the prefix that its names may have."""
    for layout in _tables().layouts:
        if class_name in layout.class_names and (found := _arranged(layout, shapes)) is not None:
            yield Arrangement(layout.name, tuple(found))
    yield Arrangement(PLAIN, tuple(_plain(shapes)))


def prefix_of(family: str, component: str, beside: Collection[str]) -> str:
    """What the names of a component begin with in a file for a whole model; empty where no table says."""
    known = _prefixes_of(family, beside)
    return known.components.get(component, "") if known else ""


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


def _prefixes_of(family: str, beside: Collection[str]) -> _Prefixes | None:
    fitting = (entry for entry in _tables().prefixes if entry.family == family and entry.beside in ("", *beside))
    return next(fitting, None)


def _plain(shapes: Mapping[str, tuple[int, ...]]) -> list[Arranged]:
    return [Arranged(key, key, shape, (Part(key, 0, shape[0] if shape else 1),)) for key, shape in shapes.items()]


@functools.cache
def _tables() -> _File:
    return msgspec.json.decode(resource("families", "layouts.json").read_bytes(), type=_File)


def _arranged(layout: _Layout, shapes: Mapping[str, tuple[int, ...]]) -> list[Arranged] | None:
    """None where a tensor is not in the table, or one that it belongs with is missing."""
    patterns = _patterns(layout)
    numbers = Numbers(shapes)
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
        turned = original.endswith(_TURNED)
        named = original.removesuffix(_KERNEL).removesuffix(_TURNED)
        result.append(Arranged(named, named, tuple(reversed(shape)) if turned else shape, ordered, turned))
    return result


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
