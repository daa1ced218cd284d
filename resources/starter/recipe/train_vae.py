"""Train the autoencoder on freshly drawn pictures. Resumable: run it again and it goes on.

    torchrun --nproc-per-node 2 train_vae.py --threads 1                  # encoder and decoder
    torchrun --nproc-per-node 2 train_vae.py --threads 1 --stage decoder  # then the decoder alone, the encoder frozen

The latents are made easy for the transformer in three ways: a light KL term, a cap on the posterior's sharpness (the
decoder always sees noise of at least a tenth of a latent's spread, so small errors of the transformer do not show), and
no attention, which keeps a latent local.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import torch
from common import Average, Log, MatrixOptimizer, load_checkpoint, parser_with_work, prepare, save_checkpoint
from diffusers import AutoencoderKL
from parallel import Group
from vae import build_vae, psnr, random_pictures, reconstruction_loss

PEAK_RATE = {"whole": 3e-3, "decoder": 1.5e-3}
KL_WEIGHT = 1e-3
NOISE = 0.1  # of a latent's spread, added before decoding


def one_cycle(step: int, steps: int, peak: float) -> float:
    """The learning rate: up over the first 6 % of the steps, then down along a cosine to 1 % of the peak."""
    rise = max(1, int(steps * 0.06))
    if step < rise:
        return peak * (step + 1) / rise
    t = min(1.0, (step - rise) / max(1, steps - rise))
    return peak * (0.01 + 0.99 * float(0.5 * (1 + torch.cos(torch.tensor(t * 3.14159265)))))


@torch.no_grad()
def measure(vae: AutoencoderKL, count: int = 64) -> float:
    """Reconstruction PSNR in dB over freshly drawn pictures no training step has seen (a seed of their own)."""
    rng = random.Random(990_001)
    values = []
    for _ in range(count // 16):
        x = random_pictures(rng, 16).contiguous(memory_format=torch.channels_last)
        values.append(psnr(vae.decode(vae.encode(x).latent_dist.mode()).sample, x))
    return sum(values) / len(values)


@torch.no_grad()
def fit_scale(vae: AutoencoderKL, count: int = 512) -> tuple[float, float]:
    """(shift, scale) which give the latents of drawn pictures zero mean and unit variance."""
    rng = random.Random(990_002)
    z = torch.cat([vae.encode(random_pictures(rng, 16)).latent_dist.mode() for _ in range(count // 16)])
    return float(z.mean()), float(1 / z.std())


def main() -> None:
    parser = parser_with_work(__doc__)
    parser.add_argument("--stage", choices=("whole", "decoder"), default="whole")
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=8, help="pictures a step, over all processes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-autocast", action="store_true", help="compute in f32 throughout")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop (with a checkpoint) after so long; 0: never")
    args = parser.parse_args()
    work = prepare(args)
    train(work, args.stage, args.steps, args.batch, args.seed, not args.no_autocast, args.minutes)


def train(work: Path, stage: str, steps: int, batch: int, seed: int, autocast: bool, minutes: float) -> None:
    group = Group()  # pictures are channels_last, weights stay contiguous, so that Muon can see them as matrices
    torch.manual_seed(seed)
    vae = build_vae()
    path = work / f"vae-{stage}.pt"
    first = load_checkpoint(work / "vae-whole.pt") if stage == "decoder" else None
    if stage == "decoder":
        assert first is not None, "train the whole autoencoder first"
        vae.load_state_dict(first["ema"]["shadow"])
        vae.encoder.requires_grad_(False)
    trained = [p for p in vae.parameters() if p.requires_grad]
    edges = {id(p) for layer in (vae.encoder.conv_in, vae.decoder.conv_out) for p in layer.parameters()}
    matrices = [p for p in trained if p.ndim == 4 and id(p) not in edges]
    optimizer = MatrixOptimizer(matrices, [p for p in trained if p.ndim != 4 or id(p) in edges], 0.0)
    average = Average(vae, 0.998)
    start = 0
    state = load_checkpoint(path)
    if state is not None:
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["ema"])
        start = int(state["step"])
    torch.manual_seed(seed * 1_000 + group.rank + 17 * start)  # the same weights everywhere, other noise

    def save(step: int) -> None:
        if not group.first:
            return
        save_checkpoint(
            path,
            {
                "model": vae.state_dict(),
                "optimizer": optimizer.state_dict(),
                "ema": average.state_dict(),
                "step": step,
                "steps": steps,
            },
        )

    log = Log(work / "vae-log.jsonl")
    began = time.time()
    seen_at = began
    for step in range(start, steps):
        rng = random.Random(seed * 1_000_003 + step * 64 + group.rank * 2 + (1 if stage == "decoder" else 0))
        x = random_pictures(rng, batch // group.size).contiguous(memory_format=torch.channels_last)
        rate = one_cycle(step, steps, PEAK_RATE[stage])
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            with torch.set_grad_enabled(stage == "whole"):
                mean, log_variance = vae.encoder(x).float().chunk(2, dim=1)
                log_variance = log_variance.clamp(-12, 4)
                kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
                if stage == "whole":
                    z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
                else:
                    z = mean
                z = z + NOISE * torch.rand(len(z), 1, 1, 1) * z.detach().std() * torch.randn_like(z)
            out = vae.decoder(z)
        loss = reconstruction_loss(out.float(), x)
        total = loss + KL_WEIGHT * kl if stage == "whole" else loss
        total.backward()
        group.average_gradients(trained)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step(rate)
        average.update(vae)
        if step % 50 == 49 and group.first:
            now = time.time()
            log.write(
                stage=stage,
                step=step + 1,
                pictures=(step + 1) * batch,
                loss=round(loss.item(), 5),
                kl=round(kl.item(), 4),
                seconds_per_step=round((now - seen_at) / 50, 4),
                rate=round(rate, 6),
            )
            seen_at = now
        last = step + 1 == steps
        if minutes > 0 and step % 10 == 9:
            last = group.agree(last or time.time() - began > minutes * 60)
        if step % 250 == 249 or last:
            save(step + 1)
        if (step % 500 == 499 or last) and group.first:
            reference = build_vae()
            average.copy_to(reference)
            log.write(stage=stage, step=step + 1, psnr=round(measure(reference), 3))
        if last:
            break
    group.close()


if __name__ == "__main__":
    main()
