"""The shipped cards: every file loads, says where its figures come from, and holds figures that can be true."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from core.hardware import assume
from core.hardware.link import parse
from core.hardware.profile import HardwareProfile, absurdity, load, names
from core.resources import resource

GIB = 2**30
NAMES = names()
ASKED_FOR = """
rx-6600 rx-6600-xt rx-6650-xt rx-6700-xt rx-6750-xt rx-6800 rx-6800-xt rx-6900-xt rx-6950-xt rx-7600 rx-7600-xt
rx-7700-xt rx-7800-xt rx-7900-gre rx-7900-xt rx-7900-xtx rx-9060-xt-8gb rx-9060-xt-16gb rx-9070 rx-9070-xt gtx-1070
gtx-1080-ti rtx-2060 rtx-2070 rtx-2080-ti rtx-3050 rtx-3060 rtx-3060-ti rtx-3070 rtx-3080 rtx-3090 rtx-4060
rtx-4060-ti-16gb rtx-4070 rtx-4070-super rtx-4070-ti-super rtx-4080 rtx-4090 rtx-5060-ti-16gb rtx-5070 rtx-5070-ti
rtx-5080 rtx-5090 arc-a750 arc-a770-16gb arc-b570 arc-b580 bc-250 strix-halo apple-m1 apple-m2-max apple-m3-max apple-m4
a100-40gb a100-80gb h100 h200 l4 l40s mi300x t4
"""


@pytest.fixture(params=NAMES)
def card(request: pytest.FixtureRequest) -> HardwareProfile:
    return load(str(request.param))


def test_the_cards_that_people_have() -> None:
    assert set(ASKED_FOR.split()) <= set(NAMES)
    kinds = Counter(load(name).kind for name in NAMES)
    assert kinds["consumer"] >= 34
    assert kinds["datacenter"] >= 6
    assert kinds["integrated"] >= 4


def test_a_card_is_sound_and_named_after_its_file(card: HardwareProfile) -> None:
    assert absurdity(card) == ""
    assert resource("hardware", f"{card.name}.json").is_file()
    assert not card.calibrated


def test_every_figure_says_where_it_comes_from(card: HardwareProfile) -> None:
    needed = {"memory_bytes", "memory_bandwidth", "matmul_rate", "matmul_efficiency", "decode_rate", "attention"}
    needed |= {"host_bytes", "unified"} if card.unified else {"link", "pinned_rate", "pageable_rate", "staged_rate"}
    assert needed <= set(card.sources)
    assert all(len(text) >= 10 for text in card.sources.values())
    given = json.loads(resource("hardware", f"{card.name}.json").read_text())
    words = {"name", "title", "vendor", "kind", "sources"}
    assert set(given) - words <= set(card.sources)  # nothing is given without a source
    assert given["sources"]["matmul_efficiency"].startswith(("assumed: ", "derived: "))  # nobody publishes it


def test_figures_that_can_be_true(card: HardwareProfile) -> None:
    assert 6 * GIB <= card.memory_bytes <= 192 * GIB
    assert 60e9 <= card.memory_bandwidth <= 6e12
    assert 2e12 <= card.matmul_rate["F32"] <= 200e12
    slowest = 0.9 if card.vendor == "apple" else 1.0  # measured ones scatter
    assert card.matmul_rate["F16"] >= slowest * card.matmul_rate["F32"]
    assert card.matmul_rate["F16"] <= 20 * card.matmul_rate["F32"]
    if "F8_E4M3" in card.matmul_rate:
        assert 1.9 <= card.matmul_rate["F8_E4M3"] / card.matmul_rate["BF16"] <= 2.1
    assert 0.25 <= card.matmul_efficiency <= 0.7
    assert card.headroom_bytes <= 0.4 * card.memory_bytes
    assert (card.headroom_bytes == 0) == (card.kind == "datacenter")
    # how often all of the memory is read in a second: cards were built for 3 to 120
    assert 1 <= card.memory_bandwidth / card.memory_bytes <= 120
    # operations per byte: from a processor's graphics to matrix units over slow memory
    assert 8 <= card.matmul_rate["F16"] / card.memory_bandwidth <= 420


def test_links_carry_what_the_rule_says(card: HardwareProfile) -> None:
    if card.unified:
        assert (card.link, card.pinned_rate, card.pageable_rate, card.staged_rate) == ("", 0, 0, 0)
        assert card.kind == "integrated"
        return
    link = parse(card.link)
    assert link is not None
    assert card.pinned_rate == link.pinned_rate
    assert card.pageable_rate < card.pinned_rate
    assert card.staged_rate == min(card.pinned_rate, 13e9)


def test_decoding_is_slower_the_more_it_unpacks(card: HardwareProfile) -> None:
    assert set(assume.decode_rates(1e9)) <= set(card.decode_rate)
    assert card.decode_rate["Q8_0"] == max(rate for name, rate in card.decode_rate.items() if name != "F8_E4M3")
    assert max(card.decode_rate.values()) < card.memory_bandwidth
    assert card.decode_rate["Q2_K"] <= card.decode_rate["Q6_K"]


def test_vendors(card: HardwareProfile) -> None:
    beginnings = {"amd": "AMD ", "nvidia": "NVIDIA ", "intel": "Intel ", "apple": "Apple "}
    assert card.title.startswith(beginnings[card.vendor])
    if card.vendor == "amd" and card.kind == "consumer":
        assert card.headroom_bytes == 2_500_000_000  # overflow takes the desktop down
    if card.name.startswith("rx-6"):
        assert card.attention == ("math",)  # no fused attention for RDNA 2
    if re.match(r"gtx|rtx-2|t4", card.name):
        assert "BF16" not in card.matmul_rate
        assert "flash" not in card.attention


def test_geforce_cards_halve_their_rate_to_accumulate_in_f32() -> None:
    # NVIDIA's whitepapers: dense F16 with F32 accumulation, TFLOP/s
    for name, rate in {
        "rtx-2080-ti": 53.8,
        "rtx-3090": 71,
        "rtx-3080": 59.5,
        "rtx-4090": 165.2,
        "rtx-5090": 209.5,
    }.items():
        assert load(name).matmul_rate["F16"] == pytest.approx(rate * 1e12, rel=0.01)


def test_ids_are_shared_only_where_memory_tells_the_cards_apart() -> None:
    owners: dict[str, list[HardwareProfile]] = {}
    for name in NAMES:
        for entry in load(name).pci_ids:
            owners.setdefault(entry, []).append(load(name))
    for entry, cards in owners.items():
        assert len({card.memory_bytes for card in cards}) == len(cards), entry
    for name in NAMES:
        assert load(name).pci_ids or load(name).vendor == "apple"


def test_the_files_are_small_and_readable() -> None:
    for name in NAMES:
        text = resource("hardware", f"{name}.json").read_text()
        assert len(text) < 3000
        assert text.startswith('{\n  "name": ')
        assert text.endswith("}\n")
