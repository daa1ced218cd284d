"""A conversion: the weights of a model or of one network in one GGUF file, in smaller formats.

Two passes: headers (and, where errors decide, samples of every tensor) choose the formats, then the tensors are read,
encoded and written a stretch at a time, so memory does not grow with the model.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from core import __version__
from core.conversion import memory
from core.conversion.choice import Candidate, candidates, chosen, rungs, uniform, within, within_rungs
from core.conversion.costs import Costs
from core.conversion.hashes import Hashes
from core.conversion.journal import Head, Journal
from core.conversion.measure import measure
from core.conversion.moments import Fitting, Moments
from core.conversion.notes import notes
from core.conversion.outputs import check_apart, check_out
from core.conversion.prepare import HASH_CHARACTERS, HASHES, OURS, Prepared, prepare
from core.conversion.report import counted
from core.conversion.target import loss, moved, room_on, under
from core.conversion.write import Sums, write
from core.messages import ModelFileError, UserError
from core.models.gguf_write import Layout, lay_out
from core.models.sensitivity import Measured
from core.models.single import ERRORS
from core.residency.slabs import ALIGNMENT, aligned
from core.sizes import in_words

_HEADER_MORE = 1 << 16  # bytes of what a header also says: how it was asked for, and each tensor's error

Tell = Callable[[str, float], None]
"""Told what is being done and the share that is done, 0 to 1; may raise to stop."""


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """What a person asked for, with exactly one of `format`, `rmse` (a share), `target_bytes` and `fit` (a card).

    `measured` says what formats cost on this very model, for the last two; the shipped rules where it does not.
    `moments` are what its layers were given, which rounding is then fitted to.
    """

    sources: tuple[Path, ...]
    out: Path
    component: str = ""
    format: str = ""
    rmse: float | None = None
    target_bytes: int | None = None
    fit: str = ""
    measured: Measured | None = None
    moments: Moments | None = None
    keep: tuple[str, ...] = ()

    @property
    def mode(self) -> str:
        """In words."""
        if self.rmse is not None:
            return f"at most {self.rmse:.2%} of error for each tensor"
        if self.target_bytes is not None:
            return f"{self.target_bytes} bytes"
        return f"for {self.fit}" if self.fit else self.format


def check(asked: Conversion, beside: Sequence[Path] = ()) -> Prepared:
    """Look at what is to be converted, and find out before the work whether the results can be written.

    Args:
        beside: other files that will be written: a report, what was measured.

    Raises:
        UserError: something asked for cannot be done, or would be written over what is read.
        ModelFileError: a source is damaged; names file and tensor.
    """
    check_out(asked.out)
    prepared = prepare(asked.sources, asked.component, asked.out.stem)
    check_apart(asked.out, beside, asked.sources, prepared.files)
    return prepared


def fits_as_it_is(asked: Conversion, prepared: Prepared) -> bool:
    """Whether a size or a card that is asked for has room for everything without packing."""
    listed = candidates(prepared.inputs, asked.keep)
    widest = {entry.name: rungs(entry)[0] for entry in listed}
    tensors = [(entry.name, widest[entry.name], entry.shape) for entry in listed]
    return lay_out(prepared.metadata, tensors, ALIGNMENT, prepared.copied).size + _HEADER_MORE < _size(
        asked, prepared.family
    )


def _size(asked: Conversion, family: str) -> int:
    """Bytes of the file to be, where a size or a card is asked for."""
    return asked.target_bytes if asked.target_bytes is not None else room_on(asked.fit, family)


def run(asked: Conversion, tell: Tell) -> dict[str, Any]:
    """Convert; returns the report (its keys are those of the command's contract).

    Raises:
        UserError: something asked for cannot be done, or the disk is full; what is done is kept, to go on from there.
        ModelFileError: a source is damaged; names file and tensor.
    """
    started = time.perf_counter()
    memory.start_peak()
    baseline = memory.resident()
    prepared = check(asked)
    listed = candidates(prepared.inputs, asked.keep)
    if not listed:
        raise UserError(f"{asked.sources[0]} holds no tensors.")
    fit = ", rounded to fit what layers are given" if asked.moments is not None else ""
    metadata = {**prepared.metadata, f"{OURS}asked": asked.mode + fit, ERRORS: [0.0] * len(listed)}

    def laid_out(formats: Mapping[str, str]) -> Layout:
        return lay_out(
            metadata, [(entry.name, formats[entry.name], entry.shape) for entry in listed], ALIGNMENT, prepared.copied
        )

    head = len(laid_out({entry.name: entry.plain for entry in listed}).header)  # the same whatever the formats
    journal, key = Journal(asked.out), _key(asked, prepared.files)
    if journal.head is not None and journal.head.key == key and journal.head.formats.keys() == {e.name for e in listed}:
        formats, reasons = journal.head.formats, journal.head.reasons
    else:
        formats, reasons = choose(asked, listed, prepared.family, head, tell)
    layout = laid_out(formats)
    begun = Head(key, hashlib.sha256(layout.header).hexdigest(), formats, reasons)
    fitting = Fitting(asked.moments, listed, formats) if asked.moments is not None else None
    sums = _written(asked.out, layout, listed, begun, journal, prepared.files, tell, fitting)
    return {
        "file": str(asked.out),
        "bytes": layout.size,
        "seconds": round(time.perf_counter() - started, 3),
        "peak_rss_bytes": memory.peak(),
        "baseline_rss_bytes": baseline,
        **counted(listed, formats, sums),
        "notes": notes(listed, formats, asked.format),
        **({"fitted_tensors": len(fitting)} if fitting is not None else {}),
        **reasons,
    }


def choose(
    asked: Conversion, listed: Sequence[Candidate], family: str, head: int, tell: Tell
) -> tuple[dict[str, str], dict[str, Any]]:
    """The first pass: the format of each tensor, and what the report says about how it was chosen.

    Args:
        head: bytes of the file's header.
    """
    if asked.format:
        return chosen(listed, lambda entry: uniform(entry, asked.format)), {}
    if asked.rmse is None and asked.measured is None:
        size = _size(asked, family)
        widest = {entry.name: rungs(entry)[0] for entry in listed}
        if head + sum(aligned(entry.bytes_in(widest[entry.name])) for entry in listed) <= size:
            return widest, {"target_bytes": size, "measured_tensors": 0}  # nothing is to be chosen
    tried = within_rungs if asked.rmse is not None else rungs
    errors = measure(listed, {entry.name: tried(entry) for entry in listed}, partial(tell, "Measuring errors"))
    if asked.rmse is not None:
        threshold = asked.rmse
        return chosen(listed, lambda entry: within(entry, threshold, errors[entry.name])), {}
    measured = asked.measured
    if measured is not None and asked.moments is not None and measured.fitted:
        measured = msgspec.structs.replace(measured, losses=measured.fitted)
    costs = Costs(listed, family, errors, measured)
    if asked.measured is not None and not costs.measured:
        raise UserError(
            f"Nothing of {asked.sources[0]} is among the sensitivities measured on {asked.measured.model}; measure "
            "this model, or use --sensitivity table."
        )
    size = _size(asked, family) - head
    formats = under(listed, costs, size, head=head)
    expected = {"expected_one_step_error": costs.expected(listed, formats)} if costs.measured else {}
    return formats, {
        "target_bytes": size + head,
        "loss": loss(listed, costs, formats),
        "measured_tensors": costs.measured,
        **expected,
        "assumed": moved(listed, costs, size, formats, family),
    }


def _key(asked: Conversion, files: Sequence[Path]) -> str:
    """Names what is converted and how: another key is another conversion."""
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    words = msgspec.json.encode(msgspec.structs.replace(asked, out=asked.out.resolve()), enc_hook=str)
    return hashlib.sha256(repr((__version__, stamps, words)).encode()).hexdigest()


def _written(
    out: Path,
    layout: Layout,
    listed: Sequence[Candidate],
    head: Head,
    journal: Journal,
    files: Sequence[Path],
    tell: Tell,
    fitting: Fitting | None,
) -> dict[str, Sums]:
    """Write the file under a name of its own and give it its name when it is whole."""
    keep = True  # until it is ours
    try:
        with _stoppable(), Hashes(files) as hashes:
            journal.begin(head, layout.size)
            keep = bool(journal.done)
            with journal.partial.open("r+b") as file:
                _reserve(file.fileno(), layout.size)
                file.write(layout.header)
            keep = True
            sums = write(
                journal.partial,
                layout.starts,
                listed,
                head.formats,
                journal,
                partial(tell, f"Writing {out.name}"),
                fitting,
            )
            errors = [sums[candidate.name].rel_rmse for candidate in listed]
            with journal.partial.open("r+b") as file:
                file.seek(layout.values[ERRORS])
                file.write(struct.pack(f"<{len(errors)}f", *errors))
                for number, digest in enumerate(hashes.wait(partial(tell, "Hashing the sources"))):
                    file.seek(layout.values[HASHES] + number * (8 + HASH_CHARACTERS) + 8)  # a length before each text
                    file.write(digest.encode())
                file.flush()
                os.fsync(file.fileno())
            journal.partial.replace(out)
            keep = False
    except OSError as error:
        kept = " What is done is kept: the same command goes on from there." if keep else ""
        raise UserError(
            f"{out} needs {in_words(layout.size)} and cannot be written ({error.strerror or error}); free some "
            f"space or write elsewhere.{kept}"
        ) from error
    except ModelFileError:
        keep = False
        raise
    finally:
        if keep:
            journal.close()
        else:
            journal.remove()
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
