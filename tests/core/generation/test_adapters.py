"""LoRA files of every trainer's naming land on the layers they were made for, and give the library's own picture."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from core.engine import InProcessEngine
from core.engine.client import Client
from core.generation import adapters
from core.generation.pipeline import Pipeline, build
from core.hardware.accelerator import TorchAccelerator
from core.library import metadata
from core.messages import Adapter, Failed, ModelFileError, Request, Result
from core.models.folder import read_folder
from core.residency.adapters import Branch
from core.residency.slabs import Piece
from core.residency.store import FileTensor, MemoryTensor
from core.resources import resource
from tests.events import result_of, wait_for
from tests.tiny_loras import RANK, write

PROMPT = "a red house by the sea"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIDENCY_HOME", str(tmp_path_factory.mktemp("home")))
        engine = InProcessEngine(accelerator="cpu")
        engine.start()
        yield engine
        engine.close()


def pipeline_of(folder: Path) -> Pipeline:
    return build(read_folder(folder), TorchAccelerator("cpu", "CPU"))


def numbers(branch: Branch, which: str) -> torch.Tensor:
    """A matrix of a branch, read as it is when it is needed."""
    matrix = branch.matrices[which]
    target = torch.empty(torch.Size(matrix.shape).numel() * 4, dtype=torch.uint8)
    matrix.source.read(Piece(which, matrix.shape, torch.float32, 0), target)
    return target.view(torch.float32).view(matrix.shape)


def change(branch: Branch) -> torch.Tensor:
    """What a branch would change of a linear layer's weight."""
    return branch.scale * numbers(branch, "lora_B") @ numbers(branch, "lora_A")


def branches_of(file: Path, pipeline: Pipeline, component: str) -> dict[str, Branch]:
    return {branch.layer: branch for branch in adapters.load(file, pipeline).components[component].branches}


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bare", ["transformer.", "", "base_model.model.", "diffusion_model."])
def test_whatever_stands_before_the_names(bare: str, home: Path, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    """SD3 has no conversion in the library; peft's and ComfyUI's prefixes are known all the same."""
    folder = tiny("sd3")
    file = write(tmp_path / "a.safetensors", folder, ("transformer",))
    tensors = load_file(file)
    save_file({bare + key.removeprefix("transformer."): value for key, value in tensors.items()}, file)
    pipeline = pipeline_of(folder)
    found = branches_of(file, pipeline, "transformer")
    linear = [n for n, layer in pipeline.skeletons["transformer"].named_modules() if isinstance(layer, nn.Linear)]
    assert set(found) == set(linear)
    for layer, branch in found.items():
        assert branch.scale == 1
        for name in ("lora_A", "lora_B"):
            assert isinstance(branch.matrices[name].source, FileTensor)  # nothing is kept in host memory
            assert torch.equal(numbers(branch, name), tensors[f"transformer.{layer}.{name}.weight"])


def test_kohyas_names_and_alphas(home: Path, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    folder, components = tiny("sdxl"), ("unet", "text_encoder", "text_encoder_2")
    plain = write(tmp_path / "plain.safetensors", folder, components, convolutions=True)
    kohya = write(tmp_path / "kohya.safetensors", folder, components, convolutions=True, naming="kohya")
    pipeline = pipeline_of(folder)
    for component in components:
        one, two = (branches_of(file, pipeline, component) for file in (plain, kohya))
        assert one.keys() == two.keys()
        for layer, branch in one.items():
            assert two[layer].scale == 0.5
            assert torch.equal(numbers(branch, "lora_A"), numbers(two[layer], "lora_A"))
            assert torch.equal(branch.scale * numbers(branch, "lora_B"), 0.5 * numbers(two[layer], "lora_B"))


def test_sdxl_in_the_names_of_its_makers(home: Path, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    down, up = torch.randn(4, 32), torch.randn(32, 4)
    parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(1.0)}
    name = "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q"
    save_file({f"{name}.{part}": value for part, value in parts.items()}, tmp_path / "a.safetensors")
    found = branches_of(tmp_path / "a.safetensors", pipeline_of(tiny("sdxl")), "unet")
    (branch,) = found.values()
    assert branch.layer == "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert torch.allclose(change(branch), up @ down / 4)


def test_flux_in_the_names_of_its_makers(home: Path, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    """kohya trains layers that diffusers has cut: the pieces add up to the whole."""
    torch.manual_seed(0)
    rank, alpha, size = 4, 2.0, 32
    made = {
        "double_blocks_0_img_attn_qkv": (3 * size, size),
        "double_blocks_1_txt_mlp_0": (4 * size, size),
        "double_blocks_0_img_mod_lin": (6 * size, size),
        "single_blocks_0_linear2": (size, 5 * size),
    }
    tensors = {}
    for name, (out, into) in made.items():
        tensors[f"lora_unet_{name}.lora_down.weight"] = torch.randn(rank, into)
        tensors[f"lora_unet_{name}.lora_up.weight"] = torch.randn(out, rank)
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "a.safetensors")
    found = branches_of(tmp_path / "a.safetensors", pipeline_of(tiny("flux")), "transformer")

    def whole(name: str) -> torch.Tensor:
        up, down = (tensors[f"lora_unet_{name}.lora_{part}.weight"] for part in ("up", "down"))
        return alpha / rank * up @ down

    cut = {
        "double_blocks_0_img_attn_qkv": [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"],
        "double_blocks_1_txt_mlp_0": ["transformer_blocks.1.ff_context.net.0.proj"],
        "double_blocks_0_img_mod_lin": ["transformer_blocks.0.norm1.linear"],
        "single_blocks_0_linear2": ["single_transformer_blocks.0.proj_out"],
    }
    for name, layers in cut.items():
        assert torch.allclose(torch.cat([change(found[layer]) for layer in layers]), whole(name), atol=1e-5)
    assert sum(len(layers) for layers in cut.values()) == len(found)
    sources = {type(matrix.source) for branch in found.values() for matrix in branch.matrices.values()}
    assert MemoryTensor in sources  # what the conversion computed is in no file


def test_flux_in_xlabs_names(home: Path, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    down, up = torch.randn(4, 32), torch.randn(96, 4)
    prefix = "double_blocks.0.processor.qkv_lora1"
    save_file({f"{prefix}.down.weight": down, f"{prefix}.up.weight": up}, tmp_path / "a.safetensors")
    found = branches_of(tmp_path / "a.safetensors", pipeline_of(tiny("flux")), "transformer")
    together = torch.cat([change(found[f"transformer_blocks.0.attn.to_{part}"]) for part in "qkv"])
    assert torch.allclose(together, up @ down, atol=1e-5)


def test_pefts_config_says_how_strong(home: Path, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny("flux")
    file = write(tmp_path / "a.safetensors", folder, ("transformer",))
    config = {"transformer.lora_alpha": 8, "transformer.r": RANK, "transformer.alpha_pattern": {"attn.to_k": 1}}
    for more, root in (({}, 1.0), ({"transformer.use_rslora": True}, RANK**0.5)):
        save_file(load_file(file), file, {"lora_adapter_metadata": json.dumps(config | more)})
        found = branches_of(file, pipeline_of(folder), "transformer")
        assert found["transformer_blocks.0.attn.to_q"].scale == 8 / RANK * root
        assert found["transformer_blocks.0.attn.to_k"].scale == 1 / RANK * root


def test_what_does_not_fit_says_why(home: Path, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    wide = write(file, resource("starter", "model"), ("transformer",))
    with pytest.raises(ModelFileError, match=r"a\.safetensors was made for another model than flux.*weight is \[\d+"):
        adapters.load(wide, pipeline_of(tiny("flux")))
    other = write(file, tiny("sdxl"), ("unet",))
    for family in ("flux", "qwen_image"):
        with pytest.raises(ModelFileError, match=f"made for another model than {family}"):
            adapters.load(other, pipeline_of(tiny(family)))
    tensors = load_file(write(file, tiny("flux"), ("transformer",)))
    save_file(tensors | {"transformer.nowhere.lora_A.weight": torch.ones(1, 1),
                         "transformer.nowhere.lora_B.weight": torch.ones(1, 1)}, file)  # fmt: skip
    loaded = adapters.load(file, pipeline_of(tiny("flux")))
    assert (loaded.unused, loaded.layers) == (1, len(tensors) // 2 + 1)


# -- pictures ---------------------------------------------------------------------------------------------------------


def picture(engine: Client, folder: Path, loras: tuple[Adapter, ...], out: Path) -> Result:
    request = Request(
        prompt=PROMPT, model=str(folder), seed=7, steps=3, width=64, height=48, out=str(out), loras=loras, guidance=3.5
    )
    engine.submit(request)
    return result_of(engine, request.id)


ORACLE = {
    "flux": (("transformer", "text_encoder"), {"guidance_scale": 3.5}),
    "sdxl": (("unet", "text_encoder", "text_encoder_2"), {"guidance_scale": 3.5}),
    "sd3": (("transformer", "text_encoder"), {"guidance_scale": 3.5}),
    "z_image": (("transformer",), {"guidance_scale": 3.5}),
    "qwen_image": (("transformer",), {"true_cfg_scale": 3.5}),
}


@pytest.mark.parametrize("family", ORACLE)
def test_pictures_are_those_of_the_library_with_peft(
    family: str, tiny: Callable[[str], Path], engine: Client, tmp_path: Path
) -> None:
    """At most 2 of 255 apart: peft rounds B(A(x)) before it adds it, and some stock pipelines batch guided passes."""
    components, arguments = ORACLE[family]
    folder = tiny(family)
    one = write(tmp_path / "one.safetensors", folder, components, convolutions=family == "sdxl")
    two = write(tmp_path / "two.safetensors", folder, components[:1], seed=1)
    out = tmp_path / "a.png"
    plain = picture(engine, folder, (), out)
    result = picture(engine, folder, (Adapter(str(one), 0.8), Adapter(str(two), -0.5)), out)
    assert result.pixels_sha256 != plain.pixels_sha256

    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    with warnings.catch_warnings(action="ignore"):  # that there are two
        pipeline.load_lora_weights(one, adapter_name="one")
        pipeline.load_lora_weights(two, adapter_name="two")
        pipeline.set_adapters(["one", "two"], [0.8, -0.5])
    stock = pipeline(
        prompt=PROMPT,
        num_inference_steps=3,
        width=64,
        height=48,
        generator=torch.Generator("cpu").manual_seed(7),
        **arguments,
    ).images[0]
    with Image.open(out) as image:
        difference = np.abs(np.asarray(image).astype(int) - np.asarray(stock.convert("RGB")).astype(int))
    assert difference.max() <= 2
    assert difference.mean() < 0.05


def test_a_result_says_and_restores_its_loras(engine: Client, tmp_path: Path) -> None:
    folder = resource("starter", "model")
    file = write(tmp_path / "water.safetensors", folder, ("transformer", "text_encoder"))
    out = tmp_path / "a.png"
    result = picture(engine, folder, (Adapter(str(file), 0.6),), out)
    (used,) = result.loras
    assert (used.file, used.weight, len(used.sha256)) == (str(file), 0.6, 64)
    shared = metadata.read_result(out)
    assert shared is not None
    assert shared.loras == (Adapter("water.safetensors", 0.6, used.sha256),)  # nobody learns where it lay
    assert str(tmp_path) not in out.read_bytes().decode(errors="ignore")
    again = shared.request()
    assert again.loras == shared.loras
    found = picture(engine, folder, again.loras, tmp_path / "b.png")  # it is found by its content
    assert found.pixels_sha256 == result.pixels_sha256
    assert any("water beside the transformer" in reason for reason in found.reasons)


def test_encodings_depend_on_what_is_beside_encoders(engine: Client, tmp_path: Path) -> None:
    """Only a LoRA of an encoder encodes the text anew; the weight counts, too."""
    folder = resource("starter", "model")
    encoder = write(tmp_path / "a.safetensors", folder, ("text_encoder",), strength=4.0)
    denoiser = write(tmp_path / "b.safetensors", folder, ("transformer",))

    def encoded(*loras: Adapter) -> tuple[bool, str]:
        result = picture(engine, folder, loras, tmp_path / "a.png")
        return result.seconds["encode"] > 0, result.pixels_sha256

    plain = encoded()[1]
    assert encoded() == (False, plain)
    first, changed = encoded(Adapter(str(encoder)))
    assert first
    assert changed != plain
    assert encoded(Adapter(str(encoder), 0.5))[0]
    assert encoded(Adapter(str(encoder))) == (False, changed)
    assert encoded(Adapter(str(denoiser)))[0] is False


def test_errors_reach_the_person(engine: Client, tmp_path: Path, tiny: Callable[[str], Path]) -> None:
    file = write(tmp_path / "a.safetensors", tiny("sdxl"), ("unet",))
    request = Request(prompt=PROMPT, steps=1, draft=True, loras=(Adapter(str(file)),))
    engine.submit(request)
    failed = wait_for(engine, Failed)
    assert failed.id == request.id
    assert "a.safetensors was made for another model than starter" in failed.sentence
    assert "\n" not in failed.sentence
