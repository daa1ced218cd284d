"""Which files a path stands for: a folder's one network, all shards of one, and a question where that is not clear."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.messages import ModelFileError, UserError
from core.models.checkpoint import merged, open_checkpoint

SHARDS = ("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors")


def made(folder: Path, names: Sequence[str]) -> Path:
    """Files with a tensor each, called like its file."""
    folder.mkdir(exist_ok=True)
    for name in names:
        save_file({name: torch.zeros(2, 2)}, folder / name)
    return folder


def held(path: Path) -> set[str]:
    return set(open_checkpoint(path).tensors)


def test_several_models_in_a_folder_are_named_and_one_is_asked_for(tmp_path: Path) -> None:
    folder = made(tmp_path / "two", ["a.safetensors", "b.safetensors"])
    with pytest.raises(UserError, match=r"several model files: a\.safetensors, b\.safetensors; give one of them"):
        open_checkpoint(folder)
    with pytest.raises(UserError, match="and 15 more; give one of them"):
        open_checkpoint(made(tmp_path / "many", [f"{number:02}.safetensors" for number in range(20)]))
    # what merely begins alike is another model
    with pytest.raises(UserError, match="several"):
        open_checkpoint(made(tmp_path / "alike", ["sd3.5_large.safetensors", "sd3.5_medium.safetensors"]))
    with pytest.raises(UserError, match="several"):
        open_checkpoint(made(tmp_path / "two variants", ["model.fp16.safetensors", "model.bf16.safetensors"]))


def test_variants_stand_behind_the_plain_file(tmp_path: Path) -> None:
    assert held(made(tmp_path / "a", ["model.safetensors", "model.fp16.safetensors"])) == {"model.safetensors"}
    folder = made(tmp_path / "b", [*SHARDS, "m.fp16-00001-of-00001.safetensors"])
    assert held(folder) == set(SHARDS)


def test_a_config_is_that_of_the_file_that_libraries_load(tmp_path: Path) -> None:
    folder = made(tmp_path / "a", ["model.safetensors", "extra.safetensors"])
    with pytest.raises(UserError, match="several"):
        open_checkpoint(folder)
    (folder / "config.json").write_text("{}")
    assert held(folder) == {"model.safetensors"}


@pytest.mark.parametrize("indexed", [True, False])
def test_a_shard_stands_for_all(tmp_path: Path, indexed: bool) -> None:
    folder = made(tmp_path / "a", SHARDS)
    if indexed:
        index = {"weight_map": {name: name for name in SHARDS}}
        (folder / "m.safetensors.index.json").write_text(json.dumps(index))
    for name in ("", *SHARDS):
        assert held(folder / name) == set(SHARDS)
    both = merged([open_checkpoint(folder / name) for name in SHARDS])
    assert set(both.tensors) == set(SHARDS)
    assert len(both.files) == 2
    (folder / SHARDS[1]).unlink()
    with pytest.raises(ModelFileError, match=r"m-00002-of-00002\.safetensors is"):
        open_checkpoint(folder / SHARDS[0])


def test_a_name_that_only_looks_like_a_shard(tmp_path: Path) -> None:
    name = "m-00003-of-00002.safetensors"
    assert held(made(tmp_path / "a", [name]) / name) == {name}
