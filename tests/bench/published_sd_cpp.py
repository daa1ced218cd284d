"""Published figures of stable-diffusion.cpp, and how it holds models."""

from __future__ import annotations

from functools import partial

import msgspec

from core.hardware import profile as cards
from core.hardware.profile import HardwareProfile
from core.models import profile as models
from core.models.profile import activation
from core.planning.job import job_of
from core.planning.options import Options
from core.planning.simulate import Behaviour, simulate
from core.planning.solve import solve
from tests.bench.published import GB, WHOLE, Row, Table, peers, run, shipped

# -- stable-diffusion.cpp on an RTX 3060 ------------------------------------------------------------------------------
#
# Z-Image-Turbo, four pictures of 688x1024 one after another, 12 steps each. Q8_0 and BF16 name the transformer; the
# encoder is taken as Q8_0. Its products read packed weights directly, so decoding costs nothing.
#
# Streaming: resident blocks are the first 17 (the pull request's log), a block is copied when it is needed and no copy
# overlaps a kernel, since each block gets a fresh device allocation, which waits for both (a commit of the request says
# so). The request names 3.5 GB/s as what these copies reach.
# Graph cut (pull request 1476): the graph runs in segments as large as --max-vram allows, activations included; each
# segment's weights are copied into one new buffer, the segment computes, the buffer is freed. So every weight crosses
# in every step, whether it would fit or not, and nothing overlaps.
# Weights wait in page-locked memory, or in pageable memory where the system will not lock that much (a commit says so,
# too). Assumed: it locks up to 16 GB, half of the 32 GB that a board with DDR3 usually takes at most. With Q8_0 11 GB
# are locked, which carry PCIe 3.0's 12 GB/s; with BF16 it would be 16.7 GB, which are pageable then: 3.5 GB/s again.

_PICTURES, _STEPS = 4, 12
_LOCKED, _PAGEABLE = 12 * GB, 3.5 * GB
_LOCKS_AT_MOST = 16 * GB
_LEAVES = {"transformer": False, "text_encoder": False, "vae": False}
_RESIDENT = 17


def _sd_cpp(card: HardwareProfile, transformer: str, way: str, tiles: str = "off") -> float:
    """Seconds of the four pictures: encoded once, the steps of all of them, and a decoding for each."""
    blocks = {"whole": WHOLE, "stream whole": WHOLE, "stream": _RESIDENT, "cut": 0}[way]
    options = peers(
        formats={"transformer": transformer, "text_encoder": "Q8_0"},
        tiles=tiles,
        blocks={"text_encoder": WHOLE, "transformer": blocks},
        keep=_LEAVES,
    )
    job = job_of(
        models.load("z-image-turbo"), width=688, height=1024, steps=_PICTURES * _STEPS, in_memory=frozenset(_LEAVES)
    )
    plan, _ = solve(job, card, options)
    locked = sum(component.bytes for component in plan.components) <= _LOCKS_AT_MOST
    rate = _LOCKED if locked and not way.startswith("stream") else _PAGEABLE
    simulation = simulate(plan, job, card, options, Behaviour(overlap=False, spread=False, rate=rate))
    return simulation.total_seconds + (_PICTURES - 1) * simulation.phases[-1].seconds


def ours_on_rtx_3060(card: HardwareProfile) -> float:
    """What our own plan would take with BF16 there, in seconds, from page-locked memory."""
    options = Options(formats={"transformer": "BF16", "text_encoder": "Q8_0"})
    job = job_of(
        models.load("z-image-turbo"), width=688, height=1024, steps=_PICTURES * _STEPS, in_memory=frozenset(_LEAVES)
    )
    simulation = run(job, msgspec.structs.replace(card, contention=cards.load("rtx-3060").contention), options)
    return round(simulation.total_seconds + (_PICTURES - 1) * simulation.phases[-1].seconds, 1)


SD_CPP = Table(
    title="RTX 3060 12 GB, PCIe 3.0: Z-Image-Turbo by stable-diffusion.cpp",
    source="leejet/stable-diffusion.cpp, pull requests 1477 and 1476 with their commits",
    card=shipped(
        "rtx-3060",
        pinned_rate=float(_LOCKED),
        staged_rate=float(_LOCKED),
        host_bytes=32 * GB,
        contention=0.0,
        decode_rate=dict.fromkeys(cards.load("rtx-3060").decode_rate, 1e15),
    ),
    field="matmul_efficiency",
    between=(0.05, 1.0),
    rows=(
        Row("Q8_0, components moved whole", 115.0, partial(_sd_cpp, transformer="Q8_0", way="whole"), "fitted"),
        Row("the same, VAE in tiles", 118.0, partial(_sd_cpp, transformer="Q8_0", way="whole", tiles="64")),
        Row(
            "Q8_0, streamed: it fits, so it is moved whole",
            122.0,
            partial(_sd_cpp, transformer="Q8_0", way="stream whole"),
        ),
        Row("Q8_0, graph cut", 152.0, partial(_sd_cpp, transformer="Q8_0", way="cut")),
        Row("BF16, streamed", 175.0, partial(_sd_cpp, transformer="BF16", way="stream")),
        Row("BF16, graph cut", 335.0, partial(_sd_cpp, transformer="BF16", way="cut")),
    ),
    left_out="VAE on the processor (602 s): nothing is published of that processor",
)

# -- stable-diffusion.cpp on an RX 9060 XT ----------------------------------------------------------------------------


def _whole_decode(_card: HardwareProfile) -> float:
    """GiB beside the weights that SD3.5's VAE needs for 1024x1024 in F32 with the plain attention kernel."""
    model = models.load("sd35-large")
    variables = job_of(model, width=1024, height=1024).variables(model.phases[-1])
    return 2 * activation(model.components["vae"], variables, kernel="math") / 2**30


VAE = Table(
    title="RX 9060 XT 16 GB: SD3.5's VAE at 1024x1024, in one piece",
    source="leejet/stable-diffusion.cpp, pull request 1573 (Vulkan)",
    card=shipped("rx-9060-xt-16gb"),
    field="",
    between=(0.0, 0.0),
    rows=(Row("one buffer for all activations", 4.6, _whole_decode, unit="GiB"),),
    left_out="49 tiles in 3.5 s: what convolutions compute in is not said; 65 s on the processor: nor which one it is",
)
