"""Train transformer and text encoders together by flow matching on stored latents. Resumable: run it again.

    torchrun --nproc-per-node 2 train.py --threads 1 --stage base --samples 240000
    torchrun --nproc-per-node 2 train.py --threads 1 --stage guided --samples 60000    # bakes guidance in

Conventions are FluxPipeline's: x_t = (1 - t) * picture + t * noise, the model is told t (the pipeline's timestep over
1000) and predicts noise - picture. Matrices inside blocks are trained by Muon, everything else by AdamW.

The guided stage distils classifier-free guidance (Meng et al. 2023, "On Distillation of Guided Diffusion Models", arXiv
2210.03142): the base stage's average, frozen, says what it would do with and without the text, and the model learns to
give the guided sum in one pass. Its targets carry no noise of their own, so this stage is short.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import torch
from captions import caption
from common import Average, Log, MatrixOptimizer, load_checkpoint, parser_with_work, prepare, save_checkpoint
from make_data import read_latents
from make_tokenizers import load as load_tokenizers
from model import Starter, pack
from parallel import Group
from scene import Scene
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

BATCH = 48  # samples a step, over all processes
PEAK_RATE = {"base": 2e-3, "guided": 5e-4}
MATRIX_FACTOR = 2.0  # Muon's rate as a multiple of AdamW's
GUIDANCE = 2.8  # the guidance scale that the guided stage bakes in
# How often the base stage gives CLIP a caption of its own for the same scene. What one encoder leaves out the other may
# say, so that the model learns to put attributes together that never came in one text.
APART_CHANCE = 0.5
# T5 lengths in training and their chances. Short ones are cheap and hold nearly every caption; the pipeline pads to 64
# in our use and to 512 by default, without a mask, so the model must know those too.
LENGTHS = ((36, 0.62), (64, 0.335), (128, 0.03), (256, 0.01), (512, 0.005))


def split_parameters(starter: Starter) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(matrices of all blocks, the rest: embeddings, norms, biases, input and output layers)."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, p in starter.named_parameters():
        inner = "blocks" in name or ".layers." in name or ".block." in name
        (matrices if p.ndim == 2 and inner and "relative_attention_bias" not in name else rest).append(p)
    return matrices, rest


def rate(done: int, samples: int, peak: float) -> float:
    """Learning rate after `done` of `samples` samples: a short rise, then a straight fall to a twentieth."""
    t = min(1.0, done / samples)
    return peak * min(1.0, (done + BATCH) / min(10_000, samples / 20)) * (1.0 - 0.95 * t)


def noise_levels(count: int, generator: torch.Generator) -> torch.Tensor:
    """t in 0..1, logit-normal, moved a little towards noise, where the composition is decided."""
    t = torch.sigmoid(torch.randn(count, generator=generator))
    return 1.4 * t / (1 + 0.4 * t)


def captions_of(scene: Scene, stage: str, rng: random.Random) -> tuple[str, str]:
    """(text for CLIP, text for T5) of a scene: mostly one text, as in use; see APART_CHANCE."""
    text = caption(scene, rng)
    if stage == "base" and rng.random() < APART_CHANCE:
        return caption(scene, rng), text
    return text, text


def step_loss(
    starter: Starter,
    teacher: Starter | None,
    latents: torch.Tensor,
    texts: list[tuple[str, str]],
    length: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Flow-matching loss of one batch of (text for CLIP, text for T5); with a teacher, the distance to its guided
    velocity instead.
    """
    x = pack(latents)
    noise = torch.randn(x.shape, generator=generator)
    t = noise_levels(len(x), generator)
    x_t = x + t[:, None, None] * (noise - x)
    target = noise - x
    clip_ids, t5_ids = starter.tokens([a for a, _ in texts], [b for _, b in texts], length)
    # For these short sequences the plain matrix form of attention has the faster backward pass on a CPU.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        if teacher is not None:
            with torch.no_grad():
                empty = teacher.encode(*teacher.tokens([""], [""], length))
                with_text = teacher.velocity(x_t, t, *teacher.encode(clip_ids, t5_ids)).float()
                without = teacher.velocity(x_t, t, empty[0].expand(len(x), -1), empty[1].expand(len(x), -1, -1)).float()
            scale = torch.tensor([GUIDANCE if any(pair) else 1.0 for pair in texts])[:, None, None]
            target = without + scale * (with_text - without)
        out = starter.velocity(x_t, t, *starter.encode(clip_ids, t5_ids))
    return (out.float() - target).square().mean()


def train(work: Path, stage: str, samples: int, seed: int, minutes: float) -> None:
    group = Group()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # despite its name it also holds for the CPU
    tokenizers = load_tokenizers(work)
    torch.manual_seed(seed)
    starter = Starter(*tokenizers)
    path = work / f"starter-{stage}.pt"
    momentum_path = work / f"starter-{stage}-rank{group.rank}.pt"
    teacher = Starter(*tokenizers).requires_grad_(False) if stage == "guided" else None
    if teacher is not None:
        base = load_checkpoint(work / "starter-base.pt")
        assert base is not None, "train the base stage first"
        for model in (teacher, starter):
            model.load_state_dict(base["ema"]["shadow"], strict=False)
    average = Average(starter, 0.999 if stage == "base" else 0.998)
    everything = list(starter.parameters())
    matrices, rest = split_parameters(starter)
    optimizer = MatrixOptimizer(group.mine(matrices), rest, 0.01)
    done, steps = 0, 0
    state, momentum = load_checkpoint(path), load_checkpoint(momentum_path)
    if state is not None:
        starter.load_state_dict(state["model"])
        average.load_state_dict(state["ema"])
        done, steps = int(state["samples"]), int(state["step"])
        if momentum is not None:
            optimizer.load_state_dict(momentum)
    latents, scenes = read_latents(work)
    log = Log(work / "train-log.jsonl")
    if group.first:
        print(
            f"{sum(p.numel() for p in everything):,} parameters, {len(scenes):,} pictures, from sample {done:,}",
            flush=True,
        )
    began = seen_at = time.time()
    seen, losses = 0, []

    def save() -> None:
        if group.first:
            state: dict[str, Any] = {
                "model": starter.state_dict(),
                "ema": average.state_dict(),
                "samples": done,
                "step": steps,
            }
            save_checkpoint(path, state)
        save_checkpoint(momentum_path, optimizer.state_dict())

    while done < samples:
        # Everything random in a step comes from the step's number, so that a resumed run goes on as it would have.
        rng = random.Random(seed * 7_919 + steps)
        length = rng.choices([n for n, _ in LENGTHS], [c for _, c in LENGTHS])[0]
        share = (BATCH if length <= 64 else max(6, BATCH * 128 // (64 + length))) // group.size
        rng = random.Random(f"{seed} {steps} {group.rank}")
        generator = torch.Generator().manual_seed((seed * 104_729 + steps) * 64 + group.rank)
        chosen = [rng.randrange(len(scenes)) for _ in range(share)]
        texts = [captions_of(scenes[i], stage, rng) for i in chosen]
        loss = step_loss(starter, teacher, latents[chosen].float(), texts, length, generator)
        loss.backward()
        group.average_gradients(everything)
        nn.utils.clip_grad_norm_(everything, 1.0)
        optimizer.step(rate(done, samples, PEAK_RATE[stage]), MATRIX_FACTOR)
        starter.zero_grad(set_to_none=True)
        group.share(matrices)
        average.update(starter)
        steps += 1
        done += share * group.size
        seen += share * group.size
        losses.append(loss.item())
        if steps % 50 == 0 and group.first:
            now = time.time()
            log.write(
                stage=stage,
                step=steps,
                samples=done,
                loss=round(sum(losses) / len(losses), 5),
                pictures_per_second=round(seen / (now - seen_at), 1),
                rate=round(rate(done, samples, PEAK_RATE[stage]), 6),
            )
            seen_at, seen, losses = now, 0, []
        if steps % 200 == 0:
            save()
        if minutes > 0 and steps % 10 == 0 and group.agree(time.time() - began > minutes * 60):
            break
    save()
    group.close()


def main() -> None:
    parser = parser_with_work(__doc__)
    parser.add_argument("--stage", choices=("base", "guided"), default="base")
    parser.add_argument("--samples", type=int, default=240_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop (with a checkpoint) after so long; 0: never")
    args = parser.parse_args()
    train(prepare(args), args.stage, args.samples, args.seed, args.minutes)


if __name__ == "__main__":
    main()
