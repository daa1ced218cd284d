"""The starter's recipe and folder: drawing, captions, the split, and that stock diffusers loads what is shipped."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

STARTER = Path(__file__).parents[2] / "resources" / "starter"
RECIPE = STARTER / "recipe"
MODEL = STARTER / "model"


class Recipe:
    """The recipe's modules, imported as siblings the way its scripts are run."""

    def __getattr__(self, name: str) -> ModuleType:
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def recipe() -> Iterator[Recipe]:
    before = set(sys.modules)
    sys.path.insert(0, str(RECIPE))
    try:
        yield Recipe()
    finally:
        sys.path.remove(str(RECIPE))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(RECIPE)):
                del sys.modules[name]


@pytest.mark.parametrize("size", [64, 128, 200])
def test_drawing_has_its_size_and_repeats(recipe: Recipe, size: int) -> None:
    rng = random.Random(4)
    scene = recipe.scene.random_scene(rng)
    first, second = recipe.draw.draw(scene, size), recipe.draw.draw(scene, size)
    assert first.size == (size, size)
    assert first.mode == "RGB"
    assert first.tobytes() == second.tobytes()


def test_every_value_can_be_drawn_in_every_style(recipe: Recipe) -> None:
    scene = recipe.scene
    for i, style in enumerate(scene.STYLES):
        for place in scene.PLACES:
            for thing in scene.OBJECTS:
                time = scene.TIMES[i]
                picture = recipe.draw.draw(
                    scene.Scene(place, time, thing, "red", style, scene.allowed_sky(time), 7), 32
                )
                assert picture.getcolors(32 * 32) is not None
                assert len(picture.getcolors(32 * 32)) > 8


def test_layout_varies_and_attributes_show(recipe: Recipe) -> None:
    scene = recipe.scene
    plain = scene.Scene("sea", "noon", "boat", "red", "flat", (), 1)
    drawn = {
        recipe.draw.draw(s).tobytes()
        for s in (
            plain,
            scene.Scene("sea", "noon", "boat", "red", "flat", (), 2),
            scene.Scene("sea", "noon", "boat", "blue", "flat", (), 1),
            scene.Scene("sea", "night", "boat", "red", "flat", (), 1),
            scene.Scene("sea", "noon", "boat", "red", "ink", (), 1),
            scene.Scene("sea", "noon", "boat", "red", "flat", ("clouds",), 1),
        )
    }
    assert len(drawn) == 6


def test_one_pair_in_five_is_held_out_and_training_never_shows_it(recipe: Recipe) -> None:
    split, scene = recipe.split, recipe.scene
    for (first, second), pairs in split.held_out_pairs().items():
        cells = len(scene.VOCABULARY[first]) * len(scene.VOCABULARY[second])
        assert abs(len(pairs) / cells - 0.2) < 0.02
        for value in scene.VOCABULARY[first]:
            assert sum(a == value for a, _ in pairs) < len(scene.VOCABULARY[second])
    rng = random.Random(0)
    for _ in range(500):
        drawn = split.training_scene(rng)
        for (first, second), pairs in split.held_out_pairs().items():
            assert (drawn.value(first), drawn.value(second)) not in pairs


def test_captions_name_what_is_drawn(recipe: Recipe) -> None:
    captions, split = recipe.captions, recipe.split
    rng = random.Random(1)
    empty = 0
    for _ in range(1000):
        scene = split.training_scene(rng)
        text = captions.caption(scene, rng)
        assert "{" not in text
        empty += not text
    assert 40 < empty < 130
    for kind in split.PAIR_KINDS:
        for _ in range(50):
            scene = split.held_out_scene(rng, kind)
            text = captions.held_out_prompt(scene, rng)
            for table, value in (
                (captions.OBJECT_WORDS, scene.object),
                (captions.COLOUR_WORDS, scene.colour),
                (captions.PLACE_PHRASES, scene.place),
                (captions.TIME_PHRASES, scene.time),
            ):
                assert any(word in text for word in table[value]), text


def test_held_out_phrasings_are_not_trained(recipe: Recipe) -> None:
    assert not set(recipe.captions.FRAMES) & set(recipe.captions.HELD_OUT_FRAMES)


def test_fillers_mean_nothing(recipe: Recipe) -> None:
    captions = recipe.captions
    said = " ".join(
        w for t in (captions.PLACE_NOUNS, captions.OBJECT_WORDS, captions.SKY_NOUNS) for v in t.values() for w in v
    )
    assert not set(said.split()) & set(captions.FILLERS)


def test_exported_folder_is_small_whole_and_without_pickles() -> None:
    files = [f for f in MODEL.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 30_000_000
    assert {f.suffix for f in files} <= {".json", ".safetensors", ".txt", ".md"}
    described = json.loads((MODEL / "residency.json").read_text(encoding="utf-8"))
    assert described["defaults"]["max_sequence_length"] == 64
    assert len(described["preview"]["latent_rgb_factors"]) == 16
    assert all(len(row) == 3 for row in described["preview"]["latent_rgb_factors"])
    assert set(described["vocabulary"]) == {"place", "time", "object", "colour", "style", "sky"}


@pytest.mark.filterwarnings("ignore")
def test_stock_pipeline_draws_from_the_exported_folder() -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    pipe = diffusers.FluxPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pictures = [
        pipe(
            "a red house by the sea",
            width=128,
            height=128,
            num_inference_steps=2,
            guidance_scale=0.0,
            max_sequence_length=64,
            generator=torch.Generator().manual_seed(3),
        ).images[0]
        for _ in range(2)
    ]
    assert pictures[0].size == (128, 128)
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert pipe.tokenizer("zyxw Ünï").input_ids[-1] == pipe.tokenizer.eos_token_id
