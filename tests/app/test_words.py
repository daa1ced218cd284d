"""Labels of the history and the words that can stand in each other's place."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import formatting
from app.settings import Session, Settings, load_session, session_file, snapped, write_session
from app.vocabulary import Vocabulary
from app.words import changed_words, label
from core.messages import Phase, Request
from tests.app.fake_engine import make_result, plain_picture

WORDS = Vocabulary({"colour": ["red", "blue", "orange"], "sky": ["moon", "crescent moon"], "place": ["sea"]})


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ("a red house by the sea", "a blue house by the sea", ["red → blue"]),
        ("a red house", "a red house, with birds", ["+ birds"]),
        ("a red house with birds", "a red house", ["− birds"]),
        ("a red house", "an orange house", ["red → orange"]),
        ("a house", "the house", []),
        ("A red house", "a red house.", []),
    ],
)
def test_changed_words(before: str, after: str, changes: list[str]) -> None:
    assert changed_words(before, after) == changes


def test_labels() -> None:
    def made(**changes: object) -> object:
        request = Request(prompt="a red house by the sea", seed=7, out="a.png")
        result = make_result(request, plain_picture(request, 1.0), 1.0, 8)
        return msgspec.structs.replace(result, **changes)

    first = made()
    assert label(first, None) == "red house"
    assert label(made(prompt="a red house by the hills"), first) == "sea → hills"
    assert label(made(seed=8), first) == "seed 8"
    assert label(made(width=256), first) == "256 × 128"
    assert label(made(steps=20), first) == "20 steps"
    assert label(made(), first) == "again"
    assert label(made(prompt="something else that has nothing in common with it"), first).startswith("something else")


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_two_prompts_have_a_label(before: str, after: str) -> None:
    assert isinstance(changed_words(before, after), list)


def test_the_word_at_the_caret() -> None:
    text = "a red house under a crescent moon"
    assert WORDS.at(text, 3).word == "red"  # type: ignore[union-attr]
    assert WORDS.at(text, 5).word == "red"  # type: ignore[union-attr]
    assert WORDS.at(text, 7) is None
    assert WORDS.at(text, 30).word == "crescent moon"  # type: ignore[union-attr]
    assert [span.word for span in WORDS.spans("reddish Red, sea")] == ["red", "sea"]
    assert not Vocabulary()
    assert Vocabulary().spans(text) == []


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("a red house", "blue", "a blue house"),
        ("a red house", "orange", "an orange house"),
        ("An orange house", "red", "A red house"),
        ("Red house", "blue", "Blue house"),
        ("the red house", "orange", "the orange house"),
    ],
)
def test_replacing_keeps_articles_and_capitals(text: str, word: str, expected: str) -> None:
    span = WORDS.spans(text)[0]
    start, new = WORDS.replaced(text, span, word)
    assert text[:start] + new + text[span.end :] == expected


def test_neighbours_go_round() -> None:
    span = WORDS.spans("orange")[0]
    assert WORDS.neighbour(span, 1) == "red"
    assert WORDS.neighbour(span, -1) == "blue"


def test_numbers_for_people() -> None:
    assert [formatting.seconds(s) for s in (0.04, 3.44, 12.2, 65.0, 3700.0)] == [
        "0.0 s",
        "3.4 s",
        "12 s",
        "1 min 5 s",
        "1 h 1 min",
    ]
    assert [formatting.size(b) for b in (0, 999, 1500, 12_580_000, 7_100_000_000)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "12.6 MB",
        "7.1 GB",
    ]
    assert all(formatting.phase(phase) for phase in Phase)


@given(st.integers(-10, 10_000))
def test_sizes_are_always_multiples_of_16(size: int) -> None:
    assert snapped(size) % 16 == 0
    assert 0 <= snapped(size) <= 4096


def test_a_session_comes_back_and_a_broken_one_does_no_harm() -> None:
    assert load_session() == Session()
    session = Session(settings=Settings(prompt="ein rotes Haus ☂", seed=3, steps=9), theme="light", more_open=True)
    assert write_session(msgspec.json.encode(session))
    assert load_session() == session
    session_file().write_text("{broken")
    assert load_session() == Session()


def test_a_session_that_cannot_be_kept_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIDENCY_HOME", "/proc/nowhere")
    assert not write_session(b"{}")
