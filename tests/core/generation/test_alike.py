"""Kernels of a size go together, whatever a network's sizes do to them."""

from __future__ import annotations

import msgspec
import pytest

from core.generation import alike
from core.generation.dryrun import DryRun, Launch, dry_run
from core.generation.dummy_inputs import Size
from core.generation.growth import Growth
from core.generation.measure import Network
from core.generation.parts import model_of
from core.models.profile import evaluate, load

SIZES = ({"N": 100.0, "A": 100.0, "T": 7.0}, {"N": 400.0, "A": 400.0, "T": 7.0}, {"N": 900.0, "A": 900.0, "T": 9.0})
MONOMIALS = ("1", "N", "T")


def launch(name: str, size: float, flops: float = 0.0, kind: str = "move", weights: int = 0) -> Launch:
    return Launch(name, kind, round(flops), round(size), round(2 * size), weights)


def test_groups_have_the_totals_of_their_kernels() -> None:
    runs = [
        [
            launch("add", 10 * at["N"]),
            launch("mul", 11 * at["N"]),
            launch("add", 5),
            launch("mm", 2 * at["N"], 1000 * at["N"], "product", weights=50),
        ]
        for at in SIZES
    ]
    groups = alike.kernels(runs, SIZES, MONOMIALS)
    assert sorted((group.kind, evaluate(group.count, SIZES[1])) for group in groups) == [
        ("move", 1),
        ("move", 2),
        ("product", 1),
    ]
    assert sum(evaluate(group.bytes, SIZES[1]) for group in groups) == pytest.approx(23 * 400 + 5)
    assert sum(evaluate(group.wide, SIZES[1]) for group in groups) == pytest.approx(2 * (23 * 400 + 5))
    product = next(group for group in groups if group.kind == "product")
    assert evaluate(product.flops, {"N": 50.0, "T": 0.0}) == pytest.approx(50_000)
    assert product.weights == 50


def test_as_many_kernels_as_there_are_frames() -> None:
    runs = [[launch("conv", 10, 70, "product")] * int(at["N"] / 100) + [launch("cat", at["N"])] for at in SIZES]
    groups = {group.kind: group for group in alike.kernels(runs, SIZES, MONOMIALS)}
    for at in SIZES:
        assert evaluate(groups["product"].count, at) == pytest.approx(at["N"] / 100)
        assert evaluate(groups["product"].flops, at) == pytest.approx(70 * at["N"] / 100)
        assert evaluate(groups["move"].count, at) == pytest.approx(1)


def test_kernels_that_some_sizes_lack() -> None:
    runs = [[launch("add", 100)], [launch("add", 100), launch("slice", 30)], [launch("add", 100)]]
    groups = alike.kernels(runs, SIZES, ("1",))
    assert len(groups) == 2


def test_an_allocator_grows_only_for_what_fits_nowhere() -> None:
    growth = Growth()
    free_first = growth.take(4096)
    growth.take(1024)
    free_first()
    growth.take(2048)  # in the first one's place
    growth.take(2048)  # and beside it
    growth.take(8192)
    assert growth.allocated == [4096, 1024, 2048, 2048, 8192]
    assert growth.grew == [0, 1, 4]


def test_growth_of_a_network_is_that_of_any_size() -> None:
    part = model_of("starter")[1]["vae"]
    network, profile = Network(part), load("starter").components["vae"]
    for size in (Size(1, 16, 16), Size(1, 40, 56)):
        run = network.run(size)
        grown = sum(run.allocated[number] for number in run.grew)
        said = sum(count * evaluate(each, size.variables) for count, each in profile.growth)
        assert said == pytest.approx(grown, rel=0.01)
        assert run.peak <= grown


def test_kernels_at_a_size_that_was_not_measured() -> None:
    network = Network(model_of("starter")[1]["transformer"])
    profile, size = load("starter").components["transformer"], Size(1, 16, 16, 64)
    run = network.run(size)
    counts: dict[str, int] = {}
    for kind, count in profile.order:
        counts[kind] = counts.get(kind, 0) + count
    parts = [(profile.rest, 1), *((profile.kinds[kind], count) for kind, count in counts.items())]
    launched = sum(evaluate(group.count, size.variables) * count for part, count in parts for group in part.kernels)
    assert launched == pytest.approx(sum(map(len, run.kernels.values())), rel=0.001)
    for field in ("bytes", "wide"):
        said = sum(
            evaluate(getattr(group, field), size.variables) * count for part, count in parts for group in part.kernels
        )
        counted = sum(getattr(kernel, field) for kernels in run.kernels.values() for kernel in kernels)
        assert said == pytest.approx(counted, rel=0.01)


def test_a_run_can_be_kept_as_json() -> None:
    import torch
    from torch import nn

    with torch.device("meta"):
        run = dry_run(nn.Linear(4, 8), {"input": torch.empty(2, 4)})
    assert msgspec.json.decode(msgspec.json.encode(run), type=DryRun) == run
