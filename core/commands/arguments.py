"""Options that several commands share, and how sizes and rates are written."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import NamedTuple

from core import sizes
from core.messages import AS_PLANNED, ESTIMATES, OFFLOAD, Adapter, How, Init, UserError
from core.models.starting import MOST_PIXELS

_LEAST_RATE, _MOST_RATE = 10**6, 2 * 10**12  # bytes a second: the most as core.hardware.profile has it


def byte_size(text: str) -> int:
    """Bytes from `12GB` (10^9), `12GiB`, `900MB` or a plain number, as argparse wants it."""
    try:
        return sizes.byte_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def byte_rate(text: str) -> float:
    """Bytes per second from `2GB/s`, as argparse wants it."""
    if re.search(r"[KMGT]i?b(ps|/s(ec)?)?$|bits?(ps|/s(ec)?)?$|[kmgt]bps$", text.strip()):
        raise argparse.ArgumentTypeError(f"{text} counts bits, 8 of which are a byte; write it in bytes, as in 2GB/s")
    rate = byte_size(re.sub(r"/s(ec)?$", "", text.strip()))
    if not _LEAST_RATE <= rate <= _MOST_RATE:
        raise argparse.ArgumentTypeError(f"{text} is not a rate such as 2GB/s; give 1MB/s to 2TB/s")
    return float(rate)


def pixels(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT in pixels, as argparse wants it."""
    match = re.fullmatch(r"(\d{1,6})[xX×](\d{1,6})", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is not a size such as 128x128")
    return int(match.group(1)), int(match.group(2))


def whole_number(text: str) -> int:
    """A whole number, as argparse wants it."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number") from None


def number(text: str) -> float:
    """A finite number, as argparse wants it."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def share(text: str) -> float:
    """A number from 0 to 1, as argparse wants it."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def component_blocks(text: str) -> tuple[str, str]:
    """COMPONENT=resident|streamed|N, as argparse wants it."""
    name, _, value = text.partition("=")
    if not name or not (value in ("resident", "streamed") or value.isdigit()):
        raise argparse.ArgumentTypeError(f"{text} is not of the form transformer=resident, =streamed or =12")
    return name, value


def component_format(text: str) -> tuple[str, str]:
    """COMPONENT=TYPE, as argparse wants it."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text} is not of the form transformer=Q6_K")
    return name, value.upper()


def adapter(text: str) -> Adapter:
    """FILE or FILE:WEIGHT, as argparse wants it. A drive's letter is part of the file."""
    file, colon, tail = text.rpartition(":")
    if not colon or not file or len(file) == 1 or not re.fullmatch(r"[+-]?[\w.+-]*", tail) or Path(text).is_file():
        file, tail = text, "1"
    try:
        weight = float(tail)
    except ValueError:
        known = "give FILE or FILE:WEIGHT, such as a.safetensors:0.8"
        raise argparse.ArgumentTypeError(f"{tail!r} is no weight; {known}") from None
    if not math.isfinite(weight):
        raise argparse.ArgumentTypeError(f"{tail} is not a finite weight")
    return Adapter(file, weight)


class Device(NamedTuple):
    """Which accelerator to compute on; card, memory and link are for an emulated one."""

    accelerator: str = "auto"
    gpu: str | None = None
    vram_bytes: int | None = None
    link_rate: float | None = None


def add_device(parser: argparse.ArgumentParser) -> None:
    """The device that computes, real or emulated."""
    parser.add_argument("--accelerator", default="auto", metavar="auto|cpu|cuda|xpu|mps|emulated")
    parser.add_argument("--gpu", metavar="PROFILE", help="the card to emulate: a name or a profile's file")
    parser.add_argument("--vram", type=byte_size, metavar="SIZE", help="memory of the emulated card, e.g. 12GB")
    parser.add_argument("--link", type=byte_rate, metavar="RATE", help="link of the emulated card, e.g. 2GB/s")


def add_loras(parser: argparse.ArgumentParser) -> None:
    """The LoRAs that run beside the weights."""
    parser.add_argument(
        "--lora",
        type=adapter,
        action="append",
        default=[],
        metavar="FILE[:WEIGHT]",
        help="a LoRA beside the weights, and how strongly it counts (default 1); may be given several times",
    )


def add_init(parser: argparse.ArgumentParser) -> None:
    """The picture that a request starts from."""
    parser.add_argument(
        "--init",
        metavar="FILE",
        help="a picture to start from; without --size the result has its size (rounded to what the model can, and "
        f"scaled down to at most {MOST_PIXELS} times the model's own pixels), with --size it is scaled until it covers "
        "that and what sticks out is cut off evenly; transparent places count as white",
    )
    parser.add_argument(
        "--strength",
        type=number,
        metavar="0..1",
        help="how far to go from the picture: near 0 keeps it, 1 keeps nothing (default: the model family's, "
        "mostly 0.6); so much of the steps is made",
    )


def init_of(options: argparse.Namespace) -> Init | None:
    """What the options of `add_init` say. Raises UserError where there is a strength, but no picture."""
    if options.init is None:
        if options.strength is not None:
            raise UserError("A strength says how far to go from a picture; name one with --init.")
        return None
    return Init(options.init, options.strength)


def add_how(parser: argparse.ArgumentParser) -> None:
    """How to run: what a person fixes about the plan (core.messages.How)."""
    parser.add_argument("--prefer", type=share, default=0.5, metavar="0..1", help="0 fastest, 1 best quality")
    parser.add_argument("--headroom", type=byte_size, metavar="SIZE", help="device memory to leave to others")
    parser.add_argument(
        "--format", type=component_format, action="append", default=[], metavar="COMPONENT=TYPE", help="fix a format"
    )
    parser.add_argument(
        "--residency",
        type=component_blocks,
        action="append",
        default=[],
        metavar="COMPONENT=resident|streamed|N",
        help="fix how many blocks are resident",
    )
    parser.add_argument(
        "--offload",
        choices=OFFLOAD,
        help="other programs' words: nothing leaves, encoders leave, each phase's components leave, or blocks stream",
    )
    parser.add_argument("--slots", type=whole_number, help="buffers for streamed blocks")
    parser.add_argument("--tile", default="auto", metavar="auto|off|SIZE", help="tiles of the VAE, in pixels")
    parser.add_argument("--no-fold", action="store_true", help="keep modulation weights on the device")
    parser.add_argument(
        "--latency",
        type=number,
        default=AS_PLANNED.latency,
        metavar="SHARE",
        help="how much later the first of several queued pictures may come than alone: 0.2 is a fifth",
    )
    parser.add_argument(
        "--no-lockstep", action="store_true", help="let each pass of the denoiser stream its blocks for itself"
    )
    parser.add_argument("--no-cache", action="store_true", help="neither read nor keep the text's encoding on disk")
    parser.add_argument(
        "--estimate",
        choices=ESTIMATES,
        default=ESTIMATES[0],
        help="bytes of activations: by the fitted formula, or by a dry run at exactly this size",
    )


def how_of(options: argparse.Namespace) -> How:
    """What the options of `add_how` say."""
    return How(
        prefer=options.prefer,
        formats=dict(options.format),
        residency=dict(options.residency),
        slots=options.slots,
        tile=options.tile,
        fold=not options.no_fold,
        offload=options.offload or "",
        headroom_bytes=options.headroom,
        cache=not options.no_cache,
        estimate=options.estimate,
        lockstep=not options.no_lockstep,
        latency=options.latency,
    )


def add_planning(parser: argparse.ArgumentParser) -> None:
    """The request and the machine of `plan` and `simulate`."""
    parser.add_argument("--model", default="starter", metavar="NAME|PATH", help="a known model, here or not yet")
    parser.add_argument("--accelerator", default="auto", metavar="auto|cpu|cuda|xpu|mps|emulated")
    parser.add_argument(
        "--gpu", metavar="PROFILE", help="a card by name, a profile's file, or `list` (default: this one)"
    )
    parser.add_argument("--vram", type=byte_size, metavar="SIZE", help="memory of the card, e.g. 12GB")
    parser.add_argument("--link", type=byte_rate, metavar="RATE", help="from host memory to the card, e.g. 12GB/s")
    parser.add_argument("--ram", type=byte_size, metavar="SIZE", help="host memory")
    parser.add_argument("--size", type=pixels, metavar="WxH", help="pixels (default: the model's)")
    parser.add_argument("--frames", type=whole_number, help="frames of a clip")
    parser.add_argument("--steps", type=whole_number, help="sampling steps (default: the model's)")
    parser.add_argument("--guidance", type=number, help="how closely to follow the prompt (default: the model's)")
    parser.add_argument("--negative", default="", metavar="TEXT", help="without one some families do not guide")
    parser.add_argument("--batch", type=whole_number, default=1, help="pictures at once")
    parser.add_argument(
        "--queued", type=whole_number, default=1, metavar="N", help="what so many prompts like this one take together"
    )
    add_loras(parser)
    add_init(parser)
    add_how(parser)
    parser.add_argument("--encoded", action="store_true", help="the text's encoding is cached")
    parser.add_argument("--chart", metavar="FILE.svg", help="write the residency chart")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
