"""Requests are completed with the model's defaults and refused with a sentence that says what to change."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.messages import Request, UserError
from core.models.check import resolve
from core.models.info import Clip, Defaults, ModelInfo

MODEL = ModelInfo(
    name="test",
    path=Path("/nowhere"),
    family="FluxPipeline",
    components={},
    fingerprint="",
    identity="",
    size_multiple=16,
    defaults=Defaults(steps=12, draft_steps=3, width=128, height=96, guidance=0.0),
)


def test_defaults_are_the_models() -> None:
    request = resolve(Request(prompt="a"), MODEL)
    assert (request.steps, request.width, request.height, request.guidance) == (12, 128, 96, 0.0)
    assert resolve(Request(prompt="a", draft=True), MODEL).steps == 3
    assert resolve(Request(prompt="a", draft=True, steps=5), MODEL).steps == 5


def test_without_defaults_the_familys_size_is_taken() -> None:
    bare = msgspec.structs.replace(MODEL, defaults=Defaults())
    request = resolve(Request(prompt="a"), bare)
    assert (request.width, request.height) == (1024, 1024)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": " \n\t"}, "empty"),
        ({"prompt": "a" * 30_000}, "shorten"),
        ({"prompt": "a \udc80 b"}, "no text"),
        ({"width": 100}, "nearest is 96x96"),
        ({"width": 0}, "nearest is 16x96"),
        ({"width": -16}, "multiple of 16"),
        ({"width": 16_384}, "too large"),
        ({"width": 8192, "height": 8192}, "too large"),
        ({"steps": 0}, "0 steps"),
        ({"steps": -3}, "-3 steps"),
        ({"steps": 100_000}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"guidance": -1.0}, "guidance"),
        ({"guidance": float("nan")}, "guidance"),
    ],
)
def test_what_cannot_be_done_is_said(change: dict[str, object], words: str) -> None:
    request = msgspec.structs.replace(Request(prompt="a red house"), **change)
    with pytest.raises(UserError, match=words):
        resolve(request, MODEL)


@given(width=st.integers(-100, 20_000), height=st.integers(-100, 20_000))
def test_every_size_is_either_right_or_refused(width: int, height: int) -> None:
    try:
        request = resolve(Request(prompt="a", width=width, height=height), MODEL)
    except UserError:
        return
    assert request.width == width > 0
    assert request.height == height > 0
    assert width % 16 == height % 16 == 0


CLIPS = msgspec.structs.replace(MODEL, clip=Clip(fps=16, temporal=4), defaults=Defaults(frames=81, steps=50))


def test_frames_are_the_models_unless_a_draft_is_made() -> None:
    assert resolve(Request(prompt="a"), MODEL).frames == 1
    assert resolve(Request(prompt="a"), CLIPS).frames == 81
    assert resolve(Request(prompt="a", draft=True), CLIPS).frames == 1
    assert resolve(Request(prompt="a", frames=5), CLIPS).frames == 5
    assert resolve(Request(prompt="a", frames=1), MODEL).frames == 1


@pytest.mark.parametrize(
    ("frames", "nearest"), [(4, 5), (6, 5), (80, 81), (0, 1), (-7, 1), (2, 1), (20_000, 9997), (10_000, 9997)]
)
def test_impossible_frames_are_refused_with_the_nearest(frames: int, nearest: int) -> None:
    with pytest.raises(UserError, match=rf"multiple of 4 and one; the nearest is {nearest}\."):
        resolve(Request(prompt="a", frames=frames), CLIPS)
    assert resolve(Request(prompt="a", frames=nearest), CLIPS).frames == nearest


def test_a_model_of_stills_makes_one_frame() -> None:
    with pytest.raises(UserError, match="makes still pictures, not 5 frames"):
        resolve(Request(prompt="a", frames=5), MODEL)
