"""`residency convert`: what is in the file it writes, what it refuses, and what is left when it is stopped."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from core import cli
from core.commands.convert_allocate import Option, allocate
from core.commands.convert_choice import candidates
from core.commands.convert_measure import measure
from core.commands.convert_source import sources
from core.commands.convert_write import computing_with_one
from core.models.checkpoint import open_checkpoint
from core.models.gguf_header import read_gguf
from core.models.sensitivity import rules, sensitivity
from core.precision import decode, encode
from core.precision.formats import FORMATS

Tiny = Callable[[str], Path]
TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def flux_like(blocks: int = 12, width: int = 256) -> dict[str, torch.Tensor]:
    """A small Flux in its original names, in an order that is not that of its execution."""
    chance = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=chance) * 0.05).bfloat16()

    tensors = {"final_layer.linear.weight": normal(64, width), "img_in.weight": normal(width, 64)}
    for number in range(blocks):
        tensors |= {
            f"single_blocks.{number}.linear1.weight": normal(2 * width, width),
            f"single_blocks.{number}.modulation.lin.weight": normal(width, width),
            f"double_blocks.{number}.img_attn.qkv.weight": normal(3 * width, width),
            f"double_blocks.{number}.img_attn.norm.key_norm.scale": normal(width).float(),
            f"double_blocks.{number}.img_mod.lin.weight": normal(width, width),
            f"double_blocks.{number}.img_mod.lin.bias": normal(width),
            f"double_blocks.{number}.img_mlp.2.weight": normal(width, 96),  # rows of 32 only
        }
    return dict(sorted(tensors.items()))


@pytest.fixture(scope="module")
def flux_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flux") / "flux.safetensors"
    save_file(flux_like(), path, {"modelspec.title": "small"})
    return path


def convert(*words: object, code: int = 0) -> None:
    assert cli.main(["convert", *map(str, words)]) == code


def report_of(tmp_path: Path, *words: object) -> dict[str, Any]:
    convert(*words, "-o", tmp_path / "out.gguf", "--report", tmp_path / "report.json")
    found: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    return found


def tensor_in(path: Path, name: str) -> tuple[str, torch.Tensor, bytes]:
    """Type, numbers and bytes of a tensor in a GGUF file."""
    found = read_gguf(path).tensors[name]
    raw = path.read_bytes()[found.start : found.end]
    data = torch.frombuffer(bytearray(raw or b"\0"), dtype=torch.uint8)[: len(raw)]
    return found.type, decode(data, found.type, found.shape), raw


@pytest.mark.parametrize("wanted", [name for name in FORMATS if name != "F8_E4M3"])
def test_every_type_is_written_as_the_encoder_makes_it(tmp_path: Path, wanted: str) -> None:
    weights = torch.randn(40, 512, generator=torch.Generator().manual_seed(1))
    save_file(
        {
            "blocks.0.w.weight": weights,
            "head.modulation": torch.ones(1),
            "blocks.0.cross_attn.q.weight": weights.clone(),
        },
        tmp_path / "a.safetensors",
    )
    convert(tmp_path / "a.safetensors", "-o", tmp_path / "a.gguf", "--format", wanted)
    kind, numbers, raw = tensor_in(tmp_path / "a.gguf", "blocks.0.w.weight")
    expected = encode(weights, wanted)
    assert kind == wanted
    assert raw == expected.numpy().tobytes()
    assert torch.equal(numbers, decode(expected, wanted, weights.shape))
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert theirs["blocks.0.w.weight"].data.tobytes() == raw


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.one_of(
        st.lists(st.integers(0, 5), max_size=5).map(tuple),
        st.tuples(st.integers(1, 4), st.sampled_from([32, 64, 96, 256, 512])),
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([3, 32])),
    ),
    dtype=st.sampled_from(["F32", "F16", "BF16"]),
    wanted=st.sampled_from(["Q8_0", "Q4_K", "Q5_0", "F16"]),
)
def test_every_shape_makes_the_round_trip(tmp_path: Path, shape: tuple[int, ...], dtype: str, wanted: str) -> None:
    weights = torch.linspace(-1, 1, max(1, prod(shape)))[: prod(shape)].reshape(shape).to(TORCH[dtype])
    save_file({"layers.0.x.weight": weights, "layers.0.tiny.weight": torch.zeros(2, 32)}, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", "-o", tmp_path / "a.gguf", "--format", wanted)
    kind, numbers, _ = tensor_in(tmp_path / "a.gguf", "layers.0.x.weight")
    assert numbers.shape == weights.shape
    allowed = {"Q8_0": 0.01, "Q5_0": 0.08, "Q4_K": 0.12}.get(kind, 0.005)
    assert torch.allclose(numbers, weights.float(), atol=allowed)
    theirs = gguf.GGUFReader(tmp_path / "a.gguf")
    assert {tensor.name: int(tensor.n_elements) for tensor in theirs.tensors}["layers.0.x.weight"] == prod(shape)


def test_roles_keep_what_should_not_be_packed(flux_file: Path, tmp_path: Path) -> None:
    report = report_of(tmp_path, flux_file, "--format", "Q4_K")
    types = {name: tensor.type for name, tensor in read_gguf(tmp_path / "out.gguf").tensors.items()}
    assert types["img_in.weight"] == types["final_layer.linear.weight"] == "BF16"
    assert types["double_blocks.0.img_attn.norm.key_norm.scale"] == "F32"
    assert types["double_blocks.3.img_mod.lin.weight"] == "Q8_0"
    assert types["double_blocks.3.img_mod.lin.bias"] == "F32"  # which others read; the same numbers
    assert types["double_blocks.3.img_mlp.2.weight"] == "Q5_0"
    assert types["single_blocks.3.linear1.weight"] == "Q4_K"
    assert report["bytes"] == (tmp_path / "out.gguf").stat().st_size
    assert {*report} >= {
        "bytes", "seconds", "peak_rss_bytes", "baseline_rss_bytes", "types", "components", "rel_rmse", "worst",
    }  # fmt: skip
    assert sum(report["types"].values()) == report["components"]["transformer"]["bytes"]
    header = read_gguf(tmp_path / "out.gguf")
    assert header.metadata["general.architecture"] == "flux"
    assert header.metadata["residency.family"] == "FluxPipeline"
    assert "small" in str(header.metadata["residency.source_metadata"])


def test_the_errors_in_the_file_are_those_of_its_tensors(flux_file: Path, tmp_path: Path) -> None:
    report = report_of(tmp_path, flux_file, "--format", "Q5_K")
    header, source = read_gguf(tmp_path / "out.gguf"), flux_like()
    errors = header.metadata["residency.rel_rmse"]
    assert isinstance(errors, list)
    for name, error in zip(header.tensors, errors, strict=True):
        _, numbers, _ = tensor_in(tmp_path / "out.gguf", name)
        expected = torch.linalg.norm(numbers - source[name].float()) / torch.linalg.norm(source[name].float())
        assert error == pytest.approx(float(expected), rel=1e-3, abs=1e-7)
    largest = max(error for error in errors if isinstance(error, float))
    assert report["worst"][0]["rel_rmse"] == pytest.approx(largest, rel=1e-6)


def test_tensors_lie_in_the_order_of_execution(flux_file: Path, tmp_path: Path) -> None:
    convert(flux_file, "-o", tmp_path / "out.gguf", "--format", "Q8_0")
    header = read_gguf(tmp_path / "out.gguf")
    assert header.alignment == 256
    assert all(tensor.start % 256 == 0 for tensor in header.tensors.values())
    owners = [".".join(name.split(".")[:2]) for name in header.tensors if ".lin." not in name and "blocks" in name]
    expected = [f"{stack}.{number}" for stack in ("double_blocks", "single_blocks") for number in range(12)]
    assert list(dict.fromkeys(owners)) == expected
    modulation = [number for number, name in enumerate(header.tensors) if ".lin." in name]
    assert modulation == list(range(2, 2 + len(modulation)))  # after the two tensors outside of blocks, before these


def test_keep_overrides_the_rules(flux_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.gguf"
    convert(
        flux_file, "-o", out, "--format", "Q4_K", "--keep", "img_in*=F32", "--keep", "single_blocks.1?.linear1*=Q6_K"
    )
    types = {name: tensor.type for name, tensor in read_gguf(out).tensors.items()}
    assert types["img_in.weight"] == "F32"
    assert types["single_blocks.10.linear1.weight"] == "Q6_K"
    assert types["single_blocks.1.linear1.weight"] == "Q4_K"
    for wish, said in [
        ("nothing*=F32", "fits no tensor"),
        ("*img_mlp*=Q6_K", "cannot be stored as Q6_K"),
        ("x=Q9", "takes"),
    ]:
        capsys.readouterr()
        convert(flux_file, "-o", out, "--format", "Q4_K", "--keep", wish, code=2)
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float) -> None:
    weights = torch.zeros(8, 64)
    weights[5, 7] = value
    save_file({"layers.0.bad.weight": weights, "layers.0.good.weight": torch.zeros(8, 64)}, tmp_path / "a.safetensors")
    for wanted in ("Q8_0", "F32"):
        convert(tmp_path / "a.safetensors", "-o", tmp_path / "a.gguf", "--format", wanted, code=2)
        error = capsys.readouterr().err
        assert "layers.0.bad.weight" in error
        assert "row 5, column 7" in error
        assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_zeros_and_denormals(tmp_path: Path) -> None:
    tiny = torch.full((4, 256), 1e-42)
    save_file({"layers.0.zero.weight": torch.zeros(4, 256), "layers.0.tiny.weight": tiny}, tmp_path / "a.safetensors")
    for wanted in ("Q8_0", "Q4_K", "F32"):
        convert(tmp_path / "a.safetensors", "-o", tmp_path / "a.gguf", "--format", wanted)
        assert not tensor_in(tmp_path / "a.gguf", "layers.0.zero.weight")[1].any()
        assert torch.allclose(tensor_in(tmp_path / "a.gguf", "layers.0.tiny.weight")[1], tiny, atol=1e-41)


def test_a_number_too_large_for_the_type_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"layers.0.large.weight": torch.full((2, 256), 1e9)}, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", "-o", tmp_path / "a.gguf", "--format", "Q4_K", code=2)
    assert "layers.0.large.weight cannot be stored as Q4_K" in capsys.readouterr().err


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


def test_what_cannot_be_converted(
    flux_file: Path, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"w": torch.zeros(4, dtype=torch.uint8)}, tmp_path / "u8.safetensors")
    copy = Path(shutil.copy(flux_file, tmp_path / "copy.safetensors"))
    out, whole = tmp_path / "out.gguf", tiny("flux")
    capsys.readouterr()  # what making it printed
    for words, said in [
        ([whole, "-o", out], "is a whole model"),
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


def _child(code: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


CLI = "import sys; from core import cli; sys.exit(cli.main(sys.argv[1:]))"


@pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are those of POSIX")
def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    save_file(
        {f"layers.{n}.w.weight": torch.randn(2048, 2048).bfloat16() for n in range(24)}, tmp_path / "a.safetensors"
    )
    (tmp_path / "a.gguf").write_bytes(b"what was there")
    child = _child(CLI, "convert", tmp_path / "a.safetensors", "-o", tmp_path / "a.gguf", "--format", "Q3_K")
    while not list(tmp_path.glob(".*.part")):
        assert child.poll() is None, child.communicate()
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "a.safetensors"]
    assert (tmp_path / "a.gguf").read_bytes() == b"what was there"


@pytest.mark.skipif(sys.platform == "win32", reason="limits are those of POSIX")
def test_a_full_disk_is_said_at_once_and_leaves_nothing_behind(flux_file: Path, tmp_path: Path) -> None:
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY})); {CLI}"
    child = _child(limited, "convert", flux_file, "-o", tmp_path / "a.gguf", "--format", "Q8_0")
    _, error = child.communicate(timeout=120)
    assert child.returncode == 2
    assert "cannot be written" in error
    assert list(tmp_path.iterdir()) == []


MEASURED = """
import re, sys, threading, time
def private():
    text = open("/proc/self/smaps_rollup").read()
    return sum(int(found) for found in re.findall(r"Private_\\w+:\\s+(\\d+) kB", text)) * 1024
from core import cli
import core.commands.convert
before, most, done = private(), 0, False
def watch():
    global most
    while not done:
        most = max(most, private())
        time.sleep(0.01)
thread = threading.Thread(target=watch)
thread.start()
code = cli.main(sys.argv[1:])
done = True
thread.join()
print(most - before)
sys.exit(code)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux to measure")
@pytest.mark.parametrize("mode", [("--format", "Q4_K"), ("--target-size", "90MB")])
def test_memory_does_not_grow_with_the_model(tmp_path: Path, mode: tuple[str, str]) -> None:
    weights = torch.randn(8192, 8192).bfloat16()  # 134 MB in one tensor, 268 MB as float32
    save_file({"layers.0.w.weight": weights, "layers.1.w.weight": weights[:4096].clone()}, tmp_path / "a.safetensors")
    del weights
    out = tmp_path / "a.gguf"
    child = _child(MEASURED, "convert", tmp_path / "a.safetensors", "-o", out, *mode, "--report", tmp_path / "r.json")
    printed, error = child.communicate(timeout=280)
    assert child.returncode == 0, error
    report = json.loads((tmp_path / "r.json").read_text())
    assert int(printed.splitlines()[-1]) <= 256 << 20
    assert report["peak_rss_bytes"] - report["baseline_rss_bytes"] <= 256 << 20
    assert report["bytes"] == out.stat().st_size


@pytest.mark.parametrize(("threshold", "expected"), [("1%", "Q8_0"), ("3", "Q6_K"), ("6%", "Q5_K")])
def test_rmse_takes_the_coarsest_type_within_the_threshold(
    flux_file: Path, tmp_path: Path, threshold: str, expected: str
) -> None:
    report = report_of(tmp_path, flux_file, "--rmse", threshold)
    types = {name: tensor.type for name, tensor in read_gguf(tmp_path / "out.gguf").tensors.items()}
    assert types["single_blocks.3.linear1.weight"] == expected
    assert types["single_blocks.3.modulation.lin.weight"] == "Q8_0"
    assert report["worst"][0]["rel_rmse"] <= float(threshold.rstrip("%")) / 100 * 1.03


def test_target_size_beats_one_type_for_all_at_equal_bytes(flux_file: Path, tmp_path: Path) -> None:
    for wanted in ("Q6_K", "Q5_K", "Q4_K"):
        size = report_of(tmp_path, flux_file, "--format", wanted)["bytes"]
        one = _loss(tmp_path / "out.gguf")
        report = report_of(tmp_path, flux_file, "--target-size", size)
        assert size * 0.98 <= report["bytes"] <= size
        assert _loss(tmp_path / "out.gguf") < 0.8 * one
        assert {entry["rule"] for entry in report["assumed"]} == {rule.name for rule in rules() if rule.assumed}


def _loss(path: Path) -> float:
    """Sum of sensitivity * numbers * squared error, from the files alone."""
    header, source, total = read_gguf(path), flux_like(), 0.0
    for name in header.tensors:
        number = int(name.split(".")[1]) if "blocks" in name else None
        place = None if number is None else (number + 12 * name.startswith("single"), 24)
        numbers = tensor_in(path, name)[1]
        error = float(torch.linalg.norm(numbers - source[name].float()) / torch.linalg.norm(source[name].float()))
        total += sensitivity(name, "FluxPipeline", "denoiser", place) * numbers.numel() * error**2
    return total


def test_a_sample_has_the_error_of_the_whole(tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(3)
    weights = torch.randn(2048, 1024, generator=chance) * torch.rand(
        2048, 1, generator=chance
    )  # rows unlike each other
    save_file({"layers.0.w.weight": weights}, tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    listed = candidates(checkpoint, sources(checkpoint.tensors), [])
    wanted = ["BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K"]
    errors = measure(listed, {"layers.0.w.weight": wanted}, lambda _: None)["layers.0.w.weight"]
    for name in wanted:
        with computing_with_one():
            whole = torch.linalg.norm(decode(encode(weights, name), name, weights.shape) - weights)
        assert errors[name] == pytest.approx(float(whole / torch.linalg.norm(weights)), rel=0.03)


def test_a_size_that_cannot_be_had(flux_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(flux_file, "-o", tmp_path / "a.gguf", "--target-size", "1MB", code=2)
    assert "too small" in capsys.readouterr().err
    report = report_of(tmp_path, flux_file, "--target-size", "1GB")
    assert set(report["types"]) == {"BF16", "F32"}  # what fits as it is is not packed
    assert report["rel_rmse"] == 0


def test_fit_takes_what_a_card_has_room_for(
    flux_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rooms = [report_of(tmp_path, flux_file, "--fit", card)["target_bytes"] for card in ("rx-7800-xt", "rtx-4090")]
    assert 8e9 < rooms[0] < 16e9 < rooms[1] < 24e9
    convert(flux_file, "-o", tmp_path / "a.gguf", "--fit", "rx-7800-xtx", code=2)
    assert "rx-7800-xt" in capsys.readouterr().err


option = st.builds(Option, st.just("X"), st.integers(1, 60), st.floats(0, 100))


@settings(max_examples=200)
@given(tensors=st.lists(st.lists(option, min_size=1, max_size=4), min_size=1, max_size=5), size=st.integers(1, 300))
def test_allocation_is_within_one_step_of_the_best(tensors: list[list[Option]], size: int) -> None:
    found = allocate(tensors, size)
    best: dict[int, float] = {0: 0.0}  # least loss by bytes, exactly
    for options in tensors:
        following: dict[int, float] = {}
        for taken, lost in best.items():
            for entry in options:
                total = taken + entry.bytes
                if total <= size:
                    following[total] = min(following.get(total, float("inf")), lost + entry.loss)
        best = following
    if found is None:
        assert not best
        return
    assert sum(entry.bytes for entry in found) <= size
    assert all(entry in options for entry, options in zip(found, tensors, strict=True))
    largest = max(max(entry.loss for entry in options) - min(entry.loss for entry in options) for options in tensors)
    assert sum(entry.loss for entry in found) <= min(best.values()) + largest + 1e-9


def test_sensitivities_say_where_they_come_from() -> None:
    assert all(rule.source and rule.factor > 0 for rule in rules())
    assert all(("assumed" in rule.source) == rule.assumed for rule in rules())
