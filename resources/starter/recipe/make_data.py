"""Draw the training pictures and store their latents, so that training the transformer never runs the autoencoder.

    torchrun --nproc-per-node 2 make_data.py --threads 1 --count 100000     # resumable: shards that exist are kept

Latents go into the work folder as latents/NNN.f16, shards of 4,000 (raw float16 [4000, 16, 16, 16], already shifted and
scaled). Scenes are not stored, they follow from the shard's number; captions are written anew in every epoch.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from common import load_checkpoint, parser_with_work, prepare
from draw import draw
from parallel import Group
from scene import Scene
from split import training_scene
from train_vae import fit_scale
from vae import build_vae, to_tensor

SHAPE = (16, 16, 16)
SHARD = 4_000
SEED = 11


def shard_scenes(shard: int) -> list[Scene]:
    """The scenes of one shard; none shows a held-out pair."""
    rng = random.Random(SEED * 1_000_003 + shard)
    return [training_scene(rng) for _ in range(SHARD)]


def write_latents(work: Path, count: int, batch: int = 16) -> None:
    """Make the shards that are missing, each process its share."""
    group = Group()
    vae = build_vae()
    state = load_checkpoint(work / "vae-whole.pt")
    assert state is not None, "train the autoencoder first"
    vae.load_state_dict(state["ema"]["shadow"])
    vae.eval()
    scale_file = work / "vae-scale.json"
    if not scale_file.exists() and group.first:
        partial = scale_file.with_suffix(".partial")
        partial.write_text(json.dumps(fit_scale(vae)))
        partial.replace(scale_file)
    group.agree(True)  # wait until it is there
    shift, scale = json.loads(scale_file.read_text())
    folder = work / "latents"
    folder.mkdir(exist_ok=True)
    for shard in range(group.rank, -(-count // SHARD), group.size):
        path = folder / f"{shard:03d}.f16"
        if path.exists():
            continue
        began = time.time()
        scenes = shard_scenes(shard)
        parts = []
        for start in range(0, SHARD, batch):
            x = to_tensor([draw(s) for s in scenes[start : start + batch]]).contiguous(
                memory_format=torch.channels_last
            )
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                mean = vae.encoder(x).float().chunk(2, dim=1)[0]
            parts.append(((mean - shift) * scale).half())
        partial = path.with_suffix(".partial")
        torch.cat(parts).contiguous().numpy().tofile(partial)
        partial.replace(path)
        print(f"shard {shard}: {SHARD / (time.time() - began):.0f} pictures a second", flush=True)
    group.close()


def read_latents(work: Path) -> tuple[torch.Tensor, list[Scene]]:
    """(latents f16 [N, 16, 16, 16], scenes) of all shards there are."""
    latents, scenes = [], []
    for path in sorted((work / "latents").glob("*.f16")):
        latents.append(torch.from_numpy(np.fromfile(path, dtype=np.float16)).view(SHARD, *SHAPE))
        scenes += shard_scenes(int(path.stem))
    return torch.cat(latents), scenes


def main() -> None:
    parser = parser_with_work(__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    args = parser.parse_args()
    write_latents(prepare(args), args.count)


if __name__ == "__main__":
    main()
