"""Calibration: the profile of an accelerator as it is measured here in a few seconds, kept in the cache folder.

A profile is kept by everything that its speeds depend on: device, driver, machine and torch build.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from core.files import write_atomically
from core.hardware import calibrate_device as on_device
from core.hardware import calibrate_files as on_files
from core.hardware import calibrate_link as on_link
from core.hardware import calibrate_network as on_network
from core.hardware.calibrate_decoders import Decoder, eager
from core.hardware.interface import Accelerator
from core.hardware.kept import Kept, machine_key
from core.hardware.kept import folder as kept_folder
from core.hardware.kept import read as read_kept
from core.hardware.machine import detect
from core.hardware.match import best_profile, processor
from core.hardware.profile import HardwareProfile, absurdity, completed, short_name
from core.messages import UserError

_VERSION = 3  # of what is measured, and how
_LEAST_BYTES = 48 * 2**20
_QUICK_SECONDS = 0.001  # of the largest product when only a little time is taken
_MEASURED = "measured on this machine"

Note = Callable[[str], object]
"""Is told what will be measured next. What it raises ends the calibration."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """A measured profile: whether it was measured just now, the seconds that took, and the file that keeps it.

    `warning` is a sentence where a kept profile could not be read or the new one not be kept.
    """

    profile: HardwareProfile
    fresh: bool
    seconds: float
    file: str
    warning: str = ""


def known(accelerator: Accelerator) -> HardwareProfile:
    """What is known of an accelerator now: its calibration, else what profile files and driver say."""
    key = _key(accelerator, None)
    kept, _ = _read(_file_of(key), key)
    if kept is not None:
        return kept
    return _quickly(accelerator, (*key, "quickly")) if accelerator.kind == "cpu" else completed(_base(accelerator))


def _quickly(accelerator: Accelerator, key: tuple[str, ...]) -> HardwareProfile:
    """A processor's profile with what a fraction of a second can tell of it, kept as calibrations are.

    Nobody's data sheet says how fast a processor computes networks, and its plans are wrong by half without.
    """
    file = _file_of(key)
    kept, _ = _read(file, key)
    if kept is not None:
        return kept
    found = _Findings(_base(accelerator))
    product = on_device.matmul(accelerator, "F32", longest=_QUICK_SECONDS)
    assert product is not None  # every processor computes in F32
    memory = found.profile().memory_bandwidth
    found.put("calibrated", False)
    found.put("matmul_rate", {"F32": product.rate}, f"measured: a square matrix product ({product.side})")
    _measure_network(accelerator, found, product.rate, memory)
    profile = completed(found.profile())
    if absurdity(profile):
        return completed(_base(accelerator))
    try:
        _keep(file, Kept(key, profile))
    except OSError:
        pass  # it is measured again next time
    return profile


def _keep(file: Path, kept: Kept) -> None:
    data = msgspec.json.format(msgspec.json.encode(kept), indent=1)
    write_atomically(file, lambda out: out.write(data))


def load_or_measure(
    accelerator: Accelerator,
    *,
    force: bool = False,
    decoders: Mapping[str, Decoder] | None = None,
    note: Note = lambda words: None,
) -> Calibration:
    """The profile that was measured here before, or a new measurement where there is none or `force` asks for one.

    Args:
        decoders: what decodes stored formats, by format; diffusers' eager kernels where there is nothing better.
        note: is told what will be measured next, and may raise to end it.

    Raises:
        UserError: too little of the device's memory is free.
    """
    begin = time.monotonic()
    key = _key(accelerator, decoders)
    file = _file_of(key)
    kept, warning = (None, "") if force else _read(file, key)
    if kept is not None:
        return Calibration(profile=kept, fresh=False, seconds=time.monotonic() - begin, file=str(file))
    profile = measure(accelerator, folder=file.parent, decoders=decoders, note=note)
    try:
        _keep(file, Kept(key, profile))
    except OSError as error:
        warning = f"The calibration could not be kept in {file} ({error.strerror}); it will be measured again."
    seconds = time.monotonic() - begin
    return Calibration(profile=profile, fresh=True, seconds=seconds, file=str(file), warning=warning)


def measure(
    accelerator: Accelerator,
    *,
    folder: Path,
    decoders: Mapping[str, Decoder] | None = None,
    note: Note = lambda words: None,
) -> HardwareProfile:
    """Measure an accelerator through its interface alone.

    Args:
        folder: where a temporary file of 64 MiB is written and read.

    Raises:
        UserError: too little of the device's memory is free.
    """
    accelerator.release_cached()
    if accelerator.memory()[1] < _LEAST_BYTES:
        raise UserError(f"{accelerator.name} has no memory free to be measured; close other programs that use it.")
    found = _Findings(_base(accelerator))
    try:
        _measure_device(accelerator, found, eager() if decoders is None else decoders, note)
        _measure_files(accelerator, found, folder, note)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The memory of {accelerator.name} ran out while it was measured; close other programs that use it."
        ) from error
    finally:
        accelerator.release_cached()
    profile = _completed(found.profile())
    problem = absurdity(profile)
    if problem:
        raise UserError(f"The measurement of {accelerator.name} makes no sense: {problem}; try it again.")
    return profile


def _completed(measured: HardwareProfile) -> HardwareProfile:
    """With the rates of formats that nothing here decodes, which are named as assumed."""
    profile = completed(measured)
    assumed = sorted(set(profile.decode_rate) - set(measured.decode_rate))
    if not assumed:
        return profile
    how = f"{measured.sources['decode_rate']}; {', '.join(assumed)} assumed"
    return msgspec.structs.replace(profile, sources={**profile.sources, "decode_rate": how})


class _Findings:
    """A base profile whose fields are replaced one after another by what was measured."""

    def __init__(self, base: HardwareProfile) -> None:
        self._base = base
        self._fields: dict[str, Any] = {"calibrated": True, "matmul_efficiency": 1.0}
        self._sources: dict[str, str] = {}

    def put(self, field: str, value: Any, how: str = _MEASURED) -> None:
        """Replace a field."""
        self._fields[field] = value
        self._sources[field] = how

    def profile(self) -> HardwareProfile:
        """What there is so far."""
        sources = {name: how for name, how in self._base.sources.items() if name not in self._fields}
        return msgspec.structs.replace(self._base, **self._fields, sources={**sources, **self._sources})


def _measure_device(accelerator: Accelerator, found: _Findings, decoders: Mapping[str, Decoder], note: Note) -> None:
    note("memory of the device")
    found.put("memory_bandwidth", on_device.memory_bandwidth(accelerator), "measured: copies inside the memory")
    if accelerator.kind != "cpu":
        found.put("launch_seconds", on_device.launch_seconds(accelerator), "measured: many kernels with nothing to do")
    formats = [
        name for name in on_device.DTYPES if name != "F16" or accelerator.kind != "cpu"
    ]  # 180 times slower there
    products = {}
    for name in formats:
        note(f"matrix products in {name}")
        product = on_device.matmul(accelerator, name)
        if product is not None:
            products[name] = product
    sides = ", ".join(f"{name} {product.side}" for name, product in products.items())
    rates = {name: product.rate for name, product in products.items()}
    found.put("matmul_rate", rates, f"measured: square matrix products ({sides})")
    note("a small network")
    compute = rates[_compute_format(accelerator, products)]
    _measure_network(accelerator, found, compute, found.profile().memory_bandwidth)
    rates = {}
    for name, decoder in decoders.items():
        note(f"decoding of {name}")
        rates[name] = on_device.decode_rate(accelerator, name, decoder)
    used = " and ".join(sorted({decoder.what for decoder in decoders.values()}))
    found.put("decode_rate", rates, f"measured: {used}")
    if accelerator.has_own_memory and not accelerator.unified:
        _measure_link(accelerator, found, products[_compute_format(accelerator, products)], note)
    else:
        found.put("contention", 0.0, "no link: nothing is copied beside kernels")


def _measure_network(accelerator: Accelerator, found: _Findings, products: float, memory: float) -> None:
    """What is no product: functions of numbers, and what operations cost beside arithmetic and traffic."""
    functions = on_network.function_rate(accelerator)
    found.put("function_rate", functions, "measured: activations, norms and softmax")
    operation = on_network.operation_seconds(accelerator)
    found.put("operation_seconds", operation, "measured: a small transformer")
    if accelerator.kind == "cpu":
        sharing = on_network.sharing_seconds(accelerator, operation, on_network.Rates(products, functions, memory))
        found.put("launch_seconds", sharing, "measured: giving a transformer's kernels to all cores")
        found.put("first_seconds", on_network.first_seconds(), "measured: convolutions of shapes that were new")


def _measure_link(accelerator: Accelerator, found: _Findings, product: on_device.Product, note: Note) -> None:
    copies = {}
    for kind in ("pinned", "pageable"):
        note(f"copies from {kind} memory")
        copies[kind] = on_link.copy_rate(accelerator, pinned=kind == "pinned")
        how = f"measured: copies of up to {copies[kind].largest / 1e6:.0f} MB"
        found.put(f"{kind}_rate", copies[kind].rate, f"{how}, which cost {copies[kind].latency * 1e6:.0f} us besides")
    note("copies beside kernels")
    with on_device.product_kernel(accelerator, product) as kernel:
        rate = copies["pinned"].rate
        slower = on_link.contention(accelerator, kernel, product.work, product.seconds, rate)
    found.put("contention", slower, "measured: matrix products beside copies from pinned memory")


def _measure_files(accelerator: Accelerator, found: _Findings, folder: Path, note: Note) -> None:
    note("reading of files")
    try:
        with on_files.sample_file(folder) as file:
            disk = on_files.disk_rate(file)
            staged = on_files.staged_rate(accelerator, file)
    except OSError:
        return  # a full disk or a read-only folder leaves the assumed rates, and the sources say so
    if disk is not None:
        found.put("disk_rate", disk, "measured: a file whose pages had been dropped")
    where = "to the device" if accelerator.has_own_memory else "into memory"
    found.put("staged_rate", staged, f"measured: positioned reads from the page cache through a ring {where}")


def _compute_format(accelerator: Accelerator, formats: Mapping[str, object]) -> str:
    names = {dtype: name for name, dtype in on_device.DTYPES.items()}
    name = names.get(accelerator.compute_dtype, "F32")
    return name if name in formats else "F32"


def _base(accelerator: Accelerator) -> HardwareProfile:
    """What is known without measuring: of a card that ships, what its profile says; of any, what the driver says."""
    machine = detect()
    total, free = accelerator.memory()
    known = processor(machine) if accelerator.kind == "cpu" else None
    if accelerator.vendor in ("amd", "nvidia", "intel", "apple"):
        known = best_profile(machine)
        if known is not None and known.vendor != accelerator.vendor:
            known = None
    seen: dict[str, Any] = {
        "name": re.sub(r"[^a-z0-9.-]+", "", short_name(accelerator.name)).lstrip(".-") or "card",
        "title": accelerator.name,
        "vendor": accelerator.vendor,
        "memory_bytes": total,
        "host_bytes": machine.memory_bytes,
        "unified": accelerator.unified,
        "largest_allocation_bytes": accelerator.largest_allocation,
        "attention": accelerator.attention,
        # what budget_bytes leaves of the free memory; there is nothing cached now
        "headroom_bytes": max(0, free - accelerator.budget_bytes()),
    }
    if accelerator.context_bytes is not None:
        seen["context_bytes"] = accelerator.context_bytes
    if known is not None:
        return msgspec.structs.replace(known, **seen)
    if not accelerator.unified:
        seen |= {"pinned_rate": 6e9, "pageable_rate": 2e9, "staged_rate": 6e9}
    assumed = "assumed: a modest card behind PCIe 3.0 x8, until it is measured"
    fields = ("memory_bandwidth", "matmul_rate", "pinned_rate", "pageable_rate", "staged_rate")
    return HardwareProfile(
        memory_bandwidth=200e9, matmul_rate={"F32": 5e12}, sources=dict.fromkeys(fields, assumed), **seen
    )


# -- the cache ------------------------------------------------------------------------------------------------------


def _key(accelerator: Accelerator, decoders: Mapping[str, Decoder] | None) -> tuple[str, ...]:
    machine = detect()
    used = sorted((name, decoder.what) for name, decoder in decoders.items()) if decoders is not None else "eager"
    return tuple(
        str(part)
        for part in (
            _VERSION,
            accelerator.identity,
            accelerator.compute_dtype,
            torch.__version__,
            torch.get_num_threads(),
            *machine_key(machine),
            used,
        )
    )


def _file_of(key: tuple[str, ...]) -> Path:
    return kept_folder() / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.json"


def _read(file: Path, key: tuple[str, ...]) -> tuple[HardwareProfile | None, str]:
    """The kept profile, or None with a sentence where the file is there and of no use."""
    try:
        kept = read_kept(file)
        if kept.key != key:
            raise ValueError("it is another device's")
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"The calibration in {file} cannot be read ({error.strerror}); it was measured again."
    except ValueError as error:
        return None, f"The calibration in {file} is of no use ({error}); it was measured again."
    return kept.profile, ""
