"""LoRA as a side branch: y + scale * B(A(x)), the same wherever weights are, and nothing of a network moves for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import nn

from core.generation.layers import modulation_layers
from core.hardware.emulated import EmulatedAccelerator
from core.precision.codec import decode, encode
from core.residency.adapters import Branch, Branches, Matrix, Weighted
from core.residency.network import Network
from core.residency.packed import PACKED, Scratch, pack
from core.residency.slabs import divide
from core.residency.staging import Ring
from core.residency.store import HostStore, MemoryTensor
from core.residency.whole import Whole
from tests.cards import emulated

MIB = 2**20


@pytest.fixture
def card() -> EmulatedAccelerator:
    return emulated(title="Card with side branches", memory_bytes=512 * MIB)


def flux() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return network.eval().requires_grad_(False), {
        "hidden_states": torch.randn(1, 4, 16),
        "encoder_hidden_states": torch.randn(1, 3, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(4, 3),
        "txt_ids": torch.zeros(3, 3),
        "return_dict": False,
    }


def unet() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    network = UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=64,
        norm_num_groups=8,
    )
    return network.eval().requires_grad_(False), {
        "sample": torch.randn(1, 4, 16, 16),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 5, 64),
        "return_dict": False,
    }


def adapter(network: nn.Module, rank: int, seed: int, every: int = 1, bias: bool = False) -> Branches:
    """Random branches beside every so-many-th layer that can have one."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(*shape: int) -> Matrix:
        return Matrix(shape, MemoryTensor(torch.randn(shape, generator=generator) * 0.2))

    layers = [(n, part) for n, part in network.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    branches = []
    for name, layer in layers[::every]:
        out, *into = layer.weight.shape
        up = (out, rank, *(1 for _ in into[1:]))
        branches.append(Branch(name, 0.5, matrix(rank, *into), matrix(*up), matrix(out) if bias else None))
    return Branches(f"lora {seed}", tuple(branches))


def tensor(matrix: Matrix) -> torch.Tensor:
    source = matrix.source
    assert isinstance(source, MemoryTensor)
    return source._tensor


def expected(make: Any, wanted: Sequence[Weighted], weights: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """What the network gives with y + weight * scale * B(A(x)) written down plainly, by hooks."""
    network, call = make()
    for path, numbers in (weights or {}).items():
        network.get_parameter(path).data = numbers
    for branches, weight in wanted:
        for branch in branches.branches:

            def hook(layer: nn.Module, given: tuple[torch.Tensor], y: torch.Tensor, b: Branch = branch, w=weight):
                down, up = tensor(b.down), tensor(b.up)
                if isinstance(layer, nn.Conv2d):
                    inner = nn.functional.conv2d(given[0], down, None, layer.stride, layer.padding, layer.dilation)
                    more = nn.functional.conv2d(inner, up)
                else:
                    more = given[0] @ down.T @ up.T
                if b.bias is not None:
                    shape = (-1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
                    more = more + tensor(b.bias).view(shape)
                return y + w * b.scale * more

            network.get_submodule(branch.layer).register_forward_hook(hook)
    with torch.no_grad():
        return network(**call)[0]


def run(network: Network, card: EmulatedAccelerator, call: dict[str, Any], times: int = 1) -> torch.Tensor:
    with torch.no_grad(), network.running(Ring(card, network.largest), times):
        network.ready()
        if network.folding is not None:
            with network.folding.rehearsing() as seen:
                for _ in range(times):
                    network.module(**call)
            network.folding.expect([seen])
        for _ in range(times):
            result = network.module(**call)[0].clone()
    network.free_slots()
    return result


def network_of(make: Any, card: EmulatedAccelerator, fold: bool = False) -> tuple[Network, dict[str, Any]]:
    module, call = make()
    division = divide(module, folded=modulation_layers(module, type(module).__name__) if fold else [])
    return Network("network", module, division, HostStore.in_memory(module, division), card), call


@pytest.mark.parametrize("make", [flux, unet])
def test_branches_add_what_they_are_defined_to_add(make: Any, card: EmulatedAccelerator) -> None:
    module, _ = make()
    one, two = adapter(module, 4, 1, bias=True), adapter(module, 3, 2, every=2)
    plain = expected(make, [])
    for wanted in ([(one, 1.0)], [(one, 0.7), (two, -1.3)], [(two, 2.0)], []):
        network, call = network_of(make, card)
        network.adapt(wanted)
        network.place(range(network.blocks), 0)
        result = run(network, card, call)
        assert torch.allclose(result, expected(make, wanted), rtol=1e-4, atol=1e-4)
        assert torch.allclose(result, plain) == (not wanted)
        network.close()


@pytest.mark.parametrize(("make", "fold"), [(flux, False), (flux, True), (unet, False)])
def test_results_are_the_same_wherever_weights_are(make: Any, fold: bool, card: EmulatedAccelerator) -> None:
    module, _ = make()
    wanted = [(adapter(module, 4, 1, bias=True), 0.7), (adapter(module, 3, 2, every=3), 1.5)]
    results = []
    for folding in {False, fold}:
        network, call = network_of(make, card, folding)
        network.adapt(wanted)
        for resident, slots in (
            (range(network.blocks), 0),
            ({0}, 2),
            ({1, 2}, 2),
            ((), 2),
            ((), 3),
            (range(network.blocks), 0),
        ):
            network.place(resident, slots)
            before = network.link_bytes
            results.append(run(network, card, call, times=2))
            assert network.size == network.held_bytes + network.streamed_bytes
            streamed = [slab.size for n, (_, slab) in enumerate(network.division.blocks) if n not in network.resident]
            assert sum(streamed) == network.streamed_bytes
            assert network.link_bytes - before >= 2 * network.streamed_bytes
        network.close()
        assert not card.held_bytes()
    assert all(torch.equal(result, results[0]) for result in results)


def test_packed_layers_have_branches_too(card: EmulatedAccelerator) -> None:
    plain, call = flux()
    names = [
        f"{name}.weight"
        for name, layer in plain.named_modules()
        if isinstance(layer, nn.Linear) and layer.in_features % 32 == 0
    ]
    stored = {name: encode(plain.get_parameter(name), "Q8_0") for name in names}
    wanted = [(adapter(plain, 4, 1), 1.0)]
    results = []
    for resident, slots in ((range(4), 0), ((), 2)):
        module, _ = flux()
        numbers = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        scratch = Scratch()
        pack(module, dict.fromkeys(names, "Q8_0"), scratch)
        division = divide(module)
        sources = {
            piece.path: MemoryTensor(
                stored[f"{piece.path.removesuffix(PACKED)}weight"]
                if piece.path.endswith(PACKED)
                else numbers[piece.path]
            )
            for slab in division.slabs
            for piece in slab.pieces
        }
        network = Network("network", module, division, HostStore(sources), card, scratch=scratch)
        network.adapt(wanted)
        network.place(resident, slots)
        results.append(run(network, card, call))
        network.close()
    assert torch.equal(*results)
    rounded = {name: decode(stored[name], "Q8_0", tuple(plain.get_parameter(name).shape)) for name in names}
    assert torch.allclose(results[0], expected(flux, wanted, rounded), rtol=1e-4, atol=1e-4)


def test_only_the_adapters_own_bytes_move(card: EmulatedAccelerator) -> None:
    """Adding, weighing and removing adapters leaves a resident network where it is."""
    module, _ = flux()
    one, two = adapter(module, 4, 1), adapter(module, 2, 2)
    network, call = network_of(flux, card)
    everything = range(network.blocks)
    network.place(everything, 0)
    plain = run(network, card, call)
    own = network.link_bytes
    assert own == network.size

    results = []

    def crossed(wanted: list[Weighted]) -> int:
        before = network.link_bytes
        network.adapt(wanted)
        network.place(everything, 0)
        results.append(run(network, card, call))
        return network.link_bytes - before

    first = crossed([(one, 1.0)])
    assert first == network.size - own > 0
    assert crossed([(one, 0.5)]) == 0
    second = crossed([(one, 0.5), (two, 1.0)])
    assert second == network.size - own - first > 0
    assert crossed([(two, 1.0)]) == 0
    assert network.held_bytes == own + second
    assert crossed([]) == 0
    assert network.held_bytes == network.size == own
    assert torch.equal(results[-1], plain)
    assert not any(torch.equal(result, plain) for result in results[:-1])
    network.close()
    with torch.no_grad():
        assert torch.equal(network.module(**call)[0], plain)  # its layers are what they were


def test_a_weight_of_nothing_is_no_adapter(card: EmulatedAccelerator) -> None:
    module, _ = flux()
    network, call = network_of(flux, card)
    network.place((), 2)
    plain = run(network, card, call)
    network.adapt([(adapter(module, 4, 1), 0.0)])
    network.place((), 2)
    assert torch.equal(run(network, card, call), plain)


@pytest.mark.parametrize("make", [flux, unet])
def test_where_host_and_device_share_their_memory(make: Any) -> None:
    module, call = make()
    own = sum(parameter.nbytes for parameter in module.parameters())
    one, two = adapter(module, 4, 1), adapter(module, 3, 2)
    changes: list[int] = []
    whole = Whole("network", module, lambda owner, change, reason: changes.append(change))
    whole.place((), 0)
    for wanted in ([(one, 1.0)], [(two, 0.5), (one, 0.7)], [(two, 0.5)], []):
        whole.adapt(wanted)
        with torch.no_grad():
            result = module(**call)[0]
        assert torch.allclose(result, expected(make, wanted), rtol=1e-4, atol=1e-4)
        assert whole.held_bytes == whole.size == sum(changes)
        assert (whole.size > own) == bool(wanted)


def test_in_half_precision_the_sum_is_rounded_once(card: EmulatedAccelerator) -> None:
    """The branch is accumulated in the product's own precision, not rounded before it is added."""
    layer = nn.Sequential(nn.Linear(64, 64, bias=False)).to(torch.bfloat16).requires_grad_(False)
    one = adapter(layer, 8, 1)
    whole = Whole("network", layer, lambda owner, change, reason: None)
    whole.adapt([(one, 1.0)])
    x = torch.randn(16, 64, dtype=torch.bfloat16)
    branch = one.branches[0]
    down, up = (tensor(m).to(torch.bfloat16).double() for m in (branch.down, branch.up))
    exact = x.double() @ layer[0].weight.double().T + 0.5 * (x.double() @ down.T @ up.T)
    with torch.no_grad():
        error = (layer(x).double() - exact).abs().max() / exact.abs().max()
    assert error < 2**-7
