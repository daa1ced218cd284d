"""What will be wanted next, from the user's own history: counts of what followed what, smoothed by stated defaults."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from core.library.recent import Made, recently_made
from core.planning.job import NEXT_MODEL, NEXT_SEED, NEXT_TEXT, Next

# So many pictures count: habits change.
RECENT = 100
# The stated defaults weigh as much as so many observed pictures (Laplace's smoothing with unequal parts). Assumed.
_PRIOR = 10.0


def chances(made: Sequence[Made]) -> Next:
    """The chances of what follows, from results with the newest first.

    A picture with another model than the one before counts as that, whatever else changed; then one with other words;
    all others changed seed, size or steps, and need no text encoder.
    """
    text = seed = model = 0
    for later, earlier in itertools.pairwise(made[: RECENT + 1]):
        if later.content != earlier.content:
            model += 1
        elif (later.prompt, later.negative_prompt) != (earlier.prompt, earlier.negative_prompt):
            text += 1
        else:
            seed += 1
    seen = text + seed + model
    if not seen:
        return Next()
    whole = seen + _PRIOR
    return Next(
        text=(text + _PRIOR * NEXT_TEXT) / whole,
        seed=(seed + _PRIOR * NEXT_SEED) / whole,
        model=(model + _PRIOR * NEXT_MODEL) / whole,
        seen=seen,
    )


def of_this_user() -> Next:
    """The chances from the user's library; the stated defaults where there is none."""
    return chances(recently_made(RECENT + 1))


def returning(made: Sequence[Made], models: Sequence[str]) -> list[float]:
    """The chance of each of some models that it is the one that pictures go on with, when they do with another.

    Counted are the recent pictures with which a person changed to a model. Before there are such, the chance is 1/2 of
    the model that was used last, 1/4 of the one before, and so on (assumed: people go back and forth between a few).

    Args:
        made: results with the newest first.
        models: by their content (see Made), the last used one first.
    """
    pairs = itertools.pairwise(made[: RECENT + 1])
    changes = [later.content for later, earlier in pairs if later.content != earlier.content]
    return [
        (changes.count(model) + _PRIOR * 0.5 ** (number + 1)) / (len(changes) + _PRIOR)
        for number, model in enumerate(models)
    ]


def returning_of_this_user(models: Sequence[str]) -> list[float]:
    """The same from the user's library."""
    return returning(recently_made(RECENT + 1), models)


def words(expected: Next) -> str:
    """Where the chances come from, as a reason of a plan; empty where they are the defaults."""
    if not expected.seen:
        return ""
    pictures = f"your last {expected.seen} pictures" if expected.seen > 1 else "your last picture"
    return (
        f"judging by {pictures}, the next has other words with {expected.text:.0%}, the same words with "
        f"{expected.seed:.0%} and another model with {expected.model:.0%}: that weighs what stays on the device"
    )
