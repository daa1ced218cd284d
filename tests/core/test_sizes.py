"""Sizes in words: a unit that says something, and one that may be asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.sizes import at_least, byte_size, in_words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (96, "96 bytes"),
        (949, "949 bytes"),
        (950, "1 kB"),
        (540_200, "540 kB"),
        (949_999, "950 kB"),
        (950_000, "0.9 MB"),
        (6_919_680, "6.9 MB"),
        (38_000_000, "38 MB"),
        (949_000_000, "949 MB"),
        (4_200_000_000, "4.2 GB"),
    ],
)
def test_a_unit_that_says_something(count: int, words: str) -> None:
    assert in_words(count) == words


@given(st.integers(0, 2**50))
def test_what_is_said_to_be_enough_is_enough(count: int) -> None:
    said = at_least(count)
    assert count <= byte_size(said) <= count + max(count // 10, 1)
