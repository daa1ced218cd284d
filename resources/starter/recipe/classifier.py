"""The judge: a small convolutional network trained only on the drawing program, which names what a picture shows.

    python classifier.py --steps 1600      # trains, resumable; writes classifier.safetensors (fp16) beside itself

One head an attribute (softmax) and one for the things in the sky (a sigmoid each). It never sees a picture made by the
model, and held-out pairs are as common in its training as any other.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import torch
import torch.nn.functional as functional
from common import Log, MatrixOptimizer, load_checkpoint, parser_with_work, prepare, save_checkpoint
from draw import draw
from safetensors.torch import load_file, save_file
from scene import SKY, VOCABULARY, Scene, random_scene
from torch import nn
from train_vae import one_cycle
from vae import to_tensor

WEIGHTS = Path(__file__).parent / "classifier.safetensors"
SINGLE = ("place", "time", "object", "colour", "style")


class Classifier(nn.Module):
    """[B, 3, 128, 128] in -1..1 to logits: one [B, n] per attribute of SINGLE, and [B, 7] for the sky."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 24, 4, stride=4)]
        for before, after, stride in ((24, 24, 1), (24, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1), (96, 160, 2)):
            layers += [nn.GroupNorm(8, before), nn.SiLU(), nn.Conv2d(before, after, 3, stride=stride, padding=1)]
        self.features = nn.Sequential(*layers, nn.GroupNorm(8, 160), nn.SiLU())
        self.hidden = nn.Sequential(nn.Linear(160 * 16, 256), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(VOCABULARY[name])) for name in SINGLE})
        self.sky = nn.Linear(256, len(SKY))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.hidden(self.features(x).flatten(1))
        return {**{name: head(h) for name, head in self.heads.items()}, "sky": self.sky(h)}


def labels(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """Class numbers i64 [B] per attribute, and f32 [B, 7] for the sky."""
    result = {name: torch.tensor([VOCABULARY[name].index(s.value(name)) for s in scenes]) for name in SINGLE}
    result["sky"] = torch.tensor([[float(thing in s.sky) for thing in SKY] for s in scenes])
    return result


def loss_of(logits: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> torch.Tensor:
    singles = sum(functional.cross_entropy(logits[name], truth[name]) for name in SINGLE)
    return singles + 2.0 * functional.binary_cross_entropy_with_logits(logits["sky"], truth["sky"])


def batch_of(rng: random.Random, count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    scenes = [random_scene(rng) for _ in range(count)]
    return to_tensor([draw(s) for s in scenes]), labels(scenes)


def disturbed(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The pictures with a little noise, blur or shift of brightness: the judge shall read shapes, not exact pixels."""
    b = len(x)
    x = x + torch.randn(b, 1, 1, 1, generator=generator) * 0.06
    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    amount = torch.rand(b, 1, 1, 1, generator=generator) * (torch.rand(b, 1, 1, 1, generator=generator) < 0.4)
    x = x + amount * (blurred - x)
    return x + torch.randn(x.shape, generator=generator) * 0.08 * torch.rand(b, 1, 1, 1, generator=generator)


def load() -> Classifier:
    """The trained classifier, in f32 and ready to judge."""
    model = Classifier()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return model.eval()


@torch.inference_mode()
def accuracy(model: Classifier, count: int = 1000, seed: int = 880_001) -> dict[str, float]:
    """Fractions of freshly drawn pictures named right, per attribute; for the sky, of all its yes-or-no answers."""
    rng = random.Random(seed)
    right = dict.fromkeys((*SINGLE, "sky"), 0.0)
    for _ in range(count // 50):
        x, truth = batch_of(rng, 50)
        out = model(x)
        for name in SINGLE:
            right[name] += float((out[name].argmax(1) == truth[name]).float().mean())
        right["sky"] += float(((out["sky"] > 0) == (truth["sky"] > 0.5)).float().mean())
    return {name: value / (count // 50) for name, value in right.items()}


def train(work: Path, steps: int, batch: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = Classifier()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 4 or name.startswith("hidden.0.w")]
    matrices = [p for p in matrices if p.shape[1] != 3]
    inner = {id(p) for p in matrices}
    optimizer = MatrixOptimizer(matrices, [p for p in model.parameters() if id(p) not in inner], 0.02)
    path, start = work / "classifier.pt", 0
    state = load_checkpoint(path)
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])
    log = Log(work / "classifier-log.jsonl")
    began = time.time()
    for step in range(start, steps):
        x, truth = batch_of(random.Random(seed * 15_485_863 + step), batch)
        x = disturbed(x, torch.Generator().manual_seed(seed + step)).contiguous(memory_format=torch.channels_last)
        loss = loss_of(model(x), truth)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step(one_cycle(step, steps, 2e-3))
        if step % 100 == 99:
            log.write(step=step + 1, loss=round(loss.item(), 4), seconds=round(time.time() - began, 1))
            save_checkpoint(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
    model.eval()
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, WEIGHTS)
    WEIGHTS.chmod(0o644)
    log.write(step=steps, **{f"accuracy_{name}": round(value, 4) for name, value in accuracy(load()).items()})


def main() -> None:
    parser = parser_with_work(__doc__)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    train(prepare(args), args.steps, args.batch, args.seed)


if __name__ == "__main__":
    main()
