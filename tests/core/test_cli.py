"""The command line as its user meets it: real pictures, one sentence for what cannot be done, and exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from core import cli
from core.generation.outputs import pixels_sha256
from core.library import metadata
from core.library.index import Library

Tiny = Callable[[str], Path]


def residency(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "core.cli", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.slow
def test_generate_prints_one_object_and_writes_what_it_says(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    options = ("--model", tiny("flux"), "--size", "64x48", "--steps", 2, "--seed", 7, "--out", out, "--json")
    run = residency("generate", "a red house", *options)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["file"] == str(out)
    assert (report["seed"], report["steps"], report["width"], report["height"]) == (7, 2, 64, 48)
    assert set(report["seconds"]) == {"load", "encode", "denoise", "decode", "total"}
    assert all(use["peak_bytes"] > 0 for use in report["components"].values())
    with Image.open(out) as image:
        assert pixels_sha256(image) == report["pixels_sha256"]
    result = metadata.read_result(out)
    assert result is not None
    assert result.prompt == "a red house"
    assert run.stderr == ""


@pytest.mark.slow
def test_without_out_the_picture_goes_to_the_library(tmp_path: Path) -> None:
    run = residency("generate", "a red house by the sea", "--steps", 1, "--show", RESIDENCY_HOME=str(tmp_path))
    assert run.returncode == 0, run.stderr
    (file,) = (tmp_path / "pictures").rglob("*.png")
    assert str(file) in run.stdout
    assert "▀" in run.stdout
    library = Library(tmp_path / "pictures", tmp_path / "data" / "library.sqlite")
    assert [result.file for result in library.search("house")] == [str(file)]
    library.close()


@pytest.mark.slow
def test_generate_makes_clips(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    options = ("--model", tiny("wan"), "--size", "32x32", "--steps", 2, "--frames", 5)
    run = residency("generate", "a red house", *options, "--out", out, "--json")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert (report["file"], report["frames"], report["fps"]) == (str(out), 5, 16.0)
    result = metadata.read_result(out)
    assert result is not None
    assert result.pixels_sha256 == report["pixels_sha256"]
    assert run.stderr == ""
    for wrong, words in (({"--frames": 4}, "the nearest is 5"), ({"--out": "a.png"}, "does not end in .mp4")):
        refused = residency("generate", "a", *options, *(word for pair in wrong.items() for word in pair))
        assert refused.returncode == 2
        assert words in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["generate", ""], "prompt is empty"),
        (["generate", "   "], "prompt is empty"),
        (["generate", "a", "--size", "100x100"], "multiple of 16"),
        (["generate", "a", "--size", "0x0"], "multiple of 16"),
        (["generate", "a", "--size", "wide"], "not a size"),
        (["generate", "a", "--size", "999999x999999"], "multiple of 16|too large"),
        (["generate", "a", "--model", "flux-shnell"], "no model called flux-shnell"),
        (["generate", "a", "--model", "/nowhere/at/all"], "does not exist"),
        (["generate", "a", "--out", "a.jpg"], r"a\.jpg does not end in \.png"),
        (["generate", "a", "--out", "/"], "is a folder"),
        (["generate", "a", "--out", "~nobody-of-that-name/a.png"], "not a usable path"),
        (["generate", "a", "--out", f"{'a' * 300}.png"], "not a usable path"),
        (["generate", "a", "--model", f"/{'a' * 300}"], "not a usable path"),
        (["generate", "a", "--model", "a" * 300], "not a usable path"),
        (["generate", "a \udc80"], "no text"),
        (["generate", "a", "--steps", "0"], "0 steps"),
        (["generate", "a", "--frames", "5"], "makes still pictures, not 5 frames"),
        (["generate", "a", "--frames", "some"], "not a whole number"),
        (["generate", "a", "--out", "a.mp4"], r"a\.mp4 does not end in \.png"),
        (["generate", "a", "--steps", "many"], "not a whole number"),
        (["generate", "a", "--seed", "-5"], "seed"),
        (["generate", "a", "--guidance", "nan"], "guidance"),
        (["generate", "a", "--format", "transfromer=Q8_0"], "did you mean transformer"),
        (["generate", "a", "--format", "transformer=Q9"], "no format called Q9"),
        (["generate", "a", "--format", "transformer"], "not of the form"),
        (["generate", "a", "--residency", "transformer=many"], "not of the form"),
        (["generate", "a", "--residency", "transformer=1000"], "1000 blocks of the transformer cannot"),
        (["generate", "a", "--slots", "0"], "0 slots are not possible"),
        (["generate", "a", "--tile", "3"], "A tile of 3 is not possible"),
        (["generate", "a", "--prefer", "2"], "not between 0 and 1"),
        (["generate", "a", "--headroom", "much"], "not a size such as 12GB"),
        (["generate", "a", "--offload", "all"], "invalid choice"),
        (["generate", "a", "--estimate", "guess"], "invalid choice"),
        (["generate"], "PROMPT"),
        (["paint"], "invalid choice"),
        (["inspect", "/nowhere"], "does not exist"),
        (["models", "remove", "nothing"], "not among the models"),
        (["models", "add", "/nowhere"], "does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    try:
        code = cli.main(words)
    except SystemExit as stop:  # argparse leaves by itself
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1

    assert re.search(sentence, printed.err), printed.err


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "not json", "wrong shapes"])
def test_a_broken_model_is_named(damage: str, tiny: Tiny, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny("flux"), tmp_path / "model"))
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "not json":
        (model / "scheduler" / "scheduler_config.json").write_text("{")
    else:
        config = model / "vae" / "config.json"
        text = config.read_text()
        assert '"latent_channels": 16' in text
        config.write_text(text.replace('"latent_channels": 16', '"latent_channels": 8'))
    run = residency("generate", "a", "--model", model, "--size", "64x64", "--steps", 1, "--out", tmp_path / "a.png")
    assert run.returncode == 2, run.stderr
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    assert "Traceback" not in run.stderr
    assert ("scheduler" if damage == "not json" else "vae") in run.stderr
    assert not (tmp_path / "a.png").exists()


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    run = residency("generate", "a", "--out", tmp_path / "file" / "a.png")
    assert run.returncode == 2
    assert "is no folder" in run.stderr
    missing = residency("generate", "a", "--out", tmp_path / "none" / "a.png")
    assert missing.returncode == 2
    assert "does not exist" in missing.stderr
    assert not (tmp_path / "none").exists()
    assert len(run.stderr.strip().splitlines()) == 1


def test_inspect_lists_components_and_problems(tiny: Tiny, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["inspect", str(tiny("sdxl")), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["family"] == "StableDiffusionXLPipeline"
    assert set(report["components"]) == {"text_encoder", "text_encoder_2", "unet", "vae"}
    assert report["components"]["unet"]["bytes"] == sum(report["components"]["unet"]["types"].values())
    assert report["problems"] == []

    file = tiny("sdxl") / "vae" / "diffusion_pytorch_model.safetensors"
    assert cli.main(["inspect", str(file)]) == 0
    assert "M parameters" in capsys.readouterr().out

    broken = Path(shutil.copytree(tiny("sdxl"), tmp_path / "broken"))
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert cli.main(["inspect", str(broken), "--json"]) == 2
    assert "unet" in json.loads(capsys.readouterr().out)["problems"][0]


def test_doctor_tells_what_it_found(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (2 if report["problems"] else 0)
    assert report["torch"]["version"]
    assert report["folders"]["pictures"] == {**report["folders"]["pictures"], "path": str(home / "pictures")}
    assert report["models"]["starter"] == ""
    cli.main(["doctor"])
    printed = capsys.readouterr().out
    assert "Processor" in printed
    assert "starter" in printed


def test_doctor_says_what_to_do_about_a_broken_model(
    home: Path, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(tiny("flux"), tmp_path / "mine"))
    assert cli.main(["models", "add", str(model)]) == 0
    shutil.rmtree(model / "vae")
    assert cli.main(["doctor"]) == 2
    assert "Model mine" in capsys.readouterr().out


def test_models_are_listed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "list", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["models"]) == ["starter"]
