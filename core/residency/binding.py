"""Makes a network's tensors views into a slab's buffer, and takes them away again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from core.residency.slabs import Piece, Slab


class Binding:
    """The tensors of one slab in their network. Nothing is allocated or copied by binding."""

    def __init__(
        self,
        module: nn.Module,
        slab: Slab,
        same: Mapping[str, tuple[str, ...]],
        absent: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """`module` is the whole network. Where a tensor is not bound, `absent` of what it is now takes its place."""
        self._views: dict[int, list[torch.Tensor]] = {}
        self._bound: list[int] | None = None  # addresses
        self._places = [(piece, tuple(_place(module, name) for name in same[piece.path])) for piece in slab.pieces]
        self._original = [[where[name] for where, name in places] for _, places in self._places]
        self._absent = [_like(tensors[0], absent) for tensors in self._original]
        self.unbind()

    def bind(self, buffer: torch.Tensor) -> None:
        """Let the tensors be views into a device buffer that holds the slab."""
        views = self._views.get(buffer.data_ptr())
        if views is None:
            views = [self._view(piece, places[0], buffer) for piece, places in self._places]
            self._views[buffer.data_ptr()] = views
        for (_, places), view in zip(self._places, views, strict=True):
            for where, name in places:
                where[name] = view
        start = buffer.data_ptr()
        self._bound = [start + piece.offset for piece, _ in self._places]

    def unbind(self) -> None:
        """Take the tensors away."""
        for (_, places), absent in zip(self._places, self._absent, strict=True):
            for where, name in places:
                where[name] = absent
        self._bound = None

    def restore(self) -> None:
        """Put back what was there before there was a binding."""
        for (_, places), tensors in zip(self._places, self._original, strict=True):
            for (where, name), tensor in zip(places, tensors, strict=True):
                where[name] = tensor
        self._bound = None

    def forget(self, buffer: torch.Tensor) -> None:
        """Drop the views into a buffer, which is about to be freed."""
        if self._views.pop(buffer.data_ptr(), None) is not None and self._bound is not None:
            self.unbind()

    def check(self) -> None:
        """See that nobody has put other tensors in the place of the views, as a cast of the network would.

        Raises:
            RuntimeError: somebody has; names the tensor.
        """
        if self._bound is None:
            raise RuntimeError("a block runs whose weights are not on the device")
        for (piece, places), address in zip(self._places, self._bound, strict=True):
            where, name = places[0]
            if where[name].data_ptr() != address and piece.nbytes:
                raise RuntimeError(f"{piece.path} was taken from its slab; a held network must not be cast or moved")

    @staticmethod
    def _view(piece: Piece, place: tuple[dict[str, torch.Tensor], str], buffer: torch.Tensor) -> torch.Tensor:
        view = piece.view(buffer)
        where, name = place
        if isinstance(where[name], nn.Parameter):
            return nn.Parameter(view, requires_grad=False)
        return view


def _like(tensor: torch.Tensor, absent: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """What stands for an absent tensor; one on the meta device stands for itself."""
    if tensor.is_meta:
        return tensor
    stands = absent(tensor.detach())
    return nn.Parameter(stands, requires_grad=False) if isinstance(tensor, nn.Parameter) else stands


def _place(module: nn.Module, path: str) -> tuple[dict[str, torch.Tensor], str]:
    """The dictionary of the layer that holds a tensor, and its name there."""
    owner, _, name = path.rpartition(".")
    layer = module.get_submodule(owner)
    where = layer._parameters if name in layer._parameters else layer._buffers
    return where, name  # type: ignore[return-value]
