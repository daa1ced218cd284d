"""`residency calibrate`: measures the device that computes, or shows what was measured before."""

from __future__ import annotations

import importlib.util
import json
import sys

import msgspec

from core.messages import UserError


def calibrate(
    *,
    accelerator: str,
    gpu: str | None,
    vram_bytes: int | None,
    link_rate: float | None,
    force: bool,
    as_json: bool,
) -> int:
    """Print the calibrated profile; what is measured at the moment goes to stderr.

    Args:
        accelerator: one of core.hardware.accelerator.KINDS.
        gpu, vram_bytes, link_rate: card, memory and link of an emulated one.
        force: measure again what was measured before.

    Raises:
        UserError: there is no such accelerator, or its memory is taken.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError("The engine is not installed; install it with `pip install residency-studio[engine]`.")
    from core.engine.libraries import prepare

    prepare()
    from core.hardware.accelerator import choose
    from core.hardware.calibrate import load_or_measure

    device = choose(accelerator, gpu=gpu, vram_bytes=vram_bytes, link_rate=link_rate)
    found = load_or_measure(device, force=force, note=_note)
    _note("")
    if found.warning:
        print(found.warning, file=sys.stderr)
    if as_json:
        about = {name: getattr(found, name) for name in ("fresh", "seconds", "file", "warning")}
        print(json.dumps({"accelerator": device.kind, **msgspec.to_builtins(found.profile), **about}))
        return 0
    for name, value in _rows(msgspec.to_builtins(found.profile)):
        print(f"{name:24}{value}")
    print()
    print(
        f"{'Measured in' if found.fresh else 'Measured before; read in'} {found.seconds:.1f} s. Kept in {found.file}."
    )
    return 0


def _note(words: str) -> None:
    """One line that is drawn over itself; silent where stderr is no terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{'measuring: ' if words else ''}{words}", end="", file=sys.stderr, flush=True)


def _rows(profile: dict[str, object]) -> list[tuple[str, str]]:
    def rate(value: object, unit: str) -> str:
        return f"{float(str(value)) / 1e9:.2f} G{unit}/s" if value else "none"

    def rates(value: object, unit: str) -> str:
        assert isinstance(value, dict)
        return ", ".join(f"{name} {rate(number, unit)}" for name, number in value.items())

    rows = [
        ("Device", str(profile["title"])),
        ("Memory", f"{int(str(profile['memory_bytes'])) / 1e9:.1f} GB"),
        ("Memory bandwidth", rate(profile["memory_bandwidth"], "B")),
        ("Matrix products", rates(profile["matmul_rate"], "FLOP")),
        ("Decoding", rates(profile["decode_rate"], "B")),
    ]
    if profile["pinned_rate"]:
        rows += [
            ("Link, pinned", rate(profile["pinned_rate"], "B")),
            ("Link, pageable", rate(profile["pageable_rate"], "B")),
            ("Copies slow kernels by", f"{100 * float(str(profile['contention'])):.0f} %"),
        ]
    rows += [("Staged from files", rate(profile["staged_rate"], "B")), ("Disk", rate(profile["disk_rate"], "B"))]
    return rows
