"""What a picture will look like before it is decoded: a linear map from latents to colours.

The map comes with the model (the starter's is fitted in its recipe) or is fitted by least squares to the first picture
that a model makes here, and kept in the cache folder: latents and a picture of the same place are all that it takes.
"""

from __future__ import annotations

import json

import torch
from PIL import Image

from core import folders
from core.files import write_atomically
from core.models.info import ModelInfo

# Schedulers whose steps are Euler's: along the sampling path the clean latents are then x - sigma * dx/dsigma.
_EULER = ("FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")

_MULTISTEP = ("UniPCMultistepScheduler",)  # Wan's


def clean_estimate(scheduler: object, before: torch.Tensor, after: torch.Tensor, step: int) -> torch.Tensor:
    """The clean latents as one Euler step sees them.

    With x = (1 - sigma) x0 + sigma e (flow matching) as with x = x0 + sigma e, x0 = x - sigma dx/dsigma; the slope is
    taken from the two ends of the step. Schedulers of several steps keep what the network took for clean; others'
    latents are returned as they are.

    Args:
        scheduler: diffusers' scheduler, with its `sigmas` set.
        before, after: latents of any one shape around the step.
        step: its index.
    """
    if type(scheduler).__name__ in _MULTISTEP and getattr(scheduler, "predict_x0", False):
        kept = scheduler.model_outputs[-1]  # type: ignore[attr-defined]
        return kept if isinstance(kept, torch.Tensor) and kept.shape == after.shape else after
    sigmas = getattr(scheduler, "sigmas", None)
    if type(scheduler).__name__ not in _EULER or sigmas is None or step + 1 >= len(sigmas):
        return after
    here, there = float(sigmas[step]), float(sigmas[step + 1])
    return after if here == there else after - there * (after - before) / (there - here)


class Previewer:
    """The map of one model; grey until there is one."""

    def __init__(self, model: ModelInfo) -> None:
        self._file = folders.cache() / "previews" / f"{model.fingerprint[:32]}.json"
        self._factors: torch.Tensor | None = None
        self._bias = torch.zeros(3)
        if model.preview is not None:
            self._factors = torch.tensor(model.preview.latent_rgb_factors)
            self._bias = torch.tensor(model.preview.latent_rgb_bias)
        else:
            self._read()
        self._kept = self.known

    @property
    def known(self) -> bool:
        """Whether there is a map."""
        return self._factors is not None

    def paint(self, latents: torch.Tensor) -> tuple[int, int, bytes]:
        """Latents [1, C, H, W] as (W, H, RGB bytes); of [1, C, F, H, W] the first frame's."""
        grid = _grid(latents)
        if self._factors is not None and self._factors.shape[0] == grid.shape[-1]:
            colours = grid @ self._factors + self._bias
        else:
            # no map yet: the first principal component shows shapes, in grey and without a promise of colour
            flat = grid.reshape(-1, grid.shape[-1])
            centred = flat - flat.mean(0)
            axis = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
            grey = (centred @ axis).reshape(grid.shape[:2])
            colours = (grey / (4 * grey.std() + 1e-6) + 0.5).unsqueeze(-1).expand(-1, -1, 3)
        pixels = (colours.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
        height, width, _ = pixels.shape
        return width, height, pixels.numpy().tobytes()

    def fit(self, latents: torch.Tensor, image: Image.Image, *, keep: bool) -> None:
        """Learn the map from final latents [1, C, H, W] or [1, C, F, H, W] and the picture or first frame of them.

        With `keep` (a full picture, not a draft) the map is written down, and is then the model's for good.
        """
        if self._kept:
            return
        grid = _grid(latents)
        height, width, channels = grid.shape
        small = image.convert("RGB").resize((width, height), Image.Resampling.BOX)
        colours = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).reshape(-1, 3).float() / 255
        rows = torch.cat([grid.reshape(-1, channels), torch.ones(height * width, 1)], dim=1)
        # a touch of ridge keeps the map small where a picture of one colour says nothing about a channel
        ridge = 1e-3 * height * width * torch.eye(channels + 1)
        solution = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ colours)
        self._factors, self._bias = solution[:-1], solution[-1]
        if keep:
            self._kept = True
            self._write()

    def _read(self) -> None:
        try:
            data = json.loads(self._file.read_text())
            factors, bias = torch.tensor(data["latent_rgb_factors"]), torch.tensor(data["latent_rgb_bias"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        if factors.ndim == 2 and factors.shape[1] == 3 and bias.shape == (3,):
            self._factors, self._bias = factors, bias

    def _write(self) -> None:
        assert self._factors is not None
        data = {"latent_rgb_factors": self._factors.tolist(), "latent_rgb_bias": self._bias.tolist()}
        try:
            write_atomically(self._file, lambda file: file.write(json.dumps(data).encode()))
        except OSError:
            pass  # it can be fitted again


def _grid(latents: torch.Tensor) -> torch.Tensor:
    """Latents [1, C, H, W] or [1, C, F, H, W] as [H, W, C] f32 on the host; of a clip, the first frame's."""
    first = latents[0].detach().float().cpu()
    if first.ndim == 4:
        first = first[:, 0]
    return first.permute(1, 2, 0)
