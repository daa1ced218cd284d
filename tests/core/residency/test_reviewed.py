"""What went wrong once: slots that kernels still read, files that changed, a queue that changed pictures, leftovers."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from core.engine import InProcessEngine
from core.engine.client import Client
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.interface import Work
from core.library.queue import JobQueue
from core.messages import ErrorKind, Failed, Finished, How, ModelFileError, Request
from core.residency.ledger import Ledger
from core.residency.network import Network
from core.residency.packed import PackedLinear, Scratch
from core.residency.slabs import divide
from core.residency.staging import Ring
from core.residency.store import HostStore, MemoryTensor
from core.residency.wanted import Opened, Want
from core.residency.warm import WarmCache
from core.scheduler import making
from tests.cards import emulated
from tests.events import result_of, wait_for
from tests.tiny_models import make

MIB = 2**20


def new_card(title: str = "Card", memory_bytes: int = 256 * MIB, **changes: float) -> EmulatedAccelerator:
    return emulated(
        title=title, memory_bytes=memory_bytes, context_bytes=0, pinned_rate=4e9, pageable_rate=1e9, **changes
    )


@pytest.fixture
def card() -> Iterator[EmulatedAccelerator]:
    made = new_card()
    yield made
    made.close()


@pytest.fixture
def start(home: Path) -> Iterator[Callable[[EmulatedAccelerator], Client]]:
    engines: list[Client] = []

    def begin(card: EmulatedAccelerator) -> Client:
        engines.append(InProcessEngine(JobQueue(None), accelerator=card))
        return engines[-1]

    yield begin
    for engine in engines:
        engine.close()


class Launched(nn.Module):
    """A block whose kernel looks at its weights when its modelled time is over."""

    def __init__(self, number: int, card: EmulatedAccelerator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((64 * 1024,), float(number)), requires_grad=False)
        self.number, self.card, self.wrong = number, card, list[int]()

    def forward(self) -> None:
        weight, number = self.weight, self.number
        self.card.compute_queue.launch(lambda: None, Work(seconds=0.05))
        self.card.compute_queue.launch(
            lambda: None if bool((weight == number).all()) else self.wrong.append(number), Work(seconds=1e-5)
        )


def network_of(module: nn.Module, card: EmulatedAccelerator) -> Network:
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    store = HostStore({name: MemoryTensor(tensor) for name, tensor in tensors.items()})
    return Network("net", module, divide(module), store, card)


def test_moved_weights_wait_for_kernels_that_still_read_the_slots(card: EmulatedAccelerator) -> None:
    card.eager = False  # kernels run behind the host, as on a card
    module = nn.Module()
    module.layers = nn.ModuleList(Launched(number, card) for number in range(7))
    network = network_of(module, card)
    network.place({4, 5}, 2)
    with network.running(Ring(card, network.largest)):
        for layer in module.layers:
            layer()
        pending = card.compute_queue.record()
        network.move((), 2, "to see who waits")
        assert not pending.query()
        for layer in module.layers:
            layer()
        card.synchronize()
    assert [layer.wrong for layer in module.layers] == [[]] * 7
    network.close()


def test_asking_a_packed_layer_for_its_weight_takes_no_memory() -> None:
    card = new_card(memory_bytes=64 * MIB)
    layer = PackedLinear(nn.Linear(4096, 8192, device="meta"), "Q8_0", Scratch())
    with card.computing():
        for _ in range(3):
            assert layer.weight.dtype == torch.float32  # 128 MiB, if it were there
    assert card.memory()[1] == 64 * MIB
    card.close()


def test_a_network_that_is_not_held_does_not_run(card: EmulatedAccelerator) -> None:
    module = nn.Module()
    module.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    own = module.layers[0].forward = lambda x: x  # type: ignore[method-assign]
    network = network_of(module.requires_grad_(False), card)
    with pytest.raises(RuntimeError, match="while it is not held"):
        module.layers[1](torch.ones(4))
    network.close()
    network.close()
    assert module.layers[0].forward is own
    assert "forward" not in vars(module.layers[1])


def test_what_was_computed_does_not_outlive_an_error(card: EmulatedAccelerator) -> None:
    kept: list[weakref.ref[torch.Tensor]] = []

    class Greedy(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (the name in nn.Linear)
            activation = input + 1
            kept.append(weakref.ref(activation))
            raise torch.OutOfMemoryError("nothing left")

    module = nn.Module()
    module.layers = nn.ModuleList([Greedy(4, 4), nn.Linear(4, 4)])
    network = network_of(module.requires_grad_(False), card)
    network.give_way = lambda reason: False
    network.place({0, 1}, 2)
    gc.disable()
    try:
        with network.running(Ring(card, network.largest)), pytest.raises(torch.OutOfMemoryError):
            module.layers[0](torch.ones(4))
        assert kept[0]() is None
    finally:
        gc.enable()
    network.close()


def test_an_error_in_the_second_component_frees_what_the_first_was_given(card: EmulatedAccelerator) -> None:
    cache = WarmCache(card, Ledger(lambda record: None))
    first = nn.Module()
    first.layers = nn.ModuleList(nn.Linear(256, 256) for _ in range(4))
    network = divide(first.requires_grad_(False))
    store = HostStore({name: MemoryTensor(tensor) for name, tensor in first.named_parameters()})

    def load(name: str, want: Want) -> Opened:
        if name == "second":
            raise ModelFileError("the second is damaged")
        return Opened(first, "F32", (network, store))

    wants = [Want("first", "F32", (0,), 2), Want("second", "F32")]
    with (
        pytest.raises(ModelFileError),
        cache.hold(
            "id",
            "model",
            wants,
            load,
            sizes={"first": 1, "second": 1},
            kept={"first": None},
            owner="job",
            budget_bytes=100 * MIB,
        ),
    ):
        pass
    assert card.held_bytes() == {}


def test_a_waiting_jobs_guidance_is_not_that_of_the_job_which_runs(
    start: Callable[[EmulatedAccelerator], Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "pays", lambda plan, phase: True)
    model = str(make("sdxl", tmp_path / "sdxl"))

    def pixels(title: str, *guidances: float) -> str:
        engine = start(new_card(title))
        for number, guidance in enumerate(guidances):
            engine.submit(
                Request(
                    prompt="a red house" if not number else "a blue boat",
                    model=model,
                    seed=1,
                    steps=2,
                    width=64,
                    height=64,
                    guidance=guidance,
                    out=str(tmp_path / f"{title} {number}.png"),
                    how=How(latency=1e6),
                )
            )
        engine.start()
        results = [wait_for(engine, Finished).result for _ in guidances]
        return next(result.pixels_sha256 for result in results if result.guidance == guidances[0])

    assert pixels("Card alone", 2.0) == pixels("Card with a queue", 2.0, 9.0) != pixels("Card otherwise", 9.0)


def test_a_packed_file_that_changed_is_opened_anew_by_the_next_request(
    start: Callable[[EmulatedAccelerator], Client], home: Path
) -> None:
    engine = start(new_card())
    engine.start()

    def submit() -> str:
        how = How(formats={"transformer": "Q8_0"}, residency={"transformer": "streamed"})
        request = Request(prompt="a", model="starter", seed=1, steps=1, width=64, height=64, draft=True, how=how)
        engine.submit(request)
        return request.id

    before = result_of(engine, submit())
    (file,) = (home / "cache" / "packed").iterdir()
    (home / "any").touch()
    assert file.stat().st_mode == (home / "any").stat().st_mode
    os.utime(file, ns=(1, 1))
    submit()
    failed = wait_for(engine, Failed)
    assert failed.kind is ErrorKind.MODEL_FILE
    assert "was changed while it was in use" in failed.sentence
    assert result_of(engine, submit()).pixels_sha256 == before.pixels_sha256


def test_a_network_without_weights_is_named(start: Callable[[EmulatedAccelerator], Client], tmp_path: Path) -> None:
    model = make("flux", tmp_path / "flux")
    for file in (model / "vae").glob("*.safetensors"):
        file.unlink()
    engine = start(new_card())
    engine.start()
    engine.submit(Request(prompt="a", model=str(model), seed=1, steps=1, width=64, height=64, draft=True))
    failed = wait_for(engine, Failed)
    assert failed.kind is ErrorKind.MODEL_FILE
    assert str(model / "vae") in failed.sentence
