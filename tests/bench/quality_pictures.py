"""Pictures of the starter with other weights: how like they are to those of its own, and what the classifier sees."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from core.resources import resource

_ROUND = 16  # pictures
_FULL = "full weights"


def ssim(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The structural similarity of pictures [n, 3, H, W] in 0..1, as [n].

    Window and constants are those of Wang, Bovik, Sheikh and Simoncelli (2004): a Gaussian of 11 x 11 with a deviation
    of 1.5, K1 = 0.01, K2 = 0.03, on luminance (here BT.601's), averaged over the places where the window fits.
    """
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    x, y = (one * weights).sum(1, keepdim=True), (other * weights).sum(1, keepdim=True)
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = (line / line.sum()).outer(line / line.sum()).view(1, 1, 11, 11)

    def mean(values: torch.Tensor) -> torch.Tensor:
        return F.conv2d(values, window)

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    found = (2 * mx * my + c1) * (2 * both + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return found.mean((1, 2, 3))


def pictures(names: Sequence[str], work: Path, count: int, ends: float) -> Iterator[dict[str, dict[str, Any]]]:
    """What is known of the pictures of each variant, after each round; ends with time.monotonic() past `ends`."""
    studio = _Studio(work)
    order = {name: work / f"{name.replace(' ', '-')}.gguf" for name in names}
    for start in range(0, count, _ROUND):
        studio.round(_FULL, None, start)
        for name, file in order.items():
            if time.monotonic() > ends:
                return
            studio.round(name, file, start)
        found = {name: studio.judged(file, start + _ROUND) for name, file in order.items()}
        yield {**found, _FULL: {"one_step_error": 0.0, **studio.judged(None, start + _ROUND)}}


class _Studio:
    """The stock pipeline in float32, whose transformer takes other weights; makes no picture twice."""

    def __init__(self, work: Path) -> None:
        sys.path.insert(0, str(resource("starter", "recipe")))
        import evaluate

        self._recipe, self._work = evaluate, work
        self._pipeline = evaluate.load_pipeline(resource("starter", "model"))
        self._own = {name: value.clone() for name, value in self._pipeline.transformer.state_dict().items()}
        self._asked = evaluate.prompts(512)

    def round(self, name: str, file: Path | None, start: int) -> None:
        """Make `_ROUND` pictures from prompt `start` on, if they are not there."""
        path = self._file(file, start)
        if path.is_file():
            return
        from tests.bench.bench_quality import weights_in

        self._pipeline.transformer.load_state_dict(self._own | (weights_in(file) if file is not None else {}))
        texts = [text for _, text in self._asked[start : start + _ROUND]]
        began = time.monotonic()
        made = self._recipe.make(self._pipeline, texts, 12, self._recipe.SEED + start)
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.stack([np.asarray(picture) for picture in made]))
        print(f"{name}: pictures {start} to {start + _ROUND} in {time.monotonic() - began:.0f} s", flush=True)

    def judged(self, file: Path | None, count: int) -> dict[str, Any]:
        """SSIM against the full weights' pictures, and the shares of attributes named right, of the first `count`."""
        from PIL import Image

        mine, full = (
            np.concatenate([np.load(self._file(which, start)) for start in range(0, count, _ROUND)])
            for which in (file, None)
        )
        scenes = [scene for scene, _ in self._asked[:count]]
        named = self._recipe.judge([Image.fromarray(picture) for picture in mine], scenes)
        likeness = ssim(_numbers(mine), _numbers(full))
        return {
            "pictures": count,
            "ssim": float(likeness.mean()),
            "ssim_worst": float(likeness.min()),
            "attributes": {key: round(value, 4) for key, value in named.items()},
            "attribute_accuracy": sum(named[key] for key in self._recipe.TARGETS) / len(self._recipe.TARGETS),
        }

    def _file(self, file: Path | None, start: int) -> Path:
        """By the weights, since several variants may come out the same."""
        key = json.dumps([start, self._content(file) if file is not None else ""])
        return self._work / "pictures" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"

    def _content(self, file: Path) -> str:
        from core.models.gguf_header import read_gguf

        data, digest = file.read_bytes(), hashlib.sha256()
        for name, found in sorted(read_gguf(file).tensors.items()):
            digest.update(f"{name} {found.type} {found.shape}".encode())
            digest.update(data[found.start : found.end])
        return digest.hexdigest()


def _numbers(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255)
