"""The job, the machine and the options that a command line of `plan` or `simulate` means."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from core import folders
from core.commands.arguments import how_of, init_of
from core.hardware import kept
from core.hardware import profile as cards
from core.hardware.machine import detect
from core.hardware.match import processor
from core.hardware.profile import TINY_CONTEXT_SHARE, TINY_HEADROOM_SHARE, HardwareProfile
from core.messages import Adapter, Phase, UserError
from core.models import catalogue
from core.models import profile as models
from core.models.adapters import find, read_adapter
from core.models.local import profile_of
from core.models.profile import ModelProfile
from core.models.starting import start
from core.planning import chances
from core.planning.adapters import spread
from core.planning.demand import compute_format
from core.planning.how import options_of
from core.planning.job import Beside, Companion, Job, job_of
from core.planning.options import Options, engine_for
from core.planning.starting import from_picture
from core.sizes import in_words

# Whose cards torch drives by a kind of accelerator.
_VENDORS = {"cuda": ("nvidia", "amd"), "xpu": ("intel",), "mps": ("apple",)}
_REFERENCE = "rx-7800-xt"  # the card that is emulated where nobody names another
_MOST_QUEUED = 1000
_LEAST_HOST, _MOST_HOST = 200_000_000, 10**14  # bytes, as core.hardware.profile has it
_KINDS = ("auto", "cpu", *_VENDORS, "emulated")


class Asked(NamedTuple):
    """What planning and simulating take."""

    job: Job
    hardware: HardwareProfile
    options: Options


def read(given: argparse.Namespace) -> Asked:
    """What a command line asks for. Raises UserError for what is impossible."""
    how = how_of(given)
    model = find_model(given.model)
    hardware = find_hardware(given)
    init = init_of(given)
    width, height = given.size or (None, None)
    if init is not None:
        limits = model.defaults
        init, size = start(init, model.family, model.title, limits.size_multiple, (limits.width, limits.height))
        width, height = given.size or size
    job = job_of(
        model,
        width=width,
        height=height,
        frames=given.frames,
        steps=given.steps,
        guidance=given.guidance,
        negative=bool(given.negative),
        batch=given.batch,
        encoded=given.encoded and how.cache,
        following=chances.of_this_user(),
    )
    if init is not None:
        job = from_picture(job, init)
    job = msgspec.structs.replace(job, companions=_queued(job, given.queued))
    job = msgspec.structs.replace(job, adapters=_adapters(model, given.lora, hardware))
    options = options_of(how, model, hardware, engine_for(hardware))
    if how.estimate == "dryrun":
        job = _run_dry(given.model, job, hardware, options)
    return Asked(job, hardware, options)


def _adapters(model: ModelProfile, loras: Sequence[Adapter], hardware: HardwareProfile) -> dict[str, Beside]:
    """LoRAs beside what denoises, as far as their headers tell; the engine finds out which layers they are beside."""
    if not loras:
        return {}
    infos = [read_adapter(find(lora)) for lora in loras]
    name = next(need.components[0] for need in model.phases if need.phase is Phase.DENOISE)
    numbers = sum(tensor.elements for info in infos for tensor in info.header.tensors.values())
    wide = 4 if compute_format(hardware) == "F32" else 2
    return {name: spread(model.components[name], numbers, sum(info.rank for info in infos), wide)}


def _queued(job: Job, count: int) -> tuple[Companion, ...]:
    """The prompts that wait behind a job, all like it."""
    if not 1 <= count <= _MOST_QUEUED:
        raise UserError(f"{count} queued prompts are not possible; give 1 to {_MOST_QUEUED}.")
    alike = Companion(
        width=job.width,
        height=job.height,
        frames=job.frames,
        steps=job.steps,
        guidance=job.guidance,
        negative=job.negative,
        batch=job.batch,
        encoded=job.encoded,
    )
    return (alike,) * (count - 1)


def find_model(name: str) -> ModelProfile:
    """A shipped profile by name, a profile's file, or a model on this machine by its name or folder."""
    if name in models.names():
        return models.load(name)
    path = folders.user_path(name)
    if path.suffix == ".json" and path.is_file():
        return models.read(path)
    if not _is_here(name):
        return models.load(name)  # which suggests the nearest
    info = catalogue.find(name)
    profile = profile_of(info)
    if profile is None:
        _prepare_engine(f"{info.name} is like no model that is known")
        from core.generation.measure_folder import profile_of_folder

        profile = profile_of_folder(info)
    return profile


def find_hardware(given: argparse.Namespace) -> HardwareProfile:
    """The card that was asked for, or this machine's, with what the command line changes about it."""
    if given.accelerator not in _KINDS:
        raise UserError(f"There is no accelerator called {given.accelerator}; choose one of {', '.join(_KINDS)}.")
    if given.accelerator == "emulated":
        hardware = _emulated(given.gpu, given.vram)
    elif given.gpu:
        hardware = cards.load(given.gpu)
        if given.accelerator != "auto" and hardware.vendor not in _VENDORS.get(given.accelerator, ("cpu",)):
            raise UserError(f"{hardware.title} is no {given.accelerator} device; leave --accelerator or --gpu away.")
    else:
        hardware = _this_machine(given.accelerator)
    changes: dict[str, Any] = {}
    if given.vram is not None:
        changes["memory_bytes"] = given.vram
    if given.link is not None:
        changes |= {"pinned_rate": given.link, "staged_rate": min(given.link, hardware.staged_rate or given.link)}
    if given.ram is not None:
        if not _LEAST_HOST <= given.ram <= _MOST_HOST:
            raise UserError(f"--ram {in_words(given.ram)} is no machine's memory; give 200MB to 100TB.")
        changes["host_bytes"] = given.ram
    return msgspec.structs.replace(hardware, **changes)


def tell_damaged() -> None:
    """Say on stderr which kept calibrations are of no use, so that others, or assumed rates, are planned with."""
    for sentence in kept.damaged():
        print(sentence, file=sys.stderr)


def _this_machine(accelerator: str) -> HardwareProfile:
    tell_damaged()
    if accelerator == "cpu":
        measured = _measured("cpu")
        return measured[-1] if measured else processor(detect())
    hardware = kept.this_machine()
    if accelerator == "auto":
        if hardware is None:
            raise UserError(
                "This machine's graphics card is not known; run `residency calibrate`, or name a similar one with "
                "--gpu."
            )
        return hardware
    if hardware is None or hardware.vendor not in _VENDORS[accelerator]:
        raise UserError(f"No {accelerator} device is known on this machine; run `residency doctor`, or give --gpu.")
    return hardware


def _emulated(gpu: str | None, vram_bytes: int | None) -> HardwareProfile:
    """The emulated card as it was measured here, else as its data sheet says; its arithmetic is the processor's."""
    tell_damaged()
    card = cards.load(gpu or _REFERENCE)
    memory = vram_bytes or card.memory_bytes
    alike = [known for known in _measured("emulated") if card.title in known.title and known.memory_bytes == memory]
    if alike:
        return alike[-1]
    # a card made tiny still has to have room, as core.hardware.emulated_card gives it
    context = min(card.context_bytes, memory // TINY_CONTEXT_SHARE)
    headroom = min(card.headroom_bytes, memory // TINY_HEADROOM_SHARE)
    return msgspec.structs.replace(card, vendor="emulated", context_bytes=context, headroom_bytes=headroom)


def _measured(vendor: str) -> list[HardwareProfile]:
    """The calibrations of this machine that were kept of one kind of device, the newest last."""
    wanted, found = kept.machine_key(detect()), []
    for file in kept.folder().glob("*.json"):
        try:
            entry, age = kept.read(file), file.stat().st_mtime
        except (OSError, ValueError):
            continue  # `tell_damaged` names it
        if entry.profile.vendor == vendor and all(part in entry.key for part in wanted):
            found.append((age, entry.profile))
    return [profile for _, profile in sorted(found, key=lambda pair: pair[0])]


def _run_dry(name: str, job: Job, hardware: HardwareProfile, options: Options) -> Job:
    _prepare_engine("A dry run builds the networks")
    from core.generation import parts
    from core.generation.estimate import run_dry

    if name in parts.known():
        made_of = parts.model_of(name)[1]
    elif _is_here(name):
        made_of = parts.parts_of(catalogue.find(name))
    else:
        raise UserError(f"Nothing says what {name} is made of; use --estimate formula.")
    with warnings.catch_warnings(action="ignore"):  # libraries speak of their own future
        return run_dry(job, made_of, hardware, options, cache=folders.cache() / "dryruns")


def _is_here(name: str) -> bool:
    """Whether it names a model on this machine, or should."""
    return name in catalogue.installed() or catalogue.is_path(name)


def _prepare_engine(why: str) -> None:
    """What importing torch takes; `why` it is needed begins the sentence where it is not there."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(f"{why}, and the engine is not installed: run `pip install residency-studio[engine]`.")
    from core.engine.libraries import prepare

    prepare()
