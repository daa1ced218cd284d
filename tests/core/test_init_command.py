"""`--init` on the command line: planned, simulated, and one sentence for what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from core import cli


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.new("RGB", (1000, 700), "teal").save(tmp_path / "photo.jpg")
    return str(tmp_path / "photo.jpg")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = cli.main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


CARD = ("--gpu", "rx-7800-xt", "--json")


@pytest.mark.parametrize("command", ["plan", "simulate"])
@pytest.mark.parametrize(
    ("model", "made"), [("flux-dev", 17), ("sdxl", 15), ("sd35-medium", 17), ("qwen-image", 30), ("z-image-turbo", 6)]
)
def test_the_phase_and_the_steps_are_in_the_plan(
    command: str, model: str, made: int, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ("--steps", "9") if model == "z-image-turbo" else ()
    code, out, err = run(capsys, command, "--model", model, "--init", photo, *steps, *CARD)
    assert (code, err) == (0, "")
    plan = json.loads(out)
    names = [phase["name"] for phase in plan["phases"]]
    assert names == ["encode", "image encode", "denoise", "decode"]
    image, denoise = plan["phases"][1], plan["phases"][2]
    assert denoise["passes"] in (made, 2 * made)
    assert image["seconds"] > 0
    assert image["resident_bytes"] == plan["components"]["vae"]["bytes"]
    assert 0 < image["peak_device_bytes"] <= plan["budget_bytes"]
    assert any("photo.jpg" in reason for reason in plan["reasons"])


def test_the_size_is_the_picture_s_or_the_one_asked_for(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain = ("plan", "--model", "flux-schnell", "--gpu", "rx-7800-xt")
    assert "1008x704" in run(capsys, *plain, "--init", photo)[1]
    assert "512x768" in run(capsys, *plain, "--init", photo, "--size", "512x768")[1]


def test_a_huge_picture_is_scaled_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (8000, 4000)).save(tmp_path / "huge.png")
    words = ("plan", "--model", "flux-schnell", "--gpu", "rtx-4090", "--init", str(tmp_path / "huge.png"))
    assert "2896x1456" in run(capsys, *words)[1]  # four times 1024 x 1024


def test_the_vae_is_read_once_where_it_stays(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model", "flux-schnell", "--gpu", "rtx-4090", "--size", "1024x1024", "--steps", "4", "--json")
    started = json.loads(run(capsys, "plan", *words, "--init", photo, "--strength", "1")[1])
    without = json.loads(run(capsys, "plan", *words)[1])
    vae = started["components"]["vae"]
    assert vae["kept_bytes"] == vae["bytes"]
    assert started["link_bytes"] == without["link_bytes"]
    decode = started["phases"][3]
    assert decode["load_seconds"] == pytest.approx(0, abs=1e-6)


def test_the_simulation_agrees_with_the_plan(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    for memory in ("8GB", "12GB", "24GB"):
        words = ("--model", "flux-dev", "--vram", memory, "--init", photo, *CARD)
        plan, simulated = (json.loads(run(capsys, command, *words)[1]) for command in ("plan", "simulate"))
        assert simulated["total_seconds"] == pytest.approx(plan["total_seconds"], rel=0.05)
        assert simulated["peak_device_bytes"] <= plan["budget_bytes"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--strength", "0.5"), "--init"),
        (("--init", "PHOTO", "--strength", "0"), "strength of 0"),
        (("--init", "PHOTO", "--strength", "2"), "strength of 2"),
        (("--init", "PHOTO", "--strength", "x"), "not a number"),
        (("--init", "gone.png"), "not there"),
        (("--init", "PHOTO", "--model", "wan22-5b"), "cannot start from a picture"),
        (("--init", "PHOTO", "--model", "sdxl", "--steps", "10", "--strength", "0.05"), "0.1 or more"),
    ],
)
@pytest.mark.parametrize("command", [("plan",), ("simulate",), ("generate", "a house")])
def test_what_cannot_be_done_is_one_sentence(
    command: tuple[str, ...], words: tuple[str, ...], said: str, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if command[0] == "generate" and "--model" in words:
        pytest.skip("the model is not here")
    code, out, err = run(capsys, *command, *(photo if word == "PHOTO" else word for word in words))
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) <= 2  # argparse names the option in a line of its own
