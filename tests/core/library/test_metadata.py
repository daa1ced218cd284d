"""What is written into a picture can be read back, by us and by others; and a failed write leaves nothing."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from core.library import metadata
from core.messages import ComponentUse, How, Result, UserError

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=200)


def make_result(**changes: object) -> Result:
    result = Result(
        id="0123456789ab",
        pixels_sha256="00" * 32,
        width=64,
        height=32,
        model="starter",
        family="FluxPipeline",
        fingerprint="ab" * 32,
        prompt="a red house by the sea",
        seed=7,
        steps=12,
        guidance=3.5,
        accelerator="cpu",
        device="CPU",
        seconds={"encode": 0.1, "denoise": 0.5, "decode": 0.1, "total": 0.7},
        components={"vae": ComponentUse(format="F32", bytes=10, peak_bytes=10)},
        versions={"residency": "0.1.0"},
        created="2026-01-01T00:00:00+00:00",
    )
    return msgspec.structs.replace(result, **changes)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=TEXT, negative=TEXT, seed=st.integers(0, 2**63 - 1))
def test_a_result_survives_its_file(tmp_path: Path, prompt: str, negative: str, seed: int) -> None:
    result = make_result(prompt=prompt, negative_prompt=negative, seed=seed)
    path = tmp_path / "a.png"
    metadata.write_png(path, Image.new("RGB", (64, 32), "red"), result)
    assert metadata.read_result(path) == msgspec.structs.replace(result, file=str(path))
    request = metadata.read_request(path)
    assert request is not None
    assert (request.prompt, request.negative_prompt, request.seed) == (prompt, negative, seed)


@given(
    prompt=TEXT.map(str.strip).filter(lambda text: text and "Negative prompt: " not in text),
    negative=TEXT.map(str.strip),
    seed=st.integers(0, 2**63 - 1),
)
def test_the_a1111_text_is_read_back(prompt: str, negative: str, seed: int) -> None:
    text = metadata.parameters_text(make_result(prompt=prompt, negative_prompt=negative, seed=seed))
    request = metadata.parse_parameters(text)
    assert request is not None
    assert (request.prompt, request.negative_prompt, request.seed) == (prompt, negative, seed)
    assert (request.steps, request.guidance, request.width, request.height) == (12, 3.5, 64, 32)


def test_a_picture_of_the_a1111_web_ui_gives_its_settings(tmp_path: Path) -> None:
    text = (
        "masterpiece, a fox\nin the snow\nNegative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 965400086, Size: 512x768, "
        "Model hash: 31e35c80fc, Model: sd_xl_base_1.0, Version: v1.6.0"
    )
    info = metadata.PngImagePlugin.PngInfo()
    info.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a1111.png", pnginfo=info)
    request = metadata.read_request(tmp_path / "a1111.png")
    assert request is not None
    assert request.prompt == "masterpiece, a fox\nin the snow"
    assert request.negative_prompt == "blurry"
    assert (request.seed, request.steps, request.guidance) == (965400086, 20, 7.0)
    assert (request.width, request.height) == (512, 768)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_is_no_picture_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    assert metadata.read_result(path) is None
    assert metadata.read_request(path) is None
    assert metadata.read_request(tmp_path / "missing.png") is None


@pytest.mark.parametrize(
    "line",
    [
        "Steps: 20, Seed: inf, CFG scale: nan, Size: 64x64",
        f"Steps: {'9' * 5000}, Seed: 1, CFG scale: 1, Size: 64x64",
        f"Steps: 20, Seed: {'9' * 5000}, CFG scale: 1e999, Size: 99999999x1",
    ],
)
def test_absurd_numbers_in_a_text_are_passed_over(line: str) -> None:
    request = metadata.parse_parameters(f"a fox\n{line}")
    assert request is None or (request.seed in (0, 1) and request.guidance in (None, 1.0))


def test_a_picture_bomb_says_nothing(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    text = chunk(b"tEXt", b"residency\0" + b"[" * 100_000)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + text + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert metadata.read_result(path) is None
    assert metadata.read_request(path) is None


def test_a_plain_picture_has_no_settings(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert metadata.read_request(tmp_path / "plain.png") is None


def test_a_generated_picture_says_that_it_is_generated(tmp_path: Path) -> None:
    metadata.write_png(tmp_path / "a.png", Image.new("RGB", (64, 32)), make_result())
    with Image.open(tmp_path / "a.png") as image:
        assert "trainedAlgorithmicMedia" in image.info[metadata.XMP_KEY]


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_bytes(b"the picture that was there before")
    script = f"""
import os, resource, signal, sys
from pathlib import Path
from PIL import Image, PngImagePlugin
from core.library import metadata
from core.messages import UserError
from tests.core.library.test_metadata import make_result
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    picture = Image.effect_noise((256, 256), 90).convert("RGB")
    metadata.write_png(Path({str(tmp_path / "old.png")!r}), picture, make_result())
except UserError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "could not be saved" in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"the picture that was there before"


def test_a_folder_that_is_a_file_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder"):
        metadata.write_png(tmp_path / "file" / "a.png", Image.new("RGB", (8, 8)), make_result())


def test_what_a_person_fixed_comes_back_with_the_picture(tmp_path: Path) -> None:
    how = How(prefer=0.9, formats={"transformer": "Q6_K"}, residency={"vae": "resident"}, tile="512", cache=False)
    path = tmp_path / "a.png"
    metadata.write_png(path, Image.new("RGB", (64, 32), "red"), make_result(how=how))
    request = metadata.read_request(path)
    assert request is not None
    assert request.how == how


def test_files_of_other_versions_are_read(tmp_path: Path) -> None:
    """An older one says nothing of how it was made; a newer one says more than is understood here."""
    said = msgspec.to_builtins(make_result())
    older = {key: value for key, value in said.items() if key != "how"}
    newer = {**said, "how": {"prefer": 0.25, "a_choice_to_come": {"deep": 1}}, "more": 2}
    for name, data, expected in (("older", older, How()), ("newer", newer, How(prefer=0.25))):
        info = PngImagePlugin.PngInfo()
        info.add_itxt(metadata.JSON_KEY, msgspec.json.encode(data).decode())
        Image.new("RGB", (64, 32)).save(path := tmp_path / f"{name}.png", pnginfo=info)
        result = metadata.read_result(path)
        assert result is not None
        assert result.how == result.request().how == expected
