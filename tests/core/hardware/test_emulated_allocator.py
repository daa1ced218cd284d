"""The account of device memory rounds, splits and joins as CUDA's allocator does, and never loses a byte."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.hardware.caching import Block
from core.hardware.emulated_allocator import Allocator

MIB = 2**20


@pytest.mark.parametrize(
    ("asked", "allocated", "reserved"),
    [
        (1, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (11 * MIB, 11 * MIB, 12 * MIB),  # what is left, 1 MiB, is too little to cut off
    ],
)
def test_sizes_are_rounded_as_in_cuda(asked: int, allocated: int, reserved: int) -> None:
    allocator = Allocator(64 * MIB)
    block = allocator.allocate(asked, "owner")
    assert allocator.reserved == reserved
    assert block.asked == asked
    assert allocator.allocated == (12 * MIB if asked == 11 * MIB else allocated)


def test_small_blocks_share_a_segment_and_join_again() -> None:
    allocator = Allocator(64 * MIB)
    blocks = [allocator.allocate(512 * 1024, "small") for _ in range(4)]
    assert allocator.reserved == 2 * MIB
    for block in (blocks[1], blocks[3], blocks[2], blocks[0]):
        allocator.free(block)
    assert [block.size for segment in allocator._segments for block in segment.blocks] == [2 * MIB]


def test_fragments_can_keep_a_request_out() -> None:
    allocator = Allocator(40 * MIB)
    blocks = [allocator.allocate(5 * MIB, "block") for _ in range(8)]
    for block in blocks[::2]:
        allocator.free(block)
    assert allocator.reserved - allocator.allocated == 20 * MIB
    with pytest.raises(torch.OutOfMemoryError, match=r"20\.0 MiB reserved but unallocated"):
        allocator.allocate(6 * MIB, "larger")


def test_free_segments_go_back_before_it_gives_up() -> None:
    allocator = Allocator(40 * MIB)
    allocator.free(allocator.allocate(30 * MIB, "transformer"))
    allocator.allocate(MIB, "bias")
    assert allocator.reserved == 32 * MIB
    allocator.allocate(36 * MIB, "encoder")
    assert allocator.reserved == 38 * MIB


@given(
    steps=st.lists(st.one_of(st.integers(1, 30 * MIB), st.integers(-20, -1)), max_size=60),
    capacity=st.integers(2 * MIB, 200 * MIB),
)
def test_the_account_always_balances(steps: list[int], capacity: int) -> None:
    allocator, held = Allocator(capacity), list[Block]()
    for step in steps:
        if step > 0:
            try:
                held.append(allocator.allocate(step, "owner"))
            except torch.OutOfMemoryError:
                assert allocator.reserved + step > capacity - 20 * MIB or allocator.reserved > allocator.allocated
        elif held:
            allocator.free(held.pop(step % len(held)))
        assert allocator.allocated == sum(block.size for block in held) <= allocator.reserved <= capacity
        assert allocator.by_owner() == ({"owner": sum(block.asked for block in held)} if held else {})
        for segment in allocator._segments:
            assert sum(block.size for block in segment.blocks) == segment.size
            free = [block.free for block in segment.blocks]
            assert not any(a and b for a, b in pairwise(free))  # neighbours were joined
    for block in held:
        allocator.free(block)
    allocator.release_cached()
    assert allocator.reserved == allocator.allocated == 0
