"""What changed between two pictures, in the fewest words: the labels of the history strip."""

from __future__ import annotations

import re

from core.messages import Result

_LABEL_WORDS = 4
_WORD = re.compile(r"[^\s,;.!?]+")
# Words that carry no picture of their own; a label may drop them at its ends.
_SMALL = frozenset(("a", "an", "the", "of", "in", "on", "at", "by", "and", "with", "under", "over", "to", "its"))


def changed_words(before: str, after: str) -> list[str]:
    """What a reader would say changed from one prompt to the next, e.g. `["sea → desert", "with birds"]`.

    Replaced words read `old → new`, added ones `+ new`, removed ones `− old`. Articles do not count as change.
    """
    import difflib  # the first frame shows no history yet

    old, new = _WORD.findall(before), _WORD.findall(after)
    matcher = difflib.SequenceMatcher(None, [w.lower() for w in old], [w.lower() for w in new], autojunk=False)
    changes = []
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            continue
        gone, come = _shorten(old[a:b]), _shorten(new[c:d])
        if gone and come:
            changes.append(f"{gone} → {come}")
        elif come:
            changes.append(f"+ {come}")
        elif gone:
            changes.append(f"− {gone}")
    return changes


def label(result: Result, before: Result | None) -> str:
    """A history label: what changed against the picture made before, or the first words when nothing came before."""
    if before is None:
        return _first_words(result.prompt)
    changes = changed_words(before.prompt, result.prompt)
    if len(changes) > 2 or sum(len(change.split()) for change in changes) > 2 * _LABEL_WORDS:
        # too much changed to be told as changes: it is another picture
        return _first_words(result.prompt)
    if changes:
        return ", ".join(changes)
    if result.seed != before.seed:
        return f"seed {result.seed}"
    if (result.width, result.height) != (before.width, before.height):
        return f"{result.width} × {result.height}"
    if result.steps != before.steps:
        return f"{result.steps} steps"
    if result.model != before.model:
        return result.model
    if result.negative_prompt != before.negative_prompt:
        return "negative prompt"
    if result.guidance != before.guidance:
        return f"guidance {result.guidance:g}" if result.guidance is not None else "no guidance"
    return "again"


def _shorten(words: list[str]) -> str:
    while words and words[0].lower() in _SMALL:
        words = words[1:]
    while words and words[-1].lower() in _SMALL:
        words = words[:-1]
    return " ".join(words)


def _first_words(prompt: str) -> str:
    words = _WORD.findall(prompt)
    while len(words) > 1 and words[0].lower() in _SMALL:
        words = words[1:]
    words = words[:_LABEL_WORDS]
    while len(words) > 1 and words[-1].lower() in _SMALL:
        words = words[:-1]
    return " ".join(words)
