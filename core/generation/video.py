"""Clips as files: H.264 in MP4, with their settings and their first frame in it. Encoded by FFmpeg through PyAV."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.stream import Disposition
from av.video import VideoStream
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image

from core.files import write_atomically
from core.library import metadata, mp4
from core.messages import Result, UserError

# What can write H.264, the best first; builds of FFmpeg differ in what they have. MPEG-4 part 2 is always there.
_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "15", "preset": "medium"},  # visually without loss: the hash is of what was decoded, though
    "libopenh264": {"qmin": "5", "qmax": "20"},
    "mpeg4": {"qmin": "1", "qmax": "2"},
}


def encoder() -> str:
    """The name of FFmpeg's encoder that clips are written with."""
    for name in _ENCODERS:
        try:
            av.Codec(name, "w")
        except UnknownCodecError:
            continue
        return name
    raise UserError(
        "The installed PyAV can write no MP4; install it from PyPI with `pip install --force-reinstall av`."
    )


def write_mp4(path: Path, frames: Sequence[Image.Image], fps: float, result: Result) -> None:
    """Write frames (RGB, one size, even sides) as a clip with its metadata; the first frame is its cover.

    Raises:
        UserError: the folder cannot be written to, or the disk is full; nothing is left behind.
    """
    try:
        write_atomically(path, lambda file: _write(file, frames, fps, result))
    except (OSError, FFmpegError) as error:
        raise UserError(
            f"The clip could not be saved to {path} ({error.strerror or error}); "
            "choose another folder or free some disk space."
        ) from error


def _write(file: BinaryIO, frames: Sequence[Image.Image], fps: float, result: Result) -> None:
    texts = metadata.texts_of(result)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(file, "w", format="mp4") as container:
        container.metadata["comment"] = texts[metadata.JSON_KEY]
        container.metadata["description"] = texts[metadata.TEXT_KEY]
        name = encoder()
        stream = cast(VideoStream, container.add_stream(name, rate=rate, options=_ENCODERS[name]))
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        # said, because players guess from the size otherwise and small clips would get other colours than large ones
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        cover = _cover(container, frames[0])
        container.start_encoding()
        container.mux(cover)
        for image in frames:
            frame = av.VideoFrame.from_image(image).reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    content = mp4.XMP_UUID + texts[metadata.XMP_KEY].encode()
    file.seek(0, 2)
    file.write(struct.pack(">I4s", 8 + len(content), b"uuid") + content)


def _cover(container: Any, image: Image.Image) -> Any:
    """The packet of the first frame, which file managers and the window show for the clip."""
    stream = container.add_stream("png", rate=1)
    stream.width, stream.height = image.size
    stream.pix_fmt = "rgb24"
    stream.disposition = Disposition.attached_pic
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    packet: Any = av.Packet(buffer.getvalue())
    packet.stream = stream
    packet.pts = packet.dts = 0
    packet.is_keyframe = True
    return packet
