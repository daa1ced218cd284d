"""A GGUF header is read as gguf-py reads it, and damage of any kind is one sentence that names the file."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from core.messages import ModelFileError
from core.models.gguf_header import LongArray, read_gguf
from core.models.headers import read_safetensors
from tests.core.models.mutations import mutate

MUTATIONS = 2_000


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "sound.gguf"
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_custom_alignment(64)
    writer.add_name("a name with ü")
    writer.add_float32("a.float", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_int64("a.negative", -7)
    writer.add_array("tokens", ["one", "two", "drei"])
    writer.add_array("scores", [0.5, 1.5, -2.0])
    chance = np.random.default_rng(0)
    writer.add_tensor("plain", chance.normal(size=(3, 5)).astype(np.float32))
    writer.add_tensor("half", chance.normal(size=(7,)).astype(np.float16))
    weights = chance.normal(size=(4, 64)).astype(np.float32)
    packed = gguf.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("integers", np.arange(6, dtype=np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def sound_safetensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "sound.safetensors"
    tensors = {f"block.{number}.weight": np.full((3, 5), number, np.float32) for number in range(4)}
    save_file({**tensors, "bias": np.ones(4, np.float16), "step": np.array(1, np.int64)}, path, {"format": "pt"})
    return path


def _gguf_pys(path: Path) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """The same by gguf-py's reader."""
    return {
        tensor.name: (
            tensor.tensor_type.name,
            tuple(int(extent) for extent in reversed(tensor.shape)),
            int(tensor.data_offset),
            int(tensor.n_bytes),
        )
        for tensor in gguf.GGUFReader(path).tensors
    }


def _ours(path: Path) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    tensors = read_gguf(path).tensors
    return {
        name: (tensor.type, tensor.shape, tensor.start, tensor.end - tensor.start) for name, tensor in tensors.items()
    }


def test_reads_what_gguf_py_reads(sound: Path) -> None:
    header = read_gguf(sound)
    assert header.version == 3
    assert header.alignment == 64
    assert header.metadata["general.name"] == "a name with ü"
    assert header.metadata["a.negative"] == -7
    assert header.metadata["a.bool"] is True
    assert header.metadata["tokens"] == ["one", "two", "drei"]
    assert header.metadata["scores"] == [0.5, 1.5, -2.0]
    assert _ours(sound) == _gguf_pys(sound)
    short = read_gguf(sound, longest_array=2)
    assert short.metadata["tokens"] == short.metadata["scores"] == LongArray(3)
    assert short.tensors == header.tensors


def test_every_truncation_is_noticed(sound: Path, tmp_path: Path) -> None:
    data, path = sound.read_bytes(), tmp_path / "cut.gguf"
    end = read_gguf(sound).tensors["integers"].end
    for length in range(end):
        path.write_bytes(data[:length])
        with pytest.raises(ModelFileError, match=r"cut\.gguf"):
            read_gguf(path)
    path.write_bytes(data[:end])  # the padding behind the last tensor may be missing
    assert read_gguf(path) == read_gguf(sound)


def _pair(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def _info(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    extents = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return struct.pack("<Q", len(name)) + name + extents + struct.pack("<IQ", kind, offset)


def _file(pairs: list[bytes] = [], infos: list[bytes] = [], data: int = 0, version: int = 3, extra: int = 0) -> bytes:  # noqa: B006
    head = b"GGUF" + struct.pack("<IQQ", version, len(infos) + extra, len(pairs)) + b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % 32) + bytes(data)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GGML" + bytes(40), "not a GGUF file"),
        (b"", "not a GGUF file"),
        (_file(version=1), "version 1"),
        (_file(version=3 << 24), "big-endian"),
        (_file(extra=2**40), "claims .* tensors"),
        (_file([_pair(b"k", 9, struct.pack("<IQ", 4, 2**60))]), "claims .* entries in metadata k"),
        (_file([_pair(b"k", 8, struct.pack("<Q", 2**63))]), "truncated: it ends in metadata k"),
        (_file([_pair(b"k", 77, b"")]), "metadata k has a type that is not known"),
        (_file([_pair(b"k", 4, bytes(4))] * 2), "metadata key k is there twice"),
        (_file([_pair(b"k", 8, struct.pack("<Q", 2) + b"\xff\xfe")]), "metadata k is not UTF-8"),
        (_file([_pair(b"k", 9, struct.pack("<IQ", 9, 1) * 6 + struct.pack("<IQ", 0, 0))]), "nested"),
        (_file([_pair(b"general.alignment", 4, struct.pack("<I", 48))]), "no power of two"),
        (_file([_pair(b"general.alignment", 10, struct.pack("<Q", 32))]), "not a 32-bit number"),
        (_file([], [_info(b"w", (8,), 0, 0)] * 2, 64), "tensor w is there twice"),
        (_file([], [_info(b"w", (8,), 99, 0)], 32), "tensor w has a type that is not known"),
        (_file([], [_info(b"w", (8,), 0, 4)], 64), "tensor w does not begin where"),
        (_file([], [_info(b"v", (16,), 0, 0), _info(b"w", (8,), 0, 32)], 96), "tensor w overlaps"),
        (_file([], [_info(b"w", (2**62, 2**62), 0, 0)], 32), "truncated: tensor w"),
        (_file([], [_info(b"w", (3, 33), 8, 0)], 320), "rows of 33"),
        (_file([], [_info(b"w", (1,) * 9, 0, 0)], 32), "claims 9 dimensions"),
        (_file([], [_info(b"w", (8,), 0, 0)], 200), "behind its last tensor"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"bad\.gguf.*{said}"):
        read_gguf(path)


def test_oversized_metadata_is_refused_before_it_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    with path.open("wb") as file:
        file.write(_file([_pair(b"k", 9, struct.pack("<IQ", 9, 2**22 + 1))]))
        file.truncate(1 << 30)  # room for all that it claims, of zeros
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="more than 4194304 entries"):
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def _bounded(read: Callable[[Path], Any], path: Path) -> Any | ModelFileError:
    """The header or the error, with time and memory held against generous bounds."""
    started = time.perf_counter()
    result: Any
    tracemalloc.start()
    try:
        result = read(path)
    except ModelFileError as error:
        result = error
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 8 << 20
    assert time.perf_counter() - started < 10
    if isinstance(result, ModelFileError):
        assert path.name in str(result)
    return result


def test_mutated_gguf_files(sound: Path, tmp_path: Path) -> None:
    data, path = sound.read_bytes(), tmp_path / "mutated.gguf"
    start = min(tensor.start for tensor in read_gguf(sound).tensors.values())
    refused = 0
    for seed in range(MUTATIONS):
        changed = mutate(data, seed, start)
        path.write_bytes(changed)
        result = _bounded(read_gguf, path)
        if isinstance(result, ModelFileError):
            refused += 1
            continue
        end = 0
        for tensor in result.tensors.values():  # what is read is consistent, whatever was changed
            assert end <= tensor.start <= tensor.end <= len(changed)
            assert tensor.start % result.alignment == 0
            end = tensor.end
        assert _ours(path) == _gguf_pys(path)
    assert 0.5 * MUTATIONS < refused < MUTATIONS


def test_mutated_safetensors_files(sound_safetensors: Path, tmp_path: Path) -> None:
    data, path = sound_safetensors.read_bytes(), tmp_path / "mutated.safetensors"
    (length,) = struct.unpack("<Q", data[:8])
    refused = 0
    for seed in range(MUTATIONS):
        path.write_bytes(mutate(data, seed, 8 + length))
        result = _bounded(read_safetensors, path)
        if isinstance(result, ModelFileError):
            refused += 1
            continue
        try:
            with safe_open(path, "np") as file:
                theirs = {
                    name: (file.get_slice(name).get_dtype(), file.get_slice(name).get_shape())
                    for name in file.keys()  # noqa: SIM118
                }
        except SafetensorError as error:
            pytest.fail(f"seed {seed}: safetensors' library refuses what we read: {error}")
        assert {name: (tensor.type, list(tensor.shape)) for name, tensor in result.tensors.items()} == theirs
    assert 0.5 * MUTATIONS < refused < MUTATIONS


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": [0, 8], "b": [4, 12]}, "tensor b overlaps"),
        ({"a": [0, 8], "b": [12, 20]}, "tensor b has a hole"),
        ({"a": [0, 8]}, "4 bytes behind its last tensor"),
    ],
)
def test_safetensors_fill_their_data(tmp_path: Path, header: dict[str, list[int]], said: str) -> None:
    entries = {name: {"dtype": "F32", "shape": [2], "data_offsets": where} for name, where in header.items()}
    text = json.dumps(entries).encode()
    path = tmp_path / "bad.safetensors"
    size = max(max(where) for where in header.values()) + (4 if len(header) == 1 else 0)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    with pytest.raises(ModelFileError, match=rf"bad\.safetensors.*{said}"):
        read_safetensors(path)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
        b'{"__metadata__":{"a":1}}',
        b'{"__metadata__":{"a":{"b":{}}}}',
        b'{"\\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}',
        '{"a":1}'.encode("utf-16"),
    ],
)
def test_safetensors_with_wrong_text(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(ModelFileError, match=r"bad\.safetensors"):
        read_safetensors(path)
