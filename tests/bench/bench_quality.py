"""What formats do to the starter's output and pictures: uniform, within a threshold, and under a size, at equal bytes.

    python -m tests.bench.bench_quality [--work FOLDER] [--pictures 64] [--minutes 60]

Every variant is a file that the converter writes of the starter's transformer. Its one-step error is measured on
prompts, seeds and latents that the sensitivities were not measured on. At the bytes of some of them stand beside each
other: one type for all; "fitted", the same with rounding that fits what layers are given (--importance measured);
"threshold", the --rmse that comes nearest to these bytes from below, found by bisection; and under this size "table",
"plain" (measured sensitivities, --importance none) and "target" (as the command does it by itself: measured, fitted).
Pictures (SSIM against those of the full weights, attributes named right by the recipe's classifier) are made in rounds
of 16 for each variant in turn until the minutes are over; what is in the work folder is not made again. Writes
tests/bench/results/quality.json and quality.svg.

At the bytes of Q8_0 and Q6_K little can be won by choosing types: on rows of 32 there is none between 6 and 8.5 bits,
nor between that and 16, so what one tensor gains costs others dearly. There it is rounding that wins.
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import re
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.commands.convert_sensitivity import measure_on
from core.conversion.choice import candidates, rungs, uniform, within
from core.conversion.measure import measure
from core.conversion.moments import read_moments, write_moments
from core.conversion.prepare import prepare as prepare_conversion
from core.conversion.run import Conversion, run
from core.engine.libraries import prepare
from core.models.folder import read_folder
from core.models.gguf_header import read_gguf
from core.models.sensitivity import read_measured, write_measured
from core.precision import decode, encode
from core.residency.slabs import aligned
from core.resources import resource
from tests.bench.quality_plot import draw
from tests.bench.report import RESULTS, load_average, write

if TYPE_CHECKING:
    from core.generation.onestep import OneStep

UNIFORM = ("BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "IQ4_NL", "IQ4_XS", "Q4_0", "Q3_K", "Q2_K")
RMSE = (0.01, 0.03, 0.06)
SIZES = ("Q8_0", "Q6_K", "Q5_1", "Q5_0", "Q4_1", "IQ4_NL", "rmse 6%")
_PROBED = "Q5_0"
_PICTURED = (
    *UNIFORM,
    "rmse 1%",
    "rmse 3%",
    "rmse 6%",
    "target at Q8_0",
    "target at Q5_1",
    "target at Q5_0",
    "target at IQ4_NL",
)
KINDS = {  # what rules speak of, among the weights in blocks that are no modulation
    "values": r".*(to_v|add_v_proj)\.weight",
    "queries and keys": r".*(to_[qk]|add_[qk]_proj)\.weight",
    "first layers of feed-forwards": r".*ff(_context)?\.net\.0\.proj\.weight",
    "last layers of feed-forwards": r".*ff(_context)?\.net\.2\.weight",
    "double blocks": r"transformer_blocks\..*",
    "text side of double blocks": r".*(_context|add_).*",
    **{f"single block {number}": rf"single_transformer_blocks\.{number}\..*" for number in range(6)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where files and pictures are kept")
    parser.add_argument("--pictures", type=int, default=64, help="of each variant, a multiple of 16; 0 for none")
    parser.add_argument("--minutes", type=float, default=60, help="no further round of pictures begins after so many")
    options = parser.parse_args()
    load = load_average()
    ends = time.monotonic() + 60 * options.minutes
    prepare()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work: Path = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        variants, checks = one_step(work)
        found: dict[str, dict[str, Any]] = {}
        if options.pictures:
            from tests.bench.quality_pictures import pictures

            for found in pictures(_PICTURED, work, options.pictures, ends):
                print({name: part["pictures"] for name, part in found.items()}, flush=True)
        both = {name: {**variants.get(name, {}), **found.get(name, {})} for name in {**variants, **found}}
        report(both, checks, load)


def report(variants: Mapping[str, Mapping[str, Any]], checks: Mapping[str, Any], load: float | None) -> None:
    """Write the table and the plot of what is known so far."""
    write("quality", {"at_equal_bytes": at_equal_bytes(variants), "variants": variants, **checks}, load)
    (RESULTS / "quality.svg").write_text(draw(variants), encoding="utf-8")


def at_equal_bytes(variants: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By what sets the size: bytes and one-step errors of all that has it, and gains (0.2 is 20 % less error)."""
    result: dict[str, dict[str, Any]] = {}
    for base in SIZES:
        row: dict[str, Any] = {"bytes": variants[base]["bytes"], "one_step_error": variants[base]["one_step_error"]}
        for kind in ("fitted", "threshold", "table", "plain", "target"):
            found = variants[f"{kind} at {base}"]
            row[kind] = {key: found[key] for key in ("bytes", "one_step_error", "rmse") if key in found}
        for kind in ("table", "plain", "target"):
            for against, error in (("base", row), ("threshold", row["threshold"])):
                gain = 1 - row[kind]["one_step_error"] / error["one_step_error"]
                row[kind][f"less_than_{against}"] = round(gain, 4)
        result[base] = row
    return result


def one_step(work: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Every variant's bytes and one-step error, by name; and how well errors are foretold. Goes on from `work`."""
    from core.generation.onestep import HELD_OUT, OneStep

    kept = work / "one_step.json"
    known = json.loads(kept.read_text()) if kept.is_file() else {"variants": {}, "checks": {}}
    found: dict[str, dict[str, Any]] = known["variants"]
    names = [*UNIFORM, *(f"rmse {share:.0%}" for share in RMSE)]
    kinds = [f"{kind} at {base}" for base in SIZES for kind in ("fitted", "threshold", "table", "plain", "target")]
    if all(name in found for name in (*names, *kinds)) and "with_20_steps" in known["checks"]:
        return found, known["checks"]
    onestep = OneStep(read_folder(resource("starter", "model")))
    (network,) = onestep.denoisers
    if not known["checks"]:
        known["checks"] = sensitivities(onestep, network, work / "measured.json")
        kept.write_text(json.dumps(known))
    measured, moments = read_measured(work / "measured.json"), read_moments(work / "measured.safetensors")
    others = onestep.again()
    thresholds = Thresholds()

    def add(name: str, **asked: Any) -> None:
        if name in found:
            return
        out = work / f"{name.replace(' ', '-')}.gguf"
        source = resource("starter", "model") / "transformer"
        made = run(Conversion(sources=(source,), out=out, **asked), lambda what, share: None)
        found[name] = {
            key: made[key] for key in ("bytes", "rel_rmse", "types", "expected_one_step_error") if key in made
        }
        if asked.get("rmse") is not None:
            found[name]["rmse"] = asked["rmse"]
        found[name]["one_step_error"] = others.error({network: weights_in(out)})
        kept.write_text(json.dumps(known))
        print(name, json.dumps(found[name]), flush=True)

    for name in UNIFORM:
        add(name, format=name)
    for share in RMSE:
        add(f"rmse {share:.0%}", rmse=share)
    for base in SIZES:
        size = found[base]["bytes"]
        add(f"target at {base}", target_bytes=size, measured=measured, moments=moments)
        add(f"plain at {base}", target_bytes=size, measured=measured)
        add(f"threshold at {base}", rmse=thresholds.under(size - found["BF16"]["bytes"]))
        add(f"table at {base}", target_bytes=size)
        asked = {"rmse": found[base]["rmse"]} if base.startswith("rmse") else {"format": base}
        add(f"fitted at {base}", **asked, moments=moments)
    if "with_20_steps" not in known["checks"]:
        more = onestep.again(HELD_OUT[:3], 45_000, steps=20)
        known["checks"]["with_20_steps"] = {
            f"{kind}{base}": more.error({network: weights_in(work / f"{kind}{base}.gguf".replace(" ", "-"))})
            for base in SIZES
            for kind in ("", "threshold at ", "target at ")
        }
        kept.write_text(json.dumps(known))
    return {name: found[name] for name in (*names, *kinds)}, known["checks"]


class Thresholds:
    """What --rmse makes of the starter's transformer, by threshold, without writing it."""

    def __init__(self) -> None:
        listed = candidates(prepare_conversion((resource("starter", "model") / "transformer",), "", "x").inputs, [])
        errors = measure(listed, {entry.name: rungs(entry) for entry in listed}, lambda share: None)
        self._listed, self._errors = listed, errors
        self._all = sorted({error for some in errors.values() for error in some.values()})
        self._sixteen = sum(aligned(entry.bytes_in(uniform(entry, "BF16"))) for entry in listed)

    def under(self, more: int) -> float:
        """The least threshold whose file has at most so many bytes more than that in BF16 (negative: fewer)."""
        place = bisect.bisect_left(self._all, True, key=lambda share: self._bytes(share) <= self._sixteen + more)
        return self._all[min(place, len(self._all) - 1)] * (1 + 1e-9)

    def _bytes(self, share: float) -> int:
        share *= 1 + 1e-9
        return sum(aligned(entry.bytes_in(within(entry, share, self._errors[entry.name]))) for entry in self._listed)


def sensitivities(onestep: OneStep, network: str, kept: Path) -> dict[str, Any]:
    """Measure them and keep them in a file; returns how they compare with trying each tensor, and among kinds."""
    from core.generation.onestep import PROMPTS

    weights = onestep.weights(network)
    began = time.perf_counter()
    measured, moments = measure_on(onestep, read_folder(resource("starter", "model")), lambda what, share: None)
    seconds = time.perf_counter() - began
    write_measured(kept, measured)
    write_moments(kept.with_suffix(".safetensors"), moments)
    few = onestep.again(PROMPTS[:2], 41_000)
    probed = {
        name: few.error({network: {name: decode(encode(weight, _PROBED), _PROBED, weight.shape)}}) ** 2
        for name, weight in weights.items()
    }
    ratios = [math.log(measured.losses[network][name][_PROBED] / probed[name]) / 2 for name in weights]
    return {
        "measuring_seconds": seconds,
        "tensors": len(weights),
        "foretold_against_probed_mean_log_ratio": statistics.mean(ratios),
        "foretold_against_probed_deviation": statistics.pstdev(ratios),
        "sensitivity_against_the_rest": by_kind(weights, measured.losses[network]),
    }


def by_kind(weights: Mapping[str, torch.Tensor], measured: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What an error in each number of some weights costs, against one in the rest."""

    def cost(names: set[str]) -> float:
        """Loss for each number and squared relative error."""
        scale = 0.0
        for name in names:
            error = (decode(encode(weights[name], _PROBED), _PROBED, weights[name].shape) - weights[name]).norm()
            scale += weights[name].numel() * float(error / weights[name].norm()) ** 2
        return sum(measured[name][_PROBED] for name in names) / scale

    inside = {name for name in weights if "blocks" in name and ".norm" not in name}
    found = {}
    for kind, pattern in KINDS.items():
        own = {name for name in inside if re.fullmatch(pattern, name)}
        found[kind] = round(cost(own) / cost(inside - own), 3)
    return found


def weights_in(file: Path) -> dict[str, torch.Tensor]:
    """The numbers of all tensors of a GGUF file."""
    data = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
    return {
        name: decode(data[found.start : found.end].clone(), found.type, found.shape)
        for name, found in read_gguf(file).tensors.items()
    }


if __name__ == "__main__":
    main()
