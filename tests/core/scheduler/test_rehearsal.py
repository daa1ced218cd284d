"""A warmed-up model's first picture is planned with what the warm-up measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.engine import InProcessEngine
from core.engine.client import Client
from core.messages import Event, Finished, Phase, Planned, Request, WarmedUp
from core.planning.history import History
from tests.events import wait_for


@pytest.fixture
def engine(home: Path) -> Iterator[Client]:
    client = InProcessEngine(accelerator="cpu")
    client.warm_up("starter")
    client.start()
    assert wait_for(client, WarmedUp).problem == ""
    yield client
    client.close()


def test_the_first_plan_knows_the_pace(engine: Client, home: Path, tmp_path: Path) -> None:
    (rehearsal,) = History().runs
    assert set(rehearsal.measured) == {"encode", "denoise", "decode"}
    seen: list[Event] = []
    engine.submit(Request(prompt="a red house", seed=1, out=str(tmp_path / "a.png")))
    wait_for(engine, Finished, seen=seen)
    (plan,) = [event.plan for event in seen if isinstance(event, Planned)]
    (denoise,) = [phase for phase in plan.phases if phase.phase is Phase.DENOISE]
    assert denoise.step_seconds == pytest.approx(rehearsal.measured["denoise"], rel=1e-6)
    assert len(History().runs) == 2


def test_a_known_model_is_not_timed_again(engine: Client) -> None:
    engine.warm_up("starter")
    wait_for(engine, WarmedUp)
    assert len(History().runs) == 1
