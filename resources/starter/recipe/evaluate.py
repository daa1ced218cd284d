"""Judge the exported folder: 300 held-out prompts through stock diffusers, named by the classifier, in a table.

    python evaluate.py --sheet samples.png       # also writes evaluation.json into the work folder for export.py

Each prompt names an object, its colour, a place and a time, with at least one pair that training never showed together,
in a phrasing that training never used.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import classifier
import torch
from captions import held_out_prompt
from common import load_checkpoint, parser_with_work, prepare
from diffusers import FluxPipeline
from draw import contact_sheet
from export import MODEL_FOLDER, STEPS
from PIL import Image
from scene import SKY, VOCABULARY, Scene
from split import PAIR_KINDS, held_out_scene
from train_vae import measure
from vae import to_tensor

SEED = 770_001
TARGETS = {"time": 0.97, "place": 0.95, "object": 0.85, "colour": 0.90}


def prompts(count: int) -> list[tuple[Scene, str]]:
    """Held-out scenes and prompts, each kind of pair in turn; always the same."""
    rng = random.Random(SEED)
    result = []
    for i in range(count):
        scene = held_out_scene(rng, PAIR_KINDS[i % len(PAIR_KINDS)])
        result.append((scene, held_out_prompt(scene, rng)))
    return result


def load_pipeline(folder: Path) -> FluxPipeline:
    pipe = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make(pipe: FluxPipeline, texts: list[str], steps: int, first_seed: int, length: int = 64) -> list[Image.Image]:
    """Pictures of the texts, each from the seed first_seed + its place in the list."""
    pictures: list[Image.Image] = []
    for start in range(0, len(texts), 16):
        part = texts[start : start + 16]
        seeds = [torch.Generator().manual_seed(first_seed + start + i) for i in range(len(part))]
        pictures += pipe(
            part,
            width=128,
            height=128,
            num_inference_steps=steps,
            guidance_scale=0.0,
            max_sequence_length=length,
            generator=seeds,
        ).images
    return pictures


@torch.inference_mode()
def judge(pictures: list[Image.Image], scenes: list[Scene]) -> dict[str, float]:
    """Fractions named right per attribute; sky things count only where the prompt named them."""
    model = classifier.load()
    out: dict[str, list[torch.Tensor]] = {}
    for start in range(0, len(pictures), 50):
        for name, value in model(to_tensor(pictures[start : start + 50])).items():
            out.setdefault(name, []).append(value)
    logits = {name: torch.cat(values) for name, values in out.items()}
    truth = classifier.labels(scenes)
    result = {n: float((logits[n].argmax(1) == truth[n]).float().mean()) for n in ("time", "place", "object", "colour")}
    named = [i for i, s in enumerate(scenes) if s.style != "flat"]
    result["style"] = float((logits["style"].argmax(1) == truth["style"])[named].float().mean())
    wanted = truth["sky"] > 0.5
    result["sky"] = float((logits["sky"] > 0)[wanted].float().mean())
    return result


def table(
    full: dict[str, float], draft: dict[str, float], judge_itself: dict[str, float], steps: int, drafts: int
) -> str:
    lines = [
        f"| attribute | {steps} steps | {drafts} steps | target | values | the classifier on drawn pictures |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("time", "place", "object", "colour", "style", "sky"):
        target = f"{TARGETS[name]:.0%}" if name in TARGETS else ""
        values = len(SKY) if name == "sky" else len(VOCABULARY[name])
        lines.append(
            f"| {name} | {full[name]:.1%} | {draft[name]:.1%} | {target} | {values} | {judge_itself[name]:.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_with_work(__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--draft-steps", type=int, default=3)
    parser.add_argument("--sheet", type=Path, help="where to write a contact sheet of the first 64 pictures")
    args = parser.parse_args()
    work = prepare(args)
    pipe = load_pipeline(args.model)
    asked = prompts(args.count)
    scenes, texts = [s for s, _ in asked], [t for _, t in asked]
    began = time.time()
    pictures = make(pipe, texts, args.steps, SEED)
    seconds = time.time() - began
    full = judge(pictures, scenes)
    draft = judge(make(pipe, texts, args.draft_steps, SEED), scenes)
    itself = classifier.accuracy(classifier.load())
    text = table(full, draft, itself, args.steps, args.draft_steps)
    samples = 0
    for stage in ("base", "guided"):
        state = load_checkpoint(work / f"starter-{stage}.pt")
        samples += int(state["samples"]) if state is not None else 0
    report = {
        "table": text,
        "full": full,
        "draft": draft,
        "classifier": itself,
        "psnr": measure(pipe.vae),
        "samples": samples,
        "prompts": args.count,
        "seconds": round(seconds, 1),
    }
    (work / "evaluation.json").write_text(json.dumps(report, indent=1))
    print(text + f"PSNR {report['psnr']:.2f} dB, {samples:,} samples, {seconds:.0f} s for {args.count} pictures")
    if args.sheet:
        contact_sheet(pictures[:64], 8).save(args.sheet)


if __name__ == "__main__":
    main()
