"""Profiles are read, completed, and refused with one sentence where they are absurd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.hardware import profile
from core.hardware.profile import HardwareProfile
from core.messages import UserError

CARD: dict[str, Any] = {
    "name": "a-card",
    "title": "A Card",
    "vendor": "amd",
    "memory_bytes": 16 * 2**30,
    "memory_bandwidth": 500e9,
    "matmul_rate": {"F32": 20e12, "F16": 40e12},
    "link": "PCIe 4.0 x16",
}


def file(folder: Path, content: dict[str, Any] | str | bytes) -> Path:
    path = folder / "card.json"
    text = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        profile.read(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_what_is_left_out_is_filled_in_and_says_so(tmp_path: Path) -> None:
    card = profile.load(str(file(tmp_path, CARD)))
    assert (card.pinned_rate, card.staged_rate) == (25e9, 13e9)
    assert card.pageable_rate == pytest.approx(25e9 / 3, rel=1e-3)
    assert card.decode_rate["Q8_0"] == pytest.approx(500e9 * 397 / 3350, rel=1e-3)
    for field in ("pinned_rate", "pageable_rate", "decode_rate"):
        assert card.sources[field].startswith("assumed: ")
    assert card.sources["staged_rate"].startswith("measured: ")


def test_what_is_given_stays(tmp_path: Path) -> None:
    given = {"pinned_rate": 20e9, "pageable_rate": 5e9, "staged_rate": 9e9, "decode_rate": {"Q8_0": 30e9}}
    card = profile.read(file(tmp_path, {**CARD, **given}))
    assert (card.pinned_rate, card.pageable_rate, card.staged_rate) == (20e9, 5e9, 9e9)
    assert card.decode_rate["Q8_0"] == 30e9
    assert card.decode_rate["Q6_K"] > 0
    assert card.link_rate(pinned=True) == 20e9
    assert card.link_rate(pinned=False) == 9e9


def test_unified_memory_gets_no_link(tmp_path: Path) -> None:
    card = profile.read(file(tmp_path, {**CARD, "link": "", "unified": True}))
    assert (card.pinned_rate, card.pageable_rate, card.staged_rate) == (0, 0, 0)


def test_a_format_without_a_fast_path_computes_as_f32() -> None:
    card = profile.load("rtx-2060")
    assert "BF16" not in card.matmul_rate
    assert card.rate_of("BF16") == card.rate_of("F32")
    assert card.rate_of("F16") > card.rate_of("F32")


@pytest.mark.parametrize(
    "name", ["rx-7800-xt", "RX 7800 XT", "AMD Radeon RX 7800 XT", " amd radeon  rx_7800_xt ", "Radeon rx 7800-xt"]
)
def test_a_card_by_any_of_its_names(name: str) -> None:
    assert profile.load(name).name == "rx-7800-xt"


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Intel(R) Arc(TM) B580 Graphics", "arc-b580"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "rtx-4070-ti-super"),
        ("Tesla T4", "t4"),
        ("Apple M3 Max", "apple-m3-max"),
        ("AMD Radeon(TM) RX 9070 XT", "rx-9070-xt"),
    ],
)
def test_as_drivers_write_it(title: str, name: str) -> None:
    assert profile.short_name(title) == name
    assert profile.load(title).name == name


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("rx-7800", "rx-7800-xt"), ("rtx-4060-ti-16", "rtx-4060-ti-16gb"), ("GeForce RTX 3061", "rtx-3060")],
)
def test_an_unknown_card_suggests_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UserError, match=f"{wrong}; did you mean .*{near}"):
        profile.load(wrong)


@pytest.mark.parametrize("wrong", ["", "voodoo", "../secret", "rx-7800-xt.txt", "\0", "x" * 5000])
def test_what_is_no_card_at_all(wrong: str) -> None:
    with pytest.raises(UserError, match="There is no profile"):
        profile.load(wrong)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        profile.load(str(tmp_path / "none.json"))
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        profile.load(str(tmp_path / "folder.json"))


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "3", '"text"', "{}", b"\xff\xfe", "[" * 100_000, json.dumps(CARD)[:-20], "NaN"],
)
def test_broken_json(tmp_path: Path, content: str | bytes) -> None:
    assert "is no hardware profile" in refusal(file(tmp_path, content))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("memory_bytes", -1),
        ("memory_bytes", 0),
        ("memory_bytes", 16),
        ("memory_bytes", 16 * 2**60),
        ("memory_bytes", "16 GB"),
        ("memory_bandwidth", 0),
        ("memory_bandwidth", 624),
        ("memory_bandwidth", -624e9),
        ("memory_bandwidth", 1e300),
        ("matmul_rate", {}),
        ("matmul_rate", {"F16": 1e12}),
        ("matmul_rate", {"F32": 37.3}),
        ("matmul_rate", {"F32": 1e12, "FP16": 1e12}),
        ("matmul_efficiency", 0),
        ("matmul_efficiency", 45),
        ("decode_rate", {"Q8_0": -1}),
        ("pinned_rate", 25e15),
        ("host_bytes", 3),
        ("disk_rate", 0),
        ("contention", -0.5),
        ("headroom_bytes", 16 * 2**30),
        ("headroom_bytes", -1),
        ("largest_allocation_bytes", 0),
        ("launch_seconds", 8),
        ("attention", []),
        ("attention", ["quick"]),
        ("vendor", "AMD"),
        ("kind", "toy"),
        ("name", "A Card"),
        ("link", "PCIe 4 x16"),
        ("link", ""),
        ("pci_ids", ["747e"]),
        ("pci_ids", ["1002:747E"]),
        ("sources", {"memory": "a page"}),
        ("memory_bandwith", 624e9),
    ],
)
def test_absurd_values_are_named(tmp_path: Path, field: str, value: object) -> None:
    assert field in refusal(file(tmp_path, {**CARD, field: value}))


def test_unified_memory_with_a_link_is_absurd(tmp_path: Path) -> None:
    assert "link" in refusal(file(tmp_path, {**CARD, "unified": True}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "0x10", "1_000", "--1"])
@pytest.mark.parametrize("field", ["memory_bytes", "memory_bandwidth", "matmul_efficiency", "pinned_rate"])
def test_what_is_no_number(tmp_path: Path, field: str, number: str) -> None:
    text = json.dumps({**CARD, field: "HERE"}).replace('"HERE"', number)
    refusal(file(tmp_path, text))


def test_nan_in_a_profile_made_in_code_is_found() -> None:
    card = HardwareProfile(**{**CARD, "memory_bandwidth": float("nan")})
    assert profile.absurdity(card).startswith("memory_bandwidth is nan")
    card = HardwareProfile(**{**CARD, "matmul_rate": {"F32": float("inf")}})
    assert profile.absurdity(card).startswith("matmul_rate of F32 is inf")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(field=st.sampled_from(HardwareProfile.__struct_fields__), value=_json)
def test_any_value_is_a_profile_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: object
) -> None:
    path = file(tmp_path_factory.getbasetemp(), json.dumps({**CARD, field: value}))
    sentence = ""
    try:
        card = profile.read(path)
    except UserError as error:
        sentence = str(error)
    if sentence:
        assert str(path) in sentence
        assert sentence.endswith(".")
    else:
        assert profile.absurdity(card) == ""
