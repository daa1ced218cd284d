"""The words a model was taught, as lists of alternatives: which word the caret is on and what could stand there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_VOWELS = frozenset("aeiou")
_ARTICLE = re.compile(r"\b(an?)(\s+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Span:
    """A known word or phrase in a text: `text[start:end]`, the list it belongs to, and its entry there."""

    start: int
    end: int
    group: str
    word: str


class Vocabulary:
    """Lists of words that can stand in each other's place, such as colours or times of day."""

    def __init__(self, groups: Mapping[str, Sequence[str]] | None = None) -> None:
        self._groups = {name: list(dict.fromkeys(words)) for name, words in (groups or {}).items()}
        self._home: dict[str, tuple[str, str]] = {}
        for name, words in self._groups.items():
            for word in words:
                self._home.setdefault(word.casefold(), (name, word))
        # the longest first, so that "crescent moon" wins over "moon"
        ordered = sorted((word for word in self._home if word.strip()), key=len, reverse=True)
        pattern = "|".join(re.escape(word) for word in ordered)
        self._pattern = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE) if pattern else None

    def __bool__(self) -> bool:
        return self._pattern is not None

    @property
    def groups(self) -> dict[str, list[str]]:
        """The lists by their names."""
        return self._groups

    def spans(self, text: str) -> list[Span]:
        """Every known word of a text, in order."""
        if self._pattern is None:
            return []
        found = []
        for match in self._pattern.finditer(text):
            group, word = self._home[match.group().casefold()]
            found.append(Span(match.start(), match.end(), group, word))
        return found

    def at(self, text: str, position: int) -> Span | None:
        """The known word that the caret at `position` is in or touches."""
        touching = [span for span in self.spans(text) if span.start <= position <= span.end]
        # between two words the one that begins here is meant
        return touching[-1] if touching else None

    def choices(self, span: Span) -> list[str]:
        """All that could stand in the word's place, in the list's order, itself included."""
        return list(self._groups[span.group])

    def neighbour(self, span: Span, step: int) -> str:
        """The word `step` places further in its list, round the end."""
        words = self._groups[span.group]
        return words[(words.index(span.word) + step) % len(words)]

    @staticmethod
    def replaced(text: str, span: Span, word: str) -> tuple[int, str]:
        """Put `word` in the span's place: returns where the change begins, and what replaces `text[there:span.end]`.

        A capital at the start stays one, and "a" becomes "an" where the new word begins with a vowel's letter.
        """
        new = word[:1].upper() + word[1:] if text[span.start : span.start + 1].isupper() else word
        article = _ARTICLE.search(text[: span.start])
        if article is None:
            return span.start, new
        wanted = "an" if word[:1].lower() in _VOWELS else "a"
        if article.group(1)[:1].isupper():
            wanted = wanted.capitalize()
        if wanted == article.group(1):
            return span.start, new
        return article.start(), wanted + article.group(2) + new
