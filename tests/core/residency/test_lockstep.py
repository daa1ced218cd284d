"""Calls in lockstep compute what they compute alone, and each streamed block crosses the link once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from core.generation.weights import in_memory
from core.residency.lockstep import beside, in_lockstep, meet
from core.residency.network import Network
from core.residency.staging import Ring
from tests.cards import emulated

MIB = 2**20
BLOCKS = 6


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(BLOCKS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class Bench:
    """A network of which some blocks are resident, and what it computes alone."""

    def __init__(self, resident: set[int]) -> None:
        torch.manual_seed(0)
        self.card = emulated(context_bytes=MIB, headroom_bytes=MIB)
        self.alone = Layers().eval().requires_grad_(False)
        module = Layers().eval().requires_grad_(False)
        module.load_state_dict(self.alone.state_dict())
        self.network = Network("layers", module, *in_memory(module, []), self.card)
        self.network.place(resident, 2)
        self.streamed = BLOCKS - len(resident)
        self.block_bytes = 32 * 32 * 4 + 256  # the bias takes 256 with its alignment

    @contextmanager
    def running(self, passes: int | None = None) -> Iterator[nn.Module]:
        ring = Ring(self.card, self.network.largest)
        with self.network.running(ring, passes), self.card.computing():
            self.network.ready()
            yield self.network.module
            self.card.synchronize()

    def close(self) -> None:
        self.network.close()


@settings(max_examples=25, deadline=None)
@given(
    resident=st.sets(st.integers(0, BLOCKS - 1), max_size=BLOCKS - 1),
    calls=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=5),  # (rows, passes)
)
def test_calls_of_any_shape_and_number_of_passes(resident: set[int], calls: list[tuple[int, int]]) -> None:
    bench = Bench(resident)
    inputs = [torch.randn(rows, 32) for rows, _ in calls]
    results = [x.clone() for x in inputs]
    order: list[int] = []

    def call(number: int, module: nn.Module) -> Callable[[], None]:
        def run() -> None:
            for _ in range(calls[number][1]):
                results[number] = module(results[number])
                order.append(number)

        return run

    most = max(passes for _, passes in calls)
    with bench.running(most) as module:
        in_lockstep([call(number, module) for number in range(len(calls))])
        results = [torch.Tensor(result.clone()) for result in results]
    for (_, passes), x, result in zip(calls, inputs, results, strict=True):
        for _ in range(passes):
            x = bench.alone(x)
        assert torch.equal(result, x)
    resident_bytes = len(resident) * bench.block_bytes
    assert bench.network.link_bytes == resident_bytes + most * bench.streamed * bench.block_bytes
    # nobody is a pass ahead of another
    for begin in range(most):
        going = [number for number, (_, passes) in enumerate(calls) if passes > begin]
        assert sorted(order[: len(going)]) == going
        del order[: len(going)]
    bench.close()


def test_one_call_may_let_others_run_beside_it_and_wait_for_them() -> None:
    bench = Bench({0})
    inputs = [torch.randn(1, 32), torch.randn(2, 32), torch.randn(3, 32)]
    results: dict[int, torch.Tensor] = {}

    def leading() -> None:
        def follow(number: int) -> Callable[[], None]:
            return lambda: results.update({number: module(inputs[number].clone())})

        others = [beside(follow(number)) for number in (1, 2)]
        results[0] = module(inputs[0].clone())
        for other in others:
            other.join()
        assert set(results) == {0, 1, 2}

    with bench.running(1) as module:
        in_lockstep([leading])
        got = {number: torch.Tensor(result.clone()) for number, result in results.items()}
    assert all(torch.equal(got[number], bench.alone(x)) for number, x in enumerate(inputs))
    assert bench.network.link_bytes == BLOCKS * bench.block_bytes
    bench.close()


@pytest.mark.parametrize("culprit", [0, 1, 2])
@pytest.mark.parametrize("block", [0, 3, BLOCKS - 1])
def test_an_error_of_one_ends_all_and_the_network_runs_on(culprit: int, block: int) -> None:
    bench = Bench({2})
    ends: list[int] = []

    class Broken(RuntimeError):
        pass

    def call(number: int) -> Callable[[], None]:
        def run() -> None:
            try:
                x = torch.randn(number + 1, 32)
                for layer_number, layer in enumerate(module.layers):
                    if (number, layer_number) == (culprit, block):
                        raise Broken
                    x = layer(x)
            finally:
                ends.append(number)

        return run

    with bench.running() as module:
        with pytest.raises(Broken):
            in_lockstep([call(number) for number in range(3)])
        assert set(ends) <= {0, 1, 2}
        assert culprit in ends
        x = torch.randn(2, 32)
        result = torch.Tensor(module(x.clone()).clone())
    assert torch.equal(result, bench.alone(x))
    bench.close()


def test_an_error_beside_a_call_is_raised_where_it_is_waited_for() -> None:
    bench = Bench(set())
    seen: list[str] = []

    def broken() -> None:
        module.layers[0](torch.randn(1, 32))
        raise ValueError("beside")

    def leading() -> None:
        other = beside(broken)
        module(torch.randn(1, 32))
        try:
            other.join()
        except ValueError as error:
            seen.append(str(error))

    with bench.running() as module:
        in_lockstep([leading])
    assert seen == ["beside"]
    bench.close()


def test_whoever_is_ended_stops_where_it_waits() -> None:
    bench = Bench(set())
    ran: list[str] = []

    def follower() -> None:
        try:
            module(torch.randn(1, 32))
            ran.append("to its end")
        finally:
            ran.append("cleaned up")

    def leading() -> None:
        other = beside(follower)
        module.layers[0](torch.randn(1, 32))  # both stand before the next block now
        other.end()
        other.end()
        module(torch.randn(1, 32))

    with bench.running() as module:
        in_lockstep([leading])
    assert ran == ["cleaned up"]
    bench.close()


def test_outside_of_lockstep_nobody_waits() -> None:
    class Nowhere:
        def depart(self, number: int) -> None:
            raise AssertionError

    assert meet(Nowhere(), 0)
    with pytest.raises(RuntimeError, match="lockstep"):
        beside(lambda: None)
