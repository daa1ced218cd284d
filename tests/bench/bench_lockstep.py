"""Queued pictures whose denoiser streams: together through each block, against one after the other.

    python -m tests.bench.bench_lockstep [--rounds 3] [--prompts 10]

On emulated cards with links so slow that copying sets the pace; the planner knows what it calibrated. Both ways make
the same prompts with the same formats, each in a fresh home, in turns. The guided and the unguided pass of one picture
are measured in the same way. Seconds are from the first request's beginning to the last picture; the bound is what
crosses the link over its rate. Writes tests/bench/results/lockstep.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from core.engine.libraries import prepare
from core.messages import Event, Finished, How, Planned, Request, Started
from tests.bench.report import load_average, write
from tests.events import wait_for

MIB = 2**20
LINK = 20e6  # bytes per second, of the card for queued pictures
SLOWER = 3e6  # of the card for a guided one, whose network is small


class Ran(NamedTuple):
    """One way of making some pictures."""

    seconds: float
    first_seconds: float  # until the first picture
    link_bytes: int
    together: int
    pixels: tuple[str, ...]


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=10)
    given = parser.parse_args()
    load = load_average()
    prepare()
    from tests.tiny_models import make

    queued = How(residency={"transformer": "streamed"}, formats={"transformer": "F32"})
    pictures = [
        Request(prompt=f"a red house, number {n}", seed=n, steps=4, width=64, height=64, how=queued)
        for n in range(given.prompts)
    ]
    with tempfile.TemporaryDirectory() as folder:
        guided = Request(
            prompt="a red house",
            negative_prompt="a boat",
            model=str(make("sdxl", Path(folder) / "sdxl")),
            guidance=5.0,
            steps=8,
            width=64,
            height=64,
            how=How(residency={"unet": "streamed"}, formats={"unet": "F32"}),
        )
        result = {"queued": _compare(pictures, LINK, given.rounds), "guided": _compare([guided], SLOWER, given.rounds)}
    write("lockstep", {"prompts": given.prompts, **result}, load)
    for name, row in result.items():
        print(name, row)


def _compare(requests: Sequence[Request], rate: float, rounds: int) -> dict[str, object]:
    ways: dict[bool, list[Ran]] = {True: [], False: []}
    for _ in range(rounds):
        for lockstep, runs in ways.items():
            with tempfile.TemporaryDirectory() as home:
                os.environ["RESIDENCY_HOME"] = home
                runs.append(_run(requests, rate, Path(home), lockstep=lockstep))
    together, apart = ways[True], ways[False]
    assert len({run.pixels for run in (*together, *apart)}) == 1, "the pixels differ"
    seconds = {name: statistics.median(run.seconds for run in runs) for name, runs in _named(ways)}
    firsts = {name: statistics.median(run.first_seconds for run in runs) for name, runs in _named(ways)}
    link = {name: runs[0].link_bytes for name, runs in _named(ways)}
    return {
        "link_bytes_per_second": rate,
        "most_together": max(run.together for run in together),
        "seconds": seconds,
        "seconds_ratio": seconds["together"] / seconds["apart"],
        "first_picture_seconds": firsts,
        "first_picture_ratio": firsts["together"] / firsts["apart"],
        "link_bytes": link,
        "link_bytes_ratio": link["together"] / link["apart"],
        "link_bound_seconds": {name: size / rate for name, size in link.items()},
        "same_pixels": True,
    }


def _named(ways: dict[bool, list[Ran]]) -> list[tuple[str, list[Ran]]]:
    return [("together", ways[True]), ("apart", ways[False])]


def _run(requests: Sequence[Request], rate: float, home: Path, *, lockstep: bool) -> Ran:
    """Queue all of them before the engine starts."""
    from core.engine import InProcessEngine
    from core.hardware.calibrate import load_or_measure
    from core.hardware.emulated import EmulatedAccelerator
    from core.hardware.emulated_card import EmulatedCard

    card = EmulatedAccelerator(
        EmulatedCard(
            name="slow-link",
            title="an emulated card with a slow link",
            memory_bytes=1024 * MIB,
            context_bytes=8 * MIB,
            headroom_bytes=8 * MIB,
            pinned_rate=rate,
            pageable_rate=rate / 2,
            matmul_rate={"F32": 50e9},
            memory_bandwidth=20e9,
        )
    )
    load_or_measure(card)
    engine = InProcessEngine(accelerator=card)
    seen: list[Event] = []
    ends: list[float] = []
    results = {}
    try:
        for number, request in enumerate(requests):
            how = msgspec.structs.replace(request.how, lockstep=lockstep)
            engine.submit(msgspec.structs.replace(request, id=str(number), how=how, out=str(home / f"{number}.png")))
        engine.start()
        wait_for(engine, Started)
        begin = time.monotonic()
        while len(results) < len(requests):
            finished = wait_for(engine, Finished, seen=seen, seconds=600)
            ends.append(time.monotonic() - begin)
            results[int(finished.id)] = finished.result
    finally:
        engine.close()
        card.close()
    return Ran(
        seconds=ends[-1],
        first_seconds=ends[0],
        link_bytes=sum(result.link_bytes for result in results.values()),
        together=max(event.plan.together for event in seen if isinstance(event, Planned)),
        pixels=tuple(results[number].pixels_sha256 for number in sorted(results)),
    )


if __name__ == "__main__":
    main()
