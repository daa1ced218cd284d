"""Modulation computed before the network runs: the same pixels, fewer bytes on the device and over the link."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
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
from core.generation.roles import modulation_layers
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.emulated_card import EmulatedCard
from core.library.queue import JobQueue
from core.messages import Event, How, LedgerRecord, Planned, Request, Result
from core.plans import Plan
from core.residency.folding import FOLDED, FoldingError
from core.residency.network import Network
from core.residency.slabs import divide
from core.residency.staging import Ring
from core.residency.store import HostStore, MemoryTensor
from tests.events import result_of
from tests.tiny_models import make

MIB = 2**20
STREAMED = {"transformer": "streamed"}
STEPS = 3


def card(memory_bytes: int = 512 * MIB) -> EmulatedAccelerator:
    return EmulatedAccelerator(
        EmulatedCard(
            name="card",
            title="Card that folds",
            memory_bytes=memory_bytes,
            context_bytes=2 * MIB,
            headroom_bytes=2 * MIB,
            pinned_rate=2e9,
            pageable_rate=1e9,
        )
    )


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


def reasons_of(seen: list[Event]) -> list[str]:
    """Why folding took memory."""
    records = [event for event in seen if isinstance(event, LedgerRecord)]
    return [record.reason for record in records if record.component == FOLDED and record.change > 0]


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
            runs = [
                paint(How(residency=STREAMED, formats=formats, fold=fold, cache=False, lockstep=False), **asked)
                for fold in (False, True)
            ]
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
    """Everything stays on the device but what is folded; that passes through where blocks are not there yet."""
    resident = How(residency={"transformer": "resident"}, cache=False)
    paint = painter("starter")
    whole, plan, _ = paint(resident)
    assert whole.components["transformer"].folded_bytes == 0
    modulation = paint(How(residency=STREAMED, cache=False))[1].component("transformer").folded_bytes
    denoise = max(phase.peak_bytes - phase.kept_bytes for phase in plan.phases)
    small = denoise - modulation // 2 + 4 * MIB  # with the context and the headroom of the card
    result, _, seen = painter("starter", small)(resident)
    used = result.components["transformer"]
    assert result.pixels_sha256 == whole.pixels_sha256
    assert used.streamed_bytes == 0
    assert used.folded_bytes == modulation
    records = [event for event in seen if isinstance(event, LedgerRecord)]
    assert max(record.resident_bytes for record in records) <= small - 4 * MIB
    assert reasons_of(seen) == ["outputs of modulation layers, for all steps"]


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
        division = divide(module, folded=names)
        assert [slab.name for slab in division.folded] == names
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        pieces = [piece for slab in division.slabs for piece in slab.pieces]
        store = HostStore({piece.path: MemoryTensor(tensors[piece.path].data) for piece in pieces})
        accelerator = card()
        network = Network("transformer", module, division, store, accelerator)
        folding = network.folding
        assert folding is not None
        outputs = sum(-(-4 * module.get_submodule(name).out_features // 256) * 256 for name in names)
        for warm in (False, True):
            network.place(range(min(resident, network.blocks)), 2)
            passing = accelerator.held_bytes().get(FOLDED, 0)
            assert passing == (2 * folding.largest if warm and resident == 99 else 0)
            with network.running(Ring(accelerator, network.largest), len(calls)):
                network.ready()
                with folding.rehearsing() as seen:
                    for call in calls:
                        assert not any(part.any() for part in first_of(module(**call, return_dict=False)))
                assert len(seen) == len(calls)
                folding.compute([seen])
                assert accelerator.held_bytes()[FOLDED] == 3 * outputs  # one time comes twice
                for call, wanted in zip(calls, expected, strict=True):
                    assert torch.equal(first_of(module(**call, return_dict=False)), wanted)
                with pytest.raises(FoldingError, match="more often"):
                    module(**calls[0], return_dict=False)
            network.free_slots()
            assert FOLDED not in accelerator.held_bytes()
        network.close()
        assert torch.equal(first_of(module(**calls[0], return_dict=False)), expected[0])


def test_stopping_while_modulation_is_computed_leaves_nothing_behind() -> None:
    module, call = flux(0.5, 0.1)
    module.eval().requires_grad_(False)
    division = divide(module, folded=modulation_layers(module, "FluxTransformer2DModel"))
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    pieces = [piece for slab in division.slabs for piece in slab.pieces]
    store = HostStore({piece.path: MemoryTensor(tensors[piece.path].data) for piece in pieces})
    accelerator = card()
    network = Network("transformer", module, division, store, accelerator)
    assert network.folding is not None
    layers = 0

    def stop() -> None:
        nonlocal layers
        layers += 1
        if layers == 3:
            raise InterruptedError

    with torch.no_grad():
        for check in (stop, lambda: None):  # the second time it is let through
            network.place([0], 2)
            try:
                with network.running(Ring(accelerator, network.largest), 1):
                    network.ready()
                    with network.folding.rehearsing() as seen:
                        module(**call, return_dict=False)
                    network.folding.compute([seen], check)
                    module(**call, return_dict=False)
            except InterruptedError:
                assert layers == 3
            assert FOLDED not in accelerator.held_bytes()
    network.close()
    assert not accelerator.held_bytes()
