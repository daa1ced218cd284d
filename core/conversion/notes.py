"""What a person should know of a conversion that did not come out as its words may have been meant, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from core.conversion.choice import Candidate
from core.precision.formats import FORMATS
from core.sizes import in_words

_NAMED = 3  # types in a sentence


def notes(listed: Sequence[Candidate], formats: Mapping[str, str], wanted: str) -> list[str]:
    """One sentence each: what took another type than was asked for, what was packed before, what grew.

    Args:
        formats: by tensor, what was chosen.
        wanted: the type that was asked for; empty where a size or an error was.
    """
    return [*_fallen_back(listed, formats, wanted), *_packed_again(listed, formats), *_larger(listed, formats)]


def _fallen_back(listed: Sequence[Candidate], formats: Mapping[str, str], wanted: str) -> list[str]:
    """Tensors whose rows a type's blocks do not divide, and those of which so much is known that they take another."""
    if not wanted or not FORMATS[wanted].packed:
        return []
    others = [entry for entry in listed if not entry.kept and formats[entry.name] != wanted]
    rows = [entry for entry in others if not entry.apart and not FORMATS[wanted].takes(entry.shape)]
    words = []
    if rows:
        elements = FORMATS[wanted].block_elements
        words.append(
            f"{_tensors(rows)} {_take(rows)} {_types(rows, formats)} instead of {wanted}, whose blocks of {elements} "
            "their rows do not divide into"
        )
    own = [entry for entry in others if entry not in rows and _stays(entry, formats)]
    if own:
        words.append(
            f"{_tensors(own)} {'stays' if len(own) == 1 else 'stay'} packed as {_types(own, formats)}: {wanted} would "
            "have more bits and win nothing"
        )
    rest = [entry for entry in others if entry not in rows and entry not in own]
    if rest:
        words.append(
            f"{_tensors(rest)} {_take(rest)} {_types(rest, formats)} instead of {wanted}: norms, biases, kernels of "
            "convolutions, CLIP and VAE are not packed, and what is sensitive takes a finer type; --keep decides "
            "otherwise"
        )
    return words


def _packed_again(listed: Sequence[Candidate], formats: Mapping[str, str]) -> list[str]:
    again = [
        entry
        for entry in listed
        if _packed(entry.source.stored.type)
        and FORMATS[formats[entry.name]].packed
        and formats[entry.name] != entry.source.stored.type
    ]
    if not again:
        return []
    before = _listed(entry.source.stored.type for entry in again)
    were = "was" if len(again) == 1 else "were"
    return [
        f"{_tensors(again)} {were} packed before ({before}) and lost something then, on top of which comes what is "
        "lost now; converting from the model in BF16 or F16 is better"
    ]


def _larger(listed: Sequence[Candidate], formats: Mapping[str, str]) -> list[str]:
    """Where more bytes come out than went in."""
    before = sum(entry.source.stored.bytes for entry in listed)
    after = sum(entry.bytes_in(formats[entry.name]) for entry in listed)
    grown = [entry for entry in listed if entry.bytes_in(formats[entry.name]) > entry.source.stored.bytes]
    if after <= before or not grown:
        return []
    kinds = dict.fromkeys(f"{entry.source.stored.type} to {formats[entry.name]}" for entry in grown)
    return [
        f"the weights take {in_words(after)}, more than the {in_words(before)} of their source ({_listed(kinds)}): "
        "a type with fewer bits than the source's makes them smaller"
    ]


def _stays(entry: Candidate, formats: Mapping[str, str]) -> bool:
    return _packed(entry.source.stored.type) and formats[entry.name] == entry.source.stored.type


def _packed(name: str) -> bool:
    return name in FORMATS and FORMATS[name].packed


def _tensors(some: Sequence[Candidate]) -> str:
    return f"{len(some)} tensor{'s' if len(some) > 1 else ''}"


def _take(some: Sequence[Candidate]) -> str:
    return "take" if len(some) > 1 else "takes"


def _types(some: Sequence[Candidate], formats: Mapping[str, str]) -> str:
    return _listed(formats[entry.name] for entry in some)


def _listed(names: Iterable[str]) -> str:
    """Each once, the most frequent first."""
    counted: dict[str, int] = {}
    for name in names:
        counted[name] = counted.get(name, 0) + 1
    ordered = sorted(counted, key=lambda name: -counted[name])
    return ", ".join(ordered[:_NAMED]) + (" and others" if len(ordered) > _NAMED else "")
