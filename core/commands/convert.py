"""`residency convert`: the weights of a model or of one network in one GGUF file, in smaller formats.

Two passes: headers (and, where errors decide, samples of every tensor) choose the formats, then the tensors are read,
encoded and written a stretch at a time, so memory does not grow with the model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from core import __version__
from core.commands import convert_memory as memory
from core.commands.convert_choice import Candidate, candidates, chosen, rungs, uniform, within
from core.commands.convert_measure import measure
from core.commands.convert_report import Progress, counted, summary, write_report
from core.commands.convert_source import sources
from core.commands.convert_target import Weights, loss, moved, room_on, under
from core.commands.convert_write import Sums, write
from core.files import temporary_beside
from core.messages import UserError
from core.models.checkpoint import Checkpoint, merged, open_checkpoint
from core.models.gguf_header import ALIGNMENT_KEY, SHAPE_KEY, read_gguf
from core.models.gguf_write import Layout, Plain, lay_out
from core.residency.slabs import ALIGNMENT

_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION of ggml.h: the layout of its packed formats
_LARGEST_SOURCE_METADATA = 1 << 16  # bytes of a safetensors file's own metadata that are taken over
_OURS = "residency."
_ERRORS = f"{_OURS}rel_rmse"


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """What a person asked for, with exactly one of `format`, `rmse` (a share), `target_bytes` and `fit` (a card)."""

    sources: tuple[Path, ...]
    out: Path
    format: str = ""
    rmse: float | None = None
    target_bytes: int | None = None
    fit: str = ""
    keep: tuple[str, ...] = ()
    report: Path | None = None

    @property
    def mode(self) -> str:
        """In words."""
        if self.rmse is not None:
            return f"at most {self.rmse:.2%} of error for each tensor"
        if self.target_bytes is not None:
            return f"{self.target_bytes} bytes"
        return f"for {self.fit}" if self.fit else self.format


def convert(asked: Conversion, *, as_json: bool) -> int:
    """Convert, print what came out, and write the report.

    Raises:
        UserError: something asked for cannot be done, or the disk is full; nothing is left behind.
        ModelFileError: a source is damaged; names file and tensor.
    """
    report = run(asked)
    if asked.report is not None:
        write_report(asked.report, report)
    if as_json:
        print(json.dumps(report))
    else:
        print(summary(asked.out, report))
    return 0


def run(asked: Conversion) -> dict[str, Any]:
    """Convert; returns the report (its keys are those of the command's contract)."""
    started = time.perf_counter()
    memory.start_peak()
    baseline = memory.resident()
    _check_out(asked)
    checkpoint = _opened(asked.sources)
    listed = candidates(checkpoint, sources(checkpoint.tensors), asked.keep)
    if not listed:
        raise UserError(f"{asked.sources[0]} holds no tensors.")
    metadata, copied = _metadata(checkpoint, asked, listed), _copied(checkpoint)

    def laid_out(formats: Mapping[str, str]) -> Layout:
        return lay_out(
            metadata, [(entry.name, formats[entry.name], entry.shape) for entry in listed], ALIGNMENT, copied
        )

    head = len(laid_out({entry.name: entry.plain for entry in listed}).header)  # the same whatever the formats
    formats, reasons = choose(asked, listed, checkpoint.recognised.family, head)
    layout = laid_out(formats)
    sums = _written(asked.out, layout, listed, formats)
    return {
        "file": str(asked.out),
        "bytes": layout.size,
        "seconds": round(time.perf_counter() - started, 3),
        "peak_rss_bytes": memory.peak(),
        "baseline_rss_bytes": baseline,
        **counted(listed, formats, sums),
        **reasons,
    }


def choose(
    asked: Conversion, listed: Sequence[Candidate], family: str, head: int
) -> tuple[dict[str, str], dict[str, Any]]:
    """The first pass: the format of each tensor, and what the report says about how it was chosen.

    Args:
        head: bytes of the file's header.
    """
    if asked.format:
        return chosen(listed, lambda entry: uniform(entry, asked.format)), {}
    with Progress("Measuring errors") as progress:
        errors = measure(listed, {entry.name: rungs(entry) for entry in listed}, progress.tick)
    if asked.rmse is not None:
        threshold = asked.rmse
        return chosen(listed, lambda entry: within(entry, threshold, errors[entry.name])), {}
    weights = Weights(listed, family)
    size = (asked.target_bytes if asked.target_bytes is not None else room_on(asked.fit, family)) - head
    formats = under(listed, errors, weights, size)
    return formats, {
        "target_bytes": size + head,
        "loss": loss(listed, errors, weights, formats),
        "assumed": moved(listed, errors, weights, size, formats, family),
    }


def _opened(paths: Sequence[Path]) -> Checkpoint:
    for path in paths:
        if (path / "model_index.json").is_file():
            networks = sorted(file.parent.name for file in path.glob("*/*.safetensors"))
            names = ", ".join(dict.fromkeys(networks))
            raise UserError(
                f"{path} is a whole model; convert one of its networks ({names}), as in {path}/transformer."
            )
    return merged([open_checkpoint(path) for path in paths])


def _check_out(asked: Conversion) -> None:
    if not asked.out.parent.is_dir():
        raise UserError(f"The folder {asked.out.parent} does not exist; make it or choose another.")
    if asked.out.is_dir():
        raise UserError(f"{asked.out} is a folder; give a file, as in {asked.out / 'model.gguf'}.")
    if any(asked.out.exists() and path.exists() and asked.out.samefile(path) for path in asked.sources):
        raise UserError(f"{asked.out} is what is converted; give another name for the result.")


def _metadata(checkpoint: Checkpoint, asked: Conversion, listed: Sequence[Candidate]) -> dict[str, Plain]:
    """What the file says about itself; errors are filled in when they are known."""
    found: dict[str, Plain] = {
        "general.architecture": checkpoint.recognised.architecture or "unknown",
        "general.name": asked.out.stem,
        "general.quantization_version": _QUANTIZATION_VERSION,
        f"{_OURS}version": __version__,
        f"{_OURS}family": checkpoint.recognised.family,
        f"{_OURS}asked": asked.mode,
        f"{_OURS}sources": [_source(file) for file in checkpoint.files],
        _ERRORS: [0.0] * len(listed),  # in the order of the tensors
    }
    if any(file.suffix == ".gguf" for file in checkpoint.files):
        del found["general.architecture"], found["general.name"]  # its own are taken over
        found = {"general.architecture": str(checkpoint.metadata.get("general.architecture", "unknown")), **found}
    if checkpoint.config:
        found[f"{_OURS}config"] = json.dumps(checkpoint.config)
    own = json.dumps({key: value for key, value in checkpoint.metadata.items() if isinstance(value, str)})
    if checkpoint.metadata and len(own) <= _LARGEST_SOURCE_METADATA and not _copied(checkpoint):
        found[f"{_OURS}source_metadata"] = own
    return found


def _source(file: Path) -> str:
    """A source as JSON: name, size, and the SHA-256 of its first MB, which holds the header."""
    with file.open("rb") as stream:
        digest = hashlib.sha256(stream.read(1 << 20)).hexdigest()
    return json.dumps({"file": file.name, "bytes": file.stat().st_size, "first_mb_sha256": digest})


def _copied(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The metadata of GGUF sources, as they lie there: hyperparameters and vocabularies of a text encoder."""
    found: dict[str, bytes] = {}
    for file in checkpoint.files:
        with file.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                continue
            for key, (start, end) in read_gguf(file, 64).pairs.items():
                if not key.startswith((ALIGNMENT_KEY, SHAPE_KEY, _OURS, "general.file_type")):
                    stream.seek(start)
                    found[key] = stream.read(end - start)
    return found


def _written(out: Path, layout: Layout, listed: Sequence[Candidate], formats: Mapping[str, str]) -> dict[str, Sums]:
    """Write the file under a name of its own and give it its name when it is whole."""
    try:
        with _stoppable(), temporary_beside(out) as part:
            with part.open("r+b") as file:
                _reserve(file.fileno(), layout.size)
                file.write(layout.header)
            with Progress(f"Writing {out.name}") as progress:
                sums = write(part, layout.starts, listed, dict(formats), progress.tick)
            errors = [sums[candidate.name].rel_rmse for candidate in listed]
            with part.open("r+b") as file:
                file.seek(layout.values[_ERRORS])
                file.write(struct.pack(f"<{len(errors)}f", *errors))
            umask = os.umask(0)
            os.umask(umask)
            part.chmod(0o666 & ~umask)  # a temporary file is private
    except OSError as error:
        raise UserError(
            f"{out} needs {layout.size / 1e9:.2f} GB and cannot be written ({error.strerror or error}); free some "
            "space or write elsewhere."
        ) from error
    return sums


def _reserve(handle: int, size: int) -> None:
    """Ask for all of the room at once, so that a full disk is known before the work."""
    os.truncate(handle, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Being told to end is an interruption, which leaves nothing behind."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
