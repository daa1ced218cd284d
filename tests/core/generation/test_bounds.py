"""A network whose config limits the size of pictures or clips is measured within that, and its formula holds there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from core.generation.bounds import largest, within
from core.generation.dummy_inputs import Size
from core.generation.exact import exact
from core.generation.measure import measure
from core.generation.measure_folder import profile_of_folder
from core.generation.parts import model_of
from core.generation.samples import SAMPLES
from core.models.folder import read_folder
from core.models.profile import activation, flops

# a shipped model, its denoiser's limit in patches, and a size within that none was measured at
LIMITED = {
    "sd35-medium": ("pos_embed_max_size", 64, Size(1, 96, 112, 200)),
    "wan22-a14b": ("rope_max_seq_len", 40, Size(10, 36, 68, 200)),
}


@pytest.mark.parametrize("model", LIMITED)
def test_a_network_that_takes_small_pictures_only_is_measured(model: str) -> None:
    field, patches, size = LIMITED[model]
    part = model_of(model)[1]["transformer"]
    part = msgspec.structs.replace(part, config={**part.config, field: patches})
    with pytest.raises((RuntimeError, ValueError)):  # it is a limit: the library refuses what lies beyond
        exact(part, Size(1, 2 * patches + 2, 2 * patches + 2, 16))
    profile, run = measure(part), exact(part, size)
    assert activation(profile, size.variables) == pytest.approx(run.peak, rel=0.03)
    assert flops(profile, size.variables) == pytest.approx(run.total_flops, rel=0.02)


def test_a_folder_with_such_a_network_gets_its_profile(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    info = read_folder(tiny("sd3"))
    file = info.path / "transformer" / "config.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(json.dumps(json.loads(text) | {"pos_embed_max_size": 24}), encoding="utf-8")
    try:
        profile = profile_of_folder(info, cache=tmp_path)
    finally:
        file.write_text(text, encoding="utf-8")
    assert profile.components["transformer"].order


def test_sizes_stay_apart_and_within() -> None:
    config = SimpleNamespace(rope_max_seq_len=16, patch_size=(1, 2, 2))
    assert largest(config) == (16, 32)
    sizes = SAMPLES["clip denoiser"].sizes
    bounded = within(sizes, config)
    assert len({(size.frames, size.height, size.width) for size in bounded}) == len(sizes)
    assert max(size.frames for size in bounded) == 16
    assert max(max(size.height, size.width) for size in bounded) == 32
    assert [size.tokens for size in bounded] == [size.tokens for size in sizes]
    assert within(sizes, SimpleNamespace(patch_size=2)) == sizes
    assert within(sizes, SimpleNamespace(rope_max_seq_len=1024, patch_size=(1, 2, 2))) == sizes
