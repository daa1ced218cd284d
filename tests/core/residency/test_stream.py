"""One call streams any network: the stock pipelines' pixels, adapters, odd orders of blocks, and clear refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import nn

from core.hardware.emulated import EmulatedAccelerator
from core.messages import UserError
from core.residency import stream
from core.residency.network import Network
from core.residency.slabs import divide
from core.residency.staging import Ring
from core.residency.store import HostStore, MemoryTensor
from tests.cards import emulated
from tests.tiny_models import make

MIB = 2**20


@pytest.fixture
def card() -> Iterator[EmulatedAccelerator]:
    made = new_card()
    yield made
    made.close()


def new_card(memory_bytes: int = 256 * MIB) -> EmulatedAccelerator:
    return emulated(
        title="Card", memory_bytes=memory_bytes, context_bytes=0, headroom_bytes=0, pinned_rate=4e9, pageable_rate=1e9
    )


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.register_buffer("scale", torch.rand(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    """Blocks of several sizes, run in any order, with one layer that two of them share."""

    def __init__(self, hidden: list[int], order: list[int] | None = None, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)
        self.layers = nn.ModuleList(Block(width, size) for size in hidden)
        self.order = order or list(range(len(hidden)))
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for number in self.order:
            x = self.layers[number](x)
        return self.last(x)


def smallest(net: nn.Module) -> int:
    division = divide(net)
    return division.rest.size + 2 * max(slab.size for _, slab in division.blocks)


def test_the_stock_pipeline_paints_the_same_picture(tmp_path: Path, card: EmulatedAccelerator) -> None:
    pipeline = DiffusionPipeline.from_pretrained(make("flux", tmp_path / "flux"), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def paint() -> torch.Tensor:
        return pipeline(
            "a red house",
            num_inference_steps=3,
            width=64,
            height=64,
            num_images_per_prompt=2,
            generator=torch.Generator("cpu").manual_seed(7),
            output_type="pt",
        ).images

    expected = paint()
    handle = stream(pipeline.transformer, card, smallest(pipeline.transformer))
    assert handle.resident_blocks == 0 < handle.streamed_bytes
    assert torch.equal(paint(), expected)
    handle.release()
    assert card.held_bytes() == {}
    assert torch.equal(paint(), expected)


def test_an_adapter_is_streamed_with_its_blocks(tmp_path: Path, card: EmulatedAccelerator) -> None:
    transformer = FluxTransformer2DModel.from_pretrained(make("flux", tmp_path / "flux") / "transformer")
    plain = divide(transformer).blocks[0][1].size
    torch.manual_seed(3)
    transformer.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k"], init_lora_weights=False))
    transformer.eval().requires_grad_(False)
    assert divide(transformer).blocks[0][1].size > plain
    config = transformer.config
    inputs = {
        "hidden_states": torch.randn(2, 16, config.in_channels),
        "encoder_hidden_states": torch.randn(2, 5, config.joint_attention_dim),
        "pooled_projections": torch.randn(2, config.pooled_projection_dim),
        "timestep": torch.tensor([0.5, 0.5]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(5, 3),
    }
    expected = transformer(**inputs).sample
    handle = stream(transformer, card, smallest(transformer))
    assert torch.equal(transformer(**inputs).sample, expected)
    handle.release()
    transformer.disable_adapters()
    assert not torch.equal(transformer(**inputs).sample, expected)


@settings(max_examples=25)
@given(
    hidden=st.lists(st.sampled_from([32, 64, 200]), min_size=1, max_size=7),
    share=st.floats(0, 1),
    slots=st.integers(1, 3),
    data=st.data(),
)
def test_any_order_of_blocks_of_any_size(hidden: list[int], share: float, slots: int, data: st.DataObject) -> None:
    numbers = st.integers(0, len(hidden) - 1)
    order = data.draw(st.one_of(st.permutations(range(len(hidden))), st.lists(numbers, min_size=1, max_size=9)))
    net, x = Net(hidden, order), torch.randn(3, 64)
    expected = net(x)
    card = new_card()
    division = divide(net)
    least = division.rest.size + slots * max(slab.size for _, slab in division.blocks)
    handle = stream(net, card, least + round(share * (division.size - division.rest.size)), slots=slots)
    for _ in range(3):
        assert torch.equal(net(x), expected)
    handle.release()
    card.close()


def test_tensors_that_two_blocks_share_stay(card: EmulatedAccelerator) -> None:
    net, x = Net([64] * 4), torch.randn(3, 64)
    net.layers[3].up.weight = net.layers[0].up.weight
    expected = net(x)
    handle = stream(net, card, smallest(net))
    assert torch.equal(net(x), expected)
    assert net.layers[3].up.weight is net.layers[0].up.weight
    handle.release()


def test_more_memory_means_fewer_bytes_over_the_link(card: EmulatedAccelerator) -> None:
    net = Net([64, 200] * 4)
    least, streamed = smallest(net), []
    for room in range(least, least + 2 * divide(net).size, 20_000):
        handle = stream(net, card, room)
        streamed.append(handle.streamed_bytes)
        assert sum(card.held_bytes().values()) <= room
        handle.release()
    assert streamed == sorted(streamed, reverse=True)
    assert streamed[0] > streamed[-1] == 0


@pytest.mark.parametrize("pinned", [False, True])
def test_a_cast_of_a_streamed_network_is_refused_by_name(card: EmulatedAccelerator, *, pinned: bool) -> None:
    net, x = Net([64] * 4), torch.randn(3, 64)
    handle = stream(net, card, 10 * MIB, pinned=pinned)
    net(x)
    net.to(torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"layers\.\d.* must not be cast"):
        net(x.to(torch.bfloat16))
    handle.release()


def test_what_cannot_be_streamed_is_said(card: EmulatedAccelerator) -> None:
    with pytest.raises(UserError, match=r"is the least"):
        stream(Net([64] * 4), card, "10KB")
    with pytest.raises(UserError, match="nothing to stream"):
        stream(Net([64] * 4), "cpu", "1GB")
    with pytest.raises(ValueError, match="not a size"):
        stream(Net([64] * 4), card, "much")
    assert card.held_bytes() == {}


def test_a_block_that_fails_leaves_the_rest_usable(card: EmulatedAccelerator) -> None:
    net, x = Net([64] * 5), torch.randn(3, 64)
    expected = net(x)
    handle = stream(net, card, smallest(net))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        net(torch.randn(3, 32))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        net.layers[2](torch.randn(3, 32))
    assert torch.equal(net(x), expected)
    handle.release()


@pytest.mark.parametrize("resident", [{0, 1, 2, 3, 4}, {1, 4}])
@pytest.mark.parametrize("failing", range(5))
def test_a_block_that_finds_no_memory_runs_again_when_weights_gave_way(
    resident: set[int], failing: int, card: EmulatedAccelerator
) -> None:
    net, x = Net([64] * 5), torch.randn(3, 64)
    expected = net(x)
    run, fails = net.layers[failing].forward, [True, True]

    def scarce(x: torch.Tensor) -> torch.Tensor:
        if fails:
            fails.pop()
            raise torch.OutOfMemoryError("no room for activations")
        return run(x)

    net.layers[failing].forward = scarce  # type: ignore[method-assign]
    division = divide(net)
    tensors = dict([*net.named_parameters(), *net.named_buffers()])
    store = HostStore({name: MemoryTensor(tensor) for name, tensor in tensors.items()})
    network = Network("net", net, division, store, card)
    asked: list[str] = []
    places = [resident - {1}, set[int]()]

    def give_way(reason: str) -> bool:
        asked.append(reason)
        network.move(places[len(asked) - 1], 2, reason)
        return True

    network.give_way = give_way
    network.place(resident, 2)
    with network.running(Ring(card, network.largest), passes=3):
        network.ready()
        for _ in range(3):
            assert torch.equal(net(x), expected)
    assert asked == [f"memory ran out in block {failing + 1} of the net"] * 2
    assert network.resident == []

    fails.append(True)
    network.give_way = None
    network.place(resident, 2)
    with network.running(Ring(card, network.largest)), pytest.raises(torch.OutOfMemoryError):
        net(x)
    network.close()
    assert card.held_bytes() == {}
