"""The shipped profiles say of each model what its makers say, and what follows from a profile is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.messages import ModelFileError, Phase, UserError
from core.models.profile import (
    BlockKind,
    ComponentProfile,
    ModelProfile,
    Tensor,
    activation,
    evaluate,
    flops,
    load,
    names,
    read,
    tiled_activation,
)

# (model, component): parameters, and who says so. Weight files of the hub are counted at two bytes a number.
PUBLISHED: dict[tuple[str, str], tuple[float, str]] = {
    ("flux-schnell", "transformer"): (11.90e9, "flux1-schnell.safetensors, 23.8 GB"),
    ("flux-dev", "transformer"): (11.90e9, "flux1-dev.safetensors, 23.8 GB; the card says 12 billion"),
    ("flux-dev", "text_encoder"): (
        123e6,
        "the text model of openai/clip-vit-large-patch14; text_encoder of FLUX.1, 246 MB",
    ),
    ("flux-dev", "text_encoder_2"): (4.76e9, "the encoder of google/t5-v1_1-xxl; text_encoder_2 of FLUX.1, 9.5 GB"),
    ("flux-dev", "vae"): (83.8e6, "ae.safetensors, 335 MB in F32"),
    ("flux2-dev", "transformer"): (32e9, "the card: 32 billion parameters"),
    ("flux2-dev", "text_encoder"): (24.0e9, "Mistral Small 3.2, 24B: its model card"),
    ("flux2-klein-4b", "transformer"): (3.88e9, "the card: 4B; flux-2-klein-4b.safetensors, 7.75 GB"),
    ("flux2-klein-4b", "text_encoder"): (4.02e9, "Qwen3-4B: parameters on its hub page"),
    ("flux2-klein-9b", "transformer"): (9.08e9, "the card: 9B; flux-2-klein-9b.safetensors, 18.2 GB"),
    ("flux2-klein-9b", "text_encoder"): (8.19e9, "Qwen3-8B: 8.2B on its model card"),
    ("sd15", "unet"): (860e6, "the card of CompVis/stable-diffusion: an 860M UNet"),
    ("sd15", "text_encoder"): (123e6, "the card of CompVis/stable-diffusion: a 123M CLIP text encoder"),
    ("sdxl", "unet"): (2.567e9, "unet/diffusion_pytorch_model.fp16.safetensors, 5.14 GB; the paper says 2.6B"),
    ("sdxl", "text_encoder_2"): (694.7e6, "text_encoder_2/model.fp16.safetensors, 1.39 GB"),
    ("sd35-large", "transformer"): (8.06e9, "the hub's page: 8.06B; the announcement says 8.1 billion"),
    ("sd35-medium", "transformer"): (2.47e9, "the hub's page; the announcement says 2.5 billion"),
    ("z-image-turbo", "transformer"): (6.15e9, "the paper: S3-DiT of 6.15B"),
    ("z-image-turbo", "text_encoder"): (4.02e9, "Qwen3-4B: parameters on its hub page"),
    ("qwen-image", "transformer"): (20.43e9, "the hub's page: 20.4B; the report says 20B"),
    ("qwen-image", "text_encoder"): (8.29e9, "Qwen2.5-VL-7B-Instruct: parameters on its hub page"),
    ("qwen-image", "vae"): (127e6, "the report: 54M of the encoder and 73M of the decoder"),
    ("wan22-a14b", "transformer"): (14.29e9, "the hub's page of Wan2.1-T2V-14B: 14.3B"),
    ("wan22-a14b", "transformer_2"): (14.29e9, "as the other expert: 27B together, 14B active"),
    ("wan22-a14b", "text_encoder"): (5.68e9, "models_t5_umt5-xxl-enc-bf16.pth, 11.36 GB"),
    ("wan22-a14b", "vae"): (127e6, "the report on Wan2.1: a VAE of 127M"),
    ("wan22-5b", "transformer"): (5.0e9, "the hub's page: 5.0B"),
    ("wan22-5b", "vae"): (704.7e6, "Wan2.2_VAE.pth, 2.82 GB in F32"),
    ("ltx-video", "transformer"): (1.92e9, "the report: 1.9B"),
    ("ltx2", "transformer"): (18.9e9, "the report: 19B, 14B for video and 5B for sound"),
    ("ltx2", "text_encoder"): (12.19e9, "gemma-3-12b-it: 12.2B on its hub page"),
    ("stable-audio-open", "transformer"): (1.057e9, "the card: a DiT of 1057M"),
    ("stable-audio-open", "vae"): (156e6, "the card: an autoencoder of 156M"),
    ("stable-audio-open", "text_encoder"): (109e6, "the card: a T5 of 109M"),
}

# The part of a transformer that is modulation of its blocks; DiffusionKit's for FLUX.1, a count of each state dict's.
FOLDABLE = {"flux-dev": 0.271, "flux-schnell": 0.271, "qwen-image": 0.333, "sd35-large": 0.332}

EVERY = names()


@pytest.mark.parametrize(("model", "component"), PUBLISHED)
def test_parameters_are_those_published(model: str, component: str) -> None:
    profile = load(model).components[component]
    # SD3 files keep a table of sines beside the parameters; Medium's page counts it, Large's does not
    tables = sum(_size(tensor) for tensor in profile.rest.tensors if tensor.name == "pos_embed.pos_embed")
    counted = profile.parameters - (tables if model == "sd35-large" else 0)
    assert counted == pytest.approx(PUBLISHED[model, component][0], rel=0.02)


@pytest.mark.parametrize("model", FOLDABLE)
def test_the_foldable_part_is_the_published_one(model: str) -> None:
    profile = load(model).components["transformer"]
    blocks = [(tensor, count) for kind, count in profile.order for tensor in profile.kinds[kind].tensors]
    modulation = sum(_size(tensor) * count for tensor, count in blocks if tensor.role == "modulation")
    tables = sum(_size(tensor) for tensor in profile.rest.tensors if tensor.name == "pos_embed.pos_embed")
    assert modulation / (profile.parameters - tables) == pytest.approx(FOLDABLE[model], abs=0.001)


def _size(tensor: Tensor) -> int:
    product = 1
    for extent in tensor.shape:
        product *= extent
    return product


@pytest.mark.parametrize("name", EVERY)
def test_a_shipped_profile_is_whole(name: str) -> None:
    profile = load(name)
    assert profile.name == name
    named = {component for need in profile.phases for component in need.components}
    assert named == set(profile.components)
    phases = [need.phase for need in profile.phases]
    assert phases == sorted(phases, key=list(Phase).index)
    # the experts of a model share its steps; a sampling of its own has its own number or all of them
    assert all(need.share == 1 for need in profile.phases) or sum(
        need.share for need in profile.phases if need.phase is Phase.DENOISE
    ) == pytest.approx(1)
    assert set(profile.sources) & {"components", *profile.components}
    variables = _default(profile)
    for component in profile.components.values():
        assert set(component.kinds) == {kind for kind, _ in component.order}
        assert component.parameters > 0
        assert flops(component, variables) > 0
        assert activation(component, variables) > 0
        assert activation(component, variables, kernel="math") >= activation(component, variables)


def _default(profile: ModelProfile) -> dict[str, float]:
    limits = profile.defaults
    area = max(1, limits.width // limits.spatial) * max(1, limits.height // limits.spatial)
    frames = (limits.frames - 1) // limits.temporal + 1
    if limits.positions_per_second:
        area, frames = 1, round((limits.seconds or 0) * limits.positions_per_second)
    return {"N": float(area * frames), "A": float(area), "T": float(limits.text_tokens)}


def test_every_model_that_was_promised_ships() -> None:
    assert {"flux-dev", "flux-schnell", "flux2-dev", "flux2-klein-4b", "flux2-klein-9b"} <= set(EVERY)
    assert {"sd15", "sdxl", "sd35-large", "sd35-medium", "qwen-image", "z-image-turbo", "starter"} <= set(EVERY)
    assert {"ltx-video", "ltx2", "stable-audio-open", "wan22-5b", "wan22-a14b"} <= set(EVERY)


def test_a_polynomial_is_evaluated() -> None:
    variables = {"N": 6.0, "A": 2.0, "T": 5.0}
    assert evaluate({"1": 1.0, "N": 2.0, "N*T": 0.5, "F": 10.0}, variables) == 1 + 12 + 15 + 30
    assert evaluate({}, variables) == 0


COMPONENT = ComponentProfile(
    class_name="Some",
    kinds={
        "a": BlockKind(tensors=[Tensor("w", (4, 6), "linear"), Tensor("b", (4,), "keep")], flops={"N": 2.0}),
        "b": BlockKind(tensors=[Tensor("w", (3, 4), "modulation")], flops={"1": 7.0}),
    },
    order=[("a", 2), ("b", 1), ("a", 1)],
    rest=BlockKind(tensors=[Tensor("embed", (10, 4), "embedding")], flops={"T": 1.0}),
    activation={"A": 100.0},
    attention_matrix={"1": -50.0, "A*A": 1.0},
    encode_activation={"A": 80.0},
    output={"N": 3.0},
)


def test_what_follows_from_a_profile() -> None:
    variables = {"N": 10.0, "A": 5.0, "T": 1.0}
    assert COMPONENT.parameters == 3 * 28 + 12 + 40
    assert flops(COMPONENT, variables) == 3 * 20 + 7 + 1
    assert activation(COMPONENT, variables) == 500
    assert activation(COMPONENT, variables, batch=3) == 1500
    assert activation(COMPONENT, variables, kernel="math") == 500  # 25 - 50: something else makes the peak
    assert activation(COMPONENT, {**variables, "A": 10.0}, kernel="math") == 1050
    assert activation(COMPONENT, variables, encode=True) == 400


def test_tiles_need_what_one_needs_and_what_is_kept() -> None:
    variables = {"N": 200.0, "A": 100.0, "T": 0.0}
    assert tiled_activation(COMPONENT, variables, 20) == activation(COMPONENT, variables)  # one tile: the whole
    one, whole = 400, 600
    assert tiled_activation(COMPONENT, variables, 2) == round(max(one + whole / 0.75**2, 4.7 * whole))


def test_an_unknown_model_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=re.escape("did you mean")):
        load("flux-schnel")
    with pytest.raises(UserError, match="known: "):
        load("?")


def test_a_damaged_profile_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        read(tmp_path / "missing.json")
    (tmp_path / "half.json").write_text('{"name": "a"')
    with pytest.raises(ModelFileError, match="no model profile"):
        read(tmp_path / "half.json")
