"""The engine plans what a request fixes, by what it can do, what its person usually does next and what it measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from core.engine import InProcessEngine
from core.engine.client import Client
from core.hardware.accelerator import choose
from core.hardware.told import heard
from core.library import metadata
from core.library.index import Library
from core.messages import ErrorKind, Event, Failed, Finished, How, Planned, Request, Result
from core.plans import Plan
from core.scheduler.planner import Planner
from tests.events import wait_for

BYTES = 1_000_000


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIDENCY_HOME", str(tmp_path_factory.mktemp("home")))
        engine = InProcessEngine(accelerator="cpu")
        engine.start()
        yield engine
        engine.close()


def made(client: Client, how: How, out: str = "") -> tuple[Plan, Result]:
    """A small picture made so: its plan and its result."""
    seen: list[Event] = []
    size = {"width": 64, "height": 64, "steps": 1}
    client.submit(Request(prompt="a red house", how=how, draft=not out, out=out, **size))
    result = wait_for(client, Finished, seen=seen).result
    (plan,) = [event.plan for event in seen if isinstance(event, Planned)]
    return plan, result


def test_what_is_fixed_is_planned_and_kept_with_the_picture(client: Client, tmp_path: Path) -> None:
    how = How(prefer=0.25, offload="phases", headroom_bytes=2000 * BYTES, tile="off", formats={"vae": "F32"})
    plan, result = made(client, how, str(tmp_path / "a.png"))
    assert {component.kept_bytes for component in plan.components} == {0}
    assert result.how == how
    again = metadata.read_request(tmp_path / "a.png")
    assert again is not None
    assert again.how == how
    free, _ = made(client, How())
    assert all(component.kept_bytes == component.bytes for component in free.components)


def test_headroom_comes_off_what_is_free(client: Client) -> None:
    budgets = [made(client, How(headroom_bytes=size * BYTES))[0].budget_bytes for size in (500, 4500)]
    assert budgets[0] - budgets[1] == pytest.approx(4000 * BYTES, abs=500 * BYTES)  # memory is used by others, too


def test_a_dry_run_is_made_on_demand(client: Client) -> None:
    plan, _ = made(client, How(estimate="dryrun"))
    assert any("dry run at exactly this size" in reason for reason in plan.reasons)
    formula, _ = made(client, How())
    for exact, fitted in zip(plan.phases, formula.phases, strict=True):
        assert exact.activation_bytes == pytest.approx(fitted.activation_bytes, rel=0.5)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (How(formats={"motor": "Q8_0"}), "no component called motor"),
        (How(residency={"transformer": "1000"}), "1000 blocks of the transformer cannot be resident"),
        (How(slots=100), "100 slots are not possible"),
        (How(headroom_bytes=10**15), "Nothing is left"),
    ],
)
def test_what_cannot_be_is_a_sentence(how: How, sentence: str, client: Client) -> None:
    client.submit(Request(prompt="a red house", how=how, draft=True))
    failed = wait_for(client, Failed)
    assert failed.kind is ErrorKind.USER
    assert sentence in failed.sentence
    assert failed.details == ""


def test_it_expects_what_its_person_does(client: Client, tmp_path: Path) -> None:
    library = Library()
    _, result = made(client, How(), str(tmp_path / "a.png"))
    for number in range(3):
        library.add(msgspec.structs.replace(result, id=f"{number:012x}", seed=number, created=f"2026-01-0{number + 1}"))
    library.close()
    plan, _ = made(client, How())
    assert any(reason.startswith("judging by your last 2 pictures") for reason in plan.reasons)


def test_it_tells_what_it_measured_and_may_use(home: Path) -> None:
    accelerator = choose("cpu")
    planner = Planner(accelerator)
    ready = planner.ready("2.13.0")
    assert (ready.accelerator, ready.device, ready.torch) == ("cpu", accelerator.name, "2.13.0")
    assert heard(ready.hardware) == planner.hardware
    assert ready.budget_bytes is not None
    assert 0 < ready.budget_bytes <= ready.free_bytes
