"""Which known model made a result: told by content first, by name where no content is the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from core.models import catalogue
from core.models.catalogue import Match


@pytest.fixture(autouse=True)
def own_home(home: Path) -> None:
    """User folders of this test alone."""


def model(folder: Path, content: str = "") -> Path:
    """A model folder that is read in no time: an index and nothing else."""
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline", "_note": content}))
    return folder


def fingerprint(name: str) -> str:
    return catalogue.find(name).fingerprint


def test_the_model_of_that_name_if_its_content_is_the_same(tmp_path: Path) -> None:
    first = model(tmp_path / "fox")
    catalogue.add(first)
    catalogue.add(Path(shutil.copytree(first, tmp_path / "twin" / "fox")))
    assert catalogue.match("fox", fingerprint("fox")) == Match("fox")
    assert catalogue.match("fox 2", fingerprint("fox")) == Match("fox 2")


def test_another_name_for_the_same_content(tmp_path: Path) -> None:
    catalogue.add(model(tmp_path / "fox", "one"))
    catalogue.add(model(tmp_path / "hen", "two"))
    # made with --model PATH before the folder was added under another name; a "fox" of other content is known too
    assert catalogue.match("fox", fingerprint("hen")) == Match("hen")
    assert catalogue.match("unheard of", fingerprint("hen")) == Match("hen")


def test_the_same_name_with_other_content_is_told_apart(tmp_path: Path) -> None:
    catalogue.add(model(tmp_path / "fox"))
    assert catalogue.match("fox", "f" * 64) == Match("fox", same=False)
    assert catalogue.match("hen", "f" * 64) == Match("", same=False)


def test_a_name_alone_is_taken_at_its_word(tmp_path: Path) -> None:
    catalogue.add(model(tmp_path / "fox"))
    assert catalogue.match("fox", "") == Match("fox")
    assert catalogue.match("hen", "") == Match("", same=False)


def test_a_model_that_changed_or_is_gone_is_not_the_one(tmp_path: Path) -> None:
    catalogue.add(model(tmp_path / "fox"))
    before = fingerprint("fox")
    shutil.rmtree(tmp_path / "fox")
    assert catalogue.match("fox", before) == Match("", same=False)
    model(tmp_path / "fox", "another")
    assert catalogue.match("fox", before) == Match("fox", same=False)
    assert catalogue.match("fox", fingerprint("fox")) == Match("fox")
