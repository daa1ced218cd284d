"""Warm pictures and drafts of the starter, side by side with the stock pipeline in the same process.

    python -m tests.bench.bench_generate [--rounds 9]

Each round makes, in turn: a picture by our engine, the same by `diffusers.FluxPipeline`, a draft by our engine, and the
same draft by the stock pipeline; every prompt is new, so encoding is included. Our times run from `submit` to the
`Finished` event, the file written for pictures. Writes tests/bench/results/generate.json with medians.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from pathlib import Path

from core.engine.libraries import prepare
from core.messages import Finished, Request, Result
from core.resources import resource
from tests.bench.report import load_average, write


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as home:
        os.environ["RESIDENCY_HOME"] = home
        load = load_average()
        write("generate", _measure(rounds, Path(home)), load)


def _measure(rounds: int, home: Path) -> dict[str, object]:
    prepare()
    import torch
    from diffusers import FluxPipeline

    from core.engine import InProcessEngine

    engine = InProcessEngine(accelerator="cpu")
    engine.start()

    def ours(request: Request) -> tuple[float, Result, bytes]:
        begin = time.perf_counter()
        engine.submit(request)
        while not isinstance(event := engine.next_event(), Finished):
            pass
        return time.perf_counter() - begin, event.result, event.pixels

    stock = FluxPipeline.from_pretrained(resource("starter", "model"), dtype=torch.float32)
    stock.set_progress_bar_config(disable=True)

    def theirs(result: Result) -> tuple[float, str]:
        begin = time.perf_counter()
        image = stock(
            result.prompt,
            width=result.width,
            height=result.height,
            num_inference_steps=result.steps,
            guidance_scale=result.guidance or 0.0,
            max_sequence_length=64,
            generator=torch.Generator("cpu").manual_seed(result.seed),
        ).images[0]
        return time.perf_counter() - begin, hashlib.sha256(image.tobytes()).hexdigest()

    seconds: dict[str, list[float]] = {"picture": [], "stock_picture": [], "draft": [], "stock_draft": []}
    for number in range(-1, rounds):  # the first round warms both up
        for name, draft in (("picture", False), ("draft", True)):
            out = "" if draft else str(home / f"{number}.png")
            prompt = f"a red house by the sea at sunset, number {number}"
            taken, result, _ = ours(Request(prompt=prompt, seed=7, draft=draft, out=out))
            stock_taken, pixels = theirs(result)
            assert pixels == result.pixels_sha256, "not the same picture, so not a fair race"
            if number >= 0:
                seconds[name].append(taken)
                seconds[f"stock_{name}"].append(stock_taken)
    engine.close()
    medians = {f"{name}_median_seconds": statistics.median(values) for name, values in seconds.items()}
    return {
        **medians,
        "picture_ratio": statistics.median(
            a / b for a, b in zip(seconds["picture"], seconds["stock_picture"], strict=True)
        ),
        "draft_ratio": statistics.median(a / b for a, b in zip(seconds["draft"], seconds["stock_draft"], strict=True)),
        "seconds": {name: [round(value, 4) for value in values] for name, values in seconds.items()},
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
