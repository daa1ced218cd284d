"""What is in a file is told from the names and shapes of its tensors, for our own folders and for others' files."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest

from core import cli
from core.messages import ModelFileError, UserError
from core.models.checkpoint import open_checkpoint
from core.models.recognise import recognise, rules

Tiny = Callable[[str], Path]

ORIGINAL = {
    "FluxPipeline": ["double_blocks.0.img_attn.norm.key_norm.scale", "single_blocks.0.linear1.weight"],
    "Flux2Pipeline": ["single_stream_modulation.lin.weight", "double_blocks.0.img_attn.norm.key_norm.scale"],
    "StableDiffusion3Pipeline": ["joint_blocks.0.context_block.adaLN_modulation.1.bias", "pos_embed"],
    "QwenImagePipeline": ["transformer_blocks.0.img_mod.1.weight", "txt_norm.weight"],
    "ZImagePipeline": ["layers.0.adaLN_modulation.0.weight", "noise_refiner.0.adaLN_modulation.0.weight"],
    "WanPipeline": ["head.modulation", "blocks.0.cross_attn.q.weight"],
    "LTXPipeline": ["patchify_proj.weight", "transformer_blocks.0.scale_shift_table"],
}


def write_sparse(path: Path, tensors: dict[str, tuple[int, ...]], kind: str = "BF16", size: int = 2) -> Path:
    """A safetensors file of zeros that takes no room on the disk."""
    header, at = {}, 0
    for name, shape in tensors.items():
        end = at + prod(shape) * size
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return path


@pytest.mark.parametrize("family", ORIGINAL)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_original_names(family: str, prefix: str) -> None:
    found = recognise({prefix + name: (4, 4) for name in ORIGINAL[family]})
    assert found.family == family
    assert set(found.components.values()) == {"transformer"}
    assert set(found.inner.values()) == set(ORIGINAL[family])


@pytest.mark.parametrize(("width", "family"), [(768, "StableDiffusionPipeline"), (1024, "")])
def test_a_unet_is_told_by_the_width_of_its_text(width: int, family: str) -> None:
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    assert recognise({name: (320, width)}).family == family


@pytest.mark.parametrize("family", ["flux", "sdxl", "sd3", "z_image", "qwen_image"])
def test_the_networks_of_our_folders(tiny: Tiny, family: str) -> None:
    folder = tiny(family)
    index = json.loads((folder / "model_index.json").read_text())
    network = "unet" if "unet" in index else "transformer"
    checkpoint = open_checkpoint(folder / network)
    assert checkpoint.class_name == index[network][1]
    assert checkpoint.recognised.family == index["_class_name"]
    assert set(checkpoint.recognised.components.values()) == {network}
    assert set(open_checkpoint(folder / "vae").recognised.components.values()) == {"vae"}


def test_the_rules_cite_their_sources() -> None:
    assert all(rule.source for group in (rules().prefixes, rules().families, rules().parts) for rule in group)


def test_a_single_file_of_20_gb_without_torch(tmp_path: Path) -> None:
    block = {f"model.diffusion_model.double_blocks.{n}.img_mlp.0.weight": (12288, 3072) for n in range(250)}
    marks = {
        "model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale": (128,),
        "model.diffusion_model.single_blocks.0.linear1.weight": (21504, 3072),
    }
    rest = {
        "text_encoders.clip_l.transformer.text_model.x.weight": (768, 768),
        "vae.decoder.conv_in.weight": (8, 8, 3, 3),
    }
    path = write_sparse(tmp_path / "flux.safetensors", block | marks | rest)
    assert path.stat().st_size > 18_000_000_000
    code = (
        "import sys, time; start = time.perf_counter(); from core import cli; code = cli.main(sys.argv[1:]);"
        "print(time.perf_counter() - start, 'torch' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(path), "--json"], capture_output=True, text=True, check=True
    )
    report = json.loads(run.stdout)
    assert report["kind"] == "safetensors file"
    assert report["family"] == "FluxPipeline"
    assert set(report["components"]) == {"transformer", "clip_l", "vae"}
    assert report["components"]["clip_l"] == {
        "tensors": 1, "parameters": 768 * 768, "bytes": 768 * 768 * 2, "types": {"BF16": 768 * 768 * 2},
    }  # fmt: skip
    assert run.stderr.split()[1] == "False"


def test_shards_by_their_index_and_what_is_missing(tmp_path: Path) -> None:
    write_sparse(tmp_path / "a-1.safetensors", {"w.1": (4, 4)})
    write_sparse(tmp_path / "a-2.safetensors", {"w.2": (4, 4)})
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w.1": "a-1.safetensors", "w.2": "a-2.safetensors"}}))
    for path in (index, tmp_path):
        assert set(open_checkpoint(path).tensors) == {"w.1", "w.2"}
    (tmp_path / "a-2.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"a-2\.safetensors is missing"):
        open_checkpoint(index)
    index.write_text(json.dumps({"weight_map": {"w.1": "../a-1.safetensors"}}))
    with pytest.raises(ModelFileError, match="index"):
        open_checkpoint(index)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ModelFileError, match="pickle"):
        open_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(UserError, match="holds no"):
        open_checkpoint(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        open_checkpoint(tmp_path / "none")


def test_inspect_shows_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(b"GGUF\3\0\0\0")
    assert cli.main(["inspect", str(path), "--json"]) == 2
    assert "cut.gguf" in json.loads(capsys.readouterr().out)["problems"][0]


def test_inspect_tells_of_what_is_no_damage_without_failing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sparse(tmp_path / "lora.safetensors", {"a.lora_A.weight": (4, 4), "a.lora_B.weight": (4, 4)})
    assert cli.main(["inspect", str(tmp_path / "lora.safetensors"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "adapter" in report["problems"][0]
    assert not report["damaged"]
