"""The engine's log stays small while it is written to, whoever writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.engine.log import rotate


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "engine.log"


@pytest.fixture
def descriptor(log: Path) -> Iterator[int]:
    with log.open("ab") as file:
        yield file.fileno()


def test_a_small_log_is_left_alone(log: Path, descriptor: int) -> None:
    os.write(descriptor, b"hello\n")
    rotate(descriptor, log, limit=100)
    assert log.read_bytes() == b"hello\n"
    assert not log.with_suffix(".old.log").exists()


def test_a_large_log_moves_aside_and_every_writer_goes_on(log: Path, descriptor: int) -> None:
    other = os.dup(descriptor)
    os.write(descriptor, b"before\n" * 100)
    rotate(descriptor, log, limit=100)
    os.write(descriptor, b"after\n")
    os.write(other, b"a native library\n")
    subprocess.run([sys.executable, "-S", "-c", "print('a subprocess')"], stdout=other, check=True)
    os.close(other)
    assert log.read_bytes().splitlines() == [b"after", b"a native library", b"a subprocess"]
    assert log.with_suffix(".old.log").read_bytes() == b"before\n" * 100


def test_only_one_old_log_is_kept(log: Path, descriptor: int) -> None:
    for letter in (b"a", b"b"):
        os.write(descriptor, letter * 200)
        rotate(descriptor, log, limit=100)
    assert log.with_suffix(".old.log").read_bytes() == b"b" * 200
    assert sorted(file.name for file in log.parent.iterdir()) == ["engine.log", "engine.old.log"]


def test_where_no_copy_can_be_made_the_log_is_cut_all_the_same(log: Path, descriptor: int) -> None:
    log.with_suffix(".old.log").mkdir()
    os.write(descriptor, b"x" * 200)
    rotate(descriptor, log, limit=100)
    assert log.stat().st_size == 0
