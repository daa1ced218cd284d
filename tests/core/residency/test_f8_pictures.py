"""A model in F8 takes F8's bytes on the device, and its pictures are those of the same numbers held dense."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from core import folders
from core.engine import InProcessEngine
from core.engine.client import Client
from core.generation import opening
from core.library.queue import JobQueue
from core.messages import Adapter, Event, How, Planned, Request, Result
from core.models.folder import read_folder
from core.resources import resource
from tests.cards import emulated
from tests.events import result_of
from tests.f8_files import Rewrite, multiplied, plain, plain_in, rewritten, with_factors, with_row_factors
from tests.tiny_loras import write
from tests.tiny_models import make

MIB = 2**20
KINDS: dict[str, tuple[Rewrite, Rewrite]] = {  # and the same numbers without F8
    "plain": (plain, plain_in(torch.bfloat16)),
    "factors": (with_factors, multiplied(with_factors)),
    "factors by row": (with_row_factors, multiplied(with_row_factors)),
}


@pytest.fixture
def start(home: Path) -> Iterator[Callable[[str], Client]]:
    engines: list[Client] = []

    def begin(kind: str = "card") -> Client:
        accelerator = "cpu" if kind == "cpu" else emulated(title="Card for F8", memory_bytes=512 * MIB)
        engines.append(InProcessEngine(JobQueue(None), accelerator=accelerator))
        engines[-1].start()
        return engines[-1]

    yield begin
    for engine in engines:
        engine.close()


def picture(engine: Client, model: object, how: How, *, seen: list[Event] | None = None, **options: Any) -> Result:
    words = {"prompt": "a red house by the sea", "seed": 1, "steps": 2, "width": 64, "height": 64, "draft": True}
    request = Request(**{**words, "model": str(model), "how": how, **options})
    engine.submit(request)
    return result_of(engine, request.id, seen=seen)


@pytest.mark.parametrize(
    ("family", "denoiser", "kind"),
    [
        ("starter", "transformer", "plain"),
        ("flux", "transformer", "factors"),
        ("flux", "transformer", "factors by row"),
        ("sdxl", "unet", "plain"),  # whose convolutions are decoded when they are read
        ("ltx", "transformer", "factors"),
    ],
)
def test_pixels_are_those_of_the_same_numbers(
    family: str, denoiser: str, kind: str, start: Callable[..., Client], tmp_path: Path
) -> None:
    model = resource("starter", "model") if family == "starter" else make(family, tmp_path / "model")
    in_eight, dense = (
        rewritten(model, tmp_path / name, denoiser, rewrite)
        for name, rewrite in zip(("eight", "dense"), KINDS[kind], strict=True)
    )
    engine = start()
    paint = partial(picture, engine, frames=9 if family == "ltx" else None)
    expected = paint(dense, How(cache=False, formats={denoiser: "F32"}))
    seen: list[Event] = []
    resident = paint(in_eight, How(cache=False, residency={denoiser: "resident"}, fold=False), seen=seen)
    assert resident.pixels_sha256 == expected.pixels_sha256
    held, whole = resident.components[denoiser], expected.components[denoiser]
    assert (held.format, whole.format) == ("F8_E4M3", "F32")
    assert held.streamed_bytes == 0
    info = read_folder(in_eight)
    if family != "sdxl":
        assert held.bytes < 0.42 * whole.bytes  # tiny tensors are padded
    if family == "starter":
        assert info.components[denoiser].bytes <= held.bytes < 1.03 * info.components[denoiser].bytes
        assert held.bytes < 0.26 * whole.bytes
        (plan,) = [event.plan for event in seen if isinstance(event, Planned)]
        assert plan.component(denoiser).bytes == pytest.approx(held.bytes, rel=0.005)
    assert resident.link_bytes < expected.link_bytes

    for residency in ("streamed", "1"):
        how = How(cache=False, residency={denoiser: residency}, formats={denoiser: "F8_E4M3"})
        streamed = paint(in_eight, how)
        assert streamed.pixels_sha256 == expected.pixels_sha256
        assert streamed.components[denoiser].format == "F8_E4M3"
        assert streamed.components[denoiser].streamed_bytes > 0
    decoded = paint(in_eight, How(cache=False, formats={denoiser: "F32"}))
    assert decoded.pixels_sha256 == expected.pixels_sha256
    assert (decoded.components[denoiser].format, decoded.components[denoiser].bytes) == ("F32", whole.bytes)
    assert not (folders.cache() / "packed").exists()  # the file's own bytes were used


@pytest.mark.parametrize("kind", ["plain", "factors", "factors by row"])
def test_a_text_encoder_in_f8(kind: str, start: Callable[..., Client], tmp_path: Path) -> None:
    """Embeddings are gathered by row, and tied ones have one name in the file and two in the network."""
    model = make("flux", tmp_path / "model")
    in_eight, dense = (
        rewritten(model, tmp_path / name, "text_encoder_2", rewrite)
        for name, rewrite in zip(("eight", "dense"), KINDS[kind], strict=True)
    )
    engine = start()
    expected = picture(engine, dense, How(cache=False, formats={"text_encoder_2": "F32"}))
    found = picture(engine, in_eight, How(cache=False))
    assert found.pixels_sha256 == expected.pixels_sha256
    assert found.components["text_encoder_2"].format == "F8_E4M3"
    assert found.components["text_encoder_2"].bytes < 0.5 * expected.components["text_encoder_2"].bytes


def test_other_kinds_of_f8_are_decoded_when_they_are_read(start: Callable[..., Client], tmp_path: Path) -> None:
    def e5m2(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        if tensor.dim() != 2:
            return {name: tensor}
        return {name: tensor.to(torch.float8_e5m2), f"{name.removesuffix('weight')}weight_scale": torch.tensor(1.5)}

    model = resource("starter", "model")
    in_eight, dense = (
        rewritten(model, tmp_path / name, "transformer", each)
        for name, each in (("eight", e5m2), ("dense", multiplied(e5m2)))
    )
    engine = start()
    expected = picture(engine, dense, How(cache=False, formats={"transformer": "F32"}))
    found = picture(engine, in_eight, How(cache=False, formats={"transformer": "F32"}))
    assert found.pixels_sha256 == expected.pixels_sha256
    assert found.components["transformer"].format == "F32"
    assert picture(engine, in_eight, How(cache=False, prefer=1.0)).pixels_sha256 == expected.pixels_sha256


@pytest.mark.parametrize("kind", ["plain", "factors by row"])
def test_on_a_processor_f8_is_decoded_when_it_is_read(kind: str, start: Callable[..., Client], tmp_path: Path) -> None:
    model = resource("starter", "model")
    in_eight, dense = (
        rewritten(model, tmp_path / name, "transformer", rewrite)
        for name, rewrite in zip(("eight", "dense"), KINDS[kind], strict=True)
    )
    engine = start("cpu")
    expected = picture(engine, dense, How(cache=False))
    found = picture(engine, in_eight, How(cache=False))
    assert found.pixels_sha256 == expected.pixels_sha256
    assert found.components["transformer"].format == expected.components["transformer"].format == "F32"
    assert found.components["transformer"].bytes == pytest.approx(expected.components["transformer"].bytes, rel=0.001)


def test_f8_is_made_of_a_finer_model_once(
    start: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[float] = []
    made = opening.packed_file

    def counted(*given: Any) -> Path:
        *before, tick = given
        return made(*before, lambda share: (ticks.append(share), tick(share))[1])

    monkeypatch.setattr(opening, "packed_file", counted)
    engine, model = start(), resource("starter", "model")
    how = partial(How, cache=False, formats={"transformer": "F8_E4M3"})
    resident = picture(engine, model, how(residency={"transformer": "resident"}, fold=False))
    assert ticks
    assert ticks == sorted(ticks)
    again = len(ticks)
    streamed = picture(engine, model, how(residency={"transformer": "streamed"}, fold=False))
    folded = picture(engine, model, how(residency={"transformer": "2"}))
    assert resident.pixels_sha256 == streamed.pixels_sha256 == folded.pixels_sha256
    held = resident.components["transformer"]
    source = read_folder(model).components["transformer"].parameters
    assert held.format == "F8_E4M3"
    assert source < held.bytes < 1.2 * source  # modulation takes Q8_0, in- and output layers stay
    assert streamed.components["transformer"].streamed_bytes > 0
    assert streamed.predicted is not None
    (file,) = (folders.cache() / "packed").glob("transformer-*.gguf")
    assert len(ticks) == again
    assert 0.9 * source < file.stat().st_size < 1.05 * source
    exact = picture(engine, model, How(cache=False, formats={"transformer": "F32"}))
    coarse = picture(engine, model, how(formats={"transformer": "Q4_K"}))
    assert len({exact.pixels_sha256, coarse.pixels_sha256, resident.pixels_sha256}) == 3


def test_the_command_says_what_it_held(home: Path, tmp_path: Path) -> None:
    """The program's own process: what is inspected, planned and held is the same."""
    model = rewritten(resource("starter", "model"), tmp_path / "eight", "transformer", with_factors)

    def residency(*words: object) -> dict[str, Any]:
        command = [sys.executable, "-m", "core.cli", *map(str, words), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found["components"]["transformer"]  # type: ignore[no-any-return]

    inspected = residency("inspect", model)
    matrices = inspected["types"]["F8_E4M3"]
    assert matrices > 0.9 * inspected["parameters"]
    planned = residency("plan", "--model", model, "--gpu", "rx-7800-xt", "--no-fold")
    words = ("--accelerator", "emulated", "--steps", 1, "--size", "64x64", "--out", tmp_path / "a.png", "--no-fold")
    held = residency("generate", "a house", "--model", model, *words)
    assert planned["format"] == held["format"] == "F8_E4M3"
    for found in (planned, held):
        assert matrices < found["bytes"] < 1.03 * matrices


def test_loras_lie_beside_f8(start: Callable[..., Client], tmp_path: Path) -> None:
    model = resource("starter", "model")
    in_eight, dense = (
        rewritten(model, tmp_path / name, "transformer", rewrite)
        for name, rewrite in zip(("eight", "dense"), KINDS["factors"], strict=True)
    )
    lora = Adapter(str(write(tmp_path / "lora.safetensors", model, ("transformer",))), 0.8)
    paint = partial(picture, start(), loras=(lora,))
    expected = paint(dense, How(cache=False, formats={"transformer": "F32"}))
    for residency in ("resident", "streamed"):
        found = paint(in_eight, How(cache=False, residency={"transformer": residency}))
        assert found.components["transformer"].format == "F8_E4M3"
        assert found.pixels_sha256 == expected.pixels_sha256


def test_f8_may_be_packed_further(start: Callable[..., Client], tmp_path: Path) -> None:
    model = rewritten(resource("starter", "model"), tmp_path / "eight", "transformer", with_factors)
    dense = rewritten(resource("starter", "model"), tmp_path / "dense", "transformer", multiplied(with_factors))
    engine = start()
    how = How(cache=False, formats={"transformer": "Q4_K"}, fold=False)
    found, of_eight = (picture(engine, each, how) for each in (dense, model))
    held = of_eight.components["transformer"]
    assert held.format == "Q4_K"
    assert held.bytes < 0.85 * read_folder(model).components["transformer"].bytes
    assert held.bytes <= found.components["transformer"].bytes  # modulation is F8 there, and not Q8_0
    streamed = picture(engine, model, How(cache=False, formats=how.formats, residency={"transformer": "streamed"}))
    assert streamed.pixels_sha256 == of_eight.pixels_sha256


def test_factors_that_are_not_understood_are_refused(start: Callable[..., Client], tmp_path: Path) -> None:
    def by_block(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        if tensor.dim() != 2:
            return {name: tensor}
        eight = tensor.to(torch.float8_e4m3fn)
        return {name: eight, f"{name.removesuffix('weight')}weight_scale_inv": torch.ones(2, 3)}

    def unending(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        return with_factors(name, tensor) | (
            {f"{name.removesuffix('weight')}scale_weight": torch.tensor(torch.inf)} if tensor.dim() == 2 else {}
        )

    engine = start()
    for rewrite, words in ((by_block, "factors for the"), (unending, "is not finite")):
        model = rewritten(resource("starter", "model"), tmp_path / "model", "transformer", rewrite)
        with pytest.raises(AssertionError, match=words):  # the sentence that it failed with
            picture(engine, model, How(cache=False))
        shutil.rmtree(model)
