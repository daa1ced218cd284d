"""Reads what an MP4 file says of itself: its comment, its description and its cover. No video is decoded.

The boxes are those of ISO/IEC 14496-12; the tags lie in `moov.udta.meta.ilst`, where FFmpeg's muxer and most players
keep them (after Apple's QuickTime File Format: an entry's `data` box begins with a type and a locale of 4 bytes each).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

COMMENT, DESCRIPTION, COVER = b"\xa9cmt", b"desc", b"covr"
XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # of a top-level box: XMP specification, part 3
_TAGS = (b"moov", b"udta", b"meta", b"ilst")
_BOXES = 4096  # a damaged file shall not keep anybody busy
_UTF8 = 1  # the type of a `data` box


class Tag(NamedTuple):
    """Where the content of a tag lies."""

    kind: int
    start: int
    size: int


def read_tags(file: BinaryIO) -> dict[bytes, Tag]:
    """The tags of an MP4 file by their box names; empty for any other file."""
    file.seek(0, 2)
    start, end = 0, file.tell()
    if not any(name == b"ftyp" for name, _, _ in _boxes(file, 0, min(end, 64))):
        return {}
    for wanted in _TAGS:
        found = next(((begin, stop) for name, begin, stop in _boxes(file, start, end) if name == wanted), None)
        if found is None:
            return {}
        start, end = found
        start += 4 if wanted == b"meta" else 0  # version and flags
    tags = {}
    for name, begin, stop in _boxes(file, start, end):
        for inner, data, over in _boxes(file, begin, stop):
            if inner == b"data" and over - data >= 8:
                file.seek(data)
                (kind,) = struct.unpack(">I", file.read(4))
                tags[name] = Tag(kind, data + 8, over - data - 8)
                break
    return tags


def read_texts(path: Path, largest: int) -> tuple[str, str]:
    """(comment, description) of an MP4 file; empty where there is none or it is longer than `largest` bytes."""
    try:
        with path.open("rb") as file:
            tags = read_tags(file)
            return _text(file, tags.get(COMMENT), largest), _text(file, tags.get(DESCRIPTION), largest)
    except (OSError, struct.error):
        return "", ""


def read_cover(path: Path, largest: int = 64 << 20) -> bytes:
    """The cover of an MP4 file, as PNG or JPEG; empty where there is none."""
    try:
        with path.open("rb") as file:
            tag = read_tags(file).get(COVER)
            if tag is None or tag.size > largest:
                return b""
            file.seek(tag.start)
            return file.read(tag.size)
    except (OSError, struct.error):
        return b""


def _text(file: BinaryIO, tag: Tag | None, largest: int) -> str:
    if tag is None or tag.kind != _UTF8 or tag.size > largest:
        return ""
    file.seek(tag.start)
    return file.read(tag.size).decode(errors="replace")


def _boxes(file: BinaryIO, start: int, end: int) -> list[tuple[bytes, int, int]]:
    """(name, where the content begins, where it ends) of the boxes in a range; as many as are whole."""
    found: list[tuple[bytes, int, int]] = []
    while start + 8 <= end and len(found) < _BOXES:
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:  # a longer size follows
            (size,) = struct.unpack(">Q", file.read(8))
            head = 16
        elif size == 0:  # up to the end
            size = end - start
        if size < head or start + size > end:
            break
        found.append((name, start + head, start + size))
        start += size
    return found
