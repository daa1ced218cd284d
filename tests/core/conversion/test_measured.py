"""Under a size, formats follow what errors do to this very model's output, where that was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from core.commands.convert_sensitivity import FORMATS as TRIED
from core.generation.onestep import PROMPTS, OneStep, losses
from core.models.folder import read_folder
from core.models.gguf_header import read_gguf
from core.models.sensitivity import Measured, read_measured, write_measured
from core.precision import decode
from core.resources import resource
from tests.core.conversion.written import convert, report_of

STARTER = resource("starter", "model") / "transformer"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On a busy machine two threads wait for each other between a small network's many operations."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def starter() -> OneStep:
    return OneStep(read_folder(resource("starter", "model")), PROMPTS[:2])


@pytest.fixture(scope="module")
def measured(starter: OneStep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of what was measured on the starter."""
    (network,) = starter.denoisers
    found = losses(starter.weights(network), starter.curvature()[network], TRIED)
    path = tmp_path_factory.mktemp("measured") / "starter.json"
    write_measured(
        path,
        Measured(model="starter", family="FluxPipeline", fingerprint="", calls=8, losses={network: found}),
    )
    return path


def weights_in(path: Path) -> dict[str, torch.Tensor]:
    data = path.read_bytes()
    return {
        name: decode(torch.frombuffer(bytearray(data[at.start : at.end]), dtype=torch.uint8), at.type, at.shape)
        for name, at in read_gguf(path).tensors.items()
    }


def test_measured_sensitivities_beat_one_type_and_a_threshold_at_equal_bytes(
    starter: OneStep, measured: Path, tmp_path: Path
) -> None:
    other = starter.again(PROMPTS[4:6], 99)
    (network,) = starter.denoisers
    for base in (("--format", "Q5_1"), ("--rmse", "6%"), ("--format", "IQ4_NL")):
        size = report_of(tmp_path, STARTER, *base)["bytes"]
        before = other.error({network: weights_in(tmp_path / "out.gguf")})
        report = report_of(tmp_path, STARTER, "--target-size", size, "--sensitivity", measured)
        after = other.error({network: weights_in(tmp_path / "out.gguf")})
        assert report["bytes"] <= size
        assert after < 0.8 * before
        assert report["expected_one_step_error"] == pytest.approx(after, rel=0.3)
        assert "starter" in report["sensitivity"]


def test_a_model_that_is_part_of_a_small_folder_is_measured_unasked(
    tmp_path: Path, tiny: Callable[[str], Path]
) -> None:
    kept = tmp_path / "kept.json"
    report = report_of(tmp_path, tiny("flux") / "transformer", "--target-size", "300KB", "--measured", kept)
    assert "measured on" in report["sensitivity"]
    assert report["measured_tensors"] == len(read_measured(kept).losses["transformer"])


def test_what_cannot_be_run_takes_the_table_and_says_so(
    flux_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_of(tmp_path, flux_file, "--target-size", "6MB")
    assert report["sensitivity"].startswith("the shipped table, since")
    assert report["measured_tensors"] == 0
    capsys.readouterr()
    convert(flux_file, "-o", tmp_path / "b.gguf", "--target-size", "6MB", "--sensitivity", "measured", code=2)
    assert "cannot be measured" in capsys.readouterr().err


def test_sensitivities_of_another_model_are_refused(
    measured: Path, flux_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(flux_file, "-o", tmp_path / "b.gguf", "--target-size", "6MB", "--sensitivity", measured, code=2)
    assert "measured on starter" in capsys.readouterr().err
    assert not (tmp_path / "b.gguf").exists()


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b'{"version": 9}'])
def test_a_damaged_file_is_named(
    damage: bytes, flux_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.json").write_bytes(damage)
    convert(flux_file, "-o", tmp_path / "b.gguf", "--target-size", "6MB", "--sensitivity", tmp_path / "m.json", code=2)
    assert "m.json" in capsys.readouterr().err


def test_what_was_measured_makes_the_round_trip(measured: Path, tmp_path: Path) -> None:
    found = read_measured(measured)
    write_measured(tmp_path / "again.json", found)
    assert read_measured(tmp_path / "again.json") == found
    broken = msgspec.structs.replace(found, losses={"transformer": {"x": {"Q8_0": -1.0}}})
    write_measured(tmp_path / "broken.json", broken)
    with pytest.raises(Exception, match="damaged"):
        read_measured(tmp_path / "broken.json")
