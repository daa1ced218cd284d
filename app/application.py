"""Builds the application and wires window, state and bridge."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from PySide6.QtCore import QTimer
from PySide6.QtGui import QIcon
from PySide6.QtWidgets import QApplication

from app.bridge import EngineBridge
from app.garbage import GarbageCollector
from app.models import InstalledModels
from app.settings import load_session
from app.startup import FirstFrame, bare_window, show_bare_window
from app.studio import Studio
from app.theme.theme import theme
from app.window import StudioWindow
from core import folders
from core.resources import resource

_log = logging.getLogger(__name__)


def run(arguments: Sequence[str]) -> int:
    """Show the window and stay until it is closed; returns the exit code. See `app.main.main` for the arguments."""
    if "--bare-window" in arguments:
        show_bare_window()
        return 0
    application = _application()
    session = load_session()
    theme().install(application, session.theme)
    window = StudioWindow()
    bridge = EngineBridge()
    studio = Studio(window, bridge, session, InstalledModels())
    measured: dict[str, float] = {}

    def first_frame(seconds: float) -> None:
        if "--measure-start" in arguments:
            # processor time beside the clock: on a busy machine it says what the window itself needs
            measured.update(first_frame_seconds=seconds, first_frame_cpu_seconds=time.process_time())
            window.close()
            return
        GarbageCollector(application)
        _prepare_log(studio)
        _dress(application)
        studio.begin()
        for file in (argument for argument in arguments if not argument.startswith("-")):
            QTimer.singleShot(0, lambda file=file: studio.pictures.read(Path(file)))

    FirstFrame(window, first_frame)
    window.show()
    try:
        code = application.exec()
    finally:
        # whatever happened, no thread may outlive the application and no engine the window
        bridge.close()
    if measured:
        print(json.dumps(measured | bare_window()), flush=True)
    return code


def _application() -> QApplication:
    existing = QApplication.instance()
    if isinstance(existing, QApplication):
        return existing
    application = QApplication([sys.argv[0] if sys.argv else "residency"])
    application.setApplicationName("Residency")
    application.setDesktopFileName("residency")
    return application


def _dress(application: QApplication) -> None:
    """The program's icon; not needed for the first frame."""
    icon = QIcon()
    for size in (16, 32, 48, 64, 128, 256):
        try:
            icon.addFile(str(resource("icons", f"residency-{size}.png")))
        except FileNotFoundError:
            _log.warning("the icon of %d pixels is missing", size)
    application.setWindowIcon(icon)


def _prepare_log(studio: Studio) -> None:
    """Errors of ours go to a file with all that is known; the person gets a sentence."""
    file = folders.logs() / "studio.log"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(file, encoding="utf-8", delay=True)
    except OSError:
        return  # no place for a log is no reason not to start
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        _log.error("an error in the window", exc_info=(kind, error, trace))
        studio.say(f"Something went wrong in the window; your prompt is kept. The details are in {file}.")

    sys.excepthook = excepthook
