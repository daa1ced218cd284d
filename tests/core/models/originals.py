"""Checkpoints as other programs write them, made of a model folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from core.models.layouts import arrange

Numbers = dict[str, torch.Tensor]

# OpenCLIP's names (mlfoundations/open_clip, src/open_clip/transformer.py) of what transformers' CLIP calls otherwise.
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def weights(folder: Path, component: str) -> Numbers:
    """The tensors of a component."""
    found: Numbers = load_file(next((folder / component).glob("*.safetensors")))
    return found


def checkpoint(
    folder: Path,
    components: Sequence[str],
    out: Path,
    *,
    prefix: Callable[[str], str] | None = None,
    change: Callable[[Numbers], Numbers] = dict,
) -> Path:
    """A safetensors file with some components in the names of the original code, without prefixes.

    `prefix` says what begins the names of a component; `change` may do the rest.
    """
    index = json.loads((folder / "model_index.json").read_text())
    found: Numbers = {}
    for name in components:
        tensors = weights(folder, name)
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        arranged = arrange(index["_class_name"], name, index[name][1], shapes, beside=components, alone=True)
        for entry in arranged.tensors:
            rows = [
                tensors[part.name][part.first : part.first + part.count] if entry.shape else tensors[part.name]
                for part in entry.parts
            ]
            joined = torch.cat(rows) if entry.shape else rows[0].clone()
            found[f"{prefix(name) if prefix else ''}{entry.name}"] = joined.reshape(entry.shape).contiguous()
    save_file(change(found), out)
    return out


def sdxl(folder: Path, out: Path) -> Path:
    """As sd_xl_base_1.0.safetensors: its second text encoder is OpenCLIP's."""
    prefixes = {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.",
    }

    def with_more(tensors: Numbers) -> Numbers:
        more = {
            f"conditioner.embedders.1.model.{name}": t
            for name, t in open_clip(weights(folder, "text_encoder_2")).items()
        }
        # what is in such files besides
        more["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
        more["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
        more["denoiser.sigmas"] = torch.rand(1000)
        return tensors | more

    return checkpoint(folder, list(prefixes), out, prefix=prefixes.__getitem__, change=with_more)


def open_clip(tensors: Numbers) -> Numbers:
    """OpenCLIP's text model with the weights of transformers'."""
    plain = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    found = {
        "positional_embedding": plain["embeddings.position_embedding.weight"],
        "token_embedding.weight": plain["embeddings.token_embedding.weight"],
        "ln_final.weight": plain["final_layer_norm.weight"],
        "ln_final.bias": plain["final_layer_norm.bias"],
        "text_projection": plain["text_projection.weight"].T.contiguous(),
    }
    layers = {name.split(".")[2] for name in plain if name.startswith("encoder.layers.")}
    for number in layers:
        here, there = f"encoder.layers.{number}.", f"transformer.resblocks.{number}."
        for kind in ("weight", "bias"):
            joined = [plain[f"{here}self_attn.{x}_proj.{kind}"] for x in "qkv"]
            found[f"{there}attn.in_proj_{kind}"] = torch.cat(joined)
            for theirs, ours in _OPEN_CLIP.items():
                found[f"{there}{ours}.{kind}"] = plain[f"{here}{theirs}.{kind}"]
    return found
