"""Slabs from files and from memory: every byte in its place, in parts, cast; and files that go bad under us."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from core.messages import ModelFileError
from core.models.headers import read_safetensors
from core.residency.slabs import ALIGNMENT, Division, Piece, Slab, divide
from core.residency.store import FileTensor, HostStore, MemoryTensor, OpenFile, Stopped

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def odd_network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Module()
    net.layers = nn.ModuleList([nn.Linear(7, 5), nn.Conv2d(3, 2, 3), nn.LayerNorm(9)])
    net.head = nn.Linear(3, 1, bias=False)
    net.empty = nn.Parameter(torch.empty(0, 4))
    net.register_buffer("count", torch.tensor([1, 2, 3]))
    return net.requires_grad_(False)


def in_memory(net: nn.Module) -> HostStore:
    return HostStore({n: MemoryTensor(t) for n, t in [*net.named_parameters(), *net.named_buffers()]})


def in_file(net: nn.Module, path: Path) -> HostStore:
    tensors = dict([*net.named_parameters(), *net.named_buffers()])
    save_file(tensors, path)
    file, found = OpenFile(path), read_safetensors(path)
    dtypes = {**DTYPES, "I64": torch.int64}
    return HostStore(
        {
            n: FileTensor(file, found.data_start + header.start, dtypes[header.type])
            for n, header in found.tensors.items()
        }
    )


def filled(store: HostStore, slab: Slab, part: int) -> torch.Tensor:
    buffer = torch.empty(slab.size, dtype=torch.uint8)
    for start in range(0, slab.size, part):
        store.fill(slab, buffer[start : start + part], start)
    return buffer


def fill_all(store: HostStore, division: Division) -> None:
    for slab in division.slabs:
        filled(store, slab, 1 << 20)


@pytest.mark.parametrize("held", DTYPES.values())
@pytest.mark.parametrize("stored", DTYPES.values())
@pytest.mark.parametrize("part", [ALIGNMENT, 3 * ALIGNMENT, 1 << 20])
def test_every_tensor_is_in_its_place(tmp_path: Path, stored: torch.dtype, held: torch.dtype, part: int) -> None:
    net = odd_network().to(stored)
    floats = {name: held for name, tensor in net.named_parameters() if tensor.is_floating_point()}
    division = divide(net, floats)
    tensors = dict([*net.named_parameters(), *net.named_buffers()])
    for store in (in_memory(net), in_file(net, tmp_path / "weights.safetensors")):
        seen = set()
        for slab in division.slabs:
            buffer = filled(store, slab, part)
            for piece in slab.pieces:
                assert piece.offset % ALIGNMENT == 0
                expected = tensors[piece.path].to(held) if piece.path in floats else tensors[piece.path]
                assert torch.equal(piece.view(buffer), expected)
                seen.add(piece.path)
        assert seen == set(tensors)


@given(cut=st.integers(1, 400))
def test_a_truncated_file_is_named_with_its_tensor(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    net, path = odd_network(), tmp_path_factory.mktemp("cut") / "weights.safetensors"
    store = in_file(net, path)
    os.truncate(path, path.stat().st_size - cut)
    division = divide(net)
    with pytest.raises(ModelFileError, match=r"weights.safetensors (was changed|is truncated)"):
        fill_all(store, division)
    fresh = HostStore({n: FileTensor(OpenFile(path), s._start, s._dtype) for n, s in store.sources.items()})  # type: ignore[attr-defined]
    with pytest.raises(ModelFileError, match=r"weights.safetensors is truncated: tensor [\w.]+ ends"):
        fill_all(fresh, division)


def test_a_file_that_was_written_over_is_refused_and_one_that_was_replaced_is_not(tmp_path: Path) -> None:
    net, path = odd_network(), tmp_path / "weights.safetensors"
    store = in_file(net, path)
    division = divide(net)
    expected = [filled(store, slab, 1 << 20) for slab in division.slabs]
    (tmp_path / "other").write_bytes(b"another model")
    (tmp_path / "other").replace(path)  # what is open is still the old one
    for slab, before in zip(division.slabs, expected, strict=True):
        for piece in slab.pieces:
            assert torch.equal(piece.bytes_in(filled(store, slab, 1 << 20)), piece.bytes_in(before))

    store = in_file(net, tmp_path / "again.safetensors")
    with (tmp_path / "again.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"gone")
    os.utime(tmp_path / "again.safetensors", ns=(1, 1))
    with pytest.raises(ModelFileError, match="was changed while it was in use"):
        filled(store, division.slabs[0], 1 << 20)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"gone.safetensors cannot be read"):
        OpenFile(tmp_path / "gone.safetensors")


def test_reading_can_be_stopped_within_a_slab() -> None:
    class Counted:
        reads = 0

        def read(self, piece: Piece, target: torch.Tensor, start: int = 0) -> None:
            self.reads += 1

        def advise(self, advice: str) -> None:
            raise AssertionError

    source, size = Counted(), 80 << 20
    store = HostStore({"weight": source})
    slab = Slab("block", (Piece("weight", (size,), torch.uint8, 0),))
    buffer = torch.empty(size, dtype=torch.uint8)
    store.fill(slab, buffer)
    assert source.reads == 5
    with pytest.raises(Stopped):
        store.fill(slab, buffer, stopped=lambda: source.reads >= 7)
    assert source.reads == 7
