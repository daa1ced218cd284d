"""A safetensors header is read exactly, and damage of any kind is one sentence that names the file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from core.messages import ModelFileError
from core.models.headers import read_header


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "a.safetensors"
    save_file({"w": np.zeros((3, 5), np.float32), "b": np.ones(4, np.float16), "s": np.array(1, np.int64)}, path)
    return path.read_bytes()


def test_names_types_and_shapes(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(sound)
    header = read_header(path)
    assert {name: (t.type, t.shape, t.end - t.start) for name, t in header.items()} == {
        "w": ("F32", (3, 5), 60),
        "b": ("F16", (4,), 8),
        "s": ("I64", (), 8),
    }


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_truncation_is_noticed(tmp_path: Path, sound: bytes, data: st.DataObject) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(sound[: data.draw(st.integers(0, len(sound) - 1))])
    with pytest.raises(ModelFileError, match=r"cut\.safetensors"):
        read_header(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=200))
def test_noise_is_never_more_than_a_sentence(tmp_path: Path, noise: bytes) -> None:
    path = tmp_path / "noise.safetensors"
    path.write_bytes(noise)
    with pytest.raises(ModelFileError, match=r"noise\.safetensors"):
        read_header(path)


def test_a_header_nested_beyond_reason_is_damage(tmp_path: Path) -> None:
    text = b"[" * 100_000
    path = tmp_path / "deep.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(ModelFileError, match=r"deep\.safetensors"):
        read_header(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]},
        {"dtype": "FP7", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]},
        {"dtype": "F32"},
        None,
    ],
)
def test_a_lying_header_names_its_tensor(tmp_path: Path, entry: object) -> None:
    text = json.dumps({"weight": entry}).encode()
    path = tmp_path / "lying.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    with pytest.raises(ModelFileError, match="weight"):
        read_header(path)
