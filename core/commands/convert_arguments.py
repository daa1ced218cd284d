"""The options of `residency convert`."""

from __future__ import annotations

import argparse

from core.commands.arguments import byte_size, number
from core.models.gguf_write import TARGETS
from core.precision.formats import FORMATS


def add_convert(parser: argparse.ArgumentParser) -> None:
    """All of them."""
    parser.add_argument(
        "sources", nargs="+", metavar="SRC", help="a model's folder or file, a network's, shards or their index"
    )
    parser.add_argument("--component", default="", metavar="NAME", help="only one network of a model, e.g. transformer")
    parser.add_argument("-o", "--out", required=True, metavar="FILE.gguf", help="the file to write")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument(
        "--target-size", type=byte_size, metavar="SIZE", help="the best weights in so many bytes, e.g. 8GB"
    )
    mode.add_argument("--fit", metavar="GPU", help="the best weights that a card has room for, e.g. rx-7800-xt")
    mode.add_argument(
        "--rmse",
        type=percent,
        metavar="PCT",
        help="the coarsest types within so much error, e.g. 1%%; CLIP at least Q8_0",
    )
    mode.add_argument("--format", type=target, metavar="TYPE", help="one type where it may be, e.g. Q6_K")
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="PATTERN=TYPE",
        help="the type of some tensors, e.g. *img_in*=F32",
    )
    parser.add_argument(
        "--sensitivity",
        default="auto",
        metavar="HOW",
        help="what an error in a tensor costs: measured (the model is run), table (what ships), a file that --measured "
        "wrote, or auto, which measures small models",
    )
    parser.add_argument(
        "--importance",
        default="auto",
        choices=("auto", "measured", "none"),
        help="what rounding is to fit: measured is what layers are given when the model is run, none is nothing, auto "
        "is the first where sensitivities are measured",
    )
    parser.add_argument(
        "--measured", metavar="FILE.json", help="keep there what was measured, and beside it what rounding fits"
    )
    parser.add_argument("--report", metavar="FILE.json", help="write the report there")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def percent(text: str) -> float:
    """A share from `1%` or `1`, both of which mean 0.01, as argparse wants it."""
    value = number(text.strip().removesuffix("%"))
    if not 0 <= value < 100:
        raise argparse.ArgumentTypeError(f"{text} is not a percentage such as 1%")
    return value / 100


def target(text: str) -> str:
    """A format that GGUF has, as argparse wants it."""
    if text.upper() not in TARGETS:
        if text.upper() in FORMATS:
            raise argparse.ArgumentTypeError(
                f"{text} is no type that GGUF files have, so none can be written in it; choose one of "
                f"{', '.join(TARGETS)}"
            )
        raise argparse.ArgumentTypeError(f"{text} is not one of {', '.join(TARGETS)}")
    return text.upper()
