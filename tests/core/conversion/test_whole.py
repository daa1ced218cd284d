"""One file for a whole model: what is in it, that its parts belong together, and that nothing is needed beside it."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file

from core import cli, folders
from core.conversion.prepare import prepare
from core.messages import ModelFileError, ResidencyError
from core.models import catalogue, roles
from core.models.gguf_header import read_gguf
from core.models.single import read_file
from core.models.stored import Place, stored_tensors
from core.precision import decode, encode
from core.resources import resource
from tests.core.conversion.rewritten import rewritten
from tests.core.conversion.written import convert
from tests.core.models.mutations import mutate

Tiny = Callable[[str], Path]
WEIGHTS = {
    "transformer": "diffusion_pytorch_model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}


@pytest.fixture(scope="module")
def flux(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Flux in one file, as it is."""
    out = tmp_path_factory.mktemp("whole") / "flux.gguf"
    convert(tiny("flux"), "-o", out, "--format", "F32")
    return out


def inspected(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["inspect", str(path), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


ARCHITECTURES = {
    "flux": "flux",
    "sd3": "sd3",
    "sdxl": "sdxl",
    "z_image": "lumina2",
    "qwen_image": "qwen_image",
    "flux2": "flux",
    "flux2_klein": "flux",
    "wan": "wan",
    "wan22": "wan",
    "wan22_5b": "wan",
    "ltx": "ltxv",
}


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_tensor_is_found_again(tiny: Tiny, home: Path, tmp_path: Path, family: str) -> None:
    convert(tiny(family), "-o", tmp_path / "a.gguf", "--format", "F32")
    info = read_file(tmp_path / "a.gguf")
    known = read_gguf(tmp_path / "a.gguf").metadata["general.architecture"]  # which ComfyUI-GGUF goes by
    assert known == ARCHITECTURES[family]
    layouts = json.loads(str(read_gguf(tmp_path / "a.gguf").metadata["residency.layouts"]))
    assert "plain" not in layouts.values()
    assert info.family == json.loads((tiny(family) / "model_index.json").read_text())["_class_name"]
    data = (tmp_path / "a.gguf").read_bytes()
    for name, component in info.networks.items():
        file = next((tiny(family) / name).glob("*.safetensors"))
        expected, found = load_file(file), stored_tensors(component)
        assert found.keys() == expected.keys()
        for key, tensor in found.items():
            raw = b"".join(data[part.start : part.end] for part in tensor.ranges)
            if not expected[key].is_floating_point():
                assert raw == expected[key].numpy().tobytes()
                continue
            numbers = decode(torch.frombuffer(bytearray(raw), dtype=torch.uint8), tensor.type, tensor.shape)
            assert torch.allclose(numbers, expected[key].float(), atol=1e-2 if tensor.type == "BF16" else 0), key


@pytest.mark.parametrize("family", ["flux", "sd3", "z_image", "qwen_image", "flux2", "wan22", "ltx"])
def test_a_block_is_one_range_of_packed_rows(tiny: Tiny, home: Path, tmp_path: Path, family: str) -> None:
    convert(tiny(family), "-o", tmp_path / "a.gguf", "--format", "Q8_0")
    info, data = read_file(tmp_path / "a.gguf"), (tmp_path / "a.gguf").read_bytes()
    for name in {"transformer", "transformer_2"} & info.networks.keys():
        found = stored_tensors(info.networks[name])
        assert all(part.start % 32 == 0 for tensor in found.values() for part in tensor.ranges[:1])
        blocks: dict[Any, list[tuple[int, int]]] = {}
        for key, tensor in found.items():
            if roles.order_of(key, "denoiser")[1] == 2:  # what folding drops lies before the blocks
                block = roles.block_of(key, "denoiser")
                blocks.setdefault(block, []).extend((part.start, part.end) for part in tensor.ranges)
        reach = [
            (min(start for start, _ in parts), max(end for _, end in parts)) for _, parts in sorted(blocks.items())
        ]
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(reach))
        expected = load_file(next((tiny(family) / name).glob("*.safetensors")))
        packed = {key: tensor for key, tensor in found.items() if tensor.type == "Q8_0"}
        assert len(packed) >= 10
        for key, tensor in packed.items():  # those of a joined tensor are as they would be alone
            raw = b"".join(data[part.start : part.end] for part in tensor.ranges)
            assert raw == encode(expected[key].float(), "Q8_0").numpy().tobytes(), key


def test_the_file_says_what_it_is(flux: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    header = read_gguf(flux)
    assert header.metadata["general.architecture"] == "flux"  # which ComfyUI-GGUF goes by
    assert "model.diffusion_model.double_blocks.0.img_attn.qkv.weight" in header.tensors
    assert "text_encoders.t5xxl.transformer.shared.weight" in header.tensors
    assert "vae.decoder.mid.attn_1.q.weight" in header.tensors
    sums = header.metadata["residency.source_sha256"]
    files = [json.loads(str(entry))["file"] for entry in header.metadata["residency.sources"]]  # type: ignore[union-attr]
    assert isinstance(sums, list)
    networks = ("text_encoder", "text_encoder_2", "transformer", "vae")
    expected = [next((tiny("flux") / name).glob("*.safetensors")) for name in networks]
    assert files == [file.name for file in expected]
    assert sums == [hashlib.sha256(file.read_bytes()).hexdigest() for file in expected]
    report = inspected(flux, capsys)
    assert report["family"] == "FluxPipeline"
    assert set(report["components"]) == set(networks)
    assert report["components"]["transformer"]["layout"] == "flux"
    assert "tokenizer_2/tokenizer.json" in report["files"]
    assert report["problems"] == []
    theirs = gguf.GGUFReader(flux)
    assert json.loads(theirs.get_field("residency.file.model_index.json").contents())["_class_name"] == "FluxPipeline"


def test_name_licence_and_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(resource("starter", "model"), "-o", tmp_path / "a.gguf", "--format", "Q4_K")
    report = inspected(tmp_path / "a.gguf", capsys)
    assert report["metadata"]["general.license"] == "apache-2.0"
    assert report["metadata"]["general.name"] == "starter"
    assert report["components"]["transformer"]["types"].keys() >= {"Q5_0", "Q8_0"}
    assert all(0 < error < 0.1 for error in report["errors"].values())
    assert len(report["errors"]) > 50


def test_it_is_found_named_and_forgotten(flux: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert catalogue.find(str(flux)).file == flux
    added = catalogue.add(flux)
    assert catalogue.installed()[added.name] == flux
    assert catalogue.find(added.name).fingerprint == added.fingerprint
    assert catalogue.add(flux).name == added.name
    catalogue.remove(added.name)
    assert added.name not in catalogue.installed()


def test_small_files_are_made_again(flux: Path, home: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(flux, tmp_path / "a.gguf"))
    first = catalogue.find(str(copy))
    shutil.rmtree(first.path)
    second = catalogue.find(str(copy))
    assert (second.path / "tokenizer" / "tokenizer_config.json").is_file()
    (second.path / "vae" / "config.json").write_text("{}")
    assert "latent_channels" in (read_file(copy).path / "vae" / "config.json").read_text()
    config = json.loads((first.path / "scheduler" / "scheduler_config.json").read_text()) | {"shift": 2.5}
    rewritten(flux, copy, {"residency.file.scheduler/scheduler_config.json": json.dumps(config)})
    third = catalogue.find(str(copy))
    assert third.fingerprint != first.fingerprint
    assert not first.path.exists()
    assert json.loads((third.path / "scheduler" / "scheduler_config.json").read_text())["shift"] == 2.5
    assert list((folders.cache() / "models").iterdir()) == [third.path]


@pytest.mark.parametrize(
    "name",
    [
        "../outside.json",
        "/etc/outside.json",
        "a/b/c.json",
        "vae/../../x.json",
        "c:x.json",
        "vae/run.py",
        ".x.json",
        "a\\b.json",
    ],
)
def test_no_file_is_unpacked_outside(flux: Path, home: Path, tmp_path: Path, name: str) -> None:
    bad = rewritten(flux, tmp_path / "a.gguf", {f"residency.file.{name}": "{}"})
    with pytest.raises(ModelFileError, match="which no model has"):
        read_file(bad)
    assert not list(home.rglob("*.json"))


def _config(folder: Path, component: str, **changes: object) -> str:
    return json.dumps(json.loads((folder / component / "config.json").read_text()) | changes)


@pytest.mark.parametrize(
    ("component", "changes", "said"),
    [
        ("vae", {"latent_channels": 4}, "The vae of"),
        ("text_encoder_2", {"d_model": 48}, "The text_encoder_2 of"),
        ("text_encoder", {"hidden_size": 64}, "The text_encoder of"),
    ],
)
def test_parts_of_other_models_are_refused(
    flux: Path, tiny: Tiny, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    component: str, changes: dict[str, object], said: str,
) -> None:  # fmt: skip
    config = _config(tiny("flux"), component, **changes)
    bad = rewritten(flux, tmp_path / "a.gguf", {f"residency.file.{component}/config.json": config})
    with pytest.raises(ModelFileError, match=said):
        read_file(bad)
    folder = Path(shutil.copytree(tiny("flux"), tmp_path / "folder"))
    (folder / component / "config.json").write_text(config)
    capsys.readouterr()
    convert(folder, "-o", tmp_path / "b.gguf", "--format", "Q8_0", code=2)
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "b.gguf").exists()


def test_missing_parts_are_refused(flux: Path, tiny: Tiny, home: Path, tmp_path: Path) -> None:
    header = read_gguf(flux)
    index = json.loads(str(header.metadata["residency.file.model_index.json"]))
    without = {key: value for key, value in index.items() if key != "tokenizer_2"}
    tokenizers = {key: None for key in header.metadata if "/" in key and key.split(".", 2)[2].startswith("tokenizer/")}
    for changes, said in (
        ({"residency.file.model_index.json": json.dumps(without)}, "no tokenizer_2 for its text_encoder_2"),
        (tokenizers, "names a tokenizer and does not hold it"),
        ({"residency.names.vae": None}, "names a vae and holds no weights"),
        ({"residency.file.vae/config.json": None}, "no config of its vae"),
    ):
        with pytest.raises(ModelFileError, match=said):
            read_file(rewritten(flux, tmp_path / "a.gguf", changes))
    unet = json.dumps(index | {"_class_name": "StableDiffusion3Pipeline"})
    with pytest.raises(
        ModelFileError, match="it is that of a FluxPipeline, and the model is a StableDiffusion3Pipeline"
    ):
        read_file(rewritten(flux, tmp_path / "a.gguf", {"residency.file.model_index.json": unet}))
    folder = Path(shutil.copytree(tiny("flux"), tmp_path / "folder"))
    shutil.rmtree(folder / "tokenizer_2")
    with pytest.raises(ResidencyError, match="tokenizer_2"):
        prepare([folder], "", "x")


def test_damaged_places_are_refused(flux: Path, home: Path, tmp_path: Path) -> None:
    import msgspec

    key = "residency.names.vae"
    places = msgspec.json.decode(str(read_gguf(flux).metadata[key]), type=dict[str, Place])
    name = "decoder.conv_in.weight"
    (owner, _, rows), shape = places[name].rows[0], places[name].shape
    for place, said in (
        (Place(shape, ((owner, 0, rows + 1),)), "does not fit"),
        (Place(shape, ((owner, -1, rows),)), "does not fit"),
        (Place(shape, ()), "does not fit"),
        (Place((shape[0], 2**62, 2**62), ((owner, 0, rows),)), "does not fit"),
        (Place(shape, (("nowhere", 0, rows),)), "lacks the tensor nowhere"),
    ):
        changed = msgspec.json.encode(places | {name: place}).decode()
        with pytest.raises(ModelFileError, match=said):
            read_file(rewritten(flux, tmp_path / "a.gguf", {key: changed}))


def test_mutated_files_are_right_or_refused(flux: Path, home: Path, tmp_path: Path) -> None:
    data, bad = flux.read_bytes(), tmp_path / "a.gguf"
    header = next(iter(read_gguf(flux).tensors.values())).start
    refused = whole = 0
    for seed in range(400):
        bad.write_bytes(mutate(data, seed, header))
        try:
            info = read_file(bad)
        except ResidencyError as error:
            refused += len(str(error).splitlines()) == 1
        else:
            whole += 1
            assert set(info.networks) <= {"text_encoder", "text_encoder_2", "transformer", "vae"}
    assert refused + whole == 400
    assert refused > 100


def test_one_component_alone(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(tiny("flux"), "-o", tmp_path / "a.gguf", "--component", "transformer", "--format", "Q8_0")
    header = read_gguf(tmp_path / "a.gguf")
    assert header.metadata["general.architecture"] == "flux"
    assert "double_blocks.0.img_attn.qkv.weight" in header.tensors
    assert not any("." in name and name.startswith(("model.", "transformer.")) for name in header.tensors)
    capsys.readouterr()
    convert(tiny("flux"), "-o", tmp_path / "b.gguf", "--component", "unet", "--format", "Q8_0", code=2)
    assert "it has text_encoder, text_encoder_2, transformer, vae" in capsys.readouterr().err


def test_a_file_is_converted_again(flux: Path, home: Path, tmp_path: Path) -> None:
    convert(flux, "-o", tmp_path / "a.gguf", "--format", "Q8_0")
    before, after = read_file(flux), read_file(tmp_path / "a.gguf")
    assert after.components.keys() == before.components.keys()
    assert "Q8_0" in after.components["transformer"].types
    assert (after.path / "tokenizer" / "tokenizer_config.json").is_file()


def test_a_network_alone_is_no_model(tiny: Tiny, home: Path, tmp_path: Path) -> None:
    convert(tiny("flux"), "-o", tmp_path / "a.gguf", "--component", "vae", "--format", "F16")
    for act in (catalogue.find, lambda path: catalogue.add(Path(path))):
        with pytest.raises(ResidencyError, match="holds weights, but no whole model"):
            act(str(tmp_path / "a.gguf"))
