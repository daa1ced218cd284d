"""Which formats torch's own operations decode faster than our kernels, by device: found at calibration, and kept.

A file in the cache folder that says nothing of a device, or is not there, means kernels wherever there are any.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec
import torch

from core import folders
from core.files import write_atomically

_Kept = dict[str, list[str]]  # a device with its torch build -> formats


def eager_on(device: torch.device) -> set[str]:
    """The formats that torch's operations decode on a device although there is a kernel."""
    return _known(device)


def keep(device: torch.device, name: str, *, eager: bool) -> None:
    """Remember for a format on a device whether torch's operations are the faster, in this process and the next ones.

    Where the file cannot be written only this process knows.
    """
    formats = _known(device)
    (formats.add if eager else formats.discard)(name)
    kept = {**_read(), _key(device): sorted(formats)}
    try:
        write_atomically(_file(), lambda out: out.write(msgspec.json.encode(kept)))
    except OSError:
        pass


@cache
def _known(device: torch.device) -> set[str]:
    return set(_read().get(_key(device), ()))


def _read() -> _Kept:
    try:
        return msgspec.json.decode(_file().read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return {}  # a damaged file is as good as none: it is written anew at the next calibration


def _file() -> Path:
    return folders.cache() / "decoders.json"


def _key(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, torch {torch.__version__}"
