"""A block takes as long as its kernels, each the slowest of launch, arithmetic and traffic."""

from __future__ import annotations

import msgspec
import pytest

from core.hardware.profile import HardwareProfile
from core.models.profile import BlockKind, Kernels, Tensor, evaluate, flops, load, names
from core.planning.roofline import block_seconds

CARD = HardwareProfile(
    name="card",
    title="A card",
    vendor="nvidia",
    memory_bytes=16_000_000_000,
    memory_bandwidth=1e11,
    matmul_rate={"F32": 1e12, "BF16": 4e12},
    matmul_efficiency=0.5,
    function_rate=5e10,
    launch_seconds=1e-5,
    operation_seconds=1e-5,
    pinned_rate=1e10,
)
AT = {"N": 1000.0, "A": 1000.0, "T": 10.0}
TENSORS = [Tensor("w", (1000, 100), "linear")]


def block(*kernels: Kernels) -> BlockKind:
    return BlockKind(tensors=TENSORS, flops={"N": 1e6}, kernels=list(kernels))


def kernels(kind: str, count: float, flops: float, size: float, weights: int = 0) -> Kernels:
    return Kernels(kind, {"1": count}, {"N": flops}, {"N": size}, {"N": 2 * size}, weights)


def test_arithmetic() -> None:
    products = block(kernels("product", 2, 1e7, 10.0))
    assert block_seconds(products, 0, AT, CARD, "BF16") == pytest.approx(1e10 / 2e12)
    assert block_seconds(products, 0, AT, CARD, "F32") == pytest.approx(1e10 / 5e11)


def test_traffic_and_weights_in_their_format() -> None:
    products = block(kernels("product", 1, 1.0, 1e6, weights=50_000))
    assert block_seconds(products, 200_000, AT, CARD, "BF16") == pytest.approx((1e9 + 100_000) / 1e11)
    assert block_seconds(products, 100_000, AT, CARD, "BF16") == pytest.approx((1e9 + 50_000) / 1e11)
    assert block_seconds(products, 400_000, AT, CARD, "F32") == pytest.approx((2e9 + 200_000) / 1e11)
    assert block_seconds(block(kernels("function", 1, 0.0, 1e6)), 0, AT, CARD, "BF16") == pytest.approx(1e9 / 5e10)


def test_many_small_kernels_take_their_launches() -> None:
    small = block(kernels("move", 300, 0.0, 1.0))
    assert block_seconds(small, 0, AT, CARD, "BF16") == pytest.approx(300e-5)
    slow_host = msgspec.structs.replace(CARD, operation_seconds=4e-5)
    assert block_seconds(small, 0, AT, slow_host, "BF16") == pytest.approx(1200e-5)
    large = block(kernels("move", 300, 0.0, 1.0), kernels("product", 1, 1e8, 1.0))
    assert block_seconds(large, 0, AT, slow_host, "BF16") == pytest.approx(300e-5 + 1e11 / 2e12)  # the host is ahead


def test_a_processor_launches_and_computes_one_after_the_other() -> None:
    processor = msgspec.structs.replace(CARD, vendor="cpu", unified=True, pinned_rate=0.0, launch_seconds=1e-4)
    small = block(kernels("move", 300, 0.0, 1.0))
    assert block_seconds(small, 0, AT, processor, "F32") == pytest.approx(300e-5 + 2 * 2000 / 1e11)
    large = block(kernels("product", 2, 1e7, 1.0))
    assert block_seconds(large, 0, AT, processor, "F32") == pytest.approx(2e-5 + 2e-4 + 1e10 / 5e11)


def test_a_share_of_the_peak_that_was_assumed_for_whole_networks_has_all_but_products_in_it() -> None:
    sheet = msgspec.structs.replace(CARD, function_rate=0.0)
    parts = kernels("product", 1, 1e8, 1.0), kernels("function", 1, 0.0, 1e9), kernels("move", 1, 0.0, 1e9)
    assert block_seconds(block(*parts), 0, AT, sheet, "BF16") == pytest.approx(1e11 / 2e12)


def test_casts_between_floats_fall_away_in_f32() -> None:
    cast = Kernels("move", {"1": 10.0}, {}, {"N": 1e6}, {}, 0)
    assert block_seconds(block(cast), 0, AT, CARD, "F32") == 0.0
    assert block_seconds(block(cast), 0, AT, CARD, "BF16") == pytest.approx(1e9 / 1e11)


def test_a_profile_from_before_kernels_were_counted() -> None:
    old = BlockKind(tensors=TENSORS, flops={"N": 1e6})
    assert block_seconds(old, 200_000, AT, CARD, "BF16") == pytest.approx(1e9 / 2e12)
    assert block_seconds(old, 10**9, AT, CARD, "BF16") == pytest.approx(1e-2)


@pytest.mark.parametrize("name", names())
def test_the_kernels_of_a_shipped_profile_do_all_its_arithmetic(name: str) -> None:
    for component in load(name).components.values():
        if not component.order:
            continue
        at = {"N": 4096.0, "A": 4096.0, "T": 128.0} if "Audio" not in component.class_name else AT
        counts: dict[str, int] = {}
        for kind, count in component.order:
            counts[kind] = counts.get(kind, 0) + count
        parts = [(component.rest, 1), *((component.kinds[kind], count) for kind, count in counts.items())]
        total = sum(evaluate(group.flops, at) * count for part, count in parts for group in part.kernels)
        assert total == pytest.approx(flops(component, at), rel=0.01)
        for part, _ in parts:
            assert bool(part.kernels) or not part.flops
