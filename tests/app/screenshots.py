"""Takes the README's two pictures of the window: the real window, the real engine, the starter model.

    python -m tests.app.screenshots [--out resources/screenshots] [--size 1280x800] [--seed 7]

Each theme is taken in a process of its own (Qt has one application a process) with an empty home, off the screen.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

PROMPTS = (
    "a blue tent in the mountains at noon, with clouds",
    "a blue tent in the mountains at sunset, with clouds",
    "a yellow tent in the mountains at sunset, with clouds",
    "a yellow boat by the sea at sunset",
    "a yellow boat by the sea at night",
    "a yellow boat by the sea at night, with stars",
    "a white castle on the hills at night, with stars",
    "a white castle in the desert at noon",
    "a white windmill in the desert at noon",
    "a red windmill in the meadow at dawn, with birds",
    "a red house in the meadow at dawn, with birds",
    "a red house on the hills at sunset, with birds",
)
LAST, WORD = "a red house by the sea at sunset, with birds", "red"
PATIENCE_MS = 120_000


def take(theme_name: str, out: Path, size: tuple[int, int], seed: int) -> None:
    """Make the pictures of a small session and grab the window; in the light theme the last one is made in full."""
    from PySide6.QtCore import QEventLoop, QTimer
    from PySide6.QtWidgets import QApplication

    from app.bridge import EngineBridge
    from app.models import InstalledModels
    from app.settings import Session, Settings
    from app.shown import Stage
    from app.studio import Studio
    from app.theme.theme import theme
    from app.window import StudioWindow

    def wait(milliseconds: int) -> None:
        loop = QEventLoop()
        QTimer.singleShot(milliseconds, loop.quit)
        loop.exec()

    def until(true: Callable[[], bool]) -> None:
        for _ in range(PATIENCE_MS // 50):
            if true():
                return
            wait(50)
        raise TimeoutError("the engine did not do it in time")

    def write(prompt: str) -> None:
        window.prompt.edit.setPlainText(prompt)

    def make() -> None:
        before = len(studio.state.history)
        studio.generate()
        until(lambda: len(studio.state.history) == before + 1)

    application = QApplication([])
    theme().install(application, theme_name)
    window, bridge = StudioWindow(), EngineBridge()
    studio = Studio(window, bridge, Session(settings=Settings(seed=seed)), InstalledModels())
    try:
        window.resize(*size)
        window.show()
        studio.begin()
        until(lambda: studio.state.stage is Stage.READY)
        for prompt in PROMPTS:
            write(prompt)
            make()
        write(LAST)
        caret = window.prompt.edit.textCursor()
        caret.setPosition(LAST.index(WORD) + len(WORD))
        window.prompt.edit.setTextCursor(caret)
        if theme_name == "light":
            make()
        chips = window.prompt.words.chips
        until(lambda: bool(chips) and all(chip.has_image for chip in chips.values()))
        wait(200)
        out.mkdir(parents=True, exist_ok=True)
        if not window.grab().save(str(out / f"{theme_name}.png")):
            raise OSError(f"{out} cannot be written to")
    finally:
        window.close()
        bridge.close()


def main() -> None:
    """Take both, or one in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("resources/screenshots"))
    parser.add_argument("--size", default="1280x800")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--theme", choices=("dark", "light"), help="only this one")
    arguments = parser.parse_args()
    if arguments.theme:
        width, height = arguments.size.split("x")
        take(arguments.theme, arguments.out, (int(width), int(height)), arguments.seed)
        return
    for name in ("dark", "light"):
        with tempfile.TemporaryDirectory() as home:
            environment = {**os.environ, "RESIDENCY_HOME": home, "QT_QPA_PLATFORM": "offscreen"}
            command = [sys.executable, "-m", "tests.app.screenshots", *sys.argv[1:], "--theme", name]
            subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
