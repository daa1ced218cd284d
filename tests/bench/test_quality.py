"""What the benchmark of quality counts with: likeness of pictures, and the drawing of errors against bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.dom import minidom

import pytest
import torch

from core.conversion.run import Conversion, run
from core.resources import resource
from tests.bench.bench_quality import SIZES, Thresholds, at_equal_bytes
from tests.bench.quality_pictures import ssim
from tests.bench.quality_plot import draw
from tests.bench.report import RESULTS


def test_ssim_is_one_for_the_same_picture_and_falls_with_noise() -> None:
    chance = torch.Generator().manual_seed(0)
    picture = torch.rand(2, 3, 32, 40, generator=chance)
    noise = torch.randn(picture.shape, generator=chance)
    assert torch.allclose(ssim(picture, picture), torch.ones(2))
    some, more = ssim(picture, picture + 0.02 * noise), ssim(picture, picture + 0.2 * noise)
    assert (some < 1).all()
    assert (some > more).all()


def test_ssim_of_flat_pictures_is_the_luminance_term_alone() -> None:
    one, other = torch.full((1, 3, 16, 16), 0.4), torch.full((1, 3, 16, 16), 0.6)
    expected = (2 * 0.4 * 0.6 + 0.01**2) / (0.4**2 + 0.6**2 + 0.01**2)
    assert float(ssim(one, other)) == pytest.approx(expected, rel=1e-3)


def test_the_drawing_has_a_mark_for_each_variant() -> None:
    variants = {
        "Q8_0": {"bytes": 7_000_000, "one_step_error": 0.009},
        "rmse 6%": {"bytes": 5_000_000, "one_step_error": 0.06},
        "threshold at Q8_0": {"bytes": 6_910_000, "one_step_error": 0.009},
        "target at Q8_0": {"bytes": 6_900_000, "one_step_error": 0.008},
        "full weights": {"one_step_error": 0.0},
    }
    titles = [node.firstChild.nodeValue for node in minidom.parseString(draw(variants)).getElementsByTagName("title")]
    assert [title.split(":")[0] for title in titles] == ["Q8_0", "rmse 6%", "threshold at Q8_0", "target at Q8_0"]


def test_gains_are_counted_against_both_at_equal_bytes() -> None:
    errors = {
        "": 0.10,
        "fitted at ": 0.07,
        "threshold at ": 0.08,
        "table at ": 0.11,
        "plain at ": 0.06,
        "target at ": 0.04,
    }
    variants = {
        f"{kind}{base}": {"bytes": 5_000_000, "one_step_error": error}
        for base in SIZES
        for kind, error in errors.items()
    }
    row = at_equal_bytes(variants)["Q5_1"]
    assert row["target"]["less_than_base"] == pytest.approx(0.6)
    assert row["target"]["less_than_threshold"] == pytest.approx(0.5)
    assert row["table"]["less_than_base"] == pytest.approx(-0.1)
    assert row["plain"]["less_than_threshold"] == pytest.approx(0.25)


def test_the_committed_table_says_what_target_size_wins() -> None:
    rows = json.loads((RESULTS / "quality.json").read_text(encoding="utf-8"))["at_equal_bytes"]
    for base, row in rows.items():
        for kind in ("threshold", "table", "plain", "target"):
            assert row[kind]["bytes"] <= row["bytes"]
        assert row["table"]["less_than_base"] >= 0, base
    both = [min(row["target"]["less_than_base"], row["target"]["less_than_threshold"]) for row in rows.values()]
    assert sum(gain >= 0.2 for gain in both) >= 3
    chosen = [min(row["plain"]["less_than_base"], row["plain"]["less_than_threshold"]) for row in rows.values()]
    assert sum(gain >= 0.2 for gain in chosen) >= 3  # by the choice of types alone, too


def test_a_threshold_is_found_that_comes_nearest_from_below(tmp_path: Path) -> None:
    thresholds, source = Thresholds(), resource("starter", "model") / "transformer"

    def size(**asked: Any) -> int:
        made: int = run(Conversion(sources=(source,), out=tmp_path / "a.gguf", **asked), lambda what, share: None)[
            "bytes"
        ]
        return made

    wanted, full = size(format="Q5_1"), size(format="BF16")
    share = thresholds.under(wanted - full)
    assert size(rmse=share) <= wanted < size(rmse=share * (1 - 1e-6))
