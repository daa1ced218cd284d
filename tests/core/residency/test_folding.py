"""Modulation computed before the network runs: the same pixels, fewer bytes on the device and over the link."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from torch import nn
from torch.nn import functional

from core.engine import InProcessEngine
from core.generation.layers import modulation_layers
from core.hardware.emulated import EmulatedAccelerator
from core.library.queue import JobQueue
from core.messages import Event, How, LedgerRecord, Planned, Request, Result
from core.plans import Plan
from core.residency.folding import FOLDED, FoldingError
from core.residency.network import Network
from core.residency.slabs import Slab, divide
from core.residency.staging import Ring
from core.residency.store import HostStore, MemoryTensor
from tests.cards import emulated
from tests.events import result_of
from tests.tiny_models import make

MIB = 2**20
STREAMED = {"transformer": "streamed"}
STEPS = 3


def card(memory_bytes: int = 512 * MIB) -> EmulatedAccelerator:
    return emulated(title="Card that folds", memory_bytes=memory_bytes)


class Painter:
    """An engine that may be made anew, and the model that it paints with."""

    def __init__(self, model: str, memory_bytes: int = 512 * MIB) -> None:
        self.model = model
        self.engine = InProcessEngine(JobQueue(None), accelerator=card(memory_bytes))
        self.engine.start()

    def __call__(self, how: How, **asked: Any) -> tuple[Result, Plan, list[Event]]:
        """A picture, its plan, and the events of its run."""
        request = Request(
            prompt="a red house by the sea",
            model=self.model,
            seed=1,
            steps=STEPS,
            width=64,
            height=64,
            draft=True,
            how=how,
            **asked,
        )
        seen: list[Event] = []
        self.engine.submit(request)
        result = result_of(self.engine, request.id, seen=seen)
        return result, [event.plan for event in seen if isinstance(event, Planned)][-1], seen


@pytest.fixture
def painter(home: Path, tmp_path: Path) -> Iterator[Callable[..., Painter]]:
    painters: list[Painter] = []

    def begin(family: str, memory_bytes: int = 512 * MIB) -> Painter:
        folder = tmp_path / family
        model = family if family == "starter" else str(folder if folder.exists() else make(family, folder))
        painters.append(Painter(model, memory_bytes))
        return painters[-1]

    yield begin
    for made in painters:
        made.engine.close()


GUIDED = {"guidance": 4.0, "negative_prompt": "fog"}


def most(run: tuple[Result, Plan, list[Event]], component: str) -> int:
    """The largest piece of memory that was given to a component."""
    return max(event.change for event in run[2] if isinstance(event, LedgerRecord) and event.component == component)


def taken_for(seen: list[Event], reason: str) -> int:
    """Bytes that folding took for a reason."""
    records = [event for event in seen if isinstance(event, LedgerRecord) and event.component == FOLDED]
    return sum(record.change for record in records if record.reason == reason)


# Each with what it is asked for unguided and guided, and with how many passes a step then makes.
CASES = {
    "starter": (({}, 1),),
    "flux": (({}, 1),),
    "sd3": (({"guidance": 1.0}, 1), ({}, 2)),
    "qwen_image": (({}, 1), (GUIDED, 2)),
    "z_image": (({}, 1), (GUIDED, 2)),
}


@pytest.mark.parametrize("family", CASES)
def test_folding_changes_no_pixel_and_saves_its_bytes(family: str, painter: Callable[..., Painter]) -> None:
    paint = painter(family)
    paint(How(residency=STREAMED, cache=False))  # what encodes and decodes is on the device from now on
    for asked, conditions in CASES[family]:
        for formats in ({}, {"transformer": "Q8_0"}):
            paint(How(residency=STREAMED, formats={"transformer": "Q5_0"}, cache=False), **asked)  # so both are opened
            runs = [
                paint(How(residency=STREAMED, formats=formats, fold=fold, cache=False, lockstep=False), **asked)
                for fold in (True, False)  # what is open without folding would rather stay so
            ][::-1]
            results = [result for result, _, _ in runs]
            whole, folding = (result.components["transformer"] for result in results)
            assert results[0].pixels_sha256 == results[1].pixels_sha256
            assert folding.folded_bytes > 0
            assert whole.folded_bytes == 0
            assert folding.bytes + folding.folded_bytes == whole.bytes
            assert folding.resident_bytes < whole.resident_bytes
            assert most(runs[1], "slots") < most(runs[0], "slots")
            saved = whole.streamed_bytes - folding.streamed_bytes
            assert 0 < saved <= folding.folded_bytes
            fewer = results[0].link_bytes - results[1].link_bytes
            assert fewer == saved * (STEPS * conditions - 1)
            assert any("stay off the device" in reason for reason in results[1].reasons)


@pytest.mark.parametrize("family", ["starter", "flux"])
def test_plan_and_run_agree_about_folding(family: str, painter: Callable[..., Painter]) -> None:
    result, plan, seen = painter(family)(How(residency=STREAMED, cache=False))
    planned, used = plan.component("transformer"), result.components["transformer"]
    assert (planned.bytes, planned.folded_bytes) == (used.bytes, used.folded_bytes)
    assert abs(result.link_bytes - plan.link_bytes) <= 1024
    changes = [event.change for event in seen if isinstance(event, LedgerRecord) and event.component == FOLDED]
    assert max(changes) > 0
    assert sum(changes) == 0


def test_resident_where_it_would_not_fit_with_its_modulation(painter: Callable[..., Painter]) -> None:
    """Everything stays on the device but what is folded, which passes through slots."""
    resident = How(residency={"transformer": "resident"}, formats={"transformer": "F32"}, cache=False)
    paint = painter("starter")
    whole, plan, _ = paint(resident)
    assert whole.components["transformer"].folded_bytes == 0
    _, streaming, seen = paint(How(residency=STREAMED, cache=False))
    modulation = streaming.component("transformer").folded_bytes
    passing = taken_for(seen, "modulation weights pass through")
    assert 0 < passing < modulation
    denoise = max(phase.peak_bytes - phase.kept_bytes for phase in plan.phases)
    small = denoise - modulation // 2 + passing + 4 * MIB  # with the context and the headroom of the card
    result, _, seen = painter("starter", small)(resident)
    used = result.components["transformer"]
    assert result.pixels_sha256 == whole.pixels_sha256
    assert used.streamed_bytes == 0
    assert used.folded_bytes == modulation
    records = [event for event in seen if isinstance(event, LedgerRecord)]
    assert max(record.resident_bytes for record in records) <= small - 4 * MIB
    assert taken_for(seen, "modulation weights pass through") == passing


def test_a_model_that_cannot_be_folded_is_planned_without(painter: Callable[..., Painter], tmp_path: Path) -> None:
    """With `zero_cond_t` Qwen-Image gives the text's projections half of what it gives the picture's."""
    folder = make("qwen_image", tmp_path / "qwen_image")
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"zero_cond_t": True}))
    paint = painter("qwen_image")
    folding, _, seen = paint(How(residency=STREAMED))
    whole = paint(How(residency=STREAMED, fold=False))[0]
    plans = [event.plan for event in seen if isinstance(event, Planned)]
    assert [plan.component("transformer").folded_bytes > 0 for plan in plans] == [True, False]
    assert any(reason.startswith("modulation stays on the device") for reason in folding.reasons)
    assert folding.components["transformer"].folded_bytes == 0
    assert folding.pixels_sha256 == whole.pixels_sha256


# -- networks alone --------------------------------------------------------------------------------------------------


def flux(time: float, other: float) -> tuple[nn.Module, dict[str, Any]]:
    network = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    return network, {
        "hidden_states": torch.full((1, 4, 16), other),
        "encoder_hidden_states": torch.full((1, 3, 32), other),
        "pooled_projections": torch.ones(1, 32),
        "timestep": torch.tensor([time]),
        "guidance": torch.tensor([3.5]),
        "img_ids": torch.zeros(4, 3),
        "txt_ids": torch.zeros(3, 3),
    }


def flux2(time: float, other: float) -> tuple[nn.Module, dict[str, Any]]:
    network = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
    )
    return network, {
        "hidden_states": torch.full((1, 4, 16), other),
        "encoder_hidden_states": torch.full((1, 3, 32), other),
        "timestep": torch.tensor([time]),
        "guidance": torch.tensor([3.5]),
        "img_ids": torch.zeros(1, 4, 4),
        "txt_ids": torch.zeros(1, 3, 4),
    }


def sd3(time: float, other: float) -> tuple[nn.Module, dict[str, Any]]:
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
    )
    return network, {
        "hidden_states": torch.full((1, 4, 8, 8), other),
        "encoder_hidden_states": torch.full((1, 3, 32), other),
        "pooled_projections": torch.ones(1, 16),
        "timestep": torch.tensor([time]),
    }


def qwen_image(time: float, other: float) -> tuple[nn.Module, dict[str, Any]]:
    network = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    return network, {
        "hidden_states": torch.full((1, 4, 16), other),
        "encoder_hidden_states": torch.full((1, 3, 32), other),
        "encoder_hidden_states_mask": torch.ones(1, 3),
        "timestep": torch.tensor([time]),
        "img_shapes": [[(1, 2, 2)]],
    }


def z_image(time: float, other: float) -> tuple[nn.Module, dict[str, Any]]:
    network = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[4, 6, 6],
        axes_lens=[512, 64, 64],
    )
    return network, {
        "x": [torch.full((4, 1, 4, 4), other)],
        "t": torch.tensor([time]),
        "cap_feats": [torch.full((3, 32), other)],
    }


Make = Callable[[float, float], tuple[nn.Module, dict[str, Any]]]
NETWORKS = [flux, flux2, sd3, qwen_image, z_image]


def first_of(output: Any) -> torch.Tensor:
    sample = output[0]
    return torch.stack(list(sample)) if isinstance(sample, (list, tuple)) else sample


@pytest.mark.parametrize("make_network", NETWORKS)
def test_all_projections_see_one_vector_that_is_the_same_whatever_the_picture(make_network: Make) -> None:
    torch.manual_seed(0)
    network, _ = make_network(0.5, 0.1)
    network.eval()
    names = modulation_layers(network, type(network).__name__)
    assert len(names) >= 4
    given: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for name in names:
        layer = network.get_submodule(name)
        layer.register_forward_hook(lambda _layer, args, _output, name=name: given[name].append(args[0]))
    with torch.no_grad():
        for other in (0.1, 0.7):
            network(**make_network(0.5, other)[1], return_dict=False)
        network(**make_network(0.25, 0.1)[1], return_dict=False)
    assert all(len(vectors) == 3 for vectors in given.values())
    assert all(torch.equal(vectors[0], vectors[1]) for vectors in given.values())
    assert not any(torch.equal(vectors[0], vectors[2]) for vectors in given.values())
    different = {vectors[0].numpy().tobytes(): vectors[0] for vectors in given.values()}
    assert len(different) <= 2  # the vector, or its activation, or one of each
    if len(different) == 2:
        one, two = different.values()
        assert torch.equal(functional.silu(one), two) or torch.equal(functional.silu(two), one)


class Read(HostStore):
    """A store that remembers the names of slabs in the order in which they are read."""

    def fill(self, slab: Slab, *args: Any, **kwargs: Any) -> None:
        if slab.name not in self.__dict__.setdefault("names", []):
            self.names.append(slab.name)
        super().fill(slab, *args, **kwargs)


def network_of(module: nn.Module, accelerator: EmulatedAccelerator) -> tuple[Network, Read]:
    """A network that folds, with its weights in host memory."""
    division = divide(module, folded=modulation_layers(module, type(module).__name__))
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    pieces = [piece for slab in division.slabs for piece in slab.pieces]
    store = Read({piece.path: MemoryTensor(tensors[piece.path].data) for piece in pieces})
    return Network("transformer", module, division, store, accelerator), store


@pytest.mark.parametrize("resident", [0, 1, 99])
@pytest.mark.parametrize("make_network", NETWORKS)
def test_a_folded_network_computes_what_it_computed(make_network: Make, resident: int) -> None:
    torch.manual_seed(0)
    module, _ = make_network(0, 0)
    module.eval().requires_grad_(False)
    times = [0.9, 0.6, 0.6, 0.2]
    calls = [make_network(time, 0.1 * (1 + number))[1] for number, time in enumerate(times)]
    with torch.no_grad():
        expected = [first_of(module(**call, return_dict=False)) for call in calls]
        names = modulation_layers(module, type(module).__name__)
        accelerator = card()
        network, _ = network_of(module, accelerator)
        assert [slab.name for slab in network.division.folded] == names
        folding = network.folding
        assert folding is not None
        outputs = sum(-(-4 * module.get_submodule(name).out_features // 256) * 256 for name in names)
        for _cold_then_warm in range(2):
            network.place(range(min(resident, network.blocks)), 2)
            assert accelerator.held_bytes()[FOLDED] == 2 * folding.largest
            with network.running(Ring(accelerator, network.largest), len(calls)):
                network.ready()
                with folding.rehearsing() as seen:
                    for call in calls:
                        assert not any(part.any() for part in first_of(module(**call, return_dict=False)))
                assert len(seen) == len(calls)
                folding.expect([seen])
                assert accelerator.held_bytes()[FOLDED] == 2 * folding.largest + 3 * outputs  # one time comes twice
                for call, wanted in zip(calls, expected, strict=True):
                    assert torch.equal(first_of(module(**call, return_dict=False)), wanted)
                with pytest.raises(FoldingError, match="more often"):
                    module(**calls[0], return_dict=False)
            network.free_slots()
            assert FOLDED not in accelerator.held_bytes()
        network.close()
        assert torch.equal(first_of(module(**calls[0], return_dict=False)), expected[0])


@pytest.mark.parametrize("resident", [0, 99])
def test_folded_layers_come_with_their_blocks(resident: int) -> None:
    """So that their copies go beside the first pass, not before it."""
    module, call = flux(0.5, 0.1)
    module.eval().requires_grad_(False)
    accelerator = card()
    network, store = network_of(module, accelerator)
    assert network.folding is not None
    with torch.no_grad():
        network.place(range(min(resident, network.blocks)), 2)
        with network.running(Ring(accelerator, network.largest), 1):
            network.ready()
            with network.folding.rehearsing() as seen:
                module(**call, return_dict=False)
            network.folding.expect([seen])
            module(**call, return_dict=False)
    network.close()
    double = ["norm1.linear", "norm1_context.linear"]
    assert store.names == [
        "rest",
        "norm_out.linear",
        *(name for n in range(2) for b in [f"transformer_blocks.{n}"] for name in (*(f"{b}.{d}" for d in double), b)),
        *(name for n in range(2) for b in [f"single_transformer_blocks.{n}"] for name in (f"{b}.norm.linear", b)),
    ]


def test_stopping_while_modulation_is_computed_leaves_nothing_behind() -> None:
    module, call = flux(0.5, 0.1)
    module.eval().requires_grad_(False)
    accelerator = card()
    network, _ = network_of(module, accelerator)
    assert network.folding is not None
    third = module.get_submodule(network.division.folded[2].name)

    def stop(*_: object) -> None:
        raise InterruptedError

    with torch.no_grad():
        for stops in (True, False):  # the second time it is let through
            network.place([0], 2)
            with network.running(Ring(accelerator, network.largest), 1):
                network.ready()
                with network.folding.rehearsing() as seen:
                    module(**call, return_dict=False)
                network.folding.expect([seen])
                hook = third.register_forward_pre_hook(stop) if stops else None
                with pytest.raises(InterruptedError) if stops else nullcontext():
                    module(**call, return_dict=False)
                if hook is not None:
                    hook.remove()
            assert FOLDED not in accelerator.held_bytes()
    network.close()
    assert not accelerator.held_bytes()
