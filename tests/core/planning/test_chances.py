"""What comes next is counted from what came, and a few pictures do not overturn the stated defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.hardware.profile import load as card
from core.library.index import Library
from core.library.recent import Made, recently_made
from core.models.profile import load as model
from core.planning.chances import RECENT, chances, of_this_user, words
from core.planning.job import Next, job_of
from core.planning.solve import solve
from tests.core.library.test_metadata import make_result

HOUSE = Made("a house", model="starter", fingerprint="1")


def made(prompt: str = "a house", fingerprint: str = "1") -> Made:
    return Made(prompt, model="starter", fingerprint=fingerprint)


def test_without_a_history_it_is_the_stated_defaults() -> None:
    assert chances([]) == chances([HOUSE]) == Next()
    assert words(Next()) == ""


def test_what_changed_is_what_counts() -> None:
    seeds = chances([HOUSE] * 101)
    assert seeds.seen == 100
    assert seeds.seed == pytest.approx((100 + 10 * 0.3) / 110)
    texts = chances([made(f"house {n}") for n in range(101)])
    assert texts.text == pytest.approx((100 + 10 * 0.6) / 110)
    models = chances([made(fingerprint=str(n)) for n in range(101)])
    assert models.model == pytest.approx((100 + 10 * 0.1) / 110)
    negative = chances([Made("a house", "blur", "starter", "1"), HOUSE])
    assert negative.text > negative.seed
    both = chances([made("a boat", "2"), HOUSE])
    assert both.model == pytest.approx((1 + 10 * 0.1) / 11)  # another model, whatever else changed


def test_a_model_without_a_fingerprint_is_known_by_its_name() -> None:
    assert chances([Made("a", model="x"), Made("a", model="y")]).model > Next().model
    assert chances([Made("a", model="x"), Made("a", model="x")]).seed > Next().seed


def test_old_habits_are_forgotten() -> None:
    lately = [HOUSE] * (RECENT + 1)
    assert chances(lately + [made(f"{n}") for n in range(1000)]) == chances(lately)


@given(st.lists(st.builds(made, st.sampled_from("abc"), st.sampled_from("12")), max_size=150))
def test_they_are_chances(history: list[Made]) -> None:
    found = chances(history)
    assert found.text + found.seed + found.model == pytest.approx(1)
    assert min(found.text, found.seed, found.model) > 0
    assert found.seen == max(0, min(len(history), RECENT + 1) - 1)


def test_the_library_is_read_beside_its_owner(home: Path) -> None:
    assert of_this_user() == Next()
    assert not (home / "data" / "library.sqlite").exists()  # reading makes nothing
    library = Library(home / "pictures", home / "data" / "library.sqlite")
    for number, prompt in enumerate(("a house", "a boat", "a boat", "a tree")):
        library.add(make_result(id=f"{number:012x}", prompt=prompt, created=f"2026-01-0{number + 1}"))
    found = of_this_user()
    library.close()
    assert found.seen == 3
    assert found.text == pytest.approx((2 + 10 * 0.6) / 13)
    assert [entry.prompt for entry in recently_made(2)] == ["a tree", "a boat"]


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\x00" + b"\x00" * 200])
def test_a_library_that_cannot_be_read_is_done_without(content: bytes, home: Path) -> None:
    file = home / "data" / "library.sqlite"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert of_this_user() == Next()
    assert file.read_bytes() == content


def test_they_move_what_stays_and_are_told() -> None:
    def plan(next_one: Next):
        job = job_of(model("flux-schnell"), steps=4, following=next_one)
        return solve(job, card("rx-7800-xt"))[0]

    told = "judging by your last 100 pictures, the next has other words with 96%"
    often_new_words = plan(chances([made(f"house {n}") for n in range(101)]))
    assert any(reason.startswith(told) for reason in often_new_words.reasons)
    assert not any("judging by" in reason for reason in plan(Next()).reasons)
    always_seeds = plan(Next(0.0, 1.0, 0.0, seen=100))
    # whoever never changes the words needs no text encoder on the device
    kept = "text_encoder_2"
    assert always_seeds.component(kept).kept_bytes < often_new_words.component(kept).kept_bytes
