"""Which format each tensor takes: kept by hand, within an error, under a size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from core.conversion.allocate import Option, allocate
from core.conversion.choice import candidates, inputs_of
from core.conversion.measure import measure
from core.conversion.source import sources
from core.conversion.write import computing_with_one
from core.models.checkpoint import open_checkpoint
from core.models.gguf_header import read_gguf
from core.models.sensitivity import rules, sensitivity
from core.precision import decode, encode
from tests.core.conversion.written import convert, flux_like, report_of, tensor_in


def test_keep_overrides_the_rules(flux_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.gguf"
    convert(
        flux_file, "-o", out, "--format", "Q4_K", "--keep", "img_in*=F32", "--keep", "single_blocks.1?.linear1*=Q6_K"
    )
    types = {name: tensor.type for name, tensor in read_gguf(out).tensors.items()}
    assert types["img_in.weight"] == "F32"
    assert types["single_blocks.10.linear1.weight"] == "Q6_K"
    assert types["single_blocks.1.linear1.weight"] == "Q4_K"
    for wish, said in [
        ("nothing*=F32", "fits no tensor"),
        ("*img_mlp*=Q6_K", "cannot be stored as Q6_K"),
        ("x=Q9", "takes"),
    ]:
        capsys.readouterr()
        convert(flux_file, "-o", out, "--format", "Q4_K", "--keep", wish, code=2)
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(("threshold", "expected"), [("1%", "Q8_0"), ("3", "Q6_K"), ("6%", "Q5_K")])
def test_rmse_takes_the_coarsest_type_within_the_threshold(
    flux_file: Path, tmp_path: Path, threshold: str, expected: str
) -> None:
    report = report_of(tmp_path, flux_file, "--rmse", threshold)
    types = {name: tensor.type for name, tensor in read_gguf(tmp_path / "out.gguf").tensors.items()}
    assert types["single_blocks.3.linear1.weight"] == expected
    assert types["single_blocks.3.modulation.lin.weight"] == "Q8_0"
    assert report["worst"][0]["rel_rmse"] <= float(threshold.rstrip("%")) / 100 * 1.03


def test_target_size_beats_one_type_for_all_at_equal_bytes(flux_file: Path, tmp_path: Path) -> None:
    for wanted in ("Q6_K", "Q5_K", "Q4_K"):
        size = report_of(tmp_path, flux_file, "--format", wanted)["bytes"]
        one = _loss(tmp_path / "out.gguf")
        report = report_of(tmp_path, flux_file, "--target-size", size)
        assert size * 0.98 <= report["bytes"] <= size
        assert _loss(tmp_path / "out.gguf") < 0.8 * one
        assert {entry["rule"] for entry in report["assumed"]} == {rule.name for rule in rules() if rule.assumed}


def _loss(path: Path) -> float:
    """Sum of sensitivity * numbers * squared error, from the files alone."""
    header, source, total = read_gguf(path), flux_like(), 0.0
    for name in header.tensors:
        number = int(name.split(".")[1]) if "blocks" in name else None
        place = None if number is None else (number + 12 * name.startswith("single"), 24)
        numbers = tensor_in(path, name)[1]
        error = float(torch.linalg.norm(numbers - source[name].float()) / torch.linalg.norm(source[name].float()))
        total += sensitivity(name, "FluxPipeline", "denoiser", place) * numbers.numel() * error**2
    return total


def test_a_sample_has_the_error_of_the_whole(tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(3)
    weights = torch.randn(2048, 1024, generator=chance) * torch.rand(
        2048, 1, generator=chance
    )  # rows unlike each other
    save_file({"layers.0.w.weight": weights}, tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    listed = candidates(inputs_of(checkpoint, sources(checkpoint.tensors)), [])
    wanted = ["BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K"]
    errors = measure(listed, {"layers.0.w.weight": wanted}, lambda _: None)["layers.0.w.weight"]
    for name in wanted:
        with computing_with_one():
            whole = torch.linalg.norm(decode(encode(weights, name), name, weights.shape) - weights)
        assert errors[name] == pytest.approx(float(whole / torch.linalg.norm(weights)), rel=0.03)


def test_a_size_that_cannot_be_had(flux_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(flux_file, "-o", tmp_path / "a.gguf", "--target-size", "1MB", code=2)
    said = capsys.readouterr().err
    assert "1.0 MB is too small" in said
    least = re.search(r"it takes ([\d.]+MB)", said)
    assert least is not None
    report_of(tmp_path, flux_file, "--target-size", least[1])  # what it asks for is enough
    report = report_of(tmp_path, flux_file, "--target-size", "1GB")
    assert set(report["types"]) == {"BF16", "F32"}  # what fits as it is is not packed
    assert report["rel_rmse"] == 0


def test_fit_takes_what_a_card_has_room_for(
    flux_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rooms = [report_of(tmp_path, flux_file, "--fit", card)["target_bytes"] for card in ("rx-7800-xt", "rtx-4090")]
    assert 8e9 < rooms[0] < 16e9 < rooms[1] < 24e9
    convert(flux_file, "-o", tmp_path / "a.gguf", "--fit", "rx-7800-xtx", code=2)
    assert "rx-7800-xt" in capsys.readouterr().err


option = st.builds(Option, st.just("X"), st.integers(1, 60), st.floats(0, 100))


@settings(max_examples=200)
@given(tensors=st.lists(st.lists(option, min_size=1, max_size=4), min_size=1, max_size=5), size=st.integers(1, 300))
def test_allocation_is_within_one_step_of_the_best(tensors: list[list[Option]], size: int) -> None:
    found = allocate(tensors, size)
    best: dict[int, float] = {0: 0.0}  # least loss by bytes, exactly
    for options in tensors:
        following: dict[int, float] = {}
        for taken, lost in best.items():
            for entry in options:
                total = taken + entry.bytes
                if total <= size:
                    following[total] = min(following.get(total, float("inf")), lost + entry.loss)
        best = following
    if found is None:
        assert not best
        return
    assert sum(entry.bytes for entry in found) <= size
    assert all(entry in options for entry, options in zip(found, tensors, strict=True))
    largest = max(max(entry.loss for entry in options) - min(entry.loss for entry in options) for options in tensors)
    assert sum(entry.loss for entry in found) <= min(best.values()) + largest + 1e-9


def test_sensitivities_say_where_they_come_from() -> None:
    assert all(rule.source and rule.factor > 0 for rule in rules())
    assert all(("assumed" in rule.source) == rule.assumed for rule in rules())
