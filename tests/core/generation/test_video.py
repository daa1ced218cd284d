"""Clips as files: what is written can be shown by others and read back by us, without decoding a frame."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest
from PIL import Image

from core.generation.video import write_mp4
from core.library import metadata, mp4
from core.library.index import Library
from core.messages import Request, Result, UserError
from tests.core.library.test_metadata import make_result

FPS = 24.0
PROMPT = "ein rotes Häuschen 海"


def gradients(count: int = 5) -> list[Image.Image]:
    """Frames that no encoder has trouble with, each another colour."""
    y, x = np.mgrid[0:48, 0:64]
    return [
        Image.fromarray(np.stack([x * 2, y * 3, np.full_like(x, 40 * number)], -1).astype("uint8"))
        for number in range(count)
    ]


def result_of(frames: list[Image.Image], **changes: object) -> Result:
    width, height = frames[0].size
    return make_result(
        width=width, height=height, frames=len(frames), fps=FPS, prompt=PROMPT, negative_prompt="fog", **changes
    )


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "new folder" / "a.mp4"
    write_mp4(path, frames := gradients(), FPS, result_of(frames))
    return path


def test_a_clip_shows_its_frames(clip: Path) -> None:
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (64, 48, 5)
        assert float(stream.average_rate or 0) == FPS
        assert float(stream.duration * stream.time_base) == pytest.approx(5 / FPS)
        shown = [frame.to_image() for frame in container.decode(video=0)]
    for seen, made in zip(shown, gradients(), strict=True):
        assert np.abs(np.asarray(seen).astype(int) - np.asarray(made)).mean() < 2  # colours have half of the pixels


def test_a_clip_says_how_it_was_made(clip: Path) -> None:
    expected = result_of(gradients())
    assert metadata.read_result(clip) == msgspec.structs.replace(expected, file=str(clip))
    request = metadata.read_request(clip)
    assert request is not None
    assert msgspec.structs.replace(request, id="") == msgspec.structs.replace(expected.request(), id="")
    assert (request.frames, request.prompt) == (5, PROMPT)
    assert b"trainedAlgorithmicMedia" in clip.read_bytes()
    with av.open(str(clip)) as container:  # others find it, too
        assert container.metadata["description"] == metadata.parameters_text(expected)


def test_its_first_frame_can_be_had_without_decoding(clip: Path) -> None:
    with Image.open(io.BytesIO(mp4.read_cover(clip))) as cover:
        assert cover.tobytes() == gradients()[0].tobytes()


def test_a_clip_of_another_program_with_a1111_text_gives_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["description"] = "a fox\nSteps: 20, Seed: 3, CFG scale: 6, Size: 64x48"
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height = 64, 48
        container.mux(stream.encode(av.VideoFrame.from_image(gradients()[0])))
        container.mux(stream.encode())
    assert metadata.read_result(path) is None
    assert mp4.read_cover(path) == b""
    request = metadata.read_request(path)
    assert request is not None
    assert (request.prompt, request.steps, request.seed) == ("a fox", 20, 3)


def test_damaged_clips_say_nothing(clip: Path, tmp_path: Path) -> None:
    data = clip.read_bytes()
    whole = msgspec.structs.replace(result_of(gradients()), file=str(path := tmp_path / "damaged.mp4"))
    at = data.index(b"ilst")
    for end in (0, 4, 8, 40, at - 4, at, at + 4, at + 60, len(data) // 2):
        path.write_bytes(data[:end])
        assert metadata.read_result(path) is None
        assert mp4.read_cover(path) == b""
    generator = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        for place in generator.integers(0, len(data), 4):
            changed[place] = generator.integers(0, 256)
        for size_at in generator.choice([data.index(name) - 4 for name in (b"moov", b"udta", b"meta", b"covr")], 1):
            changed[size_at : size_at + 4] = generator.bytes(4)
        path.write_bytes(changed)
        result = metadata.read_result(path)
        assert result is None or isinstance(result, type(whole))
        mp4.read_cover(path)
    assert mp4.read_texts(tmp_path / "missing.mp4", 100) == ("", "")


def test_a_lost_index_finds_clips(clip: Path, tmp_path: Path) -> None:
    library = Library(clip.parent, tmp_path / "library.sqlite")
    (found,) = library.recent()
    assert (found.file, found.frames, found.fps) == (str(clip), 5, FPS)
    assert library.new_file(Request(prompt="a"), metadata.suffix_of(5)).suffix == ".mp4"
    library.close()


@pytest.mark.parametrize(
    ("name", "frames", "words"),
    [
        ("a.png", 5, "does not end in .mp4, the format of 5 frames; change its name, or ask for one frame"),
        ("a.avi", 5, "does not end in .mp4, the format of 5 frames; change its name."),
        ("a.mp4", 1, "does not end in .png"),
    ],
)
def test_a_name_must_fit_what_is_made(tmp_path: Path, name: str, frames: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        metadata.check_writable(tmp_path / name, frames)


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.mp4").write_bytes(b"the clip that was there before")
    script = f"""
import resource, signal
from pathlib import Path
from PIL import Image
from core.generation.video import write_mp4
from core.messages import UserError
from tests.core.library.test_metadata import make_result
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
frames = [Image.effect_noise((256, 256), 90).convert("RGB") for _ in range(3)]
try:
    write_mp4(Path({str(tmp_path / "old.mp4")!r}), frames, 16.0, make_result())
except UserError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ)
    )
    assert "could not be saved" in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["old.mp4"]
    assert (tmp_path / "old.mp4").read_bytes() == b"the clip that was there before"


def test_reading_clips_needs_no_video_library() -> None:
    script = (
        "import sys; import core.library.index, core.library.metadata; print(sorted({'av', 'torch'} & {*sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"
