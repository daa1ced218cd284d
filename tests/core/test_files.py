"""Writing files whole: what was there stays after an error, and what is no file stays what it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from core import folders
from core.commands.outputs import check_output
from core.files import is_stream, write_atomically
from core.messages import UserError


def test_what_was_there_stays_after_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("before")

    def fail(_: object) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_atomically(file, fail)
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(sys.platform == "win32", reason="devices and pipes with names are those of POSIX")
def test_devices_and_pipes_are_written_into(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, lambda file: file.write(b"through"))
    assert os.read(reading, 99) == b"through"
    os.close(reading)
    assert pipe.is_fifo()
    null = Path("/dev/null")
    before = null.stat()
    write_atomically(null, lambda file: file.write(b"gone"))
    assert (null.stat().st_ino, null.stat().st_rdev) == (before.st_ino, before.st_rdev)
    assert is_stream(Path("/dev/stdout"))
    assert not is_stream(Path("/dev/shm/a"))


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    for name, words in (("none/a.svg", "none does not exist"), (".", "is a folder"), ("a.gguf", "end in .svg")):
        with pytest.raises(UserError, match=words):
            check_output(tmp_path / name, ".svg", "charts")
    check_output(tmp_path / "a.SVG", ".svg", "charts")
    assert not list(tmp_path.iterdir())


def test_an_empty_name_is_no_folder() -> None:
    for text in ("", " "):
        with pytest.raises(UserError, match="empty"):
            folders.user_path(text)
