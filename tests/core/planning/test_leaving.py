"""What leaves when room is needed costs least to bring back, within what is proved of choosing whole parts."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.library.recent import Made
from core.planning.chances import RECENT, returning
from core.planning.leaving import Item, Return, leaving

items = st.lists(
    st.tuples(
        st.lists(st.integers(1, 40), min_size=1, max_size=4),
        st.floats(0.01, 10.0, allow_nan=False),
        st.floats(0.01, 1.0),
    ),
    min_size=1,
    max_size=5,
).map(lambda rows: [Item(n, tuple(parts), Return(cost, chance)) for n, (parts, cost, chance) in enumerate(rows)])


def freed(some: list[Item[int]], gone: dict[int, int]) -> int:
    return sum(sum(item.parts[: gone.get(item.key, 0)]) for item in some)


def cost(some: list[Item[int]], gone: dict[int, int]) -> float:
    return sum(item.back.worth * sum(item.parts[: gone.get(item.key, 0)]) for item in some)


def best(some: list[Item[int]], wanted: int) -> float:
    """By trying everything: each item's parts leave in their order."""
    choices = itertools.product(*(range(len(item.parts) + 1) for item in some))
    tried = (dict(zip((item.key for item in some), counts, strict=True)) for counts in choices)
    return min(cost(some, gone) for gone in tried if freed(some, gone) >= wanted)


def cut(some: list[Item[int]], wanted: int) -> float:
    """With parts cut to size, which no choice of whole ones beats."""
    total = 0.0
    for item in sorted(some, key=lambda item: item.back.worth):
        take = min(wanted, sum(item.parts))
        total, wanted = total + take * item.back.worth, wanted - take
    return total


@given(some=items, share=st.floats(0.01, 1.0))
def test_it_costs_at_most_twice_the_best_and_one_part_more_than_cut_ones(some: list[Item[int]], share: float) -> None:
    wanted = math.ceil(share * sum(sum(item.parts) for item in some))
    gone = leaving(some, wanted)
    assert freed(some, gone) >= wanted
    assert all(0 < count <= len(some[key].parts) for key, count in gone.items())
    assert cost(some, gone) <= 2 * best(some, wanted) * (1 + 1e-9)
    largest = max(item.back.worth * size for item in some for size in item.parts)
    assert cost(some, gone) <= (cut(some, wanted) + largest) * (1 + 1e-9)
    # no more than is needed: nothing that left could have stayed
    for key, count in gone.items():
        assert freed(some, {**gone, key: count - 1}) < wanted


@given(some=items, share=st.floats(0.01, 1.0))
def test_in_parts_of_one_size_it_is_the_best(some: list[Item[int]], share: float) -> None:
    even = [Item(item.key, tuple(8 for _ in item.parts), item.back) for item in some]
    wanted = math.ceil(share * freed(even, {item.key: len(item.parts) for item in even}))
    assert cost(even, leaving(even, wanted)) == pytest.approx(best(even, wanted))


def test_nothing_leaves_for_nothing_and_everything_where_it_does_not_suffice() -> None:
    some = [Item("a", (3, 3), Return(1.0, 0.5)), Item("b", (4,), Return(1.0, 0.5))]
    assert leaving(some, 0) == {}
    assert leaving(some, -5) == {}
    assert leaving(some, 99) == {"a": 2, "b": 1}
    assert leaving(some, 2) == {"a": 1}  # worth the same: the one that was not used for longest
    assert leaving([], 5) == {}


def test_a_large_thing_does_not_leave_where_a_small_one_does() -> None:
    some = [Item("large", (100,), Return(1.0, 0.01)), Item("small", (10,), Return(1.0, 0.05))]
    assert leaving(some, 9) == {"small": 1}
    assert leaving(some, 11) == {"large": 1}


def made(*models: str) -> list[Made]:
    return [Made("a house", model=model) for model in models]


def test_before_there_is_a_history_the_last_used_model_is_likeliest() -> None:
    assert returning([], ["a", "b", "c"]) == [0.5, 0.25, 0.125]
    assert returning(made("a", "a"), ["a"]) == [0.5]


def test_models_are_likely_as_far_as_people_changed_to_them() -> None:
    history = made(*["often", "other"] * 40)
    rarely, often = returning(history, ["rarely", "often"])
    assert often > 0.4 > 0.1 > rarely > 0
    long_runs = made(*["one"] * 50, *["two"] * 50)  # newest first: one change only, to "one"
    assert returning(long_runs, ["one", "two"]) == [(1 + 5) / 11, 2.5 / 11]
    old = made(*["new"] * (RECENT + 1), *["old", "new"] * 20)
    assert returning(old, ["old"]) == [0.5]
