"""How long after the last keystroke the draft of the new text is painted: window, engine process and starter model.

    python -m tests.bench.bench_live [--texts 60] [--platform offscreen]

Types one text after another into the real window, a key each 60 ms, and takes the time from the last key event to the
paint event that shows that text's draft, the pause for further keys (debounce), encoding and decoding included. Every
text is new to the engine. Writes tests/bench/results/live.json.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time

from tests.bench.report import load_average, write

KEY_MS = 60
PLACES = ("by the sea", "in the forest", "in the desert", "on the hills", "in the city", "in the meadow")
OBJECTS = ("house", "boat", "castle", "tent", "windmill", "rocket")
COLOURS = ("red", "blue", "green", "white", "yellow", "purple")


def texts(count: int) -> list[str]:
    """Prompts that never repeat."""
    rng = random.Random(1)
    return [
        f"a {rng.choice(COLOURS)} {rng.choice(OBJECTS)} {rng.choice(PLACES)} at sunset number {n}" for n in range(count)
    ]


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=60)
    parser.add_argument("--platform", default="offscreen", help="Qt's platform plugin: offscreen, xcb, wayland, ...")
    arguments = parser.parse_args()
    os.environ["QT_QPA_PLATFORM"] = arguments.platform
    load = load_average()
    with tempfile.TemporaryDirectory() as home:
        os.environ["RESIDENCY_HOME"] = home
        latencies, engine = _measure(texts(arguments.texts))
    ordered = sorted(latencies)
    result = {
        "median_seconds": statistics.median(ordered),
        "p95_seconds": ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))],
        "slowest_seconds": ordered[-1],
        "engine_median_seconds": statistics.median(engine),
        "latencies": [round(value, 4) for value in latencies],
        "platform": arguments.platform,
    }
    write("live", result, load)


def _measure(prompts: list[str]) -> tuple[list[float], list[float]]:
    """Seconds from the last key to the painted draft, and what the engine says it took, for each prompt."""
    from PySide6.QtCore import QEventLoop, QTimer
    from PySide6.QtTest import QTest
    from PySide6.QtWidgets import QApplication

    from app.bridge import EngineBridge
    from app.models import InstalledModels
    from app.settings import Session
    from app.shown import Kind, Stage
    from app.studio import Studio
    from app.theme.theme import theme
    from app.window import StudioWindow
    from core.messages import Result

    def wait(milliseconds: int) -> None:
        loop = QEventLoop()
        QTimer.singleShot(milliseconds, loop.quit)
        loop.exec()

    application = QApplication([])
    theme().install(application, "dark")
    window = StudioWindow()
    bridge = EngineBridge()
    studio = Studio(window, bridge, Session(), InstalledModels())
    window.show()
    studio.begin()
    while studio.state.stage is not Stage.READY:
        wait(20)

    def drafted(prompt: str) -> Result | None:
        """The draft of the prompt, once it is painted."""
        picture = studio.state.picture
        if picture is None or picture.kind is not Kind.DRAFT or picture.result is None:
            return None
        return picture.result if picture.result.prompt == prompt and view.painted_id == picture.id else None

    latencies, engine = [], []
    edit, view = window.prompt.edit, window.canvas.view
    for prompt in prompts:
        edit.selectAll()
        for key in prompt[:-1]:
            QTest.keyClicks(edit, key)
            wait(KEY_MS)
        begin = time.perf_counter()
        QTest.keyClicks(edit, prompt[-1])
        while (made := drafted(prompt)) is None:
            wait(1)
        latencies.append(time.perf_counter() - begin)
        engine.append(made.seconds["total"])
        wait(300)
    window.close()
    bridge.close()
    return latencies, engine


if __name__ == "__main__":
    main()
