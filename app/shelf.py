"""Results as the history shows them: newest first, loaded from the library a page at a time. Plain data, no Qt."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.messages import Result

# More than any screen shows at once, few enough to be read and laid out without being noticed.
PAGE = 100


@dataclass(frozen=True)
class Page:
    """A piece of the library: what `query` finds (all of it where that is empty), newest first, from `offset` on."""

    query: str
    offset: int
    results: list[Result]


@dataclass
class Shelf:
    """The results that a query finds, as far as they were loaded."""

    query: str = ""
    results: list[Result] = field(default_factory=list)
    complete: bool = False
    _asked: bool = False

    def add(self, page: Page) -> None:
        """Take a page in. Whatever was made or removed since it was asked for, each result stands once, in place."""
        known = {result.id for result in self.results}
        new = [result for result in page.results if result.id not in known]
        # both are in order already, which makes this a merge
        self.results = sorted(self.results + new, key=lambda result: result.created, reverse=True)
        self.complete = self.complete or len(page.results) < PAGE
        self._asked = False

    def put_first(self, result: Result) -> None:
        """Take a picture in that was made just now."""
        self.results = [result] + [other for other in self.results if other.id != result.id]

    def remove(self, result_id: str) -> None:
        """Take a result out."""
        self.results = [result for result in self.results if result.id != result_id]

    def ask(self) -> int | None:
        """Where the next page begins; None when there is none, or it was asked for already."""
        if self.complete or self._asked:
            return None
        self._asked = True
        return len(self.results)


@dataclass
class Shelves:
    """What the history shows: all results, or those that a search found."""

    library: Shelf = field(default_factory=Shelf)
    query: str = ""
    _found: Shelf | None = None

    @property
    def shown(self) -> Shelf:
        """The shelf that is shown; for a search that has not found anything yet, still the one before it."""
        return self.library if self._found is None else self._found

    def search(self, query: str) -> bool:
        """Search for something else, or for nothing; whether another shelf is shown at once."""
        self.query = query.strip()
        ended = not self.query and self._found is not None
        if ended:
            self._found = None
        return ended

    def add(self, page: Page) -> bool:
        """Take a page in; whether it was still wanted."""
        if not page.query:
            self.library.add(page)
            return True
        if page.query != self.query:
            return False
        if self._found is None or self._found.query != page.query:
            self._found = Shelf(page.query)
        self._found.add(page)
        return True

    def ask(self) -> int | None:
        """Where the next page of what is shown begins; None when all is there or on its way."""
        return self.shown.ask() if self.shown.query == self.query else None

    def remove(self, result_id: str) -> None:
        """Take a result out everywhere."""
        self.library.remove(result_id)
        if self._found is not None:
            self._found.remove(result_id)
