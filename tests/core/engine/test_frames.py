"""Messages survive the stream; a broken stream is noticed."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.engine.frames import MAX_FRAME_BYTES, BrokenStream, read_commands, read_events, write_frame
from core.engine.outbox import Outbox
from core.messages import Cancel, Finished, Heartbeat, Phase, Preview, Progress, Request, Started, Submit, WarmUp
from tests.core.library.test_metadata import make_result

REQUEST = Request(prompt="ein rotes Haus 🏠", seed=2**62, guidance=1.5)
COMMANDS = [Submit(REQUEST), Cancel("x"), WarmUp("starter")]
EVENTS = [
    Started("x", REQUEST),
    Progress("x", Phase.DENOISE, 1, 4, 0.5),
    Preview("x", 1, 4, 2, 1, b"\0\1\2\3\4\5"),
    Finished("x", make_result()),
]


def stream_of(*messages: object) -> bytes:
    stream = io.BytesIO()
    for message in messages:
        write_frame(stream, message)  # type: ignore[arg-type]
    return stream.getvalue()


def test_messages_come_back_as_they_were() -> None:
    assert list(read_commands(io.BytesIO(stream_of(*COMMANDS)))) == COMMANDS
    assert list(read_events(io.BytesIO(stream_of(*EVENTS)))) == EVENTS


@given(cut=st.integers(1, len(stream_of(*EVENTS)) - 1))
def test_a_cut_stream_gives_whole_messages_only(cut: int) -> None:
    got = []
    data = stream_of(*EVENTS)
    try:
        got.extend(read_events(io.BytesIO(data[:cut])))
    except BrokenStream:
        assert stream_of(*got) != data[:cut]
    else:
        assert stream_of(*got) == data[:cut]
    assert got == EVENTS[: len(got)]


@given(noise=st.binary(min_size=1, max_size=100))
def test_noise_is_no_message(noise: bytes) -> None:
    with pytest.raises(BrokenStream):
        list(read_events(io.BytesIO(struct.pack("<I", len(noise)) + noise)))


def test_a_huge_frame_is_refused_before_it_is_read() -> None:
    with pytest.raises(BrokenStream, match="bytes"):
        list(read_events(io.BytesIO(struct.pack("<I", MAX_FRAME_BYTES + 1) + b"x")))


def test_the_outbox_keeps_only_the_newest_preview() -> None:
    outbox = Outbox()
    for step in range(50):
        outbox.put(Progress("x", Phase.DENOISE, step, 50))
        outbox.put(Preview("x", step, 50, 1, 1, b"abc"))
    outbox.put(Heartbeat())
    outbox.put(Heartbeat())
    outbox.put(Finished("x", make_result()))
    outbox.close()
    events = []
    while (event := outbox.get()) is not None:
        events.append(event)
    assert [event.step for event in events if isinstance(event, Preview)] == [49]
    assert len([event for event in events if isinstance(event, Heartbeat)]) == 1
    assert isinstance(events[-1], Finished)
