"""What the planner knows of a machine: memory, speeds and link, from a profile file or from calibration. No torch."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from core.hardware import assume
from core.hardware.link import parse as parse_link
from core.messages import UserError
from core.resources import resource

VENDORS = ("amd", "nvidia", "intel", "apple", "cpu", "emulated")
KINDS = ("consumer", "datacenter", "integrated", "host")
COMPUTE_FORMATS = ("F32", "F16", "BF16", "F8_E4M3")
ATTENTION = ("flash", "efficient", "math")
# An emulated card made tiny still has to have room: context and headroom take at most these shares of its memory.
TINY_CONTEXT_SHARE = 16
TINY_HEADROOM_SHARE = 4


class HardwareProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A card with its link and host. Bytes, bytes per second and floating-point operations per second.

    `memory_bandwidth` is the memory's own; kernels reach eight or nine tenths of it. `matmul_rate` is the card's dense
    peak per compute format, without sparsity and accumulating in f32 (GeForce cards halve it for that), and
    `matmul_efficiency` the part of it that a diffusion transformer reaches; measured here, the rate is what was reached
    and the efficiency 1. A compute format that is missing has no fast path on the card. `decode_rate` counts bytes of
    16-bit output per second for a stored format. `contention` is a in C' = C * (1 + a * share of time copying).
    `function_rate` counts the bytes that norms, activations and other functions of single numbers read and write; 0
    where `matmul_efficiency` allows for them already. `staged_rate` is what a copier thread reaches from the file's
    pages through the pinned ring, `pageable_rate` what the driver reaches from memory that is not pinned. On a
    processor `launch_seconds` is what it takes to give a kernel to all cores. Unified memory is the host's, and there
    is no link to it.
    """

    name: str
    title: str
    vendor: str  # amd, nvidia, intel, apple, cpu, emulated
    kind: str = "consumer"  # consumer, datacenter, integrated, host
    memory_bytes: int
    memory_bandwidth: float
    matmul_rate: dict[str, float]
    matmul_efficiency: float = 0.5
    function_rate: float = 0.0
    decode_rate: dict[str, float] = {}
    link: str = ""  # e.g. "PCIe 4.0 x16"
    pinned_rate: float = 0.0
    pageable_rate: float = 0.0
    staged_rate: float = 0.0
    host_bytes: int = 32_000_000_000
    disk_rate: float = 2_000_000_000.0
    contention: float = 0.1
    unified: bool = False
    largest_allocation_bytes: int | None = None
    attention: tuple[str, ...] = ("efficient", "math")  # kernels there are, best first: flash, efficient, math
    headroom_bytes: int = 1_500_000_000
    context_bytes: int = 500_000_000  # the driver's own context and the allocator's slack
    launch_seconds: float = 8e-6  # what a kernel takes that has nothing to do, among its like
    operation_seconds: float = (
        10e-6  # host time of one kernel of a network: its layers' code, the dispatcher, the launch
    )
    first_seconds: float = 0.0  # what a processor takes to get ready for a convolution of a new shape
    calibrated: bool = False
    pci_ids: tuple[str, ...] = ()  # "vendor:device" or "vendor:device:revision", hexadecimal
    sources: dict[str, str] = {}  # field -> where its figure comes from; "assumed: ..." where nobody says

    def rate_of(self, dtype: str) -> float:
        """Floating-point operations per second that matrix products reach in a compute format (F32, F16, BF16).

        A format without a fast path computes as F32 does.
        """
        return self.matmul_rate.get(dtype, self.matmul_rate["F32"]) * self.matmul_efficiency

    def link_rate(self, *, pinned: bool) -> float:
        """Bytes per second from host memory to the device, from a pinned component or staged through the ring."""
        return self.pinned_rate if pinned else min(self.pinned_rate, self.staged_rate or self.pinned_rate)


def names() -> list[str]:
    """The names of the cards that ship, sorted."""
    return sorted(path.stem for path in resource("hardware").glob("*.json"))


def load(name: str) -> HardwareProfile:
    """A card by name ("rx-7800-xt", "GeForce RTX 3060"), or a profile by its file's path.

    Raises:
        UserError: there is no such card (the sentence suggests the nearest), or the file does not hold a profile.
    """
    if name.endswith(".json"):
        return read(Path(name).expanduser())
    known, wanted = names(), short_name(name)
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "`residency plan --gpu list` names them all."
        raise UserError(f"There is no profile of a card called {name}; {hint}")
    return read(resource("hardware", f"{wanted}.json"))


def short_name(title: str) -> str:
    """How a card's title is written as a profile's name: "NVIDIA GeForce RTX 3060" is "rtx-3060"."""
    words = re.split(r"[^a-z0-9.]+", title.lower())
    left_out = {"amd", "nvidia", "intel", "ati", "geforce", "radeon", "tesla", "graphics", "r", "tm"}
    return "-".join(word for word in words if word and word not in left_out)


def read(path: Path) -> HardwareProfile:
    """A profile from a file, completed.

    Raises:
        UserError: it is not there, or absurd; the sentence names file and field.
    """
    try:
        profile = msgspec.json.decode(path.read_bytes(), type=HardwareProfile)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise UserError(f"{path} is no hardware profile ({error}); see resources/hardware for examples.") from error
    problem = absurdity(profile)
    if problem:
        raise UserError(f"{path} is no hardware profile: {problem}.")
    return completed(profile)


def completed(profile: HardwareProfile) -> HardwareProfile:
    """The profile with rates that it leaves out filled in from its memory and its link (core.hardware.assume)."""
    filled: dict[str, object] = {}
    sources = dict(profile.sources)
    decode = {**assume.decode_rates(profile.memory_bandwidth), **profile.decode_rate}
    if decode != profile.decode_rate:
        filled["decode_rate"] = decode
        sources.setdefault("decode_rate", assume.DECODE_SOURCE)
    pinned = profile.pinned_rate
    lanes = parse_link(profile.link)
    if not pinned and lanes:
        filled["pinned_rate"] = pinned = lanes.pinned_rate
        sources.setdefault("pinned_rate", assume.pinned_source(lanes))
    if pinned and not profile.pageable_rate:
        filled["pageable_rate"] = assume.pageable_rate(pinned)
        sources.setdefault("pageable_rate", assume.PAGEABLE_SOURCE)
    if pinned and not profile.staged_rate:
        filled["staged_rate"] = assume.staged_rate(pinned)
        sources.setdefault("staged_rate", assume.STAGED_SOURCE)
    return msgspec.structs.replace(profile, **filled, sources=sources) if filled else profile


# Field, unit, least and most. Far outside of what was ever sold, but near enough to catch a wrong unit.
_BOUNDS = (
    ("memory_bytes", "B", 1e7, 4e12),
    ("memory_bandwidth", "B/s", 1e8, 1e14),
    ("matmul_rate", "FLOP/s", 1e8, 1e17),
    ("matmul_efficiency", "", 0.01, 1.0),
    ("function_rate", "B/s", 0.0, 1e14),
    ("decode_rate", "B/s", 1e6, 1e14),
    ("pinned_rate", "B/s", 0.0, 2e12),
    ("pageable_rate", "B/s", 0.0, 2e12),
    ("staged_rate", "B/s", 0.0, 2e12),
    ("host_bytes", "B", 2e8, 1e14),
    ("disk_rate", "B/s", 1e6, 1e12),
    ("contention", "", 0.0, 10.0),
    ("largest_allocation_bytes", "B", 1e6, 4e12),
    ("headroom_bytes", "B", 0.0, 4e12),
    ("context_bytes", "B", 0.0, 1e11),
    ("launch_seconds", "s", 0.0, 0.1),
    ("operation_seconds", "s", 0.0, 0.1),
    ("first_seconds", "s", 0.0, 1.0),
)


def absurdity(profile: HardwareProfile) -> str:
    """What is wrong with a profile, as a phrase that names the field; empty where nothing is."""
    return next(_absurdities(profile), "")


def _absurdities(profile: HardwareProfile) -> Iterator[str]:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", profile.name):
        yield f"name is {profile.name!r}, expected small letters, digits and dashes"
    for field, allowed in (("vendor", VENDORS), ("kind", KINDS)):
        if getattr(profile, field) not in allowed:
            yield f"{field} is {getattr(profile, field)!r}, expected one of {', '.join(allowed)}"
    if "F32" not in profile.matmul_rate:
        yield "matmul_rate has no F32"
    for unknown in sorted(set(profile.matmul_rate) - set(COMPUTE_FORMATS)):
        yield f"matmul_rate has {unknown!r}, expected {', '.join(COMPUTE_FORMATS)}"
    for field, unit, least, most in _BOUNDS:
        value = getattr(profile, field)
        for label, number in value.items() if isinstance(value, dict) else [("", value)]:
            if number is not None and not (math.isfinite(number) and least <= number <= most):
                where = f"{field} of {label}" if label else field
                yield f"{where} is {number:g}, expected {_number(least, unit)} to {_number(most, unit)}"
    if not profile.attention or not set(profile.attention) <= set(ATTENTION):
        yield f"attention is {list(profile.attention)}, expected some of {', '.join(ATTENTION)}"
    if profile.headroom_bytes + profile.context_bytes >= profile.memory_bytes:
        yield "headroom_bytes and context_bytes leave nothing of memory_bytes"
    if profile.link and parse_link(profile.link) is None:
        yield f"link is {profile.link!r}, expected something like 'PCIe 4.0 x16'"
    if profile.unified and (profile.link or profile.pinned_rate):
        yield "unified memory has no link, but link or pinned_rate is given"
    if not profile.unified and not profile.link and not profile.pinned_rate:
        yield "neither link nor pinned_rate is given, and the memory is not unified"
    for entry in profile.pci_ids:
        if not re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{4}(:[0-9a-f]{2})?", entry):
            yield f"pci_ids has {entry!r}, expected something like '1002:747e' or '1002:747e:c8'"
    for field in sorted(set(profile.sources) - set(profile.__struct_fields__)):
        yield f"sources names {field!r}, which is no field"


def _number(value: float, unit: str) -> str:
    """For people: 4 TB, 200 MB/s, 1 GFLOP/s; small and unitless numbers as they are."""
    if unit and value >= 1e6:
        power = min(int(math.log10(value)) // 3, 5)
        return f"{value / 1000**power:g} {' kMGTP'[power]}{unit}"
    return f"{value:g} {unit}".strip()
