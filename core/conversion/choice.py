"""Which format each tensor of a conversion takes: the same for all, or the coarsest within a threshold of error.

What core.planning.policy says of a role holds in every mode: what stays as it is, what takes a finer format.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence

import msgspec

from core.conversion.source import SourceTensor
from core.messages import UserError
from core.models import roles
from core.models.checkpoint import Checkpoint
from core.models.gguf_header import block_of
from core.models.gguf_write import TARGETS
from core.models.profile import Tensor
from core.planning import policy
from core.precision.formats import FORMATS

# What is tried where errors decide, from fine to coarse; on rows of 32 these become Q8_0, Q5_1, Q5_0 and IQ4_NL. Q3_K
# and Q2_K are there for who asks for so much error or so few bytes.
LADDER = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "Q2_K")
_KEPT = {"F64": "F32", "F8_E4M3": "BF16", "F8_E5M2": "BF16"}  # what these types become where nothing is packed
_SMALL = 1 << 20  # numbers
_CLIP_LEAST = "Q8_0"  # what CLIP takes where it is packed at all

Errors = Mapping[str, Mapping[str, float]]
"""relRMSE by tensor and format."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor whose format is to be chosen. `block` sorts as blocks run.

    `members` are the names in the network of what it is put together from, each with how many numbers it has. `inner`
    is the first of them.
    """

    name: str
    component: str
    kind: str
    role: str
    block: tuple[int, ...] | None
    source: SourceTensor
    members: tuple[tuple[str, int], ...]
    kept: str = ""  # the format that a person asked for

    @property
    def inner(self) -> str:
        """Its name in its network."""
        return self.members[0][0]

    @property
    def shape(self) -> tuple[int, ...]:
        """As torch has it."""
        return self.source.stored.shape

    @property
    def apart(self) -> bool:
        """Whether it is no matrix: a bias, a norm, a token, a table of positions, the kernel of a convolution."""
        return self.role == "keep" or len(self.shape) != 2

    @property
    def plain(self) -> str:
        """What it is stored in where nothing is packed: its source, or what of 16 bits is nearest to it.

        diffusers and ggml's kernels take BF16 in matrices only; so what is none becomes F32 where it is small and F16,
        which has more digits, where it is large.
        """
        own = _KEPT.get(self.source.stored.type, self.source.stored.type)
        if self.source.integers or own not in FORMATS or FORMATS[own].packed or own == "F16":
            return own
        if not self.apart:
            return policy.sixteen_bit(own)
        small = self.source.stored.elements <= _SMALL
        return "F32" if small or (own == "F32" and self.role == "keep") else "F16"

    def bytes_in(self, stored: str) -> int:
        """What it takes in a format."""
        elements, size = block_of(stored)
        return self.source.stored.elements // elements * size


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor of the file to be: its name there, and those in its network, each with how many numbers it has."""

    name: str
    component: str
    kind: str
    source: SourceTensor
    members: tuple[tuple[str, int], ...]


def inputs_of(checkpoint: Checkpoint, found: Mapping[str, SourceTensor]) -> list[Input]:
    """The tensors of a single file or network, under their own names."""
    recognised = checkpoint.recognised
    return [
        Input(
            name=name,
            component=recognised.components[name],
            kind=roles.kind_of(recognised.components[name], checkpoint.class_name),
            source=source,
            members=((recognised.inner.get(name, name), source.stored.elements),),
        )
        for name, source in found.items()
    ]


def candidates(inputs: Sequence[Input], keep: Sequence[str]) -> list[Candidate]:
    """The tensors in the order in which they will be used.

    Args:
        keep: `PATTERN=TYPE`, shell patterns on names (of the file, or of the network); the first that fits counts.

    Raises:
        UserError: a pattern fits no tensor, or a type does not fit one.
    """
    wishes = [_wish(text) for text in keep]
    used: set[str] = set()
    result = []
    for entry in inputs:
        names, inner, shape = (
            [entry.name, *(name for name, _ in entry.members)],
            entry.members[0][0],
            entry.source.stored.shape,
        )
        kept = ""
        for pattern, wanted in wishes:
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                used.add(pattern)
                kept = wanted
                break
        candidate = Candidate(
            name=entry.name,
            component=entry.component,
            kind=entry.kind,
            role=roles.role_of(inner, shape, entry.kind),
            block=roles.block_of(inner, entry.kind),
            source=entry.source,
            members=entry.members,
            kept=kept,
        )
        if kept and not (FORMATS[kept].takes(candidate.shape) and candidate.source.decodable):
            raise UserError(f"{entry.name} ({list(candidate.shape)}) cannot be stored as {kept}; change --keep.")
        result.append(candidate)
    for pattern, _ in wishes:
        if pattern not in used:
            raise UserError(f"--keep {pattern} fits no tensor; `residency inspect` shows what the file holds.")
    networks = list(dict.fromkeys(entry.component for entry in inputs))

    def place(entry: Candidate) -> tuple[int, int, roles.Key]:
        order = roles.order_of(entry.inner, entry.kind)
        return order[0], networks.index(entry.component), order

    return sorted(result, key=place)


def uniform(candidate: Candidate, wanted: str) -> str:
    """What a tensor is stored in when everything is asked to be `wanted`.

    Never a packed format finer than the source: that would cost bytes and win nothing.
    """
    if candidate.kept:
        return candidate.kept
    own = candidate.source.stored.type
    fixed = candidate.source.integers or not candidate.source.decodable or candidate.role == "keep"
    if fixed or candidate.kind in (roles.CLIP, roles.VAE):
        return "F32" if wanted == own == "F32" else candidate.plain
    packed = own in FORMATS and FORMATS[own].packed
    source = own if own in ("F32", "F16") else "BF16"
    stored = policy.tensor_format(Tensor(candidate.inner, candidate.shape, candidate.role), wanted, source)
    if packed and FORMATS[wanted].packed and FORMATS[stored].bits >= FORMATS[own].bits:
        return own
    return candidate.plain if stored == "BF16" and candidate.apart else stored


def rungs(candidate: Candidate, ladder: Sequence[str] = LADDER) -> list[str]:
    """The formats that a tensor may take, from most to fewest bytes; the first is what it has without packing."""
    names = dict.fromkeys([candidate.plain, *(uniform(candidate, wanted) for wanted in ladder)])
    if candidate.kept:
        return [candidate.kept]
    return sorted(names, key=lambda name: -candidate.bytes_in(name))


def within_rungs(candidate: Candidate) -> list[str]:
    """As `rungs`, where a threshold is asked for: that is a person's word for everything, so CLIP follows it too.

    But only to Q8_0: CLIP-G of SD3 is known to break in F8, though that errs by no more than Q5_K. A VAE stays.
    """
    known = rungs(candidate)
    own = candidate.source.stored.type
    packed = own in FORMATS and FORMATS[own].packed
    if candidate.kind != roles.CLIP or candidate.kept or candidate.apart or packed or not candidate.source.decodable:
        return known
    return [*known, _CLIP_LEAST] if FORMATS[_CLIP_LEAST].takes(candidate.shape) else known


def within(candidate: Candidate, threshold: float, errors: Mapping[str, float]) -> str:
    """The coarsest format whose error is at most `threshold` (a share, 0.01 is 1 %)."""
    fitting = [name for name in within_rungs(candidate) if errors.get(name, 0.0) <= threshold]
    return fitting[-1] if fitting else within_rungs(candidate)[0]


def chosen(listed: Sequence[Candidate], choose: Callable[[Candidate], str]) -> dict[str, str]:
    """The format of each tensor."""
    return {candidate.name: choose(candidate) for candidate in listed}


def _wish(text: str) -> tuple[str, str]:
    pattern, _, wanted = text.rpartition("=")
    if not pattern or wanted not in TARGETS:
        raise UserError(f"--keep takes PATTERN=TYPE with one of {', '.join(TARGETS)}, not {text}.")
    return pattern, wanted
