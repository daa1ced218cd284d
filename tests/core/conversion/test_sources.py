"""What can be converted, and what cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import save_file

from core.models.gguf_header import read_gguf
from core.precision import decode, encode
from tests.core.conversion.written import convert, tensor_in
from tests.f8_files import Rewrite, multiplied, plain, rewritten, with_factors, with_row_factors

Tiny = Callable[[str], Path]


def test_shards_and_component_folders(tiny: Tiny, tmp_path: Path) -> None:
    source = tiny("sd3") / "transformer"
    convert(source, "-o", tmp_path / "whole.gguf", "--format", "Q8_0")
    header = read_gguf(tmp_path / "whole.gguf")
    assert header.metadata["residency.family"] == "StableDiffusion3Pipeline"
    assert json.loads(str(header.metadata["residency.config"]))["_class_name"] == "SD3Transformer2DModel"

    from safetensors.torch import load_file

    tensors = load_file(source / "diffusion_pytorch_model.safetensors")
    names, sharded = list(tensors), tmp_path / "sharded"
    sharded.mkdir()
    places = {name: f"m-{number % 2}.safetensors" for number, name in enumerate(names)}
    for shard in set(places.values()):
        save_file({name: tensors[name] for name in names if places[name] == shard}, sharded / shard)
    (sharded / "m.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    shutil.copy(source / "config.json", sharded)
    for given_as in ([sharded], [sharded / "m.safetensors.index.json"], sorted(sharded.glob("m-*.safetensors"))):
        convert(*given_as, "-o", tmp_path / "shards.gguf", "--format", "Q8_0")
        for name in names:
            assert tensor_in(tmp_path / "shards.gguf", name)[2] == tensor_in(tmp_path / "whole.gguf", name)[2]


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_diffusers_opens_it(tiny: Tiny, tmp_path: Path, family: str) -> None:
    import diffusers

    source, out = tiny(family) / "transformer", tmp_path / "out.gguf"
    convert(source, "-o", out, "--format", "Q8_0")
    network = getattr(diffusers, json.loads((source / "config.json").read_text())["_class_name"])
    opened = network.from_single_file(
        str(out),
        config=str(source),
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32),
        torch_dtype=torch.float32,
    )
    whole = network.from_pretrained(source, torch_dtype=torch.float32)
    config, chance = whole.config, torch.Generator().manual_seed(0)
    inputs = {
        "encoder_hidden_states": torch.randn(1, 7, config.joint_attention_dim, generator=chance),
        "pooled_projections": torch.randn(1, config.pooled_projection_dim, generator=chance),
        "timestep": torch.tensor([0.5]),
    }
    if family == "flux":
        inputs["hidden_states"] = torch.randn(1, 16, config.in_channels, generator=chance)
        inputs |= {"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(7, 3)}
    else:
        inputs["hidden_states"] = torch.randn(1, config.in_channels, 8, 8, generator=chance)
    with torch.no_grad():
        ours, theirs = opened(**inputs).sample, whole(**inputs).sample
    assert 0 < torch.linalg.norm(ours - theirs) < 0.02 * torch.linalg.norm(theirs)


def test_a_gguf_file_is_packed_further_and_keeps_its_metadata(flux_file: Path, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "t5encoder")
    writer.add_array("tokenizer.ggml.tokens", [f"token {number}" for number in range(500)])
    writer.add_uint64("large", 2**40)
    weights = torch.randn(16, 512, generator=torch.Generator().manual_seed(2))
    packed = encode(weights, "Q8_0").numpy()
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("enc.blk.0.attn_q.weight", packed, raw_dtype=kind)
    writer.add_tensor("enc.blk.0.ffn_up.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    convert(tmp_path / "a.gguf", "-o", tmp_path / "b.gguf", "--format", "Q4_K")
    before, after = read_gguf(tmp_path / "a.gguf"), read_gguf(tmp_path / "b.gguf")
    kept = {key: value for key, value in before.metadata.items() if key != "general.alignment"}
    assert kept.items() <= after.metadata.items()
    assert gguf.GGUFReader(tmp_path / "b.gguf").get_field("large").contents() == 2**40
    dense = decode(encode(weights, "Q8_0"), "Q8_0", weights.shape)
    assert tensor_in(tmp_path / "b.gguf", "enc.blk.0.attn_q.weight")[2] == encode(dense, "Q4_K").numpy().tobytes()
    convert(tmp_path / "b.gguf", "-o", tmp_path / "c.gguf", "--format", "Q8_0")  # finer than its source: stays
    assert {tensor.type for tensor in read_gguf(tmp_path / "c.gguf").tensors.values()} == {"Q4_K"}


def test_scaled_f8_is_multiplied_by_its_scale(tmp_path: Path) -> None:
    weights = torch.linspace(-400, 400, 4 * 256).reshape(4, 256).to(torch.float8_e4m3fn)
    tensors = {
        "layers.0.a.weight": weights,
        "layers.0.a.scale_weight": torch.tensor(0.01),
        "layers.0.b.weight": weights.clone(),
        "layers.0.a.scale_input": torch.tensor(1.0),
        "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", "-o", tmp_path / "a.gguf", "--format", "Q8_0")
    assert set(read_gguf(tmp_path / "a.gguf").tensors) == {"layers.0.a.weight", "layers.0.b.weight"}
    assert torch.allclose(tensor_in(tmp_path / "a.gguf", "layers.0.a.weight")[1], weights.float() * 0.01, atol=0.04)
    assert torch.allclose(tensor_in(tmp_path / "a.gguf", "layers.0.b.weight")[1], weights.float(), atol=4)


def test_factors_for_each_row(tmp_path: Path) -> None:
    weights = torch.randn(6, 256, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn)
    factors = torch.arange(1, 7).view(6, 1) * 0.01
    save_file({"layers.0.a.weight": weights, "layers.0.a.weight_scale": factors}, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", "-o", tmp_path / "a.gguf", "--format", "F32")
    assert set(read_gguf(tmp_path / "a.gguf").tensors) == {"layers.0.a.weight"}
    found = tensor_in(tmp_path / "a.gguf", "layers.0.a.weight")[1]
    assert torch.allclose(found, weights.float() * factors, rtol=0.004, atol=0)  # what of 16 bit is nearest to F8

    save_file({"a.weight": weights, "a.weight_scale_inv": torch.ones(2, 4)}, tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", "-o", tmp_path / "b.gguf", "--format", "Q8_0", code=2)


@pytest.mark.parametrize("rewrite", [plain, with_factors, with_row_factors])
def test_a_whole_model_in_f8_is_what_its_numbers_are(tiny: Tiny, home: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    """Also where projections that have their factors each become one tensor of the file."""
    numbers = multiplied(rewrite)
    for name, each in (("eight", rewrite), ("dense", numbers)):
        convert(
            rewritten(tiny("flux"), tmp_path / name, "transformer", each),
            "-o",
            tmp_path / f"{name}.gguf",
            "--format",
            "Q8_0",
        )
    found, expected = (read_gguf(tmp_path / f"{name}.gguf").tensors for name in ("eight", "dense"))
    assert set(found) == set(expected)
    joined = [name for name in found if name.endswith("qkv.weight")]
    assert joined
    for name in found:
        if found[name].type == expected[name].type:
            assert tensor_in(tmp_path / "eight.gguf", name)[2] == tensor_in(tmp_path / "dense.gguf", name)[2]
    assert all(found[name].type == "Q8_0" for name in joined)


def test_what_cannot_be_converted(
    flux_file: Path, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"w": torch.zeros(4, dtype=torch.uint8)}, tmp_path / "u8.safetensors")
    copy = Path(shutil.copy(flux_file, tmp_path / "copy.safetensors"))
    out, whole = tmp_path / "out.gguf", tiny("flux")
    capsys.readouterr()  # what making it printed
    for words, said in [
        ([whole, flux_file, "-o", out], "is converted by itself"),
        ([flux_file, "-o", out, "--component", "vae"], "chooses from a whole model"),
        ([tmp_path / "none", "-o", out], "does not exist"),
        ([flux_file, "-o", tmp_path / "no" / "out.gguf"], "does not exist"),
        ([flux_file, "-o", tmp_path], "is a folder"),
        ([copy, "-o", copy], "is what is converted"),
        ([flux_file, copy, "-o", out], "both hold a tensor"),
        ([tmp_path / "u8.safetensors", "-o", out], "w is stored as U8"),
    ]:
        convert(*words, "--format", "Q8_0", code=2)
        error = capsys.readouterr().err
        assert said in error
        assert len(error.strip().splitlines()) == 1
    assert not out.exists()
