"""What is stored in F8 is planned in F8: never in more bits, and never made of anything finer by itself."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from core.hardware import profile as cards
from core.messages import How, UserError
from core.models.profile import ModelProfile, Tensor, load
from core.planning import policy
from core.planning.how import options_of
from core.planning.job import job_of
from core.planning.options import DEFAULT, Options
from core.planning.solve import solve

F8, ROWS = "F8_E4M3", (3072, 3072)


def in_f8(model: ModelProfile, *names: str) -> ModelProfile:
    parts = {
        name: msgspec.structs.replace(part, source_format=F8) if name in names else part
        for name, part in model.components.items()
    }
    return msgspec.structs.replace(model, components=parts)


@pytest.mark.parametrize(
    ("role", "shape", "stored", "wanted", "source", "found"),
    [
        # a file in F8, held as it is: matrices in F8, everything else as the device computes
        ("linear", ROWS, F8, F8, F8, F8),
        ("io", ROWS, F8, F8, F8, F8),
        ("modulation", ROWS, F8, F8, F8, F8),
        ("embedding", ROWS, F8, F8, F8, F8),
        ("keep", (3072,), F8, F8, F8, "BF16"),
        ("conv", (8, 8, 3, 3), F8, F8, F8, "BF16"),
        ("io", (8, 8, 2, 2), F8, F8, F8, "BF16"),
        ("linear", ROWS, "F16", F8, F8, "F16"),  # what such a file has in 16 bits stays
        ("linear", ROWS, "", F8, F8, F8),  # nobody knows more
        ("keep", (3072,), "", F8, F8, "BF16"),
        # packed further, but not into more bits
        ("linear", ROWS, F8, "Q6_K", F8, "Q6_K"),
        ("modulation", ROWS, F8, "Q4_K", F8, F8),
        ("embedding", ROWS, F8, "Q4_K", F8, "Q6_K"),
        ("linear", (64, 96), F8, "Q6_K", F8, F8),  # rows of 32 would take Q8_0
        ("linear", (64, 96), F8, "Q5_K", F8, "Q5_1"),
        ("io", ROWS, F8, "Q4_K", F8, F8),
        # decoded when it is read, where somebody asks for it
        ("linear", ROWS, F8, "BF16", F8, "BF16"),
        ("keep", (3072,), F8, "F32", F8, "F32"),
        # F8 asked for: as large as Q8_0 and less exact, so what needs care takes the better ones
        ("linear", ROWS, "", F8, "BF16", F8),
        ("modulation", ROWS, "", F8, "BF16", "Q8_0"),
        ("embedding", ROWS, "", F8, "BF16", "Q6_K"),
        ("io", ROWS, "", F8, "BF16", "BF16"),
        ("keep", (3072,), "", F8, "F16", "F16"),
        # a few tensors in F8 among 16 bits stay in F8
        ("linear", ROWS, F8, "BF16", "BF16", F8),
        ("linear", ROWS, F8, "Q8_0", "BF16", F8),
        ("linear", ROWS, F8, "Q4_K", "BF16", "Q4_K"),
        ("linear", ROWS, "BF16", "BF16", "BF16", "BF16"),
    ],
)
def test_tensors(role: str, shape: tuple[int, ...], stored: str, wanted: str, source: str, found: str) -> None:
    assert policy.tensor_format(Tensor("weight", shape, role, stored), wanted, source) == found


def test_no_ladder_offers_f8_but_that_of_a_file_in_f8() -> None:
    transformer = load("flux-schnell").components["transformer"]
    assert policy.allowed(transformer, "denoise") == ("BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K")
    in_eight = msgspec.structs.replace(transformer, source_format=F8)
    assert policy.allowed(in_eight, "denoise") == (F8, "Q6_K", "Q5_K", "Q4_K")
    odd = msgspec.structs.replace(transformer, source_format="F8_E5M2")  # which is not held
    assert policy.allowed(odd, "denoise")[0] == "BF16"


def test_losses_count_against_the_source() -> None:
    tensors = [(Tensor("weight", ROWS, "linear"), 1)]
    assert policy.loss(tensors, F8, F8, "denoise") == 0
    assert policy.loss(tensors, "BF16", F8, "denoise") == 0
    assert policy.loss(tensors, "Q8_0", "BF16", "denoise") < policy.loss(tensors, "Q6_K", "BF16", "denoise")
    assert policy.loss(tensors, "Q6_K", "BF16", "denoise") < policy.loss(tensors, F8, "BF16", "denoise")
    filed = [(Tensor("weight", ROWS, "linear", F8), 1)]
    assert policy.loss(filed, "BF16", "BF16", "denoise") == 0  # as its file has it


@pytest.mark.parametrize("gpu", ["rx-7800-xt", "rtx-5090"])
def test_a_file_in_f8_takes_a_byte_for_a_number_and_no_more(gpu: str) -> None:
    model, card = in_f8(load("flux-schnell"), "transformer"), cards.load(gpu)
    for prefer in (0.5, 1.0):
        plan, _ = solve(job_of(model), card, Options(prefer=prefer, fold=False))
        held = plan.component("transformer")
        assert held.format == F8
        assert held.loss == 0
        assert 1 <= held.bytes / model.components["transformer"].parameters < 1.001  # biases and norms have two
        assert any("as its file has it" in reason and "F8_E4M3" in reason for reason in plan.reasons)


def test_a_person_may_ask_for_f8_or_for_its_numbers(refused: Callable[..., str]) -> None:
    card, flux = cards.load("rx-7800-xt"), load("flux-schnell")
    plan, _ = solve(job_of(flux), card, options_of(How(formats={"transformer": "f8_e4m3"}), flux, card))
    held, parameters = plan.component("transformer"), flux.components["transformer"].parameters
    assert held.format == F8
    assert parameters < held.bytes + held.folded_bytes < 1.04 * parameters
    assert held.loss > 0

    model = in_f8(flux, "transformer")
    for wanted in ("BF16", "Q6_K"):
        assert options_of(How(formats={"transformer": wanted}), model, card).formats == {"transformer": wanted}
    whole, _ = solve(
        job_of(model), cards.load("h100"), options_of(How(formats={"transformer": "BF16"}), model, cards.load("h100"))
    )
    assert whole.component("transformer").bytes + whole.component("transformer").folded_bytes >= 2 * parameters
    assert "decoded from F8_E4M3" in whole.component("transformer").reason
    assert "would take more memory and win nothing" in refused({"transformer": "Q8_0"}, model)
    assert "held as the device computes" in refused({"transformer": "F16"}, model)
    assert "cannot hold packed weights" in refused({"transformer": F8}, model, packing=False)


@pytest.fixture
def refused() -> Callable[..., str]:
    def said(formats: dict[str, str], model: ModelProfile, *, packing: bool = True) -> str:
        with pytest.raises(UserError) as error:
            options_of(
                How(formats=formats),
                model,
                cards.load("rx-7800-xt"),
                able=msgspec.structs.replace(DEFAULT, packing=packing),
            )
        return str(error.value)

    return said


def test_where_nothing_is_packed_it_is_decoded() -> None:
    """A device that shares the host's memory: the plan counts what it really holds."""
    model, card = in_f8(load("flux-schnell"), "transformer"), cards.load("rx-7800-xt")
    plan, _ = solve(job_of(model), card, Options(packing=False, fold=False))
    held = plan.component("transformer")
    assert held.format == "BF16"
    assert held.bytes >= 2 * model.components["transformer"].parameters
