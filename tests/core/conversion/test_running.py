"""A conversion under way: its memory, and what is left when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.models.gguf_header import read_gguf
from tests.core.conversion.written import CLI, child, convert

# The journal is written with every tensor, not every two seconds.
EAGER = f"import core.conversion.journal as journal; journal._INTERVAL = 0.0; {CLI}"
# Prints at the end how many stretches of numbers were converted.
COUNTED = """
import core.conversion.write as write
taken, convert = [0], write._Worker.convert
def counted(self, *given):
    taken[0] += 1
    return convert(self, *given)
write._Worker.convert = counted
import atexit
atexit.register(lambda: print(taken[0]))
{cli}
"""


def large(folder: Path, tensors: int = 24) -> Path:
    """A checkpoint whose conversion takes some seconds."""
    chance = torch.Generator().manual_seed(0)
    weights = {
        f"layers.{number}.w.weight": torch.randn(1024, 2048, generator=chance).bfloat16() for number in range(tensors)
    }
    save_file(weights, folder / "a.safetensors")
    return folder / "a.safetensors"


def started(folder: Path, source: Path, *words: object, lines: int = 4) -> subprocess.Popen[str]:
    """A conversion that has written so many lines of its journal; each tensor is one."""
    process = child(EAGER, "convert", source, "-o", folder / "a.gguf", *words)
    journal = folder / "a.gguf.partial.json"
    while not (journal.is_file() and len(journal.read_bytes().splitlines()) >= lines):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    return process


def done(folder: Path) -> int:
    """How many tensors a journal names."""
    lines = (folder / "a.gguf.partial.json").read_bytes().splitlines()[1:]
    return sum(1 for line in lines if line.startswith(b"[") and line.endswith(b"]"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are those of POSIX")
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_conversion_goes_on(tmp_path: Path, kind: signal.Signals) -> None:
    source = large(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"what was there")
    process = started(tmp_path, source, "--format", "Q3_K")
    process.send_signal(kind)
    process.communicate(timeout=60)
    assert process.returncode == (-9 if kind is signal.SIGKILL else 130)
    assert (tmp_path / "a.gguf").read_bytes() == b"what was there"
    before, stamp = done(tmp_path), (tmp_path / "a.gguf.partial").stat().st_ino
    assert 0 < before < 24
    counting = COUNTED.format(cli=CLI)
    process = child(counting, "convert", source, "-o", tmp_path / "a.gguf", "--format", "Q3_K")
    printed, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert 24 * 2 - 2 * before == int(printed.splitlines()[-1])  # two stretches in each tensor that is left
    assert (tmp_path / "a.gguf").stat().st_ino == stamp  # it is the unfinished file, under its name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "a.safetensors"]
    convert(source, "-o", tmp_path / "b.gguf", "--format", "Q3_K")
    _same_but_name(tmp_path / "a.gguf", tmp_path / "b.gguf")


def _same_but_name(one: Path, other: Path) -> None:
    headers = [read_gguf(path) for path in (one, other)]
    skip = {"general.name"}
    assert {k: v for k, v in headers[0].metadata.items() if k not in skip} == {
        k: v for k, v in headers[1].metadata.items() if k not in skip
    }
    raw = [path.read_bytes() for path in (one, other)]
    for name, tensor in headers[0].tensors.items():
        twin = headers[1].tensors[name]
        assert raw[0][tensor.start : tensor.end] == raw[1][twin.start : twin.end]


@pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are those of POSIX")
def test_what_was_begun_otherwise_is_begun_anew(tmp_path: Path) -> None:
    source = large(tmp_path)
    for change in ("format", "source"):
        process = started(tmp_path, source, "--format", "Q3_K")
        process.kill()
        process.communicate(timeout=60)
        assert done(tmp_path)
        if change == "source":
            os.utime(source, (1, 1))
        wanted = "Q3_K" if change == "source" else "Q4_0"
        process = child(COUNTED.format(cli=CLI), "convert", source, "-o", tmp_path / "a.gguf", "--format", wanted)
        printed, error = process.communicate(timeout=200)
        assert process.returncode == 0, error
        assert int(printed.splitlines()[-1]) == 24 * 2
        assert {tensor.type for tensor in read_gguf(tmp_path / "a.gguf").tensors.values()} == {wanted}
        (tmp_path / "a.gguf").unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="locks are those of POSIX")
def test_two_conversions_do_not_write_one_file(
    flux_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    with (tmp_path / "a.gguf.partial.json").open("wb") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        convert(flux_file, "-o", tmp_path / "a.gguf", "--format", "Q8_0", code=2)
        assert "is being written by another conversion" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["a.gguf.partial.json"]
    convert(flux_file, "-o", tmp_path / "a.gguf", "--format", "Q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); {cli}"


@pytest.mark.skipif(sys.platform == "win32", reason="limits are those of POSIX")
def test_a_full_disk_is_said_at_once_and_leaves_nothing_behind(flux_file: Path, tmp_path: Path) -> None:
    limited = LIMITED.format(limit=100_000, cli=CLI)
    process = child(limited, "convert", flux_file, "-o", tmp_path / "a.gguf", "--format", "Q8_0")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "cannot be written" in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits are those of POSIX")
def test_a_disk_that_fills_up_keeps_what_is_done(tmp_path: Path) -> None:
    source = large(tmp_path)
    process = started(tmp_path, source, "--format", "Q3_K")
    process.kill()
    process.communicate(timeout=60)
    before = done(tmp_path)
    size = (tmp_path / "a.gguf.partial").stat().st_size
    # what is there may be written over, and nothing behind two thirds of it
    process = child(
        LIMITED.format(limit=size * 2 // 3, cli=EAGER), "convert", source, "-o", tmp_path / "a.gguf", "--format", "Q3_K"
    )
    _, error = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "the same command goes on from there" in error.strip().splitlines()[-1]
    assert "Traceback" not in error
    assert not (tmp_path / "a.gguf").exists()
    assert before < done(tmp_path) < 24
    convert(source, "-o", tmp_path / "a.gguf", "--format", "Q3_K")
    assert len(read_gguf(tmp_path / "a.gguf").tensors) == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "a.safetensors"]


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
    process = child(MEASURED, "convert", tmp_path / "a.safetensors", "-o", out, *mode, "--report", tmp_path / "r.json")
    printed, error = process.communicate(timeout=280)
    assert process.returncode == 0, error
    report = json.loads((tmp_path / "r.json").read_text())
    assert int(printed.splitlines()[-1]) <= 256 << 20
    assert report["peak_rss_bytes"] - report["baseline_rss_bytes"] <= 256 << 20
    assert report["bytes"] == out.stat().st_size
