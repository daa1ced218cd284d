"""Data parallelism over processes of one thread each, started by torchrun.

    torchrun --nproc-per-node 2 train.py ...

On a processor that is shared with other work this beats threads: threads meet at a barrier in every operation, and one
that is kept waiting stalls the rest; processes meet once a step. Without torchrun everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist


class Group:
    """The processes of one training; `rank` 0 logs and saves."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1:
            dist.init_process_group("gloo")

    @property
    def first(self) -> bool:
        return self.rank == 0

    def average_gradients(self, parameters: Sequence[torch.Tensor]) -> None:
        """Replace each gradient by its mean over the processes, in one exchange."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def mine(self, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The share of the parameters that this process updates when the optimizer's own work is divided."""
        return list(parameters[self.rank :: self.size])

    @torch.no_grad()
    def share(self, parameters: Sequence[torch.Tensor]) -> None:
        """Give every process the parameters that the others have updated (see `mine`)."""
        if self.size == 1:
            return
        for rank in range(self.size):
            part = list(parameters[rank :: self.size])
            flat = torch.cat([p.flatten() for p in part])
            dist.broadcast(flat, rank)
            if rank != self.rank:
                for p, values in zip(part, flat.split([p.numel() for p in part]), strict=True):
                    p.copy_(values.view_as(p))

    def agree(self, flag: bool) -> bool:
        """True if any process says so: what all must decide alike, such as to stop."""
        if self.size == 1:
            return flag
        value = torch.tensor([float(flag)])
        dist.all_reduce(value)
        return bool(value.item() > 0)

    def close(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()
