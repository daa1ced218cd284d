"""`residency bench`: what the streamer reaches on an emulated card, against what no streamer can beat."""

from __future__ import annotations

import argparse
import json

import msgspec

from core.commands.arguments import byte_rate, number, whole_number
from core.messages import UserError


def add_streaming(parser: argparse.ArgumentParser) -> None:
    """The options of `bench streaming`."""
    parser.add_argument("--blocks", type=whole_number, default=24, metavar="N", help="blocks of the network")
    parser.add_argument("--block-mb", type=number, default=40.0, metavar="M", help="megabytes of a block (the mean)")
    parser.add_argument("--sizes", choices=("uniform", "mixed"), default="uniform", help="whether blocks are alike")
    parser.add_argument("--link", type=byte_rate, default=2e9, metavar="RATE", help="from host memory, e.g. 2GB/s")
    parser.add_argument(
        "--compute-ms", type=number, default=20.0, metavar="C", help="milliseconds of a block's kernels"
    )
    parser.add_argument("--resident", type=whole_number, default=0, metavar="R", help="resident blocks")
    parser.add_argument("--passes", type=whole_number, default=6, metavar="P", help="timed passes")
    parser.add_argument("--slots", type=whole_number, metavar="K", help="device buffers (default: as a plan would)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def streaming(options: argparse.Namespace) -> int:
    """Time the streamer. Raises UserError when the numbers make no sense."""
    if options.block_mb <= 0:
        raise UserError("--block-mb must be more than 0.")
    from core.engine.libraries import prepare

    prepare()
    from core.residency.trial import Trial, time_streaming

    timing = time_streaming(
        Trial(
            blocks=options.blocks,
            block_bytes=round(options.block_mb * 1e6),
            mixed=options.sizes == "mixed",
            link=options.link,
            compute_seconds=options.compute_ms / 1e3,
            resident=options.resident,
            passes=options.passes,
            slots=options.slots,
        )
    )
    if options.json:
        print(json.dumps(msgspec.to_builtins(timing)))
        return 0
    print(f"{'a pass':>22}  {timing.seconds_per_pass:9.4f} s")
    print(f"{'bound max(C, S/B)':>22}  {timing.bound_seconds:9.4f} s   ratio {timing.ratio:.3f}")
    print(
        f"{'simulated optimum':>22}  {timing.simulated_optimum_seconds:9.4f} s   ratio {timing.optimum_ratio:.3f}"
        f"   ({timing.slots} slots)"
    )
    print(
        f"{timing.resident_blocks} of {len(timing.block_bytes)} blocks resident, {timing.streamed_bytes / 1e6:.0f} MB "
        f"streamed in a pass, {timing.peak_device_bytes / 1e6:.0f} MB of device memory; "
        f"{timing.checked_blocks} blocks compared"
    )
    return 0
