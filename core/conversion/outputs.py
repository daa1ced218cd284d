"""What a conversion writes, checked before any work: never over what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from core.conversion.journal import JOURNAL, PARTIAL
from core.files import is_stream
from core.messages import UserError

_RESULT = ".gguf"


def check_out(out: Path) -> None:
    """Raise UserError where a model cannot be written: its folder is missing, or it is no file."""
    if not out.parent.is_dir():
        raise UserError(f"The folder {out.parent} does not exist; make it or choose another.")
    if out.is_dir():
        raise UserError(f"{out} is a folder; give a file, as in {out / 'model.gguf'}.")
    if is_stream(out):
        raise UserError(f"{out} is no file, and a model is not written in order; give a file.")


def check_apart(out: Path, beside: Iterable[Path], sources: Sequence[Path], files: Iterable[Path]) -> None:
    """Raise UserError where a result would take the place of what is read, by whatever name or link.

    Args:
        out: the model to be written.
        beside: other files that will be written.
        sources: what was named: files and folders.
        files: the weights that are read.
    """
    read = [path for path in (*sources, *files, *_of_folders(sources)) if path.exists()]
    results = [out, *beside]
    for result in (*results, out.with_name(out.name + PARTIAL), out.with_name(out.name + JOURNAL)):
        if result.exists() and any(result.samefile(path) for path in read):
            raise UserError(f"{result} is what is converted; give another name for the result.")
    for number, result in enumerate(results):
        if any(_same(result, other) for other in results[:number]):
            raise UserError(f"{result} would be written twice; give each result a name of its own.")


def _of_folders(sources: Sequence[Path]) -> Iterator[Path]:
    """What lies in folders that are converted: configs and tokenizers too. A GGUF file may be an earlier result."""
    for folder in sources:
        if folder.is_dir():
            inside = (*folder.glob("*"), *folder.glob("*/*"))
            yield from (path for path in inside if path.is_file() and path.suffix != _RESULT)


def _same(one: Path, other: Path) -> bool:
    if is_stream(one) or is_stream(other):
        return False
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
