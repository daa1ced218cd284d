"""Control networks, pictures that are referred to, and a VAE's way in: what they need is measured as well."""

from __future__ import annotations

import msgspec
import pytest

from core.generation.dryrun import dry_run
from core.generation.dummy_inputs import Size, empty
from core.generation.exact import exact
from core.generation.measure import Network, measure
from core.generation.measure_folder import _phases
from core.generation.parts import Part, model_of
from core.hardware import profile as cards
from core.messages import Phase
from core.models.profile import activation, evaluate, flops, load, tiled_activation
from core.planning.job import job_of
from core.planning.solve import solve

pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own import

# What diffusers' classes take without a config, with fewer layers where that changes nothing but the time.
CONTROLS = {
    "FluxControlNetModel": {"num_layers": 2, "num_single_layers": 1},
    "QwenImageControlNetModel": {"num_layers": 2, "in_channels": 64},
    "SD3ControlNetModel": {"num_layers": 2, "pos_embed_max_size": 192},
    "ControlNetModel": {"cross_attention_dim": 768},
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_network_is_measured(name: str) -> None:
    part, size = Part(library="diffusers", class_name=name, config=CONTROLS[name]), Size(1, 112, 144, 77)
    profile, run = measure(part), exact(part, size)
    assert activation(profile, size.variables) == pytest.approx(run.peak, rel=0.03)
    assert flops(profile, size.variables) == pytest.approx(run.total_flops, rel=0.02)
    assert evaluate(profile.output, size.variables) == pytest.approx(run.output, rel=0.01)
    assert run.output > 0
    assert profile.order


def test_a_control_network_is_planned_with_what_it_steers() -> None:
    model = load("flux-dev")
    control = Part(library="diffusers", class_name="FluxControlNetModel", config={"num_layers": 5})
    names = [*model.components, "controlnet"]
    phases = _phases(names)
    assert next(need for need in phases if need.phase is Phase.DENOISE).components == ["controlnet", "transformer"]
    steered = msgspec.structs.replace(
        model, components={**model.components, "controlnet": measure(control)}, phases=phases
    )
    alone = msgspec.structs.replace(model, phases=_phases(list(model.components)))
    card = cards.load("rtx-4090")
    plans = [solve(job_of(each, steps=20), card)[0] for each in (alone, steered)]
    denoise = [next(phase for phase in plan.phases if phase.phase is Phase.DENOISE) for plan in plans]
    assert [placement.component for placement in denoise[1].placements] == ["controlnet", "transformer"]
    # five double blocks hand on 4096 x 3072 numbers each, beside the transformer's own activations
    assert denoise[1].activation_bytes - denoise[0].activation_bytes >= 5 * 4096 * 3072 * 2
    assert denoise[1].seconds > denoise[0].seconds


def test_a_picture_that_is_referred_to_joins_the_sequence() -> None:
    network, profile = Network(model_of("qwen-image")[1]["transformer"]), load("qwen-image").components["transformer"]
    size, other = Size(1, 128, 128, 300), (64, 96)  # as QwenImageEditPipeline: its latents behind those of the result
    inputs = network.call.inputs(network.module.config, size)
    rows, columns = (extent // 2 for extent in other)
    positions = inputs["hidden_states"].shape[1] + rows * columns
    inputs["hidden_states"] = empty(1, positions, network.module.config.in_channels)
    inputs["img_shapes"] = [[(1, 64, 64), (1, rows, columns)]]
    run = dry_run(network.module, inputs)
    joined = {**size.variables, "N": size.variables["N"] + other[0] * other[1]}
    assert activation(profile, joined) == pytest.approx(run.peak, rel=0.03)
    assert flops(profile, joined) == pytest.approx(run.total_flops, rel=0.02)


def test_a_vae_encodes_in_tiles_within_what_the_formula_says() -> None:
    network = Network(model_of("sd15")[1]["vae"])
    profile, size = load("sd15").components["vae"], Size(1, 128, 160)
    whole = network.run(size, encode=True).peak
    network = Network(network.part)
    network.module.enable_tiling()  # of 64 latent positions
    tiled = network.run(size, encode=True).peak
    said = tiled_activation(profile, size.variables, 64, encode=True)
    assert tiled < 0.5 * whole
    assert tiled <= said <= 1.1 * tiled
