"""Pictures from other programs' files are those of the folder whose configs they are used with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.torch import load_file, save_file

from core.engine.client import Client
from core.messages import How
from core.models import catalogue
from core.precision import decode, encode
from tests.core.conversion.test_whole_pictures import engine, picture, streamed
from tests.core.conversion.written import convert
from tests.core.models.originals import Numbers, checkpoint, sdxl, weights

Tiny = Callable[[str], Path]


@pytest.fixture
def card(home: Path) -> Iterator[Client]:
    with engine("emulated") as running:
        yield running


@pytest.mark.parametrize("family", ["flux", "z_image", "qwen_image", "flux2_klein", "wan", "ltx"])
def test_a_network_alone(family: str, card: Client, tiny: Tiny, tmp_path: Path) -> None:
    catalogue.add(tiny(family))
    file = checkpoint(tiny(family), ["transformer"], tmp_path / "a.safetensors")
    expected = picture(card, tiny(family), How(cache=False))
    found = picture(card, file, How(cache=False))
    assert found.pixels_sha256 == expected.pixels_sha256
    assert found.fingerprint != expected.fingerprint
    assert picture(card, file, streamed()).pixels_sha256 == expected.pixels_sha256


def test_a_packed_network_alone_and_what_is_packed_of_one(card: Client, tiny: Tiny, tmp_path: Path) -> None:
    base = _with(tiny("flux"), tmp_path / "base", "transformer", lambda tensor: tensor.bfloat16())
    catalogue.add(base)
    convert(base, "-o", tmp_path / "packed.gguf", "--component", "transformer", "--format", "Q8_0")
    file = checkpoint(base, ["transformer"], tmp_path / "plain.safetensors")
    asked = How(cache=False, formats={"transformer": "Q8_0"})
    expected = picture(card, base, asked)
    for found in (picture(card, tmp_path / "packed.gguf", How(cache=False)), picture(card, file, asked)):
        assert found.components["transformer"].format == "Q8_0"
        assert found.components["transformer"].bytes == expected.components["transformer"].bytes
        assert found.pixels_sha256 == expected.pixels_sha256


def test_f8_with_factors(card: Client, tiny: Tiny, tmp_path: Path) -> None:
    """As ComfyUI's files of scaled F8."""

    def scaled(tensors: Numbers) -> Numbers:
        found: Numbers = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
        for name, tensor in tensors.items():
            found[name] = tensor
            if _is_matrix(name, tensor):
                found[name] = (tensor * 2).to(torch.float8_e4m3fn)
                found[name.replace(".weight", ".scale_weight")] = torch.tensor(0.5)
        return found

    base = shutil.copytree(tiny("z_image"), tmp_path / "base")
    rounded = {
        name: (tensor * 2).to(torch.float8_e4m3fn).float() / 2 if _is_matrix(name, tensor) else tensor
        for name, tensor in weights(tiny("z_image"), "transformer").items()
    }
    save_file(rounded, next((base / "transformer").glob("*.safetensors")), {"format": "pt"})
    catalogue.add(base)
    file = checkpoint(tiny("z_image"), ["transformer"], tmp_path / "a.safetensors", change=scaled)
    found, expected = picture(card, file, How(cache=False)), picture(card, base, How(cache=False))
    assert found.pixels_sha256 == expected.pixels_sha256
    assert found.components["transformer"].bytes < expected.components["transformer"].bytes


def _is_matrix(name: str, tensor: torch.Tensor) -> bool:
    return name.startswith("layers.") and name.endswith(".weight") and tensor.dim() == 2


@pytest.mark.parametrize("kind", ["emulated", "cpu"])
def test_a_whole_checkpoint(kind: str, home: Path, tiny: Tiny, tmp_path: Path) -> None:
    catalogue.add(tiny("sdxl"))
    file = sdxl(tiny("sdxl"), tmp_path / "sd_xl.safetensors")
    with engine(kind) as running:
        expected = picture(running, tiny("sdxl"), How(cache=False))
        assert picture(running, file, How(cache=False)).pixels_sha256 == expected.pixels_sha256


def test_kernels_that_blocks_go_across(card: Client, tiny: Tiny, tmp_path: Path) -> None:
    """ComfyUI-GGUF's converter brings a UNet's tensors into rows of 256 and keeps their shapes beside."""
    plain = checkpoint(tiny("sdxl"), ["unet"], tmp_path / "plain.safetensors")
    _reshape(plain, tmp_path / "unet.gguf")
    base = _with(tiny("sdxl"), tmp_path / "base", "unet", _through_rows_of_256)
    catalogue.add(base)
    expected = picture(card, base, How(cache=False))
    found = picture(card, tmp_path / "unet.gguf", How(cache=False))
    assert found.pixels_sha256 == expected.pixels_sha256
    assert picture(card, tmp_path / "unet.gguf", streamed("unet")).pixels_sha256 == expected.pixels_sha256


def _is_reshaped(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 4 and tensor.numel() % 256 == 0


def _through_rows_of_256(tensor: torch.Tensor) -> torch.Tensor:
    if not _is_reshaped(tensor):
        return tensor
    packed = encode(tensor.float().reshape(-1, 256), "Q8_0")
    return decode(packed, "Q8_0", (tensor.numel(),)).reshape(tensor.shape)


def _reshape(plain: Path, out: Path) -> None:
    writer = GGUFWriter(out, "sdxl")
    for name, tensor in load_file(plain).items():
        if _is_reshaped(tensor):
            packed = encode(tensor.float().reshape(-1, 256), "Q8_0")
            writer.add_array(f"comfy.gguf.orig_shape.{name}", [*map(int, tensor.shape)])
            writer.add_tensor(name, packed.numpy(), raw_dtype=GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert sum(1 for entry in gguf.GGUFReader(out).tensors if entry.tensor_type.name == "Q8_0") > 20


def _with(folder: Path, copy: Path, component: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """The same model, one component of it changed."""
    shutil.copytree(folder, copy)
    changed = {name: change(tensor) for name, tensor in weights(folder, component).items()}
    save_file(changed, next((copy / component).glob("*.safetensors")), {"format": "pt"})
    return copy
