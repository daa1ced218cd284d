"""Pictures from one file are those from the model's folder, in the same formats, wherever weights are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.engine import InProcessEngine
from core.engine.client import Client
from core.hardware.emulated_card import EmulatedCard
from core.library.queue import JobQueue
from core.messages import How, Request, Result
from core.resources import resource
from tests.cards import accelerator
from tests.core.conversion.written import convert
from tests.events import result_of

Tiny = Callable[[str], Path]
MIB = 2**20


@contextmanager
def engine(kind: str) -> Iterator[Client]:
    """On the processor or on an emulated card; one at a time."""
    emulated = EmulatedCard(
        name="card",
        title="Card for one file",
        memory_bytes=512 * MIB,
        context_bytes=2 * MIB,
        headroom_bytes=2 * MIB,
        pinned_rate=2e9,
        pageable_rate=1e9,
    )
    running = InProcessEngine(JobQueue(None), accelerator="cpu" if kind == "cpu" else accelerator(emulated))
    running.start()
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def card(home: Path) -> Iterator[Client]:
    with engine("emulated") as running:
        yield running


def picture(engine: Client, model: object, how: How) -> Result:
    request = Request(
        prompt="a red house by the sea", model=str(model), seed=1, steps=2, width=64, height=64, draft=True, how=how
    )
    engine.submit(request)
    return result_of(engine, request.id)


def streamed(name: str = "transformer") -> How:
    return How(cache=False, residency={name: "streamed"})


@pytest.mark.parametrize("wanted", ["Q8_0", "Q4_K"])
def test_packed_pictures_are_those_of_the_folder(wanted: str, card: Client, tmp_path: Path) -> None:
    convert(resource("starter", "model"), "-o", tmp_path / "a.gguf", "--format", wanted)
    formats = {"transformer": wanted, "text_encoder_2": wanted}
    expected = picture(card, "starter", How(cache=False, formats=formats))
    whole = picture(card, tmp_path / "a.gguf", How(cache=False, residency={"transformer": "resident"}))
    assert whole.pixels_sha256 == expected.pixels_sha256
    for name in formats:
        assert whole.components[name].bytes == expected.components[name].bytes
    assert whole.predicted.seconds == expected.predicted.seconds
    assert whole.predicted.phases == expected.predicted.phases
    partly = picture(card, tmp_path / "a.gguf", streamed())
    assert partly.pixels_sha256 == expected.pixels_sha256
    assert partly.components["transformer"].streamed_bytes > 0


def test_mixed_formats_stay_as_they_are(home: Path, tmp_path: Path) -> None:
    convert(
        resource("starter", "model"), "-o", tmp_path / "a.gguf", "--target-size", "10500kB", "--sensitivity", "table"
    )
    with engine("emulated") as card:
        whole = picture(card, tmp_path / "a.gguf", How(cache=False, residency={"transformer": "resident"}))
        assert picture(card, tmp_path / "a.gguf", streamed()).pixels_sha256 == whole.pixels_sha256
    assert whole.components["transformer"].bytes < 5_500_000  # of 25 MB that it computes with
    assert 0 < whole.predicted.peak_device_bytes < 512 * MIB
    with engine("cpu") as processor:
        assert picture(processor, tmp_path / "a.gguf", How(cache=False)).pixels_sha256 == whole.pixels_sha256


def test_sixteen_bits_on_a_processor(home: Path, tmp_path: Path) -> None:
    convert(resource("starter", "model"), "-o", tmp_path / "a.gguf", "--format", "F16")
    with engine("cpu") as processor:
        expected = picture(processor, "starter", How(cache=False))
        assert picture(processor, tmp_path / "a.gguf", How(cache=False)).pixels_sha256 == expected.pixels_sha256


@pytest.mark.parametrize(
    ("family", "network"),
    [
        ("flux", "transformer"),
        ("sd3", "transformer"),
        ("sdxl", "unet"),
        ("z_image", "transformer"),
        ("qwen_image", "transformer"),
        ("flux2", "transformer"),
        ("flux2_klein", "transformer"),
        ("wan22", "transformer"),
        ("wan22_5b", "transformer"),
        ("ltx", "transformer"),
    ],
)
def test_other_families(family: str, network: str, card: Client, tiny: Tiny, tmp_path: Path) -> None:
    convert(tiny(family), "-o", tmp_path / "a.gguf", "--format", "F32")
    expected = picture(card, tiny(family), How(cache=False))
    assert picture(card, tmp_path / "a.gguf", How(cache=False)).pixels_sha256 == expected.pixels_sha256
    assert picture(card, tmp_path / "a.gguf", streamed(network)).pixels_sha256 == expected.pixels_sha256
