"""Times the streamer on an emulated card: a network of packed linear layers from a file, and kernels of a given time.

What is streamed, bound and checked is what runs real models; only the kernels' time is modelled. A checking kernel
reads samples of its block's bytes in its slot at its turn, so that a slab which comes late or is overwritten early is
found. Afterwards every layer is computed for real and compared. Seconds are modelled ones: where this machine could
not move the bytes in half of the modelled time, the card's clock runs slower than ours (`dilation`).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from torch import nn

from core.hardware.buffers import aligned_bytes, move, poison
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.emulated_card import EmulatedCard
from core.hardware.interface import Work
from core.messages import ResidencyError, UserError
from core.planning.passes import bound_seconds, slots_worth, steady_seconds, streamed_positions
from core.precision.formats import FORMATS
from core.residency.network import Network
from core.residency.packed import PACKED, PackedLinear, Scratch
from core.residency.slabs import Slab, divide
from core.residency.staging import Ring
from core.residency.store import FileTensor, HostStore, OpenFile

_STORED = "Q8_0"
_COLUMNS = 1024
_DISTINCT = 6  # blocks with bytes of their own; the others repeat them, so that the file stays small
_MIXED = (1.6, 0.7, 0.7)  # sizes in turn, as multiples of the mean
_SAMPLES = 16  # places in each block that the checking kernel looks at
_TOKENS = 2
_HAND_OVER_SECONDS = 4e-3  # real seconds that a block's copy or kernel must have at least
_LATENCY_SECONDS = 10e-6  # of a copy; drivers need about as much


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. Bytes, bytes per second and seconds; `slots` None: as many as a plan would take."""

    blocks: int
    block_bytes: int
    mixed: bool = False
    link: float
    compute_seconds: float
    resident: int = 0
    passes: int = 6
    slots: int | None = None


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. `ratio` is seconds_per_pass over bound_seconds; `optimum_ratio` over the simulated optimum."""

    seconds_per_pass: float
    bound_seconds: float
    simulated_optimum_seconds: float
    ratio: float
    optimum_ratio: float
    slots: int
    resident_blocks: int
    block_bytes: list[int]
    streamed_bytes: int
    peak_device_bytes: int
    peak_host_bytes: int
    dilation: float
    checked_blocks: int


def time_streaming(trial: Trial) -> Timing:
    """Stream a network for some passes.

    Raises:
        UserError: the numbers make no sense; the sentence says which.
    """
    _check(trial)
    sizes = [trial.block_bytes * (_MIXED[i % len(_MIXED)] if trial.mixed else 1.0) for i in range(trial.blocks)]
    module = _Chain([max(1, round(size / _row_bytes() / 32)) * 32 for size in sizes])
    with tempfile.TemporaryDirectory(prefix="residency-bench-") as folder:
        return _run(trial, module, Path(folder) / "blocks.bin")


def _run(trial: Trial, module: _Chain, file: Path) -> Timing:
    division = divide(module)
    slabs = [slab.size for _, slab in division.blocks]
    kinds = sorted(set(slabs), reverse=True)
    place = [kinds.index(size) for size in slabs]
    away = streamed_positions(place, _counts(place, len(kinds), trial.resident))
    copies = [_LATENCY_SECONDS + size / trial.link if gone else 0.0 for size, gone in zip(slabs, away, strict=True)]
    kernels = [trial.compute_seconds] * trial.blocks
    slots = slots_worth(copies, kernels) if trial.slots is None else trial.slots
    contents = _write(file, module)
    opened = OpenFile(file)
    store = HostStore({f"layers.{i}.{PACKED}": FileTensor(opened, contents[i][0], torch.uint8) for i in contents})
    dilation = _dilation(store, division.blocks[0][1], trial)
    card = EmulatedAccelerator(
        EmulatedCard(
            name="bench",
            title="Emulated card",
            memory_bytes=sum(slabs) + 8 * max(slabs) + (64 << 20),
            context_bytes=0,
            headroom_bytes=0,
            pinned_rate=trial.link,
            pageable_rate=trial.link / 3,
            copy_latency_seconds=_LATENCY_SECONDS,
            launch_seconds=0.0,
            compute_slowdown=0.0,
            copy_slowdown=0.0,
            dilation=dilation,
        )
    )
    card.eager = False  # all kernels of this network are launched through the queue
    network = Network("network", module, division, store, card)
    ring = Ring(card, max(slabs))
    network.place({i for i, gone in enumerate(away) if not gone}, slots)
    for i, layer in enumerate(module.every()):
        layer.launched = _Checked(card, contents[i][1], Work(seconds=trial.compute_seconds), layer)
    try:
        # one pass more than is timed: resident blocks arrive in it
        with network.running(ring, passes=trial.passes + 1):
            marks = []
            for _ in range(trial.passes + 1):
                module()
                marks.append(card.compute_queue.record())
            marks[-1].synchronize()
            card.synchronize()
        seconds = marks[-1].seconds_since(marks[0]) / trial.passes
        checked = _compute(network, ring, module, contents, card)
        peak = card.peak_bytes()
    finally:
        network.close()
        card.close()
    bound = bound_seconds([size / trial.link if gone else 0.0 for size, gone in zip(slabs, away, strict=True)], kernels)
    optimum = steady_seconds(copies, kernels, max(1, slots))
    return Timing(
        seconds_per_pass=seconds,
        bound_seconds=bound,
        simulated_optimum_seconds=optimum,
        ratio=seconds / bound,
        optimum_ratio=seconds / optimum,
        slots=slots,
        resident_blocks=trial.blocks - sum(away),
        block_bytes=slabs,
        streamed_bytes=sum(size for size, gone in zip(slabs, away, strict=True) if gone),
        peak_device_bytes=peak,
        peak_host_bytes=ring.nbytes,
        dilation=dilation,
        checked_blocks=checked,
    )


def _check(trial: Trial) -> None:
    problems = {
        "--blocks must be 1 to 10000": 1 <= trial.blocks <= 10_000,
        "--block-mb must be more than 0 and at most 4000": _row_bytes() * 32 <= trial.block_bytes <= 4_000_000_000,
        "--compute-ms must be 0 to 60000": 0 <= trial.compute_seconds <= 60,
        "--resident must be 0 to the number of blocks": 0 <= trial.resident <= trial.blocks,
        "--passes must be 1 to 1000": 1 <= trial.passes <= 1000,
        "--slots must be 1 to 16": trial.slots is None or 1 <= trial.slots <= 16,
    }
    for sentence, good in problems.items():
        if not good:
            raise UserError(f"{sentence}.")


def _counts(place: Sequence[int], kinds: int, resident: int) -> list[int]:
    """How many blocks of each size are resident when so many are in all: each size in its share."""
    counts = [0] * kinds
    every = [place.count(kind) for kind in range(kinds)]
    for _ in range(resident):
        poorest = min(
            (kind for kind in range(kinds) if counts[kind] < every[kind]), key=lambda kind: counts[kind] / every[kind]
        )
        counts[poorest] += 1
    return counts


def _row_bytes() -> int:
    return FORMATS[_STORED].bytes_of((1, _COLUMNS))


class _Layer(PackedLinear):
    """A packed linear layer whose kernel is launched through the queue while the streamer is timed."""

    launched: _Checked | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (the name in nn.Linear)
        if self.launched is None:
            return super().forward(input)
        self.launched.launch()
        return input


class _Chain(nn.Module):
    """The network: its layers in order."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__()
        scratch = Scratch()
        with torch.device("meta"):
            self.layers = nn.ModuleList(_Layer(nn.Linear(_COLUMNS, n, bias=False), _STORED, scratch) for n in rows)

    def every(self) -> list[_Layer]:
        """The layers in order."""
        return [layer for layer in self.layers if isinstance(layer, _Layer)]

    def forward(self) -> None:
        nothing = torch.empty(0)
        for layer in self.layers:
            layer(nothing)


class _Checked:
    """Launches a kernel of a given time that compares samples of a block's bytes with what they should be."""

    def __init__(self, card: EmulatedAccelerator, content: torch.Tensor, work: Work, layer: _Layer) -> None:
        self._card, self._work, self._layer = card, work, layer
        flat = content.view(-1)
        self._at = torch.arange(_SAMPLES) * (flat.numel() - 1) // (_SAMPLES - 1)
        self._expected = flat[self._at]

    def launch(self) -> None:
        """Enqueue it; the bytes are looked at when its turn has come."""
        packed = self._layer._buffers[PACKED]
        assert packed is not None

        def look(packed: torch.Tensor = packed) -> None:
            if not torch.equal(packed.view(-1)[self._at], self._expected):
                raise ResidencyError("a block ran with bytes that are not its own")

        self._card.compute_queue.launch(look, self._work)


def _write(file: Path, module: _Chain) -> dict[int, tuple[int, torch.Tensor]]:
    """The file, and for each block (its position in the file, its bytes [rows, bytes of a row])."""
    chance = torch.Generator().manual_seed(0)
    written: dict[tuple[int, int], tuple[int, torch.Tensor]] = {}
    result = {}
    position = 0
    with file.open("wb") as stream:
        for i, layer in enumerate(module.every()):
            rows = layer.out_features
            key = rows, i % _DISTINCT
            if key not in written:
                blocks = torch.randint(0, 256, (rows, _row_bytes()), dtype=torch.uint8, generator=chance)
                # the scale of each block of 32 is a 16-bit number: one that is none would hide differences
                blocks.view(rows, -1, FORMATS[_STORED].block_bytes)[:, :, 1] = 0x1C
                stream.write(blocks.numpy().data)
                written[key] = position, blocks
                position += blocks.nbytes
            result[i] = written[key]
        stream.flush()
        os.fsync(stream.fileno())
    return result


def _dilation(store: HostStore, slab: Slab, trial: Trial) -> float:
    """How much slower than ours the card's clock must run: the real work of a copy should fill half of its time."""
    a, b = aligned_bytes(slab.size), aligned_bytes(slab.size)
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        store.fill(slab, a)
        poison(b)
        move(b, a)
        times.append(time.perf_counter() - begin)
    modelled = slab.size / trial.link
    # threads need about a quarter of a millisecond to hand a block on, more on a busy machine
    return max(1.0, 2 * sorted(times)[1] / modelled, _HAND_OVER_SECONDS / max(modelled, trial.compute_seconds))


def _compute(
    network: Network,
    ring: Ring,
    module: _Chain,
    contents: dict[int, tuple[int, torch.Tensor]],
    card: EmulatedAccelerator,
) -> int:
    """Compute layers for real, streamed as placed, and compare; returns how many blocks were compared."""
    from core.precision.codec import decode

    chance = torch.Generator().manual_seed(1)
    x = torch.randn(_TOKENS, _COLUMNS, generator=chance)
    expected: dict[int, torch.Tensor] = {}
    card.eager = True
    checked = 0
    with network.running(ring, passes=1):
        for i, layer in enumerate(module.every()):
            layer.launched = None
            position, content = contents[i]
            if position not in expected:
                weight = decode(content, _STORED, (layer.out_features, _COLUMNS), torch.float32)
                expected[position] = nn.functional.linear(x, weight)
            if not torch.equal(layer(x), expected[position]):
                raise ResidencyError(f"block {i} gave another result when its weights were streamed")
            checked += 1
    return checked
