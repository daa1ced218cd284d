"""Which profile fits this machine: the shipped one of the card that was found, with what was seen of it. No torch."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from core.hardware import assume, disk
from core.hardware.link import parse
from core.hardware.machine import Machine
from core.hardware.pci import Gpu
from core.hardware.profile import HardwareProfile, completed, load, names, short_name
from core.resources import resource

_LEAST_VRAM_BYTES = 1_000_000_000  # less is an aperture or a desktop's share, never all that a card in our list has
_UNKNOWN_CARD_BYTES = 2_000_000_000  # with so much memory of its own it is a card, not the graphics of a processor
_HOST_SHARE_BYTES = 4_000_000_000  # of unified memory: what system and desktop keep
_HEADROOM_BYTES = 1_500_000_000
_SEEN = "detected on this machine"


class _Card(msgspec.Struct, frozen=True):
    """As much of a profile as recognising it takes."""

    name: str
    memory_bytes: int
    matmul_rate: dict[str, float]
    pci_ids: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def _cards() -> tuple[_Card, ...]:
    files = sorted(resource("hardware").glob("*.json"))
    return tuple(msgspec.json.decode(file.read_bytes(), type=_Card) for file in files)


def name_of(gpu: Gpu) -> str:
    """The name of the profile that an adapter has among those that ship; empty where there is none.

    Several cards may share an id. The revision tells AMD's apart; where it is one that nobody listed, the slowest of
    them is taken. Between equals the memory decides, and where that is unknown the smallest.
    """
    same = [card for card in _cards() if any(entry.startswith(gpu.pci_id) for entry in card.pci_ids)]
    exact = [card for card in same if _ids(gpu) & set(card.pci_ids)]
    if same and not exact:
        rates = [card.matmul_rate["F32"] for card in same]
        exact = [card for card, rate in zip(same, rates, strict=True) if gpu.revision < 0 or rate == min(rates)]
    if exact:
        return min(exact, key=lambda card: (abs(card.memory_bytes - gpu.vram_bytes), card.name)).name
    by_name = short_name(gpu.name)
    return by_name if gpu.vendor in ("Apple", "NVIDIA") and by_name in names() else ""


def title_of(gpu: Gpu) -> str:
    """An adapter's name for people: its driver's, else that of the card with just these ids, or empty."""
    card = load(name) if (name := name_of(gpu)) else None
    return gpu.name or (card.title if card and _ids(gpu) & set(card.pci_ids) else "")


def _ids(gpu: Gpu) -> set[str]:
    return {gpu.pci_id, f"{gpu.pci_id}:{gpu.revision:02x}"}


def best_profile(machine: Machine, folder: Path | None = None) -> HardwareProfile | None:
    """The profile to plan with on a machine until it is calibrated.

    Args:
        folder: where models are, for the disk's speed.

    Returns:
        The card with the most memory among those that are known, with memory, link, host and disk as they were found;
        a profile of the processor where there is no card; None where there is a card that nobody described.
    """
    known = [(gpu, name) for gpu in machine.gpus if (name := name_of(gpu))]
    profiles = [fitted(load(name), gpu, machine, folder) for gpu, name in known]
    cards = [profile for profile in profiles if not profile.unified]
    if cards:
        return max(cards, key=lambda profile: profile.memory_bytes)
    matched = [gpu for gpu, _ in known]
    if any(_is_card(gpu) for gpu in machine.gpus if gpu not in matched):
        return None
    if profiles:
        return max(profiles, key=lambda profile: profile.memory_bytes)
    return processor(machine, folder)


def _is_card(gpu: Gpu) -> bool:
    return gpu.vendor == "NVIDIA" or (gpu.vendor in ("AMD", "Intel") and gpu.vram_bytes >= _UNKNOWN_CARD_BYTES)


def fitted(profile: HardwareProfile, gpu: Gpu, machine: Machine, folder: Path | None = None) -> HardwareProfile:
    """A shipped profile with what was seen of the card, its slot and its host."""
    seen: dict[str, Any] = _host(machine, folder)
    if profile.unified:
        seen.update(_shared_memory(profile, gpu, machine))
    else:
        if gpu.vram_bytes >= _LEAST_VRAM_BYTES:
            seen["memory_bytes"] = gpu.vram_bytes
        seen.update(_slot(profile, gpu))
        if profile.vendor == "amd" and profile.kind == "consumer" and not machine.system.startswith("Linux"):
            seen["headroom_bytes"] = min(
                profile.headroom_bytes, _HEADROOM_BYTES
            )  # only there it takes the desktop down
    return msgspec.structs.replace(profile, **seen, sources={**profile.sources, **dict.fromkeys(seen, _SEEN)})


def _host(machine: Machine, folder: Path | None) -> dict[str, Any]:
    seen: dict[str, Any] = {"host_bytes": machine.memory_bytes} if machine.memory_bytes else {}
    if folder is not None:
        seen["disk_rate"] = disk.read_rate(folder)
    return seen


def _slot(profile: HardwareProfile, gpu: Gpu) -> dict[str, Any]:
    """A slot that is slower than the card slows every path by as much; a faster one changes nothing."""
    full = parse(profile.link)
    if full is None or gpu.link is None or gpu.link.pinned_rate >= full.pinned_rate:
        return {}
    share = gpu.link.pinned_rate / full.pinned_rate
    return {
        "link": str(gpu.link),
        "pinned_rate": profile.pinned_rate * share,
        "pageable_rate": profile.pageable_rate * share,
        "staged_rate": min(profile.staged_rate, profile.pinned_rate * share),
    }


def _shared_memory(profile: HardwareProfile, gpu: Gpu, machine: Machine) -> dict[str, Any]:
    """What graphics may use of a memory that they share, and what is left to the rest of the machine."""
    if gpu.gtt_bytes:
        # AMD's driver: a part set aside at boot, which the system no longer counts, and a part that may be mapped
        reach, whole = gpu.vram_bytes + gpu.gtt_bytes, gpu.vram_bytes + machine.memory_bytes
        headroom = max(_HEADROOM_BYTES, reach - max(0, whole - _HOST_SHARE_BYTES))
        return {"memory_bytes": reach, "headroom_bytes": min(headroom, reach // 2)}
    if not machine.memory_bytes:
        return {}
    share = profile.headroom_bytes / profile.memory_bytes
    return {"memory_bytes": machine.memory_bytes, "headroom_bytes": round(share * machine.memory_bytes)}


# A core of a desktop processor with 256-bit units: 3 GHz times 16 multiply-adds. Memory of two channels, which two to
# four cores fill.
_CORE_RATE = 96e9
_CORE_BANDWIDTH, _HOST_BANDWIDTH = 10e9, 40e9


def processor(machine: Machine, folder: Path | None = None) -> HardwareProfile:
    """A profile of the processor alone: rates are assumed from the number of its cores until they are measured."""
    cores = max(1, machine.cores)
    bandwidth = min(cores * _CORE_BANDWIDTH, _HOST_BANDWIDTH)
    memory = machine.memory_bytes or 8_000_000_000
    return completed(
        HardwareProfile(
            name="cpu",
            title=machine.processor or "Processor",
            vendor="cpu",
            kind="host",
            memory_bytes=memory,
            memory_bandwidth=bandwidth,
            matmul_rate={"F32": cores * _CORE_RATE},
            matmul_efficiency=0.5,
            host_bytes=memory,
            disk_rate=disk.read_rate(folder) if folder else disk.READ_RATES["unknown"],
            unified=True,
            attention=("flash", "math"),
            headroom_bytes=min(1_000_000_000, memory // 4),
            context_bytes=min(500_000_000, memory // 8),
            sources={
                "memory_bytes": _SEEN,
                "memory_bandwidth": "assumed: 10 GB/s a core up to the 40 GB/s of two channels",
                "matmul_rate": f"assumed: {cores} cores of 96 GFLOP/s (3 GHz, 256-bit multiply-adds)",
                "matmul_efficiency": "assumed: cores are shared with everything else that runs",
                "decode_rate": assume.DECODE_SOURCE,
                "disk_rate": "assumed by the kind of disk",
                "host_bytes": _SEEN,
                "unified": "a processor computes where the weights are",
            },
        )
    )
