"""`residency doctor`: what was found, and what to do about what is wrong."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from core import __version__, folders
from core.hardware import kept
from core.hardware.disk import disk_class
from core.hardware.machine import Machine, detect
from core.hardware.match import best_profile, name_of, title_of
from core.hardware.pci import Gpu
from core.hardware.profile import HardwareProfile
from core.messages import ModelFileError
from core.models import catalogue

_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "gguf", "PySide6-Essentials")
_LOW_DISK_BYTES = 5_000_000_000
_LOW_MEMORY_BYTES = 8_000_000_000


def doctor(*, as_json: bool) -> int:
    """Print the findings; exit code 0 when nothing is wrong, 2 when something needs a person."""
    machine = detect()
    torch = _torch()
    findings = {
        "residency": __version__,
        "python": platform.python_version(),
        "system": machine.system,
        "processor": f"{machine.processor}, {machine.cores} cores",
        "memory_bytes": machine.memory_bytes,
        "free_memory_bytes": machine.free_memory_bytes,
        "gpus": [_gpu(gpu) for gpu in machine.gpus],
        "profile": _profile(best_profile(machine, folders.data())),
        "torch": torch,
        "versions": {name: _version(name) for name in _LIBRARIES},
        "folders": {name: _folder(path) for name, path in _folders().items()},
        "models": _models(),
    }
    advice = _advice(machine, findings)
    if as_json:
        print(json.dumps({**findings, "problems": advice}))
    else:
        _print(findings, advice)
    return 2 if advice else 0


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "vendor": gpu.vendor,
        "device_id": f"{gpu.device_id:04x}",
        "name": title_of(gpu),
        "profile": name_of(gpu),
        "vram_bytes": gpu.vram_bytes,
        "vram_used_bytes": gpu.vram_used_bytes,
        "gtt_bytes": gpu.gtt_bytes,
        "gtt_used_bytes": gpu.gtt_used_bytes,
        "link": str(gpu.link or ""),
        "link_now": str(gpu.link_now or ""),
    }


def _profile(profile: HardwareProfile | None) -> dict[str, Any]:
    """What plans start from before anything was measured; empty for a card that nobody described."""
    if profile is None:
        return {}
    fields = ("name", "memory_bytes", "headroom_bytes", "link", "pinned_rate", "staged_rate", "disk_rate")
    return {field: getattr(profile, field) for field in fields}


def _torch() -> dict[str, Any]:
    if importlib.util.find_spec("torch") is None:
        return {}
    try:
        import torch

        from core.hardware.accelerator import choose

        accelerator = choose()
        total, free = accelerator.memory()
    except Exception as error:  # a torch that does not load, a driver that does not answer: the very thing to report
        return {"problem": f"{type(error).__name__}: {error}".splitlines()[0]}
    build = (
        f"rocm {torch.version.hip}"
        if torch.version.hip
        else f"cuda {torch.version.cuda}"
        if torch.version.cuda
        else "cpu"
    )
    return {
        "version": torch.__version__,
        "build": build,
        "accelerator": accelerator.kind,
        "device": accelerator.name,
        "memory_bytes": total,
        "free_memory_bytes": free,
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _folders() -> dict[str, Path]:
    return {
        "pictures": folders.pictures(),
        "data": folders.data(),
        "cache": folders.cache(),
        "logs": folders.logs(),
    }


def _folder(path: Path) -> dict[str, Any]:
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return {
        "path": str(path),
        "writable": existing.is_dir() and os.access(existing, os.W_OK),
        "free_bytes": shutil.disk_usage(existing).free,
        "disk": disk_class(existing),
    }


def _models() -> dict[str, str]:
    """Each known model with its problem, if it has one."""
    report = {}
    try:
        names = list(catalogue.installed())
    except FileNotFoundError as error:
        return {catalogue.STARTER: str(error)}
    for name in names:
        try:
            catalogue.find(name)
            report[name] = ""
        except Exception as error:  # a report lists what is wrong, whatever it is
            report[name] = str(error) if isinstance(error, ModelFileError) else f"{type(error).__name__}: {error}"
    return report


def _advice(machine: Machine, findings: dict[str, Any]) -> list[str]:
    advice = []
    torch = findings["torch"]
    vendors = {gpu.vendor for gpu in machine.gpus}
    if not torch:
        advice.append("The engine is not installed: run `pip install residency-studio[engine]`.")
    elif "problem" in torch:
        advice.append(
            f"Torch cannot be used ({torch['problem']}): delete .venv and run `python3 packaging/dev.py setup`, "
            "or install the engine again."
        )
    elif torch["accelerator"] == "cpu":
        for vendor, build in (("NVIDIA", "the default torch build"), ("AMD", "the ROCm 7.2 build of torch")):
            if vendor in vendors:
                advice.append(
                    f"There is a graphics card by {vendor} but torch computes on the CPU: install {build} "
                    "(`python3 packaging/dev.py setup` does), and check that the card's driver is loaded."
                )
    if 0 < machine.memory_bytes < _LOW_MEMORY_BYTES:
        advice.append("Less than 8 GB of memory: the starter model runs, larger ones will not.")
    for name, folder in findings["folders"].items():
        if not folder["writable"]:
            advice.append(f"The {name} folder {folder['path']} cannot be written to: change its permissions.")
        elif folder["free_bytes"] < _LOW_DISK_BYTES:
            advice.append(f"The disk of the {name} folder has {folder['free_bytes'] / 1e9:.1f} GB left: free some.")
    advice.extend(kept.damaged())
    advice.extend(f"Model {name}: {problem}" for name, problem in findings["models"].items() if problem)
    return advice


def _print(findings: dict[str, Any], advice: list[str]) -> None:
    torch = findings["torch"]
    rows = [
        ("Residency", f"{findings['residency']}, Python {findings['python']}"),
        ("System", findings["system"]),
        ("Processor", findings["processor"]),
        ("Memory", f"{findings['memory_bytes'] / 1e9:.1f} GB, {findings['free_memory_bytes'] / 1e9:.1f} GB free"),
        ("Display adapters", "; ".join(_gpu_words(gpu) for gpu in findings["gpus"]) or "none found"),
        ("Planned as", _profile_words(findings["profile"])),
        ("Torch", _torch_words(torch)),
    ]
    if "accelerator" in torch:
        share = f"{torch['memory_bytes'] / 1e9:.1f} GB, {torch['free_memory_bytes'] / 1e9:.1f} GB free"
        rows.append(("Computes on", f"{torch['device']} ({torch['accelerator']}), {share}"))
    rows.append(
        ("Libraries", ", ".join(f"{name} {v}" for name, v in findings["versions"].items() if v and name != "torch"))
    )
    rows += [(name.capitalize(), _folder_words(folder)) for name, folder in findings["folders"].items()]
    rows.append(("Models", ", ".join(findings["models"])))
    for name, value in rows:
        print(f"{name:18}{value}")
    print()
    for line in advice or ["Nothing is wrong."]:
        print(line)


def _gpu_words(gpu: dict[str, Any]) -> str:
    words = [gpu["name"] or f"{gpu['vendor']} {gpu['device_id']}"]
    if gpu["vram_bytes"]:
        words.append(f"{gpu['vram_bytes'] / 1e9:.1f} GB, {gpu['vram_used_bytes'] / 1e9:.1f} GB used")
    if gpu["link"]:
        now = f" (now {gpu['link_now']})" if gpu["link_now"] not in ("", gpu["link"]) else ""
        words.append(gpu["link"] + now)
    return ", ".join(words)


def _profile_words(profile: dict[str, Any]) -> str:
    if not profile:
        return "no profile fits this card; `residency calibrate` measures it"
    words = [profile["name"], f"{profile['memory_bytes'] / 1e9:.1f} GB"]
    if profile["pinned_rate"]:
        words.append(f"{profile['pinned_rate'] / 1e9:.1f} GB/s over the link")
    return ", ".join([*words, f"{profile['disk_rate'] / 1e9:.1f} GB/s from disk"])


def _folder_words(folder: dict[str, Any]) -> str:
    return f"{folder['path']} ({folder['disk']})" if folder["disk"] != "unknown" else str(folder["path"])


def _torch_words(torch: dict[str, Any]) -> str:
    if not torch:
        return "not installed"
    return torch.get("problem") or f"{torch['version']} ({torch['build']})"
