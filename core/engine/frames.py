"""Messages over a byte stream: msgpack in frames, each led by its length (4 bytes, little-endian)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, TypeVar

import msgspec

from core.messages import Command, Event

T = TypeVar("T")

_LENGTH = struct.Struct("<I")
# A preview of 4096 x 4096 pixels is 48 MB; anything far beyond that is a broken stream, not a message.
MAX_FRAME_BYTES = 256 * 1024 * 1024

_encoder = msgspec.msgpack.Encoder()
_command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_event_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


class BrokenStream(Exception):
    """The stream ended inside a frame or carries something that is not a message."""


def frame(message: Command | Event) -> bytes:
    """A message as bytes. Raises UnicodeEncodeError or OverflowError for text or numbers that msgpack cannot hold."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def write_frame(stream: BinaryIO, message: Command | Event) -> None:
    """Write one message and flush it. Raises OSError when the other side is gone."""
    stream.write(frame(message))
    stream.flush()


def read_commands(stream: BinaryIO) -> Iterator[Command]:
    """The commands of a stream until its end. Raises BrokenStream."""
    for body in _bodies(stream):
        yield _decode(_command_decoder, body)


def read_events(stream: BinaryIO) -> Iterator[Event]:
    """The events of a stream until its end. Raises BrokenStream."""
    for body in _bodies(stream):
        yield _decode(_event_decoder, body)


def _decode(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise BrokenStream(f"not a message: {error}") from error


def _bodies(stream: BinaryIO) -> Iterator[bytes]:
    while head := stream.read(_LENGTH.size):
        if len(head) < _LENGTH.size:
            raise BrokenStream("the stream ended inside a frame")
        (length,) = _LENGTH.unpack(head)
        if length > MAX_FRAME_BYTES:
            raise BrokenStream(f"a frame of {length} bytes")
        body = stream.read(length)
        if len(body) < length:
            raise BrokenStream("the stream ended inside a frame")
        yield body
