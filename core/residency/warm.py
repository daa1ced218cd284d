"""The warm cache: components stay on the device as long as there is room, and leave it least recently used first."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from core.hardware.interface import Accelerator
from core.hardware.machine import memory
from core.messages import UserError
from core.precision.dtypes import format_name
from core.residency.ledger import Key, Ledger

HOST_RESERVE_BYTES = 2_000_000_000  # host memory that is left to everything else


@dataclass
class _Entry:
    """One component in host memory and perhaps on the device, with its tensors in both; one memory needs neither."""

    model: str
    component: str
    module: nn.Module
    format: str
    bytes: int
    on_device: bool = False
    used: float = 0.0
    host: dict[str, torch.Tensor] = field(default_factory=dict)
    device: dict[str, torch.Tensor] = field(default_factory=dict)


class WarmCache:
    """Holds components for phases. One thread uses it: the one that runs the accelerator."""

    def __init__(self, accelerator: Accelerator, ledger: Ledger) -> None:
        self._accelerator = accelerator
        self._ledger = ledger
        self._entries: dict[Key, _Entry] = {}
        self.link_bytes = 0

    @contextmanager
    def hold(
        self,
        identity: str,
        model: str,
        names: Sequence[str],
        load: Callable[[str], nn.Module],
        *,
        sizes: Mapping[str, int],
        owner: str,
        keep: Collection[str],
        budget_bytes: int,
    ) -> Iterator[Mapping[str, nn.Module]]:
        """Have the named components on the device for the length of a `with`.

        Components that are not in host memory yet are read by `load`; `sizes` says how many bytes each will take, so
        that room is made before. What else is on the device leaves as far as the budget asks for it. After the `with`
        those in `keep` stay and the others leave.

        Raises:
            UserError: the device ran out of memory even with everything else evicted.
        """
        held: dict[str, nn.Module] = {}
        pinned = {(identity, name) for name in names}
        for name in names:
            key = (identity, name)
            if key not in self._entries:
                self._make_host_room(sizes[name], budget_bytes, pinned, owner)
                module = load(name)
                self._entries[key] = _Entry(model, name, module, _format(module), _bytes(module))
            held[name] = self._bring(key, pinned, owner, budget_bytes)
        try:
            yield held
        finally:
            for key in pinned:
                self._entries[key].used = time.monotonic()
                if key[1] not in keep:
                    self._leave(key, owner, "the plan does not keep it after its phase")

    def held(self, identity: str) -> dict[str, int]:
        """Bytes of each of a model's components that are on the device."""
        return {key[1]: entry.bytes for key, entry in self._entries.items() if key[0] == identity and entry.on_device}

    def in_memory(self, identity: str) -> list[str]:
        """The components of a model that are in host memory (where there is one memory, those on the device)."""
        return [key[1] for key in self._entries if key[0] == identity]

    def evict_all(self, owner: str, reason: str) -> None:
        """Let every component leave the device. Not to be called inside a hold."""
        for key in list(self._entries):
            self._leave(key, owner, reason)
        self._accelerator.release_cached()

    def drop_model(self, identity: str, owner: str, reason: str) -> None:
        """Forget every component of a model, on the device and in host memory."""
        for key in [key for key in self._entries if key[0] == identity]:
            self._leave(key, owner, reason)
            self._entries.pop(key, None)

    # ---------------------------------------------------------------------------------------------------------------

    def _bring(self, key: Key, pinned: set[Key], owner: str, budget_bytes: int) -> nn.Module:
        entry = self._entries[key]
        if entry.on_device:
            return entry.module
        self._evict(entry.bytes, budget_bytes, pinned, owner)
        if self._accelerator.has_own_memory:
            try:
                self._copy_in(entry)
            except torch.OutOfMemoryError:
                self._copy_out(entry)
                self._evict(budget_bytes, budget_bytes, pinned, owner)
                self._accelerator.release_cached()
                self._copy_in_or_explain(entry)
            self.link_bytes += entry.bytes
        entry.on_device = True
        self._ledger.arrive(key, owner, entry.model, entry.format, entry.bytes, "needed by the phase")
        return entry.module

    def _evict(self, wanted: int, budget_bytes: int, pinned: set[Key], owner: str) -> None:
        """Let components leave, least recently used first, until `wanted` bytes fit into the budget."""
        order = sorted((e.used, key) for key, e in self._entries.items() if e.on_device and key not in pinned)
        for _, key in order:
            if self._ledger.resident_bytes + wanted <= budget_bytes:
                return
            self._leave(key, owner, "made room for the phase")

    def _make_host_room(self, wanted: int, budget_bytes: int, pinned: set[Key], owner: str) -> None:
        """Before a component is read into host memory, let others leave as far as that memory is short."""
        if not self._accelerator.has_own_memory:
            self._evict(wanted, budget_bytes, pinned, owner)  # the device's memory is the host's
            return
        idle = sorted((e.used, key) for key, e in self._entries.items() if not e.on_device and key not in pinned)
        for _, key in idle:
            if memory()[1] - HOST_RESERVE_BYTES >= wanted:
                return
            del self._entries[key]

    def _leave(self, key: Key, owner: str, reason: str) -> None:
        entry = self._entries[key]
        if not entry.on_device:
            return
        entry.on_device = False
        self._ledger.depart(key, owner, entry.model, entry.format, reason)
        if self._accelerator.has_own_memory:
            self._copy_out(entry)
        else:
            del self._entries[key]  # one memory: a component that left is read from its file again

    def _copy_in(self, entry: _Entry) -> None:
        for name, tensor in _tensors(entry.module):
            host = entry.host.setdefault(name, tensor.data)
            tensor.data = entry.device[name] = self._accelerator.place(host, entry.component)

    def _copy_in_or_explain(self, entry: _Entry) -> None:
        try:
            self._copy_in(entry)
        except torch.OutOfMemoryError as error:
            self._copy_out(entry)
            raise UserError(
                f"{entry.component} of {entry.model} ({entry.bytes / 1e9:.1f} GB) does not fit into the device's "
                "memory; close other programs that use the graphics card or choose a smaller model."
            ) from error

    def _copy_out(self, entry: _Entry) -> None:
        """Let every tensor stand for its host copy; nothing is copied, since weights do not change on the device."""
        for name, tensor in _tensors(entry.module):
            if name in entry.device:
                tensor.data = self._accelerator.absent(entry.host[name])
                self._accelerator.free(entry.device.pop(name))


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers, shared storage counted once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for _, tensor in _tensors(module)
    }
    return sum(storages.values())


def _format(module: nn.Module) -> str:
    """The format that most bytes of a module are in."""
    counts: dict[torch.dtype, int] = {}
    for parameter in module.parameters():
        counts[parameter.dtype] = counts.get(parameter.dtype, 0) + parameter.nbytes
    return format_name(max(counts, key=lambda dtype: counts[dtype])) if counts else "F32"
