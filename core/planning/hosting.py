"""Which bytes of components stay in host memory where it does not take all of them; the others come from the disk.

What is needed most often for each byte stays: of what streams, every pass; of what comes again with the next prompt, by
that prompt's chances. Weights are cut by blocks, so that taking the most wanted bytes first is the best division
(G. Dantzig: Discrete-variable extremum problems, Operations Research 5/2, 1957).

Such a part is a fixed one: a file that is read from end to end again and again pushes each of its own pages out of the
system's cache before it comes to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.hardware.profile import HardwareProfile
from core.planning.choices import HOST_RESERVE_BYTES, machine_of
from core.planning.cost import Hosted, Machine, Stage
from core.planning.job import Next
from core.planning.options import Options


def machine_for(
    stages: Sequence[Stage], chances: Next, hardware: HardwareProfile, options: Options, budget: int
) -> Machine:
    """The rates and the memory that the search counts with, for one choice of formats."""
    room = 0 if hardware.unified else hardware.host_bytes - HOST_RESERVE_BYTES
    hosted = () if hardware.unified else divided(stages, chances, room, budget, options.slots)
    return machine_of([stage.demands for stage in stages], hardware, options, budget, hosted)


def divided(stages: Sequence[Stage], chances: Next, room: int, budget: int, slots: int) -> Hosted:
    """Bytes of each component that stay in host memory; nothing where all of them do.

    Before it is known what will be resident, it is taken that of what runs often as much is as fits, and that this
    leaves the device only for other words.

    Args:
        room: bytes of host memory for weights.
        budget: bytes of device memory for a stage.
    """
    sizes = {part.name: part.bytes + part.folded_bytes for stage in stages for part in stage.demands}
    if sum(sizes.values()) <= room:
        return ()
    wanted: list[tuple[float, int, str]] = []  # how often, bytes, component
    for stage in stages:
        for part in stage.demands:
            largest = max((blocks.bytes for blocks in part.blocks), default=0)
            streamed = 0
            if part.streams and stage.passes > 1:
                streamed = max(0, part.bytes - max(0, budget - stage.overhead - slots * largest))
                wanted.append((float(stage.passes), streamed, part.name))
            again = chances.text + (0.0 if stage.encodes or stage.passes > 1 else chances.seed)
            wanted.append((again, sizes[part.name] - streamed, part.name))
    hosted = dict.fromkeys(sizes, 0)
    for _, size, name in sorted(wanted, key=lambda want: (-want[0], want[1])):
        taken = min(size, sizes[name] - hosted[name], room)
        hosted[name] += taken
        room -= taken
    return tuple(hosted.items())
