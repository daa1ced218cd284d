"""What a conversion may write: never over what it reads, and never half way before it is said that it cannot be."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.core.conversion.written import convert, report_of

Captured = pytest.CaptureFixture[str]


def digests(folder: Path) -> dict[str, str]:
    """Every file of a folder, by content."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def refused(capsys: Captured, words: str, *arguments: object) -> None:
    """The command fails with one sentence that holds these words."""
    capsys.readouterr()
    convert(*arguments, code=2)
    out, error = capsys.readouterr()
    assert words in error
    assert error.count("\n") == 1
    assert out == ""


def test_the_only_model_of_a_folder_is_not_written_over(tmp_path: Path, flux_file: Path, capsys: Captured) -> None:
    convert(flux_file, "--format", "Q6_K", "-o", tmp_path / "model.gguf")
    (tmp_path / "links").mkdir()
    (tmp_path / "self").mkdir()
    own = (tmp_path / "model.gguf").rename(tmp_path / "self" / "model.gguf")
    (tmp_path / "links" / "soft.gguf").symlink_to(own)
    os.link(own, tmp_path / "links" / "hard.gguf")
    before = digests(tmp_path)
    for out in (own, tmp_path / "links" / "soft.gguf", tmp_path / "links" / "hard.gguf"):
        for source in (own, own.parent):
            refused(capsys, "is what is converted", source, "-o", out, "--format", "Q4_K")
    assert digests(tmp_path) == before


def test_no_file_of_a_model_is_written_over(tmp_path: Path, flux_file: Path, capsys: Captured) -> None:
    model = tmp_path / "model"
    (model / "transformer").mkdir(parents=True)
    shutil.copy(flux_file, model / "transformer" / "model.safetensors")
    (model / "transformer" / "config.json").write_text("{}")
    before = digests(tmp_path)
    network, config = model / "transformer", model / "transformer" / "config.json"
    mode = ("--target-size", "300KB", "--sensitivity", "table")
    refused(capsys, "is what is converted", network, "-o", config, *mode)
    refused(capsys, "is what is converted", network, "-o", tmp_path / "a.gguf", *mode, "--report", config)
    refused(
        capsys, "model.safetensors", network, "-o", tmp_path / "a.gguf", *mode, "--measured", network / "model.json"
    )
    refused(
        capsys, "would be written twice", network, "-o", tmp_path / "a.json", *mode, "--report", tmp_path / "a.json"
    )
    assert digests(tmp_path) == before


def test_what_is_measured_takes_no_other_model_s_place(tmp_path: Path, flux_file: Path, capsys: Captured) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"w": torch.zeros(4)}, other)
    words = (flux_file, "-o", tmp_path / "a.gguf", "--target-size", "300KB", "--measured", tmp_path / "other.json")
    refused(capsys, "other.safetensors is there already", *words)


@pytest.mark.parametrize(
    ("report", "words"),
    [(".", "is a folder"), ("none/r.json", "does not exist"), ("model.gguf", "does not end in .json")],
)
def test_a_report_that_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, flux_file: Path, capsys: Captured, report: str, words: str
) -> None:
    refused(capsys, words, flux_file, "-o", tmp_path / "a.gguf", "--format", "Q8_0", "--report", tmp_path / report)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="pipes with names are those of POSIX")
def test_a_pipe_stays_a_pipe(tmp_path: Path, flux_file: Path, capsys: Captured) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    refused(capsys, "is no file", flux_file, "-o", pipe, "--format", "Q8_0")
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    convert(flux_file, "-o", tmp_path / "a.gguf", "--format", "Q8_0", "--report", pipe)
    assert json.loads(os.read(reading, 1 << 16))["bytes"] == (tmp_path / "a.gguf").stat().st_size
    os.close(reading)
    assert pipe.is_fifo()


@pytest.mark.parametrize("exponent", [30, -30])
def test_errors_of_very_large_and_small_numbers(tmp_path: Path, exponent: int) -> None:
    chance = torch.Generator().manual_seed(0)
    numbers = torch.randn(64, 256, generator=chance)
    save_file({"w.weight": numbers * 10.0**exponent}, tmp_path / "odd.safetensors")
    save_file({"w.weight": numbers}, tmp_path / "usual.safetensors")
    odd = report_of(tmp_path, tmp_path / "odd.safetensors", "--format", "MXFP4")["rel_rmse"]
    assert math.isfinite(odd)
    assert odd == pytest.approx(
        report_of(tmp_path, tmp_path / "usual.safetensors", "--format", "MXFP4")["rel_rmse"], rel=0.05
    )
    threshold = report_of(tmp_path, tmp_path / "odd.safetensors", "--rmse", "0.5%")
    assert 0 < threshold["rel_rmse"] < 0.005


def test_what_fell_back_and_why(tmp_path: Path, flux_file: Path, capsys: Captured) -> None:
    convert(flux_file, "-o", tmp_path / "a.gguf", "--format", "Q4_K")
    out = capsys.readouterr().out
    assert "note: 13 tensors take Q5_0, BF16 instead of Q4_K, whose blocks of 256 their rows do not divide into" in out
    assert "norms, biases" in out
    report = report_of(tmp_path, tmp_path / "a.gguf", "--format", "Q3_K")
    assert any("were packed before" in note and "Q4_K" in note for note in report["notes"])
    report = report_of(tmp_path, tmp_path / "a.gguf", "--format", "Q8_0")
    assert any("stay packed as" in note for note in report["notes"])


def test_a_result_that_is_larger_than_its_source_says_so(tmp_path: Path) -> None:
    save_file({"w.weight": torch.randn(64, 256).to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    (note,) = report_of(tmp_path, tmp_path / "a.safetensors", "--format", "BF16")["notes"]
    assert "more than the 16 kB of their source (F8_E4M3 to BF16)" in note


def test_what_fits_as_it_is_is_not_measured(tmp_path: Path, flux_file: Path, capsys: Captured) -> None:
    convert(flux_file, "-o", tmp_path / "a.gguf", "--fit", "rx-7800-xt")
    assert "everything fits without being packed" in capsys.readouterr().out
    report = report_of(tmp_path, flux_file, "--target-size", "1GB")
    assert set(report["types"]) == {"BF16", "F32"}
    assert report["rel_rmse"] == 0


def test_a_format_that_gguf_lacks(tmp_path: Path, flux_file: Path, capsys: Captured) -> None:
    with pytest.raises(SystemExit, match="2"):
        convert(flux_file, "-o", tmp_path / "a.gguf", "--format", "F8_E4M3")
    assert "F8_E4M3 is no type that GGUF files have" in capsys.readouterr().err
