"""What a tensor is for and when it is used, told from its name: for files of which nobody has built the network.

The same roles as core.models.profile.Tensor, which core.generation.layers takes from the network's classes. Names are
those of diffusers and transformers, of the models' original code, and of llama.cpp.
"""

from __future__ import annotations

import re

DENOISER, CLIP, VAE, ENCODER = "denoiser", "clip", "vae", "encoder"

# Projections of timestep and pooled text alone, in diffusers' names (core.generation.layers) and in the original ones
# of Flux, Flux.2, SD3, Qwen-Image and Z-Image.
_MODULATION = re.compile(
    r"(.*\.)?(adaLN_modulation\.\d|(img|txt)_mod\.(lin|1)|modulation\.lin|(norm|norm1|norm1_context|norm_out)\.linear"
    r"|(double|single)_stream_modulation(_img|_txt)?\.lin(ear)?)\.(weight|bias)"
)
_EMBEDDING = re.compile(r"(.*\.)?(token_embedding|embed_tokens|shared|token_embd)\.weight")
_TABLE = re.compile(r".*(position|relative|pos_embed|attn_rel_b)\w*(\.\w+)?")

# Lists of blocks in the order in which a network runs them; those of one line never meet in one network.
_STACKS = (
    ("noise_refiner", "input_blocks", "down_blocks"),
    ("context_refiner", "middle_block", "mid_block"),
    ("double_blocks", "transformer_blocks", "joint_blocks", "blocks", "layers", "block", "blk", "resblocks"),
    ("single_blocks", "single_transformer_blocks", "output_blocks", "up_blocks"),
)
_PLACE = {name: place for place, names in enumerate(_STACKS) for name in names}
# In a stage of a UNet the entries of these lists with one number run in this order (core.residency.blocks).
_INNER = {"resnets": 0, "attentions": 1, "downsamplers": 2, "upsamplers": 2}
_LAST = 1 << 20  # what follows all numbered entries of a stage
_FIRST_GROUP, _MODULATION_GROUP, _BLOCK_GROUP = 0, 1, 2
_PHASE = {ENCODER: 0, CLIP: 0, DENOISER: 1, VAE: 2}

Key = tuple[int, ...]


def kind_of(component: str, class_name: str) -> str:
    """Denoiser, CLIP, VAE or (another) encoder, from a component's name and, where it is known, its class."""
    if component in ("transformer", "unet", "diffusion") or re.search(r"Transformer\w*Model|UNet", class_name):
        return DENOISER
    if component == "vae" or class_name.startswith("Autoencoder"):
        return VAE
    if component.startswith("clip") or class_name.startswith("CLIP"):
        return CLIP
    return ENCODER


def role_of(name: str, shape: tuple[int, ...], kind: str) -> str:
    """The role of a tensor from its name in its network.

    Returns:
        linear, embedding, conv, modulation, io or keep.
    """
    if kind == DENOISER and _MODULATION.fullmatch(name):
        return "modulation"
    owner = name.rsplit(".", 2)[-2:][0]
    if len(shape) < 2 or "norm" in owner or not name.endswith("weight"):
        return "keep"
    if _TABLE.fullmatch(name):
        return "keep"
    if kind != DENOISER and _EMBEDDING.fullmatch(name):
        return "embedding"
    if kind == DENOISER and _block(name) is None:
        return "io"
    return "linear" if len(shape) == 2 else "conv"


def order_of(name: str, kind: str) -> Key:
    """Sorts tensors into the order in which they are used: what lies outside of blocks, what folding drops, the blocks.

    A stable sort leaves a block's tensors in the order in which they come. A VAE stays as it is.
    """
    phase = _PHASE[kind]
    if kind == VAE:
        return (phase,)
    if kind == DENOISER and _MODULATION.fullmatch(name):
        return (phase, _MODULATION_GROUP)
    block = _block(name)
    return (phase, _FIRST_GROUP) if block is None else (phase, _BLOCK_GROUP, *block)


def block_of(name: str, kind: str) -> Key | None:
    """The block that a tensor belongs to, in a form that sorts as they run; None outside of blocks."""
    return None if kind == VAE else _block(name)


def _block(name: str) -> Key | None:
    """(stack, number, inner number and rank...) of the block in a name, or None."""
    parts = name.split(".")
    for at, part in enumerate(parts[:-1]):
        numbered = parts[at + 1].isdigit() or (part in ("mid_block", "middle_block"))
        if part in _PLACE and numbered:
            return (_PLACE[part], *_numbers(parts[at + 1 :]))
    return None


def _numbers(parts: list[str]) -> Key:
    found: list[int] = []
    at = 0
    while at < len(parts):
        if parts[at].isdigit():
            found += (int(parts[at]), 0)
        elif parts[at] in _INNER and at + 1 < len(parts) and parts[at + 1].isdigit():
            last = _INNER[parts[at]] == 2
            found += (_LAST if last else int(parts[at + 1]), _INNER[parts[at]])
            at += 1
        elif parts[at] != "transformer_blocks":
            break
        at += 1
    return tuple(found)
