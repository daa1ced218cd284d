"""The index finds results by their words and can be rebuilt from the files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from core.library import metadata
from core.library.index import Library
from core.messages import Request
from tests.core.library.test_metadata import make_result


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    library = Library(tmp_path / "pictures", tmp_path / "data" / "library.sqlite")
    yield library
    library.close()


def add(library: Library, number: int, prompt: str) -> None:
    library.add(make_result(id=f"{number:012x}", prompt=prompt, file=f"/{number}.png", created=f"2026-01-0{number}"))


def test_search_finds_every_word_and_an_unfinished_last_one(library: Library) -> None:
    add(library, 1, "a red house by the sea at sunset")
    add(library, 2, "a blue house in the desert")
    add(library, 3, "a red boat")
    assert [result.file for result in library.recent()] == ["/3.png", "/2.png", "/1.png"]
    assert {result.file for result in library.search("house")} == {"/1.png", "/2.png"}
    assert [result.file for result in library.search("red hou")] == ["/1.png"]
    assert library.search("castle") == []


def test_results_come_in_pages_newest_first(library: Library) -> None:
    for number in range(1, 8):
        add(library, number, "a red house" if number % 2 else "a blue house")
    assert [result.file for result in library.recent(3, 3)] == ["/4.png", "/3.png", "/2.png"]
    assert [result.file for result in library.search("red", 2)] == ["/7.png", "/5.png"]
    assert [result.file for result in library.search("red", 2, 2)] == ["/3.png", "/1.png"]
    assert library.search("red", 2, 4) == []
    assert [result.file for result in library.search("", 2, 2)] == ["/5.png", "/4.png"]


@pytest.mark.parametrize(
    "text", ['"', "___", "a AND", "(", "*", "house -sea", "NEAR(", "'; DROP TABLE results; --", ""]
)
def test_search_takes_any_text(library: Library, text: str) -> None:
    add(library, 1, "a red house by the sea")
    library.search(text)
    assert len(library.recent()) == 1


def test_adding_again_replaces_and_removing_forgets(library: Library) -> None:
    add(library, 1, "a red house")
    add(library, 1, "a blue house")
    assert [result.prompt for result in library.recent()] == ["a blue house"]
    assert library.search("red") == []
    library.remove(f"{1:012x}")
    assert library.recent() == []
    assert library.search("blue") == []


def test_a_lost_index_is_rebuilt_from_the_files(library: Library, tmp_path: Path) -> None:
    request = Request(prompt="A red house, by the sea!")
    path = library.new_file(request)
    assert path.parent.parent == tmp_path / "pictures"
    assert "a-red-house-by-the-sea" in path.name
    metadata.write_png(path, Image.new("RGB", (64, 32)), make_result(id=request.id))
    (path.parent / "holiday.png").write_bytes(b"somebody else's file")
    assert library.rescan() == 1
    assert library.rescan() == 0
    assert library.recent() == [msgspec.structs.replace(make_result(id=request.id), file=str(path))]


def test_a_damaged_index_is_moved_aside_and_made_again(tmp_path: Path) -> None:
    index = tmp_path / "library.sqlite"
    metadata.write_png(tmp_path / "pictures" / "a.png", Image.new("RGB", (64, 32)), make_result())
    index.write_bytes(b"no database" * 1000)
    library = Library(tmp_path / "pictures", index)
    assert [result.id for result in library.recent()] == [make_result().id]
    library.close()
    assert len(list(tmp_path.glob("library.sqlite.damaged-*"))) == 1


def test_names_fit_every_file_system(library: Library) -> None:
    path = library.new_file(Request(prompt="\U00020000" * 500))
    assert len(path.name.encode()) < 200
    metadata.write_png(path, Image.new("RGB", (64, 32)), make_result())


def test_old_leftovers_are_cleared_and_new_ones_left_alone(library: Library) -> None:
    library.folder.mkdir()
    old, new = library.folder / ".old.part", library.folder / ".new.part"
    for part in (old, new):
        part.write_bytes(b"half a picture")
    os.utime(old, (0, 0))
    library.rescan()
    assert not old.exists()
    assert new.exists()
