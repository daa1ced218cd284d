"""Encodings are cached by all they depend on, previews learn their colours, a cancelled run stops at a block."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from core.engine import InProcessEngine
from core.engine.client import Client
from core.generation import conditioning
from core.generation.conditioning import ConditioningCache
from core.generation.preview import Previewer, clean_estimate
from core.hardware.accelerator import TorchAccelerator
from core.library.queue import JobQueue
from core.messages import (
    Cancelled,
    ErrorKind,
    Event,
    Failed,
    Finished,
    LedgerRecord,
    Phase,
    Progress,
    Request,
    Started,
    WarmedUp,
)
from core.models.folder import read_folder
from tests.events import result_of, wait_for

Tiny = Callable[[str], Path]


@pytest.fixture
def engine(home: Path) -> Iterator[Client]:
    engine = InProcessEngine(JobQueue(None), accelerator="cpu")
    engine.start()
    yield engine
    engine.close()


def draft(model: Path, **changes: object) -> Request:
    request = Request(prompt="a red house", model=str(model), seed=1, steps=2, width=64, height=64, draft=True)
    return msgspec.structs.replace(request, **changes)


def run(engine: Client, request: Request) -> Finished:
    engine.submit(request)
    while (event := wait_for(engine, Finished)).id != request.id:
        pass
    return event


@pytest.mark.parametrize("family", ["flux", "z_image"])
def test_a_cached_encoding_changes_nothing_but_the_time(family: str, tiny: Tiny, engine: Client) -> None:
    first = run(engine, draft(tiny(family), id="first"))
    second = run(engine, draft(tiny(family), id="second"))
    assert first.pixels == second.pixels
    assert first.result.seconds["encode"] > 0
    assert second.result.seconds["encode"] == 0
    assert any("encoding of this text is cached" in reason for reason in second.result.reasons)


def test_a_damaged_encoding_is_made_again(tiny: Tiny, engine: Client, home: Path) -> None:
    first = run(engine, draft(tiny("flux"), id="first"))
    (file,) = (home / "cache" / "conditioning").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    second = run(engine, draft(tiny("flux"), id="second"))
    assert second.pixels == first.pixels
    assert second.result.seconds["encode"] > 0


def test_an_encoding_depends_on_its_texts_model_dtype_and_formats(tiny: Tiny) -> None:
    cpu = TorchAccelerator("cpu", "CPU")
    flux, sdxl = read_folder(tiny("flux")), read_folder(tiny("sdxl"))
    base = draft(tiny("flux"))
    formats = {"text_encoder": "F32", "text_encoder_2": "F32"}
    keys = [
        conditioning.key(flux, base, cpu, 1, formats),
        conditioning.key(flux, base, cpu, 2, formats),
        conditioning.key(flux, msgspec.structs.replace(base, prompt="a red boat"), cpu, 1, formats),
        conditioning.key(flux, msgspec.structs.replace(base, negative_prompt="blurry"), cpu, 1, formats),
        conditioning.key(sdxl, base, cpu, 1, formats),
        conditioning.key(flux, base, cpu, 1, {**formats, "text_encoder_2": "Q8_0"}),
        conditioning.key(flux, base, TorchAccelerator("mps", "Apple GPU"), 1, formats),
    ]
    assert len(set(keys)) == len(keys)
    same = msgspec.structs.replace(base, seed=99, steps=9, width=128, id="other")
    assert conditioning.key(flux, same, cpu, 1, formats) == keys[0]


def test_the_cache_keeps_tensors_lists_and_nothing_at_all(tmp_path: Path) -> None:
    cache, cpu = ConditioningCache(tmp_path), torch.device("cpu")
    values = {"a": torch.randn(2, 3), "b": [torch.ones(1), torch.zeros(4, dtype=torch.bfloat16)], "c": None}
    assert cache.save("x", values)
    loaded = cache.load("x", cpu)
    assert loaded is not None
    assert torch.equal(loaded["a"], values["a"])  # type: ignore[arg-type]
    assert loaded["b"][1].dtype == torch.bfloat16
    assert loaded["c"] is None
    assert not cache.save("y", {"a": "text"})
    assert cache.load("y", cpu) is None


def test_the_cache_stays_within_its_limit(tmp_path: Path) -> None:
    cache = ConditioningCache(tmp_path, limit_bytes=10_000)
    for i in range(8):
        assert cache.save(f"{i}", {"a": torch.zeros(500)})
        time.sleep(0.01)  # file times are what age is judged by
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000
    assert cache.load("7", torch.device("cpu")) is not None
    assert cache.load("0", torch.device("cpu")) is None


@given(step=st.integers(0, 3), seed=st.integers(0, 1000))
def test_an_euler_step_reveals_the_clean_latents(step: int, seed: int) -> None:
    class FlowMatchEulerDiscreteScheduler:
        sigmas = torch.tensor([1.0, 0.7, 0.4, 0.2, 0.0])

    torch.manual_seed(seed)
    clean, noise = torch.randn(2, 1, 4, 3, 3)
    here, there = (float(FlowMatchEulerDiscreteScheduler.sigmas[i]) for i in (step, step + 1))
    before, after = ((1 - s) * clean + s * noise for s in (here, there))
    estimate = clean_estimate(FlowMatchEulerDiscreteScheduler(), before, after, step)
    torch.testing.assert_close(estimate, clean, atol=1e-4, rtol=1e-4)


def test_previews_learn_their_colours_from_a_picture(tiny: Tiny, home: Path) -> None:
    model = read_folder(tiny("sdxl"))
    torch.manual_seed(0)
    latents = torch.randn(1, 4, 16, 24)
    truth = torch.tensor([[0.1, 0.0, 0.05], [0.0, 0.1, 0.0], [-0.1, 0.0, 0.1], [0.0, 0.0, 0.0]])
    colours = (latents[0].permute(1, 2, 0) @ truth + 0.5).clamp(0, 1)
    image = Image.frombytes("RGB", (24, 16), (colours * 255).round().to(torch.uint8).numpy().tobytes())

    previewer = Previewer(model)
    assert not previewer.known
    width, height, grey = previewer.paint(latents)
    assert (width, height, len(grey)) == (24, 16, 24 * 16 * 3)
    previewer.fit(latents, image.resize((192, 128), Image.Resampling.NEAREST), keep=True)
    for learned in (previewer, Previewer(model)):  # the second one reads what the first one wrote
        assert learned.known
        painted = torch.frombuffer(bytearray(learned.paint(latents)[2]), dtype=torch.uint8).float()
        wanted = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float()
        assert (painted - wanted).abs().mean() < 4


def test_a_cancelled_run_stops_before_its_next_step(tiny: Tiny, engine: Client, home: Path) -> None:
    out = home / "a.png"
    request = draft(tiny("flux"), draft=False, steps=900, width=256, height=256, out=str(out))
    engine.submit(request)
    while wait_for(engine, Progress).step < 2:
        pass
    engine.cancel(request.id)
    seen: list[Event] = []
    assert wait_for(engine, Cancelled, seen=seen).id == request.id
    assert len([event for event in seen if isinstance(event, Progress)]) < 50
    assert not out.exists()
    assert engine.jobs.jobs() == []
    again = draft(tiny("flux"), id="again")
    assert run(engine, again).result.id == "again"


def test_a_waiting_request_can_be_cancelled(tiny: Tiny, engine: Client, home: Path) -> None:
    first = draft(tiny("flux"), id="first", draft=False, steps=40, out=str(home / "first.png"))
    second = draft(tiny("flux"), id="second", draft=False, out=str(home / "second.png"))
    engine.submit(first)
    engine.submit(second)
    wait_for(engine, Started)
    engine.cancel("second")
    assert wait_for(engine, Cancelled).id == "second"
    result_of(engine, "first")
    assert not (home / "second.png").exists()


def test_a_new_draft_supersedes_the_older_ones(tiny: Tiny, engine: Client) -> None:
    for i in range(20):
        engine.submit(draft(tiny("flux"), id=f"draft {i}", prompt=f"a red house {i}", steps=60))
    seen: list[Event] = []
    while wait_for(engine, Finished, seen=seen).id != "draft 19":
        pass
    cancelled = {event.id for event in seen if isinstance(event, Cancelled)}
    finished = {event.id for event in seen if isinstance(event, Finished)}
    assert cancelled | finished == {f"draft {i}" for i in range(20)}
    assert len(cancelled) >= 10


def test_errors_are_of_three_kinds(tiny: Tiny, engine: Client, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tiny("flux"), tmp_path / "broken"))
    (broken / "vae" / "config.json").write_text("{")
    for change, kind in (
        ({"prompt": ""}, ErrorKind.USER),
        ({"model": "nonsense"}, ErrorKind.USER),
        ({"width": 65}, ErrorKind.USER),
        ({"out": str(tmp_path), "draft": False}, ErrorKind.USER),
        ({"model": str(broken)}, ErrorKind.MODEL_FILE),
    ):
        engine.submit(msgspec.structs.replace(draft(tiny("flux")), id=str(change), **change))
        failed = wait_for(engine, Failed)
        assert (failed.id, failed.kind) == (str(change), kind), failed
        assert "\n" not in failed.sentence
    assert run(engine, draft(tiny("flux"), id="after")).result.id == "after"


def test_weights_that_do_not_match_the_config_are_the_files_error(tiny: Tiny, engine: Client, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("flux"), tmp_path / "mismatched"))
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_layers": 3}))
    engine.submit(draft(folder))
    failed = wait_for(engine, Failed)
    assert failed.kind is ErrorKind.MODEL_FILE, failed.details
    assert "transformer" in failed.sentence


def test_progress_knows_the_time_left_from_the_second_picture_on(tiny: Tiny, engine: Client) -> None:
    run(engine, draft(tiny("flux"), id="first", steps=5))
    seen: list[Event] = []
    engine.submit(draft(tiny("flux"), id="second", steps=5))
    result_of(engine, "second", seen=seen)
    left = [e.seconds_left for e in seen if isinstance(e, Progress) and e.phase is Phase.DENOISE]
    assert None not in left
    assert left[0] > left[-1]  # type: ignore[operator]


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_a_prompt_that_is_cut_is_said_to_be(family: str, tiny: Tiny, engine: Client) -> None:
    long, short = "a red house " * 60, "a red house"
    cut = [reason for reason in run(engine, draft(tiny(family), prompt=long)).result.reasons if "not used" in reason]
    assert len(cut) == 1
    assert str(77 if family == "sdxl" else 512) in cut[0]
    reasons = run(engine, draft(tiny(family), id="short", prompt=short)).result.reasons
    assert not [reason for reason in reasons if "not used" in reason]


def test_guidance_can_change_between_two_pictures_of_one_prompt(tiny: Tiny, engine: Client) -> None:
    for family in ("sdxl", "z_image"):
        off, on = (0.0 if family == "z_image" else 1.0), 5.0
        first, second, third = (
            run(engine, draft(tiny(family), id=f"{family} {i}", guidance=scale))
            for i, scale in enumerate((off, on, on))
        )
        assert first.pixels != second.pixels
        assert second.pixels == third.pixels
        assert (first.result.guidance, second.result.guidance) == (None, on)


def test_two_models_of_the_same_layout_are_two_models(tiny: Tiny, engine: Client, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny("flux"), tmp_path / "flux"))
    weights = other / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    first = run(engine, draft(tiny("flux"), id="first"))
    second = run(engine, draft(other, id="second"))
    assert first.result.fingerprint != second.result.fingerprint
    assert first.pixels != second.pixels
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"shift": 1.0', '"shift": 9.0'))
    third = run(engine, draft(other, id="third"))
    assert third.pixels != second.pixels


def test_a_warm_up_teaches_the_previews_nothing(tiny: Tiny, engine: Client, home: Path) -> None:
    engine.warm_up(str(tiny("sdxl")))
    assert wait_for(engine, WarmedUp).problem == ""
    assert not (home / "cache" / "previews").exists()


def test_a_warm_up_that_fails_says_why(engine: Client) -> None:
    engine.warm_up("nonsense")
    assert "no model called" in wait_for(engine, WarmedUp).problem


def test_memory_that_runs_out_once_is_made_room_for(
    tiny: Tiny, engine: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(engine, draft(tiny("flux"), id="expected")).pixels
    from core.generation.run import Run

    decode, failures = Run.decode, [torch.OutOfMemoryError("CUDA out of memory")]

    def decode_after_failing(self: Run, tile: int | None = None, *, learn: bool = True) -> Image.Image:
        if failures:
            raise failures.pop()
        return decode(self, tile, learn=learn)

    monkeypatch.setattr(Run, "decode", decode_after_failing)
    seen: list[Event] = []
    engine.submit(draft(tiny("flux"), id="again"))
    result_of(engine, "again", seen=seen)
    finished = next(event for event in seen if isinstance(event, Finished))
    assert finished.pixels == expected
    assert any("memory ran out" in reason for reason in finished.result.reasons)
    assert any(event.change < 0 for event in seen if isinstance(event, LedgerRecord))
