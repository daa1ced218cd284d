"""What errors in a denoiser's weights do to its output: the one-step error, and how much each tensor has to do with it.

A short real run of the model's own blocks gives the inputs of the denoiser (latents, timesteps, what the encoders made
of prompts). With these held fixed, its output is compared between the weights as they are and changed ones, which ranks
formats where pictures cannot: two engines' pictures differ more than two formats of one engine.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import nn
from torch.utils import _pytree as pytree

from core.generation.interrupt import Interrupt
from core.generation.pipeline import build
from core.generation.preview import Previewer
from core.generation.run import Run
from core.hardware.accelerator import TorchAccelerator
from core.messages import Phase, Request
from core.models.check import resolve
from core.models.info import ModelInfo
from core.precision.codec import decode, encode
from core.precision.formats import FORMATS

# Plain scenes of different subjects, light and style, which any model that reads English can picture.
PROMPTS = (
    "a red house by the sea at sunset",
    "a blue boat on a lake in the morning, flat colours",
    "a green tree on a hill under the stars, ink drawing",
    "a yellow car in a city at night",
    "a white castle in the mountains in winter, snow",
    "a purple flower in a desert at noon",
    "an orange windmill in a field under clouds, pixel art",
    "a black bird over a forest at dusk",
)
# Others, to judge by what nothing was fitted to.
HELD_OUT = (
    "a pink lighthouse on a cliff at dawn",
    "a red balloon over the mountains, watercolour",
    "a blue house in a forest at night, stars above",
    "a yellow boat by the sea under a rainbow",
    "a green car in a desert at sunset, flat colours",
    "a white windmill on a hill in winter",
    "a black tower in a city at noon, ink drawing",
    "an orange tree by a lake in the evening",
)
_SEED, _HELD_OUT_SEED = 41_000, 42_000
_SIDE = 512  # pixels, at most: a weight meets every token, and a thousand of them say what it does
_STEPS = 12  # of a run, at most; more only move the timesteps that are kept a little
_KEPT = 4  # timesteps of each run, evenly spaced, the first among them
WIDEST = 4096  # columns of a layer whose inputs' moments are kept: 67 MB

Tick = Callable[[float], None]
"""Told the share that is done, 0 to 1; may raise to stop."""


@dataclass(frozen=True)
class Call:
    """One call of a network, with its inputs as they came."""

    network: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class OneStep:
    """A model's denoiser at fixed inputs, computed in float32 on the CPU."""

    def __init__(
        self, model: ModelInfo, prompts: Sequence[str] = PROMPTS, first_seed: int = _SEED, side: int = _SIDE
    ) -> None:
        """Run the model for each prompt, from seeds that count up from `first_seed`, and keep what its denoiser got.

        Args:
            side: of a picture, in pixels; the model's own where that is smaller.

        Raises:
            UserError: diffusers has no modular blocks for this family.
            ModelFileError: a file of the model is missing or damaged.
        """
        self._side = side
        self._pipeline = build(model, TorchAccelerator("cpu", "CPU"))
        everything = {name for group in self._pipeline.phases for name in group.networks if group.phase != Phase.DECODE}
        self._networks = {name: self._opened(name) for name in everything}
        self._pipeline.attach(self._networks, {})
        self.denoisers = self._pipeline.phase(Phase.DENOISE).networks
        self._look(prompts, first_seed)

    def again(
        self, prompts: Sequence[str] = HELD_OUT, first_seed: int = _HELD_OUT_SEED, steps: int | None = None
    ) -> OneStep:
        """The same networks at the inputs that other prompts and seeds give; or another number of steps, too."""
        other = copy.copy(self)
        other._look(prompts, first_seed, steps)
        return other

    def weights(self, network: str) -> dict[str, torch.Tensor]:
        """The weights of a denoiser's linear layers, which a packed format may hold, by their name in it."""
        return {
            f"{name}.weight": layer.weight.detach()
            for name, layer in self._networks[network].named_modules()
            if type(layer) is nn.Linear
        }

    @torch.no_grad()
    def error(self, changed: Mapping[str, Mapping[str, torch.Tensor]]) -> float:
        """||output - reference|| / ||reference|| over all calls, with some weights changed.

        Args:
            changed: by network and name, other numbers in the same shape.
        """
        with self._with(changed):
            squares = sum(
                float((self._output(call) - reference).square().sum())
                for call, reference in zip(self.calls, self._reference, strict=True)
            )
        return math.sqrt(squares / self._power)

    def curvature(self, tick: Tick = lambda share: None) -> dict[str, dict[str, torch.Tensor]]:
        """How much the output moves with each weight: the sum over outputs of (d output / d weight)^2 / ||output||^2.

        An error d of the weights with independent entries then costs sum(curvature * d^2) of squared relative one-step
        error. Estimated with Hutchinson's random signs: of a weighted sum of the outputs with signs s the squared
        gradient is, in the mean, the sum of the squared derivatives. One set of signs for each call is enough, since a
        tensor's error adds up over thousands of entries (`tests/bench/bench_quality.py` compares with direct probing).

        Returns:
            By network and name, for the weights of linear layers, in their shapes.
        """
        chance = torch.Generator().manual_seed(_SEED)
        found: dict[str, dict[str, torch.Tensor]] = {}
        for denoiser in self.denoisers:
            found[denoiser] = {name: torch.zeros_like(weight) for name, weight in self.weights(denoiser).items()}
        for number, call in enumerate(self.calls):
            tick(number / len(self.calls))
            network = self._networks[call.network]
            weights = {name: network.get_parameter(name) for name in found[call.network]}
            for weight in weights.values():
                weight.requires_grad_(True)
            try:
                with torch.enable_grad():
                    output = self._output(call)
                    signs = torch.randint(0, 2, output.shape, generator=chance).mul_(2).sub_(1)
                    gradients = torch.autograd.grad((output * signs).sum(), list(weights.values()), allow_unused=True)
            finally:
                for weight in weights.values():
                    weight.requires_grad_(False)
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    found[call.network][name].addcmul_(gradient, gradient, value=1 / self._power)
        return found

    @torch.no_grad()
    def moments(self, calls: Sequence[Call]) -> dict[str, dict[str, torch.Tensor]]:
        """What linear layers are given in some calls: the mean of x x^T over all x, as float32 [d, d].

        Returns:
            By network and the name of a layer's weights, which have rows of d. Without layers wider than 4096, whose
            squares would take more room than they win, and those that are given nothing.
        """
        sums: dict[str, dict[str, torch.Tensor]] = {denoiser: {} for denoiser in self.denoisers}
        counts: dict[tuple[str, str], int] = {}

        def listen(network: str, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
                if not args:
                    return
                given = args[0].reshape(-1, args[0].shape[-1]).float()
                found = sums[network].setdefault(name, torch.zeros(given.shape[1], given.shape[1]))
                found.addmm_(given.T, given)
                counts[network, name] = counts.get((network, name), 0) + len(given)

            return hook

        hooks = [
            layer.register_forward_pre_hook(listen(network, f"{name}.weight"))
            for network in self.denoisers
            for name, layer in self._networks[network].named_modules()
            if type(layer) is nn.Linear and layer.in_features <= WIDEST
        ]
        try:
            for call in calls:
                self._output(call)
        finally:
            for hook in hooks:
                hook.remove()
        for network, found in sums.items():
            for name in found:
                found[name].div_(max(1, counts[network, name]))
        return sums

    # ---------------------------------------------------------------------------------------------------------------

    def _opened(self, name: str) -> nn.Module:
        return self._pipeline.open(name, "F32", lambda share: None).module

    @torch.no_grad()
    def _look(self, prompts: Sequence[str], first_seed: int, steps: int | None = None) -> None:
        """Take the calls of runs as inputs, and what comes out for reference.

        `calls` are those of some timesteps. `halves` are of other prompts and timesteps each, together of all.
        """
        self.calls: list[Call] = []
        self.halves: tuple[list[Call], list[Call]] = ([], [])
        for number, prompt in enumerate(prompts):
            request = Request(prompt=prompt, model=str(self._pipeline.info.source), seed=first_seed + number)
            taken = self._one_run(request, steps)
            kept = {len(taken) * place // _KEPT for place in range(_KEPT)}
            for step, calls in enumerate(taken):
                self.calls += calls if step in kept else []
                if len(prompts) == 1:
                    self.halves[step % 2].extend(calls)
                elif step % 2 == number % 2 or len(taken) == 1:
                    self.halves[number % 2].extend(calls)
        self._reference = [self._output(call) for call in self.calls]
        self._power = sum(float(output.square().sum()) for output in self._reference)

    def _one_run(self, request: Request, steps: int | None) -> list[list[Call]]:
        """The calls of each timestep; guidance makes two."""
        model = self._pipeline.info
        wanted = resolve(request, model)
        side = max(model.size_multiple, self._side // model.size_multiple * model.size_multiple)
        wanted = msgspec.structs.replace(
            wanted,
            steps=steps or min(wanted.steps or _STEPS, _STEPS),
            width=min(wanted.width or side, side),
            height=min(wanted.height or side, side),
            frames=model.clip.temporal + 1 if model.clip is not None else wanted.frames,
        )
        run = Run(
            wanted,
            self._pipeline,
            Previewer(model),
            Interrupt(),
            {name: component.format for name, component in model.networks.items()},
        )
        calls: list[Call] = []
        with _listening({name: self._networks[name] for name in self.denoisers}, calls):
            run.encode(None)
            run.run_blocks(self._pipeline.phase(Phase.DENOISE).blocks.values())
        each = max(1, len(calls) // (wanted.steps or 1))
        return [calls[first : first + each] for first in range(0, len(calls), each)]

    def _output(self, call: Call) -> torch.Tensor:
        """All numbers that a call gives [n]."""
        result = self._networks[call.network](*call.args, **call.kwargs)
        tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        return torch.cat([tensor.flatten().float() for tensor in tensors])

    @contextmanager
    def _with(self, changed: Mapping[str, Mapping[str, torch.Tensor]]) -> Iterator[None]:
        before: list[tuple[nn.Parameter, torch.Tensor]] = []
        try:
            for network, tensors in changed.items():
                for name, tensor in tensors.items():
                    parameter = self._networks[network].get_parameter(name)
                    before.append((parameter, parameter.data))
                    parameter.data = tensor.to(parameter.dtype).reshape(parameter.shape)
            yield
        finally:
            for parameter, data in reversed(before):
                parameter.data = data


def losses(
    weights: Mapping[str, torch.Tensor],
    curvature: Mapping[str, torch.Tensor],
    formats: Sequence[str],
    tick: Tick = lambda share: None,
) -> dict[str, dict[str, float]]:
    """Squared relative one-step error that each format of each tensor is expected to cost.

    Args:
        formats: to try; a tensor whose rows do not divide into a format's blocks goes without it.
    """
    found: dict[str, dict[str, float]] = {}
    for number, (name, weight) in enumerate(weights.items()):
        tick(number / max(1, len(weights)))
        found[name] = {}
        for stored in formats:
            if FORMATS[stored].takes(tuple(weight.shape)):
                again = decode(encode(weight, stored), stored, weight.shape)
                found[name][stored] = float((curvature[name] * (again - weight).square()).sum())
    return found


@contextmanager
def _listening(networks: Mapping[str, nn.Module], calls: list[Call]) -> Iterator[None]:
    """Copies of what the networks are called with are appended to `calls` meanwhile."""

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            copied = pytree.tree_map(
                lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, (args, kwargs)
            )
            calls.append(Call(name, *copied))

        return hook

    hooks = [network.register_forward_pre_hook(keep(name), with_kwargs=True) for name, network in networks.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
