"""A profile comes through a message as it was, and noise is none."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.hardware.profile import load, names
from core.hardware.told import heard, tell
from core.messages import Event, Ready


@pytest.mark.parametrize("name", ["rx-7800-xt", "apple-m2-max", "h100", "rtx-4070-laptop"])
def test_what_is_told_is_heard(name: str) -> None:
    assert name in names()
    ready = Ready("cuda", "A card", "2.13.0", 1, 1, tell(load(name)), 7)
    came = msgspec.msgpack.decode(msgspec.msgpack.encode(ready), type=Event)
    assert came == ready
    assert heard(came.hardware) == load(name)


def test_an_engine_that_tells_nothing() -> None:
    assert heard(b"") is None
    assert heard(tell(msgspec.structs.replace(load("h100"), memory_bytes=-5))) is None
    other = msgspec.to_builtins(load("h100")) | {"a_field_of_another_version": 1}
    assert heard(msgspec.msgpack.encode(other)) is None


@given(st.binary(max_size=200))
def test_noise_is_no_profile(noise: bytes) -> None:
    assert heard(noise) is None
