"""Put the shipped model back into the work folder, to train on from it where its checkpoints are gone.

    python restore.py          # then make_data.py and train.py go on from ../model

The shipped weights are fp16 and without an optimizer's momentum, so what follows is a continuation,
not the unbroken run.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from common import Average, parser_with_work, prepare, save_checkpoint
from diffusers import FluxPipeline
from export import MODEL_FOLDER, RECIPE_FOLDER
from model import Starter
from train import BATCH


def samples_so_far(log: Path) -> int:
    """Samples that the stages in a training log add up to: each stage counts on from where it was resumed."""
    newest: dict[str, int] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        newest[record["stage"]] = int(record["samples"])
    return sum(newest.values())


def restore(work: Path, folder: Path) -> int:
    """Write the checkpoints of the base stage and the autoencoder; returns the samples the weights have seen."""
    present = sorted(p.name for p in work.glob("*.pt"))
    if present:
        raise SystemExit(f"{work} already holds {', '.join(present)}; give another --work, or delete them.")
    pipe = FluxPipeline.from_pretrained(folder)
    pipe.vae.float()
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(folder / name, work / name, dirs_exist_ok=True)
    starter = Starter(pipe.tokenizer, pipe.tokenizer_2)
    for name in ("transformer", "text_encoder", "text_encoder_2"):
        getattr(starter, name).load_state_dict(getattr(pipe, name).float().state_dict())
    for name in ("train-log.jsonl", "vae-log.jsonl"):
        shutil.copyfile(RECIPE_FOLDER / name, work / name)
    done = samples_so_far(work / "train-log.jsonl")
    average = Average(starter, 0.999)
    average.steps = done // BATCH
    save_checkpoint(
        work / "starter-base.pt",
        {"model": starter.state_dict(), "ema": average.state_dict(), "samples": done, "step": done // BATCH},
    )
    config = pipe.vae.config
    (work / "vae-scale.json").write_text(json.dumps([config.shift_factor, config.scaling_factor]), encoding="utf-8")
    save_checkpoint(work / "vae-whole.pt", {"ema": Average(pipe.vae, 0.999).state_dict()})
    return done


def main() -> None:
    parser = parser_with_work(__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER)
    args = parser.parse_args()
    print(f"restored after {restore(prepare(args), args.model):,} samples")


if __name__ == "__main__":
    main()
