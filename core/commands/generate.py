"""`residency generate`: one picture or clip, with progress on stderr and the result on stdout."""

from __future__ import annotations

import contextlib
import importlib.util
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import msgspec

from core import folders
from core.commands.arguments import Device
from core.commands.outputs import check_output
from core.hardware import kept
from core.library import metadata
from core.library.index import Library, new_file
from core.messages import (
    Adapter,
    Cancelled,
    EngineStopped,
    ErrorKind,
    Event,
    Failed,
    Finished,
    How,
    Init,
    ModelFileError,
    Phase,
    Progress,
    Request,
    ResidencyError,
    Result,
    UserError,
)

if TYPE_CHECKING:
    from core.hardware.interface import Accelerator

_BAR_WIDTH = 24
_KINDS: dict[ErrorKind, type[ResidencyError]] = {
    ErrorKind.USER: UserError,
    ErrorKind.MODEL_FILE: ModelFileError,
    ErrorKind.INTERNAL: ResidencyError,
}
_WORDS = {
    Phase.LOAD: "loading",
    Phase.ENCODE: "reading the prompt",
    Phase.IMAGE_ENCODE: "reading the picture",
    Phase.DENOISE: "painting",
    Phase.DECODE: "developing",
    Phase.SAVE: "saving",
}


def generate(
    *,
    prompt: str,
    negative_prompt: str,
    model: str,
    seed: int,
    steps: int | None,
    guidance: float | None,
    width: int | None,
    height: int | None,
    frames: int | None,
    out: str | None,
    device: Device,
    how: How,
    loras: tuple[Adapter, ...],
    init: Init | None,
    show: bool,
    as_json: bool,
) -> int:
    """Make one picture or clip. Raises ResidencyError as the engine reports it."""
    request = Request(
        prompt=prompt,
        negative_prompt=negative_prompt,
        model=model,
        seed=seed,
        steps=steps,
        guidance=guidance,
        width=width,
        height=height,
        frames=frames,
        how=how,
        loras=loras,
        init=init,
    )
    if importlib.util.find_spec("torch") is None:
        raise UserError("The engine is not installed; install it with `pip install residency-studio[engine]`.")
    made = _check_early(request).frames or 1
    if out is not None:
        path = folders.user_path(out)
        check_output(path)
    else:
        path = new_file(folders.pictures(), request, metadata.suffix_of(made))
    metadata.check_writable(path, made)
    for sentence in kept.damaged():
        print(sentence, file=sys.stderr)
    result = _run(msgspec.structs.replace(request, out=str(path)), device, ProgressBar(sys.stderr))
    if out is None:
        _file(result)
    if show:
        from core.commands.terminal import picture

        print(picture(Path(result.file)), file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        clip = f", {result.frames} frames" if result.frames > 1 else ""
        size = f"{result.width}x{result.height}{clip}"
        print(f"{result.file}  seed {result.seed}, {size}, {result.seconds['total']:.1f} s")
    return 0


def _file(result: Result) -> None:
    """Put the picture into the library's index. It is on disk already, so that failing is no more than a remark."""
    try:
        library = Library()
        library.add(result)
        library.close()
    except (OSError, sqlite3.Error) as error:
        print(f"The picture is saved, but could not be put into the library ({error}).", file=sys.stderr)


def _check_early(request: Request) -> Request:
    """Refuse what can be refused before torch is imported, which takes seconds; returns the request filled in."""
    from core.models import catalogue
    from core.models.adapters import find, read_adapter
    from core.models.check import resolve
    from core.models.local import profile_of
    from core.planning.how import options_of
    from core.planning.options import DEFAULT

    info = catalogue.find(request.model)
    for lora in request.loras:
        read_adapter(find(lora))
    resolved = resolve(request, info)
    if request.how != How() and (profile := profile_of(info)) is not None:
        options_of(request.how, profile, able=DEFAULT)  # of a model that is like none known, the engine finds out
    return resolved


def _run(request: Request, device: Device, bar: ProgressBar) -> Result:
    from core.engine import InProcessEngine

    engine = InProcessEngine(accelerator=_chosen(device))
    engine.submit(request)
    engine.start()
    try:
        while True:
            event = engine.next_event(0.2)  # with a limit, because Windows lets nobody interrupt an endless wait
            if event is not None and (result := _take(event, request.id, bar)) is not None:
                return result
    except KeyboardInterrupt:
        engine.cancel(request.id)
        raise
    finally:
        bar.close()
        engine.close()


def _chosen(device: Device) -> str | Accelerator:
    """The kind, which the engine chooses by; an emulated card is made here, from what the command line says of it."""
    if device.accelerator != "emulated" and (device.gpu, device.vram_bytes, device.link_rate) == (None, None, None):
        return device.accelerator
    from core.engine.libraries import prepare

    prepare()
    from core.hardware.accelerator import choose
    from core.hardware.calibrate import load_or_measure

    card = choose(device.accelerator, gpu=device.gpu, vram_bytes=device.vram_bytes, link_rate=device.link_rate)
    with contextlib.suppress(UserError):  # a card too small to be measured is planned by what its driver says
        load_or_measure(card)  # there is no data sheet of what an emulated card really does
    return card


def _take(event: Event, request_id: str, bar: ProgressBar) -> Result | None:
    match event:
        case Progress():
            bar.show(event)
        case Finished(id=done, result=result) if done == request_id:
            return result
        case Failed(kind=kind, sentence=sentence):
            raise _KINDS[kind](sentence)
        case EngineStopped(expected=False, reason=reason, kind=kind):
            raise _KINDS[kind](reason)
        case Cancelled():
            raise KeyboardInterrupt
        case _:
            pass
    return None


class ProgressBar:
    """One line that is drawn over itself; silent where stderr is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn = False

    def show(self, progress: Progress) -> None:
        """Draw how far the run is."""
        if not self._stream.isatty():
            return
        done = progress.step / progress.steps if progress.steps else 0.0
        bar = "█" * round(done * _BAR_WIDTH)
        left = f"  {progress.seconds_left:.1f} s left" if progress.seconds_left is not None else ""
        count = f"  {progress.step}/{progress.steps}" if progress.steps else ""
        words = f"{_WORDS[progress.phase]} {progress.note}".strip()
        self._stream.write(f"\r\x1b[K{bar:·<{_BAR_WIDTH}}  {words}{count}{left}")
        self._stream.flush()
        self._drawn = True

    def close(self) -> None:
        """Clear the line."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False
