"""What every training of the recipe shares: where work lies, atomic checkpoints, logs, averages of weights."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

DEFAULT_WORK = Path.home() / ".cache" / "residency-starter"


def parser_with_work(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the options all scripts have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=DEFAULT_WORK, help="checkpoints, latents and logs (outside the tree)"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return parser


def prepare(args: argparse.Namespace) -> Path:
    """Set the thread count, make the work folder and return it."""
    torch.set_num_threads(args.threads)
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    return work


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside its final name and rename it, so that a kill leaves the old one whole."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path`, or None where there is none. Only tensors and plain data are ever unpickled."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


class Log:
    """A training log of one JSON object a line, flushed at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, **record: float | int | str) -> None:
        record["time"] = round(time.time(), 1)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        print(record, flush=True)


class Average:
    """An exponential moving average of a module's parameters, with a warm-up so that the start is forgotten."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        names, values = zip(*module.named_parameters(), strict=True)
        torch._foreach_lerp_([self.shadow[n] for n in names], list(values), 1 - decay)

    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's parameters with the average."""
        module.load_state_dict(self.shadow, strict=False)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])
        self.shadow = dict(state["shadow"])


class MatrixOptimizer:
    """Muon for layers' weights (convolutions as matrices [out, in * k * k]) and AdamW for all else.

    Muon (Jordan 2024, torch.optim.Muon) orthogonalises each update, which needs about half the samples AdamW does here.
    It takes matrices only, so a convolution's weight is given to it as a flattened view of the same memory.
    """

    def __init__(self, matrices: list[nn.Parameter], rest: list[nn.Parameter], weight_decay: float) -> None:
        self._sources = matrices
        self._views = [nn.Parameter(p.data.view(len(p), -1)) for p in matrices]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                self._views, lr=1e-3, momentum=0.95, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self._rest = rest

    def step(self, rate: float, matrix_factor: float = 1.0) -> None:
        """One update at a learning rate, `matrix_factor` times that for Muon; gradients are cleared afterwards."""
        for source, view in zip(self._sources, self._views, strict=True):
            view.grad = None if source.grad is None else source.grad.reshape(len(source), -1)
        for part, factor in zip(self.parts, (matrix_factor, 1.0), strict=True):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
            part.zero_grad(set_to_none=True)
        for source in self._sources:
            source.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
