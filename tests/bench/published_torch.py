"""Published figures of programs that are made with torch, and how they hold models."""

from __future__ import annotations

from functools import partial

import msgspec

from core.hardware.profile import HardwareProfile
from core.models import profile as models
from core.planning.job import job_of
from core.planning.simulate import ALLOCATOR, OURS, Behaviour, Simulation, simulate
from core.planning.solve import solve
from tests.bench.published import GB, WHOLE, Row, Table, peers, run, shipped

# -- StreamForge on an RTX 3060 ---------------------------------------------------------------------------------------
#
# Pageable memory and PCIe 4.0 (its README). Each block crosses twice: its prefetcher copies the next block while one
# computes, but nobody uses that copy; then accelerate's hooks copy each layer when it runs (layer_prefetcher.py).
# The first copy hides behind the kernels as long as they take longer, the second is paid in full: one copy without
# overlap. Two blocks are on the device at a time. Steps and sizes are those of its scripts; the one for Qwen-Image has
# a negative prompt, so its steps are guided. What it says of memory is without text encoders.


def _forge(card: HardwareProfile, of: tuple[str, int, int]) -> Simulation:
    model, width, height = of
    profile = models.load(model)
    encoders = profile.phases[0].components
    options = peers(
        formats=dict.fromkeys(profile.components, "BF16"),
        blocks={"transformer": 0},
        keep=dict.fromkeys(encoders, False),
        slots=2,
        tiles="off",
        headroom_bytes=0,
    )
    job = job_of(profile, width=width, height=height, steps=20, negative=True, in_memory=frozenset(profile.components))
    return run(job, card, options, Behaviour(overlap=False, spread=False, rate=card.pageable_rate))


def _forge_step(card: HardwareProfile, of: tuple[str, int, int]) -> float:
    phases = _forge(card, of).phases
    return next(phase.step_seconds for phase in phases if phase.label == "denoise")


def _forge_total(card: HardwareProfile, of: tuple[str, int, int]) -> float:
    phases = _forge(card, of).phases
    return sum(phase.seconds for phase in phases if phase.label != "encode")


def _forge_bytes(card: HardwareProfile, of: tuple[str, int, int]) -> float:
    """The peak while it denoises, in GB, with the driver's context."""
    simulation = _forge(card, of)
    phase = next(phase for phase in simulation.phases if phase.label == "denoise")
    end = phase.begin + phase.seconds
    peak = max(record.resident_bytes for record in simulation.ledger if phase.begin < record.seconds < end)
    begin = (record for record in simulation.ledger if record.seconds == phase.begin)
    peak -= sum(record.change for record in begin if record.reason == ALLOCATOR)  # it gives such memory back
    return (peak + card.context_bytes) / GB


STREAMFORGE = Table(
    title="RTX 3060 12 GB, PCIe 4.0: BF16 streamed by StreamForge",
    source="madtunebk/streamforge, README, scripts and engine, and its author's post",
    card=shipped("rtx-3060", host_bytes=64 * GB, contention=0.0),
    field="matmul_efficiency",
    between=(0.05, 1.0),
    rows=(
        Row(
            "FLUX.1-dev, 1024x1024, 20 steps",
            155.0,
            partial(_forge_total, of=("flux-dev", 1024, 1024)),
            "fitted",
        ),
        Row("Qwen-Image, a step at 768x768", 18.0, partial(_forge_step, of=("qwen-image", 768, 768))),
        Row("Qwen-Image, a step at 1920x1072", 29.0, partial(_forge_step, of=("qwen-image", 1920, 1072))),
        Row(
            "Z-Image-Turbo at 768x768, peak",
            1.4,
            partial(_forge_bytes, of=("z-image-turbo", 768, 768)),
            unit="GB",
        ),
        Row(
            "Qwen-Image at 1920x1072, peak (less than)",
            3.0,
            partial(_forge_bytes, of=("qwen-image", 1920, 1072)),
            unit="GB",
        ),
    ),
    left_out="Wan 2.2 (45 s a step and frame, 2 to 4 GB): of which size and on how many cards is not said",
)

# -- SGLang-Diffusion: encoders alone ---------------------------------------------------------------------------------


def _encode(card: HardwareProfile, model: str, way: str) -> float:
    """Seconds of the encode phase: `resident`, `whole` (moved, then computed) or `layers` (streamed, one ahead)."""
    profile = models.load(model)
    names = profile.phases[0].components
    options = peers(
        formats=dict.fromkeys(profile.components, "BF16"),
        blocks=dict.fromkeys(names, 0 if way == "layers" else WHOLE),
        keep=dict.fromkeys(names, way == "resident"),
        headroom_bytes=0,
    )
    # only the encoders are asked for: a model without its other phases
    model_ = msgspec.structs.replace(
        profile, components={name: profile.components[name] for name in names}, phases=profile.phases[:1]
    )
    job = job_of(model_, in_memory=frozenset(names))
    plan, _ = solve(job, card, options)
    if way == "resident":
        warm = {component.name: component.bytes for component in plan.components}
        job = msgspec.structs.replace(job, warm=warm)
        plan, _ = solve(job, card, options)
    if way == "layers":  # what is outside of layers stays
        rest = {placement.component: placement.resident_bytes for placement in plan.phases[0].placements}
        job = msgspec.structs.replace(job, warm=rest)
    behaviour = OURS if way != "whole" else Behaviour(overlap=False, spread=False)
    return simulate(plan, job, card, options, behaviour).phases[0].seconds


def _sglang(name: str, title: str, field: str, figures: tuple[float, float, float], *more: Row) -> Table:
    ways = ("resident", "whole", "layers")
    said = ("resident", "moved whole", "by layers")
    fitted = "resident" if field == "matmul_efficiency" else "whole"
    rows = [
        Row(
            f"FLUX.1's encoders, {word}",
            figure,
            partial(_encode, model="flux-dev", way=way),
            "fitted" if way == fitted else "predicted",
        )
        for way, word, figure in zip(ways, said, figures, strict=True)
    ]
    return Table(
        title=f"{title}: encoders by SGLang-Diffusion",
        source="sgl-project/sglang, pull request 25517",
        card=shipped(name, host_bytes=256 * GB, staged_rate=0.0),
        field=field,
        between=(0.005, 1.0) if field == "matmul_efficiency" else (1e9, 1e11),
        rows=(*rows, *more),
        left_out="CLIP alone and the VAE: under 25 ms, and of a precision that is not said; Qwen's encoder resident: "
        "how long its text is is not said",
    )


_QWEN = (
    Row("Qwen-Image's encoder, moved whole", 0.92631, partial(_encode, model="qwen-image", way="whole")),
    Row("Qwen-Image's encoder, by layers", 0.66480, partial(_encode, model="qwen-image", way="layers")),
)

# -- GGUF in eager torch on an H100 -----------------------------------------------------------------------------------
#
# The rates at which formats decode are assumed from these very rows (core/hardware/assume.py), so they test only that
# the simulator adds them up; role `source`.


def _steps(card: HardwareProfile, transformer: str) -> float:
    profile = models.load("flux-dev")
    options = peers(formats=dict.fromkeys(profile.components, "BF16") | {"transformer": transformer})
    job = job_of(profile, width=1024, height=1024, steps=50, in_memory=frozenset(profile.components))
    plan, _ = solve(job, card, options)
    job = msgspec.structs.replace(job, warm={component.name: component.bytes for component in plan.components})
    return next(phase.step_seconds for phase in run(job, card, options).phases if phase.label == "denoise") * 50


GGUF = Table(
    title="H100: FLUX.1-dev, 50 steps, packed weights decoded by eager torch",
    source="Hugging Face's blog on quantization backends in diffusers",
    card=shipped("h100"),
    field="matmul_efficiency",
    between=(0.05, 1.0),
    rows=(
        Row("BF16", 12.0, partial(_steps, transformer="BF16"), "fitted"),
        Row("Q8_0", 15.0, partial(_steps, transformer="Q8_0"), "source"),
        Row("Q4_1", 23.0, partial(_steps, transformer="Q4_1"), "source"),
        Row("Q2_K", 26.0, partial(_steps, transformer="Q2_K"), "source"),
    ),
)

# -- A studio on an RX 7800 XT ----------------------------------------------------------------------------------------


def _cold_encoder(card: HardwareProfile, way: str, tokens: int) -> float:
    """T5 in F16 from the disk without overlap, or its pass alone."""
    profile = models.load("flux-schnell")
    name = "text_encoder_2"
    model = msgspec.structs.replace(
        profile,
        components={name: profile.components[name]},
        phases=[msgspec.structs.replace(profile.phases[0], components=[name])],
    )
    options = peers(formats={name: "BF16"}, blocks={name: WHOLE})
    job = msgspec.structs.replace(job_of(model), text_tokens=tokens)
    plan, _ = solve(job, card, options)
    if way == "pass":
        job = msgspec.structs.replace(job, warm={component.name: component.bytes for component in plan.components})
    return simulate(plan, job, card, options, Behaviour(overlap=False)).phases[0].seconds


STUDIO = Table(
    title="RX 7800 XT: the fp16 T5 of FLUX.1-schnell",
    source="the published thread of a studio's author: 24 to 33 s to move it, about 0.15 s to compute",
    card=shipped("rx-7800-xt"),
    field="disk_rate",
    between=(1e7, 2e10),
    rows=(
        Row("moved and computed (24 to 33 s)", 28.5, partial(_cold_encoder, way="moved", tokens=512), "fitted"),
        Row("computed alone, FluxPipeline's 512 tokens", 0.15, partial(_cold_encoder, way="pass", tokens=512)),
        Row("computed alone, the model card's 256 tokens", 0.15, partial(_cold_encoder, way="pass", tokens=256)),
    ),
    left_out="how many tokens it encodes is not said, so both usual numbers stand here",
)

# what the profiles know least is fitted: the 4090's link is a planning rate, the H100's share of its peak assumed
SGLANG = (
    _sglang("rtx-4090", "RTX 4090", "pinned_rate", (0.05715, 0.55267, 0.48535), *_QWEN),
    _sglang("h100", "H100", "matmul_efficiency", (0.02411, 0.22556, 0.19622)),
)
