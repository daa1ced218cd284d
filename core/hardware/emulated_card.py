"""What an emulated card really does: its memory, link and kernels. The planner never sees this; it calibrates."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from core.hardware.interface import Work
from core.hardware.profile import TINY_CONTEXT_SHARE, TINY_HEADROOM_SHARE, HardwareProfile

# A copy's fixed cost. Drivers need about 10 microseconds to submit one and hear of its end.
_COPY_LATENCY_SECONDS = (8e-6, 20e-6)
_JITTER = 0.015  # standard deviation of one copy's or kernel's time, relative
# Without a figure, decoding reaches this share of the memory's bandwidth in 16-bit output (eager kernels on an H100:
# 85 to 397 of 3,350 GB/s).
_DECODE_SHARE = 0.08


@dataclass(frozen=True, kw_only=True)
class EmulatedCard:
    """The true numbers of a card. Bytes, bytes per second, seconds.

    Attributes:
        memory_bytes: all of its memory; the context's and another program's bytes are among it.
        pinned_rate, pageable_rate: of copies over the link, from memory that is pinned and that is not.
        compute_slowdown: a kernel that runs wholly beside a copy takes 1 + this times as long (`a` in the formulas).
        copy_slowdown: the same of a copy that runs beside kernels.
        jitter: standard deviation of the logarithm of a time.
        dilation: real seconds for each modelled one, where real arithmetic is slower than what it stands for.
    """

    name: str
    title: str
    memory_bytes: int
    context_bytes: int
    headroom_bytes: int
    pinned_rate: float
    pageable_rate: float
    copy_latency_seconds: float = 10e-6
    launch_seconds: float = 8e-6
    memory_bandwidth: float = 100e9
    matmul_rate: Mapping[str, float] = field(default_factory=lambda: {"F32": 5e12, "F16": 10e12, "BF16": 10e12})
    decode_rate: Mapping[str, float] = field(default_factory=dict)
    compute_slowdown: float = 0.1
    copy_slowdown: float = 0.05
    jitter: float = 0.0
    largest_allocation: int | None = None
    attention: tuple[str, ...] = ("efficient", "math")
    dilation: float = 1.0
    seed: int = 0

    def kernel_seconds(self, work: Work) -> float:
        """What a kernel takes alone: the slower of arithmetic and traffic, then decoding; no less than its launch."""
        if work.seconds is not None:
            return work.seconds
        rate = self.matmul_rate.get(work.compute) or self.matmul_rate["F32"]
        seconds = max(work.flops / rate, work.bytes / self.memory_bandwidth)
        if work.decoded_bytes:
            rate = self.decode_rate.get(work.stored) or _DECODE_SHARE * self.memory_bandwidth
            seconds += work.decoded_bytes / rate
        return max(self.launch_seconds, seconds)

    def copy_seconds(self, size: int, *, pinned: bool) -> float:
        """What a copy over the link takes alone."""
        return self.copy_latency_seconds + size / (self.pinned_rate if pinned else self.pageable_rate)

    def move_seconds(self, size: int) -> float:
        """What a copy inside the device's memory takes: every byte is read and written."""
        return max(self.launch_seconds, 2 * size / self.memory_bandwidth)


def of_profile(
    profile: HardwareProfile, vram_bytes: int | None = None, link_rate: float | None = None, seed: int = 0
) -> EmulatedCard:
    """A card like the one of a profile, as far from its data sheet as cards are; how far is drawn from the seed.

    Memory and link are exactly as given where they are given.
    """
    chance = random.Random(seed)

    def about(value: float, low: float, high: float) -> float:
        return value * chance.uniform(low, high)

    memory = vram_bytes or profile.memory_bytes
    pinned = link_rate or about(profile.pinned_rate, 0.85, 1.02)
    share = profile.pageable_rate / profile.pinned_rate if profile.pageable_rate and profile.pinned_rate else 1 / 3
    return EmulatedCard(
        name=profile.name,
        title=f"{profile.title} (emulated)",
        memory_bytes=memory,
        context_bytes=min(profile.context_bytes, memory // TINY_CONTEXT_SHARE),
        headroom_bytes=min(profile.headroom_bytes, memory // TINY_HEADROOM_SHARE),
        pinned_rate=pinned,
        pageable_rate=about(share * pinned, 0.8, 1.1),
        copy_latency_seconds=chance.uniform(*_COPY_LATENCY_SECONDS),
        launch_seconds=about(profile.launch_seconds, 0.8, 1.5),
        memory_bandwidth=about(profile.memory_bandwidth, 0.8, 0.95),
        matmul_rate={name: about(profile.rate_of(name), 0.8, 1.1) for name in profile.matmul_rate},
        decode_rate={name: about(rate, 0.8, 1.1) for name, rate in profile.decode_rate.items()},
        compute_slowdown=about(profile.contention, 0.5, 1.8),
        copy_slowdown=about(profile.contention, 0.2, 0.8),
        jitter=_JITTER,
        largest_allocation=profile.largest_allocation_bytes,
        attention=profile.attention,
        seed=seed,
    )
