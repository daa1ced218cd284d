"""What is computed on an emulated card takes its memory and its time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from core.hardware.emulated import EmulatedAccelerator
from tests.cards import emulated

MIB = 2**20


@pytest.fixture
def card() -> Iterator[EmulatedAccelerator]:
    device = emulated(
        title="a card", context_bytes=4 * MIB, headroom_bytes=0, matmul_rate={"F32": 1e9}, memory_bandwidth=50e9
    )
    yield device
    device.close()


def activations(card: EmulatedAccelerator) -> int:
    return card.held_bytes().get("activations", 0)


def test_results_lie_on_the_card_as_long_as_somebody_has_them(card: EmulatedAccelerator) -> None:
    weights = card.place(torch.ones(256, 256), "transformer")
    with card.computing():
        x = torch.ones(64, 256)
        y = x @ weights
        view = y[:8].view(2, -1)
        assert activations(card) == x.nbytes + y.nbytes  # weights are there already, and views take nothing
        del y
        torch.zeros(1)
        assert activations(card) >= x.nbytes + 64 * 256 * 4  # the view keeps its storage
        del view, x
    card.memory()
    assert activations(card) == 0
    assert torch.equal(torch.ones(2, 256) @ weights, torch.full((2, 256), 256.0))
    card.free(weights)


def test_activations_run_out_of_memory(card: EmulatedAccelerator) -> None:
    with card.computing():
        kept = torch.empty(40 * MIB, dtype=torch.uint8)
        with pytest.raises(torch.OutOfMemoryError, match="emulated device"):
            torch.empty(40 * MIB, dtype=torch.uint8)
        del kept
        torch.empty(40 * MIB, dtype=torch.uint8)
    assert card.peak_bytes() >= 40 * MIB


def test_operations_take_no_less_than_the_card_needs(card: EmulatedAccelerator) -> None:
    a, b = torch.ones(200, 300), torch.ones(300, 500)
    begin = time.monotonic()
    with card.computing():
        for _ in range(3):
            product = a @ b
    assert time.monotonic() - begin >= 3 * 2 * 200 * 300 * 500 / 1e9 - 0.01
    assert torch.equal(product, a @ b)


def test_attention_is_counted(card: EmulatedAccelerator) -> None:
    q = torch.ones(1, 4, 128, 32)
    begin = time.monotonic()
    with card.computing():
        out = torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert time.monotonic() - begin >= 4 * 4 * 128 * 128 * 32 / 1e9 - 0.01
    assert torch.equal(out, torch.nn.functional.scaled_dot_product_attention(q, q, q))
