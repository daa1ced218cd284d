"""Pictures that people start from: whatever they are, upright, opaque, at the size asked for; or one clear sentence."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from PIL import Image

from core.library import pictures
from core.messages import UserError

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def halves() -> Image.Image:
    """Red above, blue below, 40 x 80."""
    image = Image.new("RGB", (40, 80), RED)
    image.paste(BLUE, (0, 40, 40, 80))
    return image


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff", "gif"])
def test_common_kinds_are_read(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    halves().save(file, **({"lossless": True} if suffix == "webp" else {}))
    assert pictures.size_of(file) == (40, 80)
    read = pictures.read_fitting(file, 40, 80)
    assert (read.mode, read.size) == ("RGB", (40, 80))
    assert (read.getpixel((20, 10)), read.getpixel((20, 70))) == (RED, BLUE)


def test_what_sticks_out_is_cut_off_evenly(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.png")
    read = pictures.read_fitting(tmp_path / "a.png", 80, 80)  # scaled to 80 x 160, of which the middle stays
    assert (read.getpixel((40, 30)), read.getpixel((40, 50))) == (RED, BLUE)


def test_it_stands_as_the_camera_was_held(tmp_path: Path) -> None:
    lying = halves().rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right side
    lying.save(tmp_path / "a.jpg", quality=95, exif=exif)
    assert pictures.size_of(tmp_path / "a.jpg") == (40, 80)
    red, _, blue = pictures.read_fitting(tmp_path / "a.jpg", 40, 80).getpixel((20, 10))  # type: ignore[misc]
    assert red > 200 > 60 > blue


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_places_are_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 16, 32))
    (image.quantize() if mode == "P" else image.convert(mode)).save(tmp_path / "a.png")
    read = pictures.read_fitting(tmp_path / "a.png", 32, 32)
    assert (read.getpixel((4, 16)), read.getpixel((28, 16))) == ((0, 0, 0), WHITE)


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    Image.new("I;16", (16, 16), 128 * 257).save(tmp_path / "a.png")
    assert pictures.read_fitting(tmp_path / "a.png", 16, 16).getpixel((8, 8)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("a.png" if mode in ("L", "1") else "a.jpg")
    halves().convert(mode).save(file)
    assert pictures.read_fitting(file, 16, 32).mode == "RGB"


def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halves().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match="too many pixels"):
        pictures.read_fitting(tmp_path / "a.png", 40, 80)


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    """Cut and changed anywhere, a file gives a picture or a sentence."""
    chance, file = random.Random(0), tmp_path / "a"
    for suffix in ("png", "jpeg", "webp", "gif", "tiff"):
        halves().save(file, suffix)
        whole = file.read_bytes()
        for _ in range(60):
            content = bytearray(whole[: chance.randrange(len(whole))] if chance.random() < 0.5 else whole)
            for _ in range(chance.randrange(1, 8)):
                if content:
                    content[chance.randrange(len(content))] = chance.randrange(256)
            file.write_bytes(content)
            said = ""
            try:
                assert pictures.read_fitting(file, 32, 32).size == (32, 32)
            except UserError as error:
                said = str(error)
            assert not said or (str(file) in said and "\n" not in said)


def test_what_is_no_picture_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("text")
    for path, words in (
        (tmp_path / "a.png", "no picture"),
        (tmp_path, "a folder"),
        (tmp_path / "b.png", "not there"),
    ):
        for attempt in (pictures.size_of, pictures.sha256_of):
            if words == "no picture" and attempt is pictures.sha256_of:
                continue
            with pytest.raises(UserError, match=words):
                attempt(path)
