"""What the benchmark of quality counts with: likeness of pictures, and the drawing of errors against bytes."""

from __future__ import annotations

from xml.dom import minidom

import pytest
import torch

from tests.bench.quality_pictures import ssim
from tests.bench.quality_plot import draw


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
        "target at Q8_0": {"bytes": 6_900_000, "one_step_error": 0.008},
        "full weights": {"one_step_error": 0.0},
    }
    titles = [node.firstChild.nodeValue for node in minidom.parseString(draw(variants)).getElementsByTagName("title")]
    assert [title.split(":")[0] for title in titles] == ["Q8_0", "rmse 6%", "target at Q8_0"]
