"""The warm cache: what was on the device stays there as far as plans keep it and room allows.

Of other models leaves what costs least to bring back for each byte, and no more than is needed (core.planning.leaving).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from core.hardware.interface import Accelerator
from core.hardware.machine import memory
from core.messages import ModelFileError
from core.planning.leaving import Item, leaving
from core.residency.adapters import Weighted
from core.residency.folding import Folding
from core.residency.ledger import Key, Ledger
from core.residency.network import Network
from core.residency.slabs import Slab
from core.residency.staging import HostedSlabs, PinnedSlabs, Ring, Staging, spread
from core.residency.wanted import DoesNotFitError, Leaver, Opened, Returns, Want, by_recency
from core.residency.whole import Whole
from core.sizes import in_words

HOST_RESERVE_BYTES = 2_000_000_000  # host memory that is left to everything else


@dataclass
class _Entry:
    model: str
    held: Network | Whole
    format: str
    host_bytes: int
    used: float = 0.0
    pinned: PinnedSlabs | HostedSlabs | None = None


class WarmCache:
    """Holds components for phases. One thread uses it: the one that runs the accelerator."""

    def __init__(self, accelerator: Accelerator, ledger: Ledger, returns: Returns | None = None) -> None:
        """`returns` says what leaves first; without it the last used model stays longest."""
        self._accelerator = accelerator
        self._ledger = ledger
        self._returns = returns or by_recency
        self._entries: dict[Key, _Entry] = {}
        self._rings: list[Ring] = []
        self._owner = ""
        self._forgotten_link_bytes = 0

    @contextmanager
    def hold(
        self,
        identity: str,
        model: str,
        wants: Sequence[Want],
        load: Callable[[str, str], Opened],
        *,
        sizes: Mapping[str, int],
        kept: Mapping[str, int | None],
        owner: str,
        budget_bytes: int,
        give_way: Callable[[str], bool] | None = None,
        check: Callable[[], None] = lambda: None,
        adapters: Mapping[str, Sequence[Weighted]] | None = None,
        ahead: Sequence[tuple[Want, int]] = (),
    ) -> Iterator[Mapping[str, nn.Module]]:
        """Have components ready to run for the length of a `with`; what is missing arrives while they run.

        Args:
            load: opens a component, given its name and format, that is not known yet or was held in another way.
            sizes: bytes that each will take in host memory where it must be read whole, so that room is made before.
            kept: bytes of each of the model's components that may stay when it does not run; None: all there are.
            budget_bytes: for weights and slots. Other models' components leave as far as it asks for it, as `leaving`
                says.
            give_way: asked for more room (see `move`) when memory runs out inside of a block.
            check: raises when nobody wants to wait for weights any more.
            adapters: what is to be beside each of the model's components while this request is made.
            ahead: components of later phases, with how many bytes of each are to come while these run.

        Raises:
            DoesNotFitError: the device ran out of memory even with everything else evicted.
        """
        self._owner = owner
        running = {(identity, want.name) for want in wants}
        for key, entry in list(self._entries.items()):
            if key[0] == identity and key not in running:
                entry.held.adapt((adapters or {}).get(key[1], ()))  # no plan counts what others had beside it
                self._keep(key, entry, kept.get(key[1], 0), "the plan does not keep it beside this phase")
        held: dict[str, Network | Whole] = {}
        damaged = False
        try:
            for want in wants:
                entry = self._open((identity, want.name), model, want, load, sizes[want.name], running, budget_bytes)
                entry.held.adapt((adapters or {}).get(want.name, ()))
                self._place(entry, want, running, budget_bytes)
                held[want.name] = entry.held
            for network in held.values():
                network.give_way, network.check = give_way, check
            with ExitStack() as stack:
                loaded = self._start(stack, identity, wants)
                for want, size in ahead:
                    entry = self._open(
                        (identity, want.name), model, want, load, sizes[want.name], running, budget_bytes
                    )
                    entry.held.adapt((adapters or {}).get(want.name, ()))
                    self._evict(size, running | {(identity, want.name)}, budget_bytes)
                    loaded = self._begin_ahead(stack, entry.held, want, size, len(wants), loaded)
                yield {name: network.module for name, network in held.items()}
        except ModelFileError:
            damaged = True  # whoever asks next shall look at the files anew
            raise
        finally:
            for ring in self._rings:
                ring.rest()
            for key in running & set(self._entries):
                entry = self._entries[key]
                entry.held.give_way = None
                entry.used = time.monotonic()
                entry.held.free_slots()
                self._keep(
                    key, entry, 0 if damaged else kept.get(key[1], 0), "the plan does not keep it after its phase"
                )
                if damaged:
                    self._forget(key)

    def move(
        self, identity: str, wants: Sequence[Want], kept: Mapping[str, int | None], budget_bytes: int, reason: str
    ) -> None:
        """Place what runs anew, between two blocks, and let everything else leave as far as it must.

        Raises:
            torch.OutOfMemoryError: there is no room for it either; what runs must be begun again.
        """
        running = {(identity, want.name) for want in wants}
        for key, entry in list(self._entries.items()):
            if key[0] == identity and key not in running:
                self._keep(key, entry, kept.get(key[1], 0), reason)
        total = sum(entry.held.held_bytes for key, entry in self._entries.items() if key not in running)
        places = []
        for want in wants:
            held = self._entries[identity, want.name].held
            resident = held.resident_of(want.counts, want.slots, want.room_bytes)
            total += held.held_bytes + held.needed_bytes(resident, want.slots)
            places.append((held, resident, want.slots))
        self._let_go(self.leaving(identity, total - budget_bytes), reason)
        for held, resident, slots in places:
            held.move(resident, slots, reason)
        self._accelerator.release_cached()

    def leaving(self, identity: str, excess: int) -> list[Leaver]:
        """What of other models leaves the device when so many bytes must: least worth first."""
        others = {key: entry for key, entry in self._entries.items() if key[0] != identity and entry.held.held_bytes}
        if excess <= 0 or not others:
            return []
        items = self._items(identity, others, {key: entry.held.parts for key, entry in others.items()})
        gone = leaving(items, excess)
        return [
            Leaver(item.key, others[item.key].model, sum(item.parts[: gone[item.key]]), item.back)
            for item in sorted(items, key=lambda item: item.back.worth)
            if item.key in gone
        ]

    @property
    def held_bytes(self) -> int:
        """Bytes of all components on the device."""
        return sum(entry.held.held_bytes for entry in self._entries.values())

    @property
    def known_bytes(self) -> int:
        """Bytes of all components that are known, wherever they are."""
        return sum(entry.held.size for entry in self._entries.values())

    def held(self, identity: str) -> dict[str, tuple[int, str]]:
        """(bytes, format) of each of a model's components that is on the device."""
        return {
            key[1]: (entry.held.held_bytes, entry.format)
            for key, entry in self._entries.items()
            if key[0] == identity and entry.held.held_bytes
        }

    def folded(self, identity: str) -> dict[str, bool]:
        """Whether each of a model's components that is on the device is there without its modulation."""
        entries = self._entries.items()
        return {
            key[1]: entry.held.folding is not None
            for key, entry in entries
            if key[0] == identity and entry.held.held_bytes
        }

    def sizes(self, identity: str, formats: Mapping[str, str]) -> dict[str, int]:
        """Bytes of each of a model's components that is known in its format, when all of it is on the device."""
        return {
            key[1]: entry.held.size
            for key, entry in self._entries.items()
            if key[0] == identity and entry.format == formats[key[1]]
        }

    def in_memory(self, identity: str) -> list[str]:
        """The components of a model that need not be read from a cold file."""
        return [key[1] for key in self._entries if key[0] == identity]

    @property
    def link_bytes(self) -> int:
        """Bytes that have crossed the link."""
        return self._forgotten_link_bytes + sum(entry.held.link_bytes for entry in self._entries.values())

    def streamed_bytes(self, identity: str) -> dict[str, int]:
        """Bytes of each of a model's components that came anew in each pass when it ran last."""
        return {key[1]: entry.held.streamed_bytes for key, entry in self._entries.items() if key[0] == identity}

    def foldings(self, identity: str) -> dict[str, Folding]:
        """What computes the folded layers of each of a model's components that has such."""
        entries = self._entries.items()
        return {key[1]: entry.held.folding for key, entry in entries if key[0] == identity and entry.held.folding}

    def folded_bytes(self, identity: str) -> dict[str, int]:
        """Bytes of each of a model's components that are not on the device while it runs."""
        entries = self._entries.items()
        return {key[1]: entry.held.folded_bytes for key, entry in entries if key[0] == identity}

    def evict_all(self, owner: str, reason: str) -> None:
        """Let every component leave the device. Not to be called inside a hold."""
        self._owner = owner
        for key, entry in list(self._entries.items()):
            self._keep(key, entry, 0, reason)
        self._accelerator.release_cached()

    def drop_model(self, identity: str, owner: str, reason: str) -> None:
        """Forget every component of a model, on the device and in host memory."""
        self._owner = owner
        for key in [key for key in self._entries if key[0] == identity]:
            held = self._entries[key].held
            self._keep(key, self._entries[key], 0, reason)
            if isinstance(held, Network):
                held.release_files()
            self._forget(key)

    # ---------------------------------------------------------------------------------------------------------------

    def _open(
        self,
        key: Key,
        model: str,
        want: Want,
        load: Callable[[str, str], Opened],
        size: int,
        running: set[Key],
        budget_bytes: int,
    ) -> _Entry:
        known = self._entries.get(key)
        if known is not None and known.format == want.format and (known.held.folding is not None) == want.folds:
            return known
        if known is not None:
            how = "with" if want.folds else "without"
            self._keep(key, known, 0, f"it is needed as {want.format}, {how} modulation computed before it runs")
            self._forget(key)
        self._make_host_room(size, budget_bytes, running)
        opened = load(key[1], want.format)

        def note(part: str, change: int, reason: str) -> None:
            self._ledger.change((key[0], part), self._owner, model, opened.format, change, reason, folded=want.folds)

        held: Network | Whole
        if opened.slabs is None:
            held = Whole(key[1], opened.module, note)
        else:
            held = Network(key[1], opened.module, *opened.slabs, self._accelerator, note, opened.scratch)
        entry = self._entries[key] = _Entry(model, held, opened.format, opened.host_bytes)
        return entry

    def _place(self, entry: _Entry, want: Want, running: set[Key], budget_bytes: int) -> None:
        held = entry.held
        resident = held.resident_of(want.counts, want.slots, want.room_bytes)
        needed = held.needed_bytes(resident, want.slots)
        self._evict(needed, running, budget_bytes)
        identity = next(iter(running))[0]
        for last in (False, True):  # where the driver has less than it said: first as much again leaves, then all
            try:
                held.place(resident, want.slots)
                return
            except torch.OutOfMemoryError:
                self._let_go(self.leaving(identity, needed), "memory ran out")
                for key, other in list(self._entries.items()):
                    if last and key not in running:
                        self._keep(key, other, 0, "memory ran out")
                self._accelerator.release_cached()
        try:
            held.place(resident, want.slots)
        except torch.OutOfMemoryError as error:
            held.keep(0, "memory ran out")
            raise DoesNotFitError(
                f"{held.name} of {entry.model} ({in_words(held.size)}) does not fit into the device's memory; "
                "close other programs that use the graphics card or choose a smaller model."
            ) from error

    def _begin_ahead(
        self,
        stack: ExitStack,
        network: Network | Whole,
        want: Want,
        size: int,
        number: int,
        after: threading.Event | None,
    ) -> threading.Event | None:
        """Bring a part of what a later phase needs behind the copies of this one."""
        if not isinstance(network, Network):
            return after
        resident = network.resident_of(want.counts, want.slots, want.room_bytes)
        loaded = network.begin_ahead(
            resident, size, self._ring(number, network.largest), after, "comes while the phase before computes"
        )
        stack.callback(network.end_ahead)
        return loaded

    def _start(self, stack: ExitStack, identity: str, wants: Sequence[Want]) -> threading.Event | None:
        """Start the copies of each component, those of the first first; what is set when all have been enqueued."""
        after = None
        running = {(identity, want.name) for want in wants}
        entries = [self._entries[identity, want.name] for want in wants]
        for number, (want, entry) in enumerate(zip(wants, entries, strict=True)):
            staging = self._staging(entry, want, self._ring(number, entry.held.largest), running)
            streamer = stack.enter_context(entry.held.running(staging, want.passes, after))
            after = streamer.loaded if streamer is not None else None
        for entry in entries:
            entry.held.ready()
        return after

    def _staging(self, entry: _Entry, want: Want, ring: Ring, running: set[Key]) -> Staging:
        """What a component's weights go through, with those that stay in host memory, if the plan has such."""
        network = entry.held
        if not isinstance(network, Network) or (want.hosted is None and not (want.pinned and network.streamed)):
            return ring
        stay = network.streamed if want.hosted is None else _hosted(network, want.hosted)
        if entry.pinned is None or not entry.pinned.keeps(network.store, stay):
            entry.pinned = None  # what it took is free again
            if want.hosted is not None:
                self._has_host_room(sum(slab.size for slab in stay), running)
                room = max(0, memory()[1] - HOST_RESERVE_BYTES)
                entry.pinned = HostedSlabs(ring, network.store, stay, room)
            else:
                pinned = PinnedSlabs(self._accelerator, ring, network.store, stay)
                if not self._has_host_room(pinned.nbytes, running):
                    return ring
                entry.pinned = pinned
        entry.pinned.ring = ring
        return entry.pinned

    def _ring(self, number: int, largest: int) -> Ring:
        """A ring that copies slabs of so many bytes at once; one for each component that runs at the same time."""
        while len(self._rings) <= number:
            self._rings.append(Ring(self._accelerator, largest))
        if not self._rings[number].takes(largest):
            self._rings[number] = Ring(self._accelerator, largest)
        return self._rings[number]

    def _evict(self, wanted: int, running: set[Key], budget_bytes: int) -> None:
        """Let other models leave as far as `wanted` more bytes need it."""
        identity = next(iter(running))[0]
        excess = self._ledger.resident_bytes + wanted - budget_bytes
        self._let_go(self.leaving(identity, excess), "made room for the phase")

    def _let_go(self, leavers: Sequence[Leaver], reason: str) -> None:
        for leaver in leavers:
            entry = self._entries[leaver.key]
            self._keep(leaver.key, entry, entry.held.held_bytes - leaver.bytes, f"{reason}: {leaver.words}")

    def _items(
        self, identity: str, entries: Mapping[Key, _Entry], parts: Mapping[Key, Sequence[int]]
    ) -> list[Item[Key]]:
        """What could leave while a model runs, the last used one last."""
        keys = sorted(entries, key=lambda key: entries[key].used)
        returns = self._returns(identity, keys[::-1])
        return [Item(key, tuple(parts[key]), returns[key]) for key in keys]

    def _make_host_room(self, wanted: int, budget_bytes: int, running: set[Key]) -> None:
        """Before a component is read into host memory, let others leave as far as that memory is short."""
        if self._accelerator.has_own_memory:
            self._has_host_room(wanted, running)
        else:
            self._evict(wanted, running, budget_bytes)  # the device's memory is the host's

    def _has_host_room(self, wanted: int, running: set[Key]) -> bool:
        """Whether host memory takes so many bytes, now that what costs least to bring back has left it.

        What is pinned goes before the networks themselves, and these only where nothing of them is on the device.
        """
        short = wanted - (memory()[1] - HOST_RESERVE_BYTES)
        if short <= 0:
            return True
        idle = {key: entry for key, entry in self._entries.items() if key not in running}
        parts = {
            key: (entry.pinned.nbytes if entry.pinned else 0, 0 if entry.held.held_bytes else entry.host_bytes)
            for key, entry in idle.items()
        }
        identity = next(iter(running))[0]
        for key, count in leaving(self._items(identity, idle, parts), short).items():
            idle[key].pinned = None
            if count > 1 and parts[key][1]:
                self._forget(key)
        _release_pinned()
        return memory()[1] - HOST_RESERVE_BYTES >= wanted

    def _keep(self, key: Key, entry: _Entry, size: int | None, reason: str) -> None:
        if size is None:
            return
        entry.held.keep(size, reason)
        if isinstance(entry.held, Whole) and not entry.held.held_bytes:
            self._forget(key)  # one memory: a component that left is read from its file again

    def _forget(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        held = entry.held
        self._forgotten_link_bytes += held.link_bytes
        if isinstance(held, Network):
            held.close()


def _hosted(network: Network, size: int) -> list[Slab]:
    """The slabs that stay in host memory: first of those that stream, then of the others."""
    streamed = spread(network.streamed, size)
    others = [slab for slab in network.division.slabs if slab not in set(network.streamed)]
    return streamed + spread(others, size - sum(slab.size for slab in streamed))


def _release_pinned() -> None:
    """Let torch give pinned memory back to the system, which it keeps for reuse."""
    if torch.accelerator.is_available():
        torch.accelerator.empty_host_cache()
