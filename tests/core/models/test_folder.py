"""A model folder is understood without torch, and what is wrong with it is said by file."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core.messages import ModelFileError, UserError
from core.models import catalogue
from core.models.folder import read_folder
from core.models.info import Clip, Defaults

Tiny = Callable[[str], Path]


@pytest.fixture
def flux(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny("flux"), tmp_path / "flux"))


def test_components_and_their_bytes(flux: Path) -> None:
    info = read_folder(flux)
    assert info.family == "FluxPipeline"
    assert set(info.networks) == {"text_encoder", "text_encoder_2", "transformer", "vae"}
    assert info.size_multiple == 16
    vae = info.components["vae"]
    assert vae.types == {"F32": vae.bytes}
    assert vae.bytes == 4 * vae.parameters > 0


def test_the_fingerprint_follows_the_files(flux: Path, tiny: Tiny) -> None:
    before = read_folder(flux).fingerprint
    assert before == read_folder(tiny("flux")).fingerprint
    weights = flux / "vae" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    spaced = struct.pack("<Q", length + 1) + data[8 : 8 + length] + b" " + data[8 + length :]
    for changed in (data[:-4] + b"\1\2\3\4", spaced):
        weights.write_bytes(changed)
        assert read_folder(flux).fingerprint != before
    weights.write_bytes(data)
    assert read_folder(flux).fingerprint == before
    config = flux / "tokenizer" / "tokenizer_config.json"
    config.write_text(config.read_text() + "\n")
    assert read_folder(flux).fingerprint != before


@pytest.mark.parametrize(
    ("family", "multiple", "clip"),
    [
        ("sdxl", 8, None),
        ("sd3", 16, None),
        ("z_image", 16, None),
        ("qwen_image", 16, None),
        ("flux2", 16, None),
        ("wan", 16, Clip(fps=16, temporal=4)),
        ("wan22", 16, Clip(fps=16, temporal=4)),
        ("wan22_5b", 32, Clip(fps=24, temporal=4)),
        ("ltx", 32, Clip(fps=25, temporal=8)),
    ],
)
def test_sizes_and_frames_are_what_the_family_compresses(
    tiny: Tiny, family: str, multiple: int, clip: Clip | None
) -> None:
    info = read_folder(tiny(family))
    assert (info.size_multiple, info.clip) == (multiple, clip)


def test_what_a_family_defaults_to_gives_way_to_the_folders_own(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("wan"), tmp_path / "wan"))
    assert read_folder(folder).defaults == Defaults(width=832, height=480, frames=81, steps=50)
    assert read_folder(tiny("wan22_5b")).defaults.frames == 121
    assert read_folder(tiny("flux2_klein")).defaults.steps == 4
    (folder / "residency.json").write_text('{"defaults": {"frames": 33, "guidance": 6.0}}')
    expected = Defaults(width=832, height=480, frames=33, steps=50, guidance=6.0)
    assert read_folder(folder).defaults == expected


def test_a_truncated_weight_file_is_named(flux: Path) -> None:
    weights = flux / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match=r"transformer.*truncated"):
        read_folder(flux)


def test_pickled_weights_are_refused(flux: Path) -> None:
    (flux / "vae" / "diffusion_pytorch_model.safetensors").rename(flux / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelFileError, match="pickle"):
        read_folder(flux)


def test_a_missing_component_is_named(flux: Path) -> None:
    shutil.rmtree(flux / "text_encoder_2")
    with pytest.raises(ModelFileError, match="text_encoder_2"):
        read_folder(flux)


def test_a_shard_outside_the_folder_is_refused(flux: Path) -> None:
    index = {"weight_map": {"a": "../../secret.safetensors"}}
    (flux / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match="outside"):
        read_folder(flux)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"_class_name": 3}', "\x00"])
def test_a_damaged_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"model_index\.json"):
        read_folder(tmp_path)


def test_what_is_no_model_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_folder(tmp_path / "missing")
    with pytest.raises(UserError, match=r"model_index\.json"):
        read_folder(tmp_path)


def test_an_unknown_name_suggests_the_nearest(home: Path) -> None:
    with pytest.raises(UserError, match="did you mean starter"):
        catalogue.find("startr")
    with pytest.raises(UserError, match="known models"):
        catalogue.find("zzz")


def test_a_model_can_be_added_found_and_removed(home: Path, flux: Path) -> None:
    assert catalogue.add(flux).name == "flux"
    assert catalogue.find("flux").path == flux
    catalogue.remove("flux")
    with pytest.raises(UserError):
        catalogue.find("flux")
    with pytest.raises(UserError):
        catalogue.remove("starter")


def test_a_second_model_of_the_same_name_gets_a_number(home: Path, flux: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(flux, tmp_path / "elsewhere" / "flux"))
    assert [catalogue.add(folder).name for folder in (flux, twin, flux)] == ["flux", "flux 2", "flux"]
    assert catalogue.find("flux 2").path == twin
    shutil.copytree(twin, tmp_path / "starter")
    assert catalogue.add(tmp_path / "starter").name == "starter 2"


def test_models_are_read_without_torch(tiny: Tiny) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom core.models.folder import read_folder\n"
        f"read_folder(Path({str(tiny('flux'))!r}))\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
