"""The dry run itself where the formula is only near: what a network needs at exactly one size, remembered by shape."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import msgspec

from core.files import write_atomically
from core.generation.dryrun import DryRun
from core.generation.dummy_inputs import Size
from core.generation.measure import Network
from core.generation.parts import Part

# What a pass allocates is the libraries' doing.
_LIBRARIES = ("torch", "diffusers", "transformers")


def exact(
    part: Part, size: Size, *, kernel: str = "efficient", encode: bool = False, cache: Path | None = None
) -> DryRun:
    """What one pass of a network needs at a size: about a second for a large transformer, nothing the second time.

    Single kernels and allocations are left out.

    Args:
        part: the network's class and config.
        kernel: "efficient" or "math", see core.generation.dryrun.
        encode: a VAE's other direction.
        cache: a folder in which results outlive the program; without it they are remembered until its end.

    Raises:
        UserError: the class cannot be measured.
        ValueError: its config does not fit it.
    """
    versions = [f"{library} {version(library)}" for library in _LIBRARIES]
    key = msgspec.json.encode((part.class_name, part.config, size, kernel, encode, versions))
    if cache is None:
        return _run(msgspec.json.encode(part), size, kernel, encode)
    file = cache / f"{hashlib.sha256(key).hexdigest()}.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=DryRun)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        pass  # not there yet, or damaged: made again
    run = _run(msgspec.json.encode(part), size, kernel, encode)
    write_atomically(file, lambda stream: stream.write(msgspec.json.encode(run)))
    return run


@lru_cache(maxsize=256)
def _run(part: bytes, size: Size, kernel: str, encode: bool) -> DryRun:
    run = _network(part).run(size, kernel, encode=encode)
    return dataclasses.replace(run, kernels={}, allocated=(), grew=())  # thousands, which nobody asks for here


@lru_cache(maxsize=4)
def _network(part: bytes) -> Network:
    return Network(msgspec.json.decode(part, type=Part))
