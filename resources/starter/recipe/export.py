"""Write the trained networks as a diffusers Flux folder in fp16, with its model card and residency.json.

    python export.py            # from the work folder's checkpoints to ../model; untrained parts are exported untrained

Everything is written beside the folder first and renamed in file by file, so a reader never sees half a file.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from common import load_checkpoint, parser_with_work, prepare
from diffusers import AutoencoderKL, FluxPipeline
from make_tokenizers import load as load_tokenizers
from model import Starter, build_scheduler
from scene import VOCABULARY
from train_vae import fit_scale
from vae import build_vae, random_pictures

MODEL_FOLDER = Path(__file__).parent.parent / "model"
RECIPE_FOLDER = Path(__file__).parent
STEPS = 12
DRAFT_STEPS = 3
LIMIT = 30_000_000  # bytes in all


def trained_vae(work: Path) -> AutoencoderKL:
    """The autoencoder with the best weights there are, its shift and scale fitted once and kept with the encoder."""
    vae = build_vae()
    whole = load_checkpoint(work / "vae-whole.pt")
    if whole is not None:
        vae.load_state_dict(whole["ema"]["shadow"])
    scale_file = work / "vae-scale.json"
    if scale_file.exists():
        shift, scale = json.loads(scale_file.read_text())
    else:
        shift, scale = fit_scale(vae)
    decoder = load_checkpoint(work / "vae-decoder.pt")
    if decoder is not None:
        vae.load_state_dict(decoder["ema"]["shadow"])
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    return vae.eval()


def trained_starter(work: Path) -> Starter:
    """Transformer and text encoders with the averaged weights of the newest training stage."""
    starter = Starter(*load_tokenizers(work))
    for stage in ("guided", "base"):
        state = load_checkpoint(work / f"starter-{stage}.pt")
        if state is not None:
            starter.load_state_dict(state["ema"]["shadow"], strict=False)
            break
    return starter.eval()


def pipeline(work: Path) -> FluxPipeline:
    """The stock pipeline over the trained networks, in f32."""
    starter = trained_starter(work)
    clip_tokenizer, t5_tokenizer = starter.tokenizers
    return FluxPipeline(
        scheduler=build_scheduler(),
        vae=trained_vae(work),
        text_encoder=starter.text_encoder,
        tokenizer=clip_tokenizer,
        text_encoder_2=starter.text_encoder_2,
        tokenizer_2=t5_tokenizer,
        transformer=starter.transformer,
    )


@torch.no_grad()
def preview_map(vae: AutoencoderKL, count: int = 256) -> tuple[list[list[float]], list[float]]:
    """(factors [16][3], bias [3]): the least-squares map from the transformer's latents to RGB in 0..1."""
    rng = random.Random(990_003)
    rows, colours = [], []
    for _ in range(count // 16):
        x = random_pictures(rng, 16)
        z = (vae.encode(x).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor
        rows.append(z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]))
        colours.append(functional.avg_pool2d(x / 2 + 0.5, 8).permute(0, 2, 3, 1).reshape(-1, 3))
    a, b = torch.cat(rows), torch.cat(colours)
    solution = torch.linalg.lstsq(torch.cat([a, torch.ones(len(a), 1)], dim=1), b).solution
    return [[round(float(v), 5) for v in row] for row in solution[:-1]], [round(float(v), 5) for v in solution[-1]]


def residency_json(vae: AutoencoderKL) -> dict[str, Any]:
    factors, bias = preview_map(vae)
    return {
        "name": "starter",
        "defaults": {
            "steps": STEPS,
            "draft_steps": DRAFT_STEPS,
            "width": 128,
            "height": 128,
            "guidance": 0.0,
            "max_sequence_length": 64,
        },
        "preview": {"latent_rgb_factors": factors, "latent_rgb_bias": bias},
        "vocabulary": {name: list(values) for name, values in VOCABULARY.items()},
    }


def model_card(work: Path) -> str:
    """The README of the model folder, with the figures of the last evaluation where there is one."""
    text = (RECIPE_FOLDER / "model_card.md").read_text(encoding="utf-8")
    report = work / "evaluation.json"
    figures = json.loads(report.read_text()) if report.exists() else None
    table = figures["table"] if figures else "Not evaluated yet.\n"
    psnr = f"{figures['psnr']:.1f} dB" if figures else "not measured yet"
    samples = f"{figures['samples']:,}" if figures else "0"
    return text.replace("@TABLE@", table.strip()).replace("@PSNR@", psnr).replace("@SAMPLES@", samples)


def export(work: Path, target: Path) -> int:
    """Write the folder; returns its size in bytes."""
    fresh = target.parent / f".{target.name}-new"
    shutil.rmtree(fresh, ignore_errors=True)
    pipe = pipeline(work)
    extras = residency_json(pipe.vae)
    pipe.to(torch.float16)
    pipe.save_pretrained(fresh)
    # Readers of the older tokenizer files find them too.
    vocabulary = json.loads((fresh / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in vocabulary["merges"]]
    (fresh / "tokenizer" / "vocab.json").write_text(
        json.dumps(vocabulary["vocab"], ensure_ascii=False), encoding="utf-8"
    )
    (fresh / "tokenizer" / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (fresh / "residency.json").write_text(json.dumps(extras, indent=1) + "\n", encoding="utf-8")
    (fresh / "README.md").write_text(model_card(work), encoding="utf-8")
    size = sum(f.stat().st_size for f in fresh.rglob("*") if f.is_file())
    if size > LIMIT:
        raise SystemExit(f"the folder would take {size:,} bytes, over the limit of {LIMIT:,}")
    for file in sorted(fresh.rglob("*")):
        if file.is_file():
            final = target / file.relative_to(fresh)
            final.parent.mkdir(parents=True, exist_ok=True)
            file.chmod(0o644)  # safetensors writes files that only their owner reads
            file.replace(final)
    shutil.rmtree(fresh)
    for name in ("train-log.jsonl", "vae-log.jsonl"):
        if (work / name).exists():
            shutil.copyfile(work / name, RECIPE_FOLDER / name)
    return size


def main() -> None:
    parser = parser_with_work(__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER)
    args = parser.parse_args()
    print(f"{export(prepare(args), args.out):,} bytes in {args.out}")


if __name__ == "__main__":
    main()
