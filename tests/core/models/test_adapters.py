"""LoRA files by their headers: what is one, what is none, and how a person names it."""

from __future__ import annotations

import argparse
import io
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.cli import main
from core.commands.arguments import adapter
from core.messages import Adapter, ModelFileError, UserError
from core.models import adapters

PAIR = {"lora_A.weight": (4, 16), "lora_B.weight": (8, 4)}


def lora(path: Path, names: dict[str, tuple[int, ...]] | None = None, layer: str = "transformer.to_q.") -> Path:
    save_file({f"{layer}{name}": torch.ones(shape) for name, shape in (names or PAIR).items()}, path)
    return path


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("transformer.x.to_q.lora_A.weight", "transformer.x.to_q.lora_B.weight"),  # diffusers, peft
        ("base_model.model.x.lora_A.default.weight", "base_model.model.x.lora_B.default.weight"),
        ("lora_unet_x_to_q.lora_down.weight", "lora_unet_x_to_q.lora_up.weight"),  # kohya
        ("unet.x.attn1.processor.to_q_lora.down.weight", "unet.x.attn1.processor.to_q_lora.up.weight"),  # older ones
        ("double_blocks.0.processor.qkv_lora1.down.weight", "double_blocks.0.processor.qkv_lora1.up.weight"),  # xlabs
        ("text_encoder.q_proj.lora_linear_layer.down.weight", "text_encoder.q_proj.lora_linear_layer.up.weight"),
    ],
)
def test_every_trainers_names_are_known(down: str, up: str, tmp_path: Path) -> None:
    save_file({down: torch.ones(4, 16), up: torch.ones(8, 4)}, tmp_path / "a.safetensors")
    info = adapters.read_adapter(tmp_path / "a.safetensors")
    assert (len(info.layers), info.rank, info.bytes) == (1, 4, 4 * (4 * 16 + 8 * 4))


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ({**PAIR, "lora_magnitude_vector": (8,)}, "a DoRA"),
        ({**PAIR, "dora_scale": (8, 1)}, "a DoRA"),
        ({"hada_w1_a": (8, 4)}, "a LoHa"),
        ({"lokr_w1": (4, 4)}, "a LoKr"),
        ({**PAIR, "lora_mid.weight": (4, 4, 3, 3)}, "Tucker"),
        ({"weight": (8, 16)}, "no LoRA"),
        ({"lora_A.weight": (4, 16)}, "no LoRA"),
        ({**PAIR, "0.lora_B.weight": (8, 4)}, "damaged"),
        ({"lora_A.weight": (0, 16), "lora_B.weight": (8, 0)}, "rank 0"),
    ],
)
def test_what_is_no_lora_is_refused(names: dict[str, tuple[int, ...]], kind: str, tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors", names)
    with pytest.raises(ModelFileError, match=rf"^{re.escape(str(path))}[^\n]*{kind}[^\n]*\.$"):
        adapters.read_adapter(path)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "exploded",)  # type: ignore[return-value]

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    for name, content in (("a.pt", archive.getvalue()), ("b.safetensors", pickle.dumps(Bomb()))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelFileError, match="is a pickle"):
            adapters.read_adapter(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelFileError, match=r"a\.safetensors is truncated"):
        adapters.read_adapter(path)


def test_a_lora_is_found_by_path_by_name_and_by_its_content(home: Path, tmp_path: Path) -> None:
    elsewhere = lora(tmp_path / "other.safetensors")
    assert adapters.find(Adapter(str(elsewhere))) == elsewhere
    adapters.folder().mkdir(parents=True)
    shelved = lora(adapters.folder() / "watercolour.safetensors")
    for name in ("watercolour", "watercolour.safetensors", "/somewhere/else/watercolour.safetensors"):
        assert adapters.find(Adapter(name)) == shelved
    with pytest.raises(UserError, match="did you mean watercolour"):
        adapters.find(Adapter("watercolor"))
    content = adapters.sha256(elsewhere)
    with pytest.raises(UserError, match="There is no LoRA called other"):
        adapters.find(Adapter("other.safetensors", 1.0, content))
    adapters.remember(elsewhere, content)
    assert adapters.find(Adapter("other.safetensors", 1.0, content)) == elsewhere
    with pytest.raises(UserError, match="is a folder"):
        adapters.find(Adapter(str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("a.safetensors:-1", ("a.safetensors", -1.0)),
        (r"C:\x.safetensors", (r"C:\x.safetensors", 1.0)),
        (r"C:\x.safetensors:0.8", (r"C:\x.safetensors", 0.8)),
        ("C:/x.safetensors:1e-1", ("C:/x.safetensors", 0.1)),
        ("a:b/x.safetensors", ("a:b/x.safetensors", 1.0)),
        ("watercolour:2", ("watercolour", 2.0)),
    ],
)
def test_file_and_weight(text: str, expected: tuple[str, float]) -> None:
    assert adapter(text) == Adapter(*expected)


@pytest.mark.parametrize("text", ["a.safetensors:much", "a.safetensors:", "a.safetensors:nan", "a.safetensors:inf"])
def test_a_weight_that_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="weight"):
        adapter(text)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("{folder}/nowhere.safetensors", "There is no LoRA called"),
        ("{folder}/model.safetensors", "is no LoRA"),
        ("{folder}/a.safetensors:99", "choose from -10 to 10"),
    ],
)
def test_errors_are_one_sentence(
    option: str, sentence: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora(tmp_path / "a.safetensors")
    lora(tmp_path / "model.safetensors", {"weight": (8, 16)})
    assert main(["generate", "a house", "--lora", option.format(folder=tmp_path)]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
