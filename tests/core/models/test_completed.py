"""Files of weights that other programs use, opened together with the folder of a model that they fit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.loaders import single_file_utils as theirs
from safetensors.torch import load_file, save_file

from core import cli, folders
from core.messages import ModelFileError, ResidencyError, UserError
from core.models import catalogue
from core.models.completed import complete
from core.models.info import ModelInfo
from core.models.stored import stored_tensors
from core.precision import decode
from tests.core.conversion.written import convert
from tests.core.models.mutations import mutate
from tests.core.models.originals import Numbers, checkpoint, open_clip, sdxl, weights

Tiny = Callable[[str], Path]


@pytest.fixture(autouse=True)
def own_home(home: Path) -> None:
    """User folders of this test alone."""


def numbers(info: ModelInfo, component: str) -> Numbers:
    """A component's tensors, read from wherever they are."""
    found = {}
    for name, tensor in stored_tensors(info.components[component]).items():
        raw = b"".join(part.file.read_bytes()[part.start : part.end] for part in tensor.ranges)
        found[name] = (
            torch.frombuffer(bytearray(raw), dtype=torch.int64).reshape(tensor.shape)
            if tensor.type == "I64"
            else decode(torch.frombuffer(bytearray(raw), dtype=torch.uint8), tensor.type, tensor.shape)
        )
    return found


def assert_same(found: Numbers, expected: Numbers) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    "family",
    ["flux", "sd3", "z_image", "qwen_image", "flux2", "flux2_klein", "wan", "wan22_5b", "ltx", "sdxl"],
)
def test_a_network_alone_with_the_folder_that_it_fits(tiny: Tiny, tmp_path: Path, family: str) -> None:
    name = "unet" if family == "sdxl" else "transformer"
    file = checkpoint(tiny(family), [name], tmp_path / "a.safetensors")
    for other in ("flux", "sdxl", "z_image"):  # which it does not fit
        if other != family:
            catalogue.add(tiny(other))
    with pytest.raises(UserError, match="holds weights, but no whole model"):
        catalogue.find(str(file))
    catalogue.add(tiny(family))
    info = catalogue.find(str(file))
    assert (info.name, info.file, info.base.name if info.base else "") == ("a", file, tiny(family).name)
    assert_same(numbers(info, name), weights(tiny(family), name))
    assert info.components["vae"] == catalogue.find(tiny(family).name).components["vae"]
    assert info.fingerprint != info.base.fingerprint if info.base else False


def test_a_packed_network_alone(tiny: Tiny, tmp_path: Path) -> None:
    convert(tiny("flux"), "-o", tmp_path / "a.gguf", "--component", "transformer", "--format", "Q8_0")
    catalogue.add(tiny("flux"))
    info = catalogue.add(tmp_path / "a.gguf")
    assert info.components["transformer"].types.keys() == {"Q8_0", "BF16", "F32"}
    found, expected = numbers(info, "transformer"), weights(tiny("flux"), "transformer")
    assert all(torch.allclose(found[name], expected[name], atol=2e-2) for name in expected)


def test_factors_go_with_the_rows_that_they_belong_to(tiny: Tiny, tmp_path: Path) -> None:
    def in_f8(tensors: Numbers) -> Numbers:
        found = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn), **tensors}
        one, each = "layers.0.attention.qkv.weight", "layers.1.attention.qkv.weight"
        found[one], found[each] = (tensors[name].to(torch.float8_e4m3fn) for name in (one, each))
        found["layers.0.attention.qkv.scale_weight"] = torch.tensor(2.0)
        found["layers.1.attention.qkv.scale_weight"] = torch.arange(96.0)[:, None]
        return found

    catalogue.add(tiny("z_image"))
    file = checkpoint(tiny("z_image"), ["transformer"], tmp_path / "a.safetensors", change=in_f8)
    found = stored_tensors(catalogue.find(str(file)).components["transformer"])
    for number, part in enumerate("qkv"):
        one, each = (found[f"layers.{layer}.attention.to_{part}.weight"].scale for layer in (0, 1))
        assert one is not None
        assert one.shape == ()
        assert each is not None
        raw = b"".join(part.file.read_bytes()[part.start : part.end] for part in each.ranges)
        assert torch.equal(
            torch.frombuffer(bytearray(raw), dtype=torch.float32), torch.arange(96.0)[32 * number :][:32]
        )


def test_a_whole_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    file = sdxl(tiny("sdxl"), tmp_path / "sd_xl.safetensors")
    # the test's idea of OpenCLIP's names is diffusers' own
    named = {f"p.{name}": tensor for name, tensor in open_clip(weights(tiny("sdxl"), "text_encoder_2")).items()}
    known = {
        name.removeprefix("text_model."): tensor for name, tensor in weights(tiny("sdxl"), "text_encoder_2").items()
    }
    back = theirs.convert_open_clip_checkpoint(_Config(), named, "p.")
    assert {name.removeprefix("text_model.") for name in back} == known.keys()
    assert all(torch.equal(back[name], known[name.removeprefix("text_model.")]) for name in back)

    base = Path(shutil.copytree(tiny("sdxl"), tmp_path / "base"))
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):  # of other weights
        for weight_file in (base / component).glob("*.safetensors"):
            others = {name: tensor + 1 for name, tensor in load_file(weight_file).items()}
            save_file(others, weight_file, {"format": "pt"})
    catalogue.add(base)
    info = catalogue.find(str(file))
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        assert_same(numbers(info, component), weights(tiny("sdxl"), component))
    turned = list((folders.cache() / "models").glob("*.safetensors"))
    assert len(turned) == 1
    turned[0].unlink()  # is made again
    assert_same(numbers(_fresh(file), "text_encoder_2"), weights(tiny("sdxl"), "text_encoder_2"))


class _Config:
    class config:  # noqa: N801  as a model has it
        hidden_size = 32


def _fresh(file: Path) -> ModelInfo:
    catalogue._known.clear()
    return catalogue.find(str(file))


@pytest.mark.parametrize(
    ("prefix", "more"),
    [("", {}), ("model.diffusion_model.", {"scaled_fp8": torch.zeros(2)}), ("transformer.", {}), ("net.", {})],
)
def test_whatever_names_begin_with(tiny: Tiny, tmp_path: Path, prefix: str, more: Numbers) -> None:
    catalogue.add(tiny("z_image"))

    def change(tensors: Numbers) -> Numbers:
        beside = {"norm_final.weight": torch.ones(32), **more}
        return {f"{prefix}{name}": tensor for name, tensor in (tensors | beside).items()}

    file = checkpoint(tiny("z_image"), ["transformer"], tmp_path / "a.safetensors", change=change)
    assert_same(numbers(catalogue.find(str(file)), "transformer"), weights(tiny("z_image"), "transformer"))


def test_the_librarys_own_names(tiny: Tiny, tmp_path: Path) -> None:
    catalogue.add(tiny("flux"))
    save_file(weights(tiny("flux"), "transformer"), tmp_path / "a.safetensors")
    found = numbers(catalogue.find(str(tmp_path / "a.safetensors")), "transformer")
    assert_same(found, weights(tiny("flux"), "transformer"))


def test_a_checkpoint_with_its_text_encoders(tiny: Tiny, tmp_path: Path) -> None:
    """As ComfyUI's files of Flux that have everything in them."""
    prefixes = {
        "transformer": "model.diffusion_model.",
        "text_encoder": "text_encoders.clip_l.transformer.",
        "text_encoder_2": "text_encoders.t5xxl.transformer.",
        "vae": "vae.",
    }
    catalogue.add(tiny("flux"))
    more = {"text_encoders.clip_l.logit_scale": torch.tensor(4.6), "text_encoders.t5xxl.logit_scale": torch.tensor(4.6)}
    file = checkpoint(
        tiny("flux"), list(prefixes), tmp_path / "a.safetensors", prefix=prefixes.__getitem__, change=lambda t: t | more
    )
    info = catalogue.find(str(file))
    for component in prefixes:
        assert info.file_of(component) == file
        assert_same(numbers(info, component), weights(tiny("flux"), component))


@pytest.mark.parametrize(
    ("strange", "said"),
    [("text_encoders.clip_l.transformer.", "a clip_l of its own that does not fit the text_encoder"),
     ("first_stage_model.", "a vae of its own that does not fit the vae"),
     ("model.diffusion_model.", "it has no .* for the transformer|holds no transformer like that of flux")],
)  # fmt: skip
def test_no_network_is_replaced_silently(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], strange: str, said: str
) -> None:
    catalogue.add(tiny("flux"))
    prefixes = {
        "transformer": "model.diffusion_model.",
        "text_encoder": "text_encoders.clip_l.transformer.",
        "vae": "first_stage_model.",
    }

    def renamed(tensors: Numbers) -> Numbers:
        return {
            name.replace(".weight", ".kernel")
            if name.startswith(strange) and "double_blocks.0" not in name
            else name: t
            for name, t in tensors.items()
        }

    file = checkpoint(
        tiny("flux"), list(prefixes), tmp_path / "a.safetensors", prefix=prefixes.__getitem__, change=renamed
    )
    assert cli.main(["models", "add", str(file), "--with", "flux"]) == 2
    assert re.search(said, capsys.readouterr().err)
    with pytest.raises(UserError, match="holds weights, but no whole model"):
        catalogue.add(file)


def test_mutated_files_are_right_or_refused(tiny: Tiny, tmp_path: Path) -> None:
    base = catalogue.add(tiny("z_image"))
    whole = checkpoint(tiny("z_image"), ["transformer"], tmp_path / "a.safetensors").read_bytes()
    bad, header = tmp_path / "b.safetensors", 8 + int.from_bytes(whole[:8], "little")
    refused = opened = 0
    for seed in range(150):
        bad.write_bytes(mutate(whole, seed, header))
        try:
            info = complete(bad, base)
        except ResidencyError as error:
            refused += len(str(error).splitlines()) == 1
        else:
            opened += 1
            assert info.components["transformer"].parameters == base.components["transformer"].parameters
    assert refused + opened == 150
    assert refused > 50


def test_a_network_with_more_in_it_is_another(tiny: Tiny, tmp_path: Path) -> None:
    catalogue.add(tiny("flux"))
    file = checkpoint(
        tiny("flux"),
        ["transformer"],
        tmp_path / "a.safetensors",
        change=lambda tensors: tensors | {"double_blocks.0.extra.weight": torch.zeros(2)},
    )
    with pytest.raises(UserError, match=r"which fits none of your models .*it has more tensors than the transformer"):
        catalogue.find(str(file))


def test_what_is_wrong_is_said_in_one_sentence(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue.add(tiny("flux"))
    catalogue.add(tiny("sdxl"))
    short = checkpoint(
        tiny("flux"), ["transformer"], tmp_path / "short.safetensors",
        change=lambda tensors: {key: tensor for key, tensor in tensors.items() if key != "img_in.bias"},
    )  # fmt: skip
    whole = checkpoint(tiny("flux"), ["transformer"], tmp_path / "a.safetensors")
    save_file({"something.weight": torch.ones(4, 4)}, tmp_path / "other.safetensors")
    capsys.readouterr()
    for words, said in (
        ([short], "it has no img_in.bias for the transformer"),
        ([whole, "--with", tiny("sdxl").name], "a.safetensors is of a FluxPipeline and sdxl is a StableDiffusionXL"),
        ([whole, "--with", "nothing"], "a.safetensors is used with nothing, which cannot be read"),
        ([tiny("flux"), "--with", "flux"], "is a whole model, which needs no other"),
        ([tmp_path / "other.safetensors"], "networks that this version does not know"),
        (["starter", whole], "choose another name"),
        (["flux", whole, "--with", "flux"], "cannot be called that"),
    ):
        assert cli.main(["models", "add", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.strip().splitlines()) == 1


def test_a_name_and_a_base_are_remembered(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = Path(shutil.copytree(tiny("flux"), tmp_path / "one"))
    catalogue.add(first)
    catalogue.add(Path(shutil.copytree(tiny("flux"), tmp_path / "flux-two")))
    file = checkpoint(tiny("flux"), ["transformer"], tmp_path / "flux-two-fine.safetensors")
    assert catalogue.find(str(file)).base.name == "flux-two"  # type: ignore[union-attr]  # called most like it
    assert cli.main(["models", "add", "mine", str(file), "--with", "one"]) == 0
    assert capsys.readouterr().out == "Added mine, used with one.\n"
    mine = catalogue.find("mine")
    assert mine.name == "mine"
    assert mine.base is not None
    assert mine.base.path == first
    assert catalogue.find(str(file)).base == mine.base
    assert catalogue.match("mine", mine.fingerprint) == catalogue.Match("mine")
    # what changes with the base, and what happens when that is gone
    (first / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "FlowMatchEulerDiscreteScheduler"}')
    assert catalogue.find("mine").identity != mine.identity
    shutil.rmtree(first)
    with pytest.raises(UserError, match=r"flux-two-fine\.safetensors is used with one, which cannot be read"):
        catalogue.find("mine")


def test_a_file_in_a_models_folder(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("z_image"), tmp_path / "folder"))
    file = checkpoint(tiny("z_image"), ["transformer"], folder / "transformer" / "fine-tuned.safetensors")
    base = catalogue.find(str(file)).base
    assert base is not None
    assert base.path == folder


def test_one_of_two_experts(tiny: Tiny, tmp_path: Path) -> None:
    catalogue.add(tiny("wan22"))
    file = checkpoint(tiny("wan22"), ["transformer"], tmp_path / "wan.safetensors")
    with pytest.raises(UserError, match="does not say whether it is the network for much noise or for little"):
        catalogue.add(file)
    for name, own in (("Wan2.2-HighNoise", "transformer"), ("wan2.2_low_noise", "transformer_2")):
        named = Path(shutil.copy(file, tmp_path / f"{name}.safetensors"))
        info = catalogue.add(named, base="wan22")
        assert [key for key, part in info.components.items() if part.placed is not None] == [own]
    both = catalogue.add(tmp_path / "wan2.2_low_noise.safetensors", "both", "Wan2.2-HighNoise")
    assert [key for key, part in both.components.items() if part.placed is not None] == ["transformer", "transformer_2"]
    assert both.file_of("transformer") == tmp_path / "Wan2.2-HighNoise.safetensors"
    assert both.file_of("transformer_2") == tmp_path / "wan2.2_low_noise.safetensors"
    assert both.file_of("vae") is None


def test_a_damaged_file(tiny: Tiny, tmp_path: Path) -> None:
    catalogue.add(tiny("flux"))
    file = checkpoint(tiny("flux"), ["transformer"], tmp_path / "a.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelFileError, match="truncated"):
        catalogue.add(file)
