"""Several calls of one network go through each streamed block together, before it leaves its slot.

Each call is a greenlet: its code runs as it would alone, with its own shapes and kernels, until it comes to a streamed
block. There it waits for the others; then one after the other runs the block, and the block is copied once for all.
Everything happens in one thread, so nothing of it needs a lock, and what a call computes does not depend on the others.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from greenlet import GreenletExit, getcurrent, greenlet


class Meeting(Protocol):
    """What calls meet at: a network, at one of its streamed blocks."""

    def depart(self, number: int) -> None:
        """Nobody needs the block any more. May be called again."""


def in_lockstep(calls: Sequence[Callable[[], None]]) -> None:
    """Run calls to their ends, in lockstep wherever they meet. An error of one ends all, and is raised."""
    with torch.no_grad():  # what one call restores is then what the others had
        _Hub().run(calls)


def meet(network: Meeting, number: int) -> bool:
    """Wait for the others in front of a streamed block. True when no other will run it after this one."""
    party = getcurrent()
    return party.hub.wait(party, network, number) if isinstance(party, Call) else True


def beside(call: Callable[[], None]) -> Call:
    """Let a call go on in lockstep with the current one, which must be in lockstep itself, and which starts first."""
    party = getcurrent()
    if not isinstance(party, Call):
        raise RuntimeError("only what runs in lockstep has others beside it")
    return party.hub.add(call, alone=False)


class Call(greenlet):
    """One call. `join` and `end` are for the one beside it."""

    def __init__(self, hub: _Hub, call: Callable[[], None], *, alone: bool) -> None:
        """With `alone` nobody will join it, so its error is everybody's."""
        super().__init__(self._run, hub.main)
        self.gr_context = contextvars.copy_context()
        self.hub, self._call, self._alone = hub, call, alone
        self._joined_by: Call | None = None
        self._error: BaseException | None = None
        self.last = True  # whether no other runs the block that it stands before

    def _run(self) -> None:
        try:
            self._call()
        except GreenletExit:
            raise
        except BaseException as error:
            if self._alone:
                raise
            self._error = error
        finally:
            del self._call  # and what it holds on the device
        if self._joined_by is not None:
            self.hub.ready.append(self._joined_by)

    def join(self) -> None:
        """Wait for its end. Raises what it raised."""
        if not self.dead:
            party = getcurrent()
            assert isinstance(party, Call)
            self._joined_by = party
            self.hub.main.switch()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Stop it wherever it is."""
        if not self.dead:
            self.parent = getcurrent()  # that is where its end leads to
            self.throw()


class _Hub:
    """Decides which call runs on. Lives in the greenlet that `in_lockstep` was called in."""

    def __init__(self) -> None:
        self.main = getcurrent()
        self.ready: deque[Call] = deque()
        self._calls: list[Call] = []
        self._waiting: dict[tuple[Meeting, int], list[Call]] = {}
        self._at: tuple[Meeting, int] | None = None

    def run(self, calls: Sequence[Callable[[], None]]) -> None:
        for call in calls:
            self.add(call, alone=True)
        try:
            while self.ready or self._waiting:
                while self.ready:
                    self._resume(self.ready.popleft())
                if self._waiting:
                    self._pass_block()
        finally:
            for party in self._calls:
                party.end()

    def add(self, call: Callable[[], None], *, alone: bool) -> Call:
        party = Call(self, call, alone=alone)
        self._calls = [*(other for other in self._calls if not other.dead), party]
        self.ready.append(party)
        return party

    def wait(self, party: Call, network: Meeting, number: int) -> bool:
        self._waiting.setdefault((network, number), []).append(party)
        self.main.switch()
        return party.last

    def _resume(self, party: Call) -> None:
        if not party.dead:
            party.switch()

    def _pass_block(self) -> None:
        """Let everybody who waits for one block run it."""
        self._at = place = self._next()
        parties = self._waiting.pop(place)
        for number, party in enumerate(parties):
            party.last = all(other.dead for other in parties[number + 1 :])
            self._resume(party)
        network, block = place
        network.depart(block)  # in case the last one ended before it came to that

    def _next(self) -> tuple[Meeting, int]:
        """The next block behind the last one that somebody waits for; those of another pass wait for its beginning."""
        if self._at is not None:
            network, number = self._at
            ahead = [place for place in self._waiting if place[0] is network and place[1] > number]
            if ahead:
                return min(ahead, key=lambda place: place[1])
        first = next(iter(self._waiting))[0]  # of whoever has waited longest
        return min((place for place in self._waiting if place[0] is first), key=lambda place: place[1])
