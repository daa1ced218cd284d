"""The networks of the starter: a Flux transformer with its two text encoders, and how text and latents enter them.

Shapes: latents [B, 16, h, w] are packed 2x2 into tokens [B, h/2 * w/2, 64] exactly as diffusers' FluxPipeline does;
T5 states are [B, length, 192] and attend without a mask, padding included, because the pipeline passes none.
"""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

WIDTH = 192
POOLED_WIDTH = 128
SHIFT = 1.6  # of the noise schedule: more of the steps go to high noise, where place and object are decided


def build_transformer() -> FluxTransformer2DModel:
    """An untrained transformer whose blocks start as identities (zero gates), as in DiT, which trains faster."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=6,
        attention_head_dim=48,
        num_attention_heads=WIDTH // 48,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 20, 20),
    )
    zeroed = [transformer.norm_out.linear, transformer.proj_out]
    zeroed += [b.norm1.linear for b in transformer.transformer_blocks]
    zeroed += [b.norm1_context.linear for b in transformer.transformer_blocks]
    zeroed += [b.norm.linear for b in transformer.single_transformer_blocks]
    for layer in zeroed:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return transformer


def build_clip(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text encoder of two layers; its pooled state is the one at the first end token."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=POOLED_WIDTH,
            intermediate_size=4 * POOLED_WIDTH,
            projection_dim=POOLED_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_t5(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """An untrained T5 encoder of two layers."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=WIDTH,
            d_kv=48,
            d_ff=2 * WIDTH,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=64,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=False)


class Starter(nn.Module):
    """Transformer and text encoders as one module, so that they train, average and save together."""

    def __init__(self, clip_tokenizer: CLIPTokenizer, t5_tokenizer: T5Tokenizer) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.text_encoder = build_clip(clip_tokenizer)
        self.text_encoder_2 = build_t5(t5_tokenizer)
        self.tokenizers = (clip_tokenizer, t5_tokenizer)

    def tokens(self, clip_texts: list[str], t5_texts: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(CLIP ids [B, longest], T5 ids [B, length]).

        CLIP's attention is causal and its pooled state is read at the first end token, so what pads beyond the longest
        text changes nothing and is left away; T5's padding is seen by the model and is kept to `length`.
        """
        clip, t5 = self.tokenizers
        a = clip(clip_texts, padding="longest", max_length=77, truncation=True, return_tensors="pt").input_ids
        b = t5(t5_texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        return a, b

    def encode(self, clip_ids: torch.Tensor, t5_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(pooled [B, 128], states [B, length, 192])."""
        return self.text_encoder(clip_ids).pooler_output, self.text_encoder_2(t5_ids)[0]

    def velocity(
        self, tokens: torch.Tensor, t: torch.Tensor, pooled: torch.Tensor, states: torch.Tensor
    ) -> torch.Tensor:
        """The predicted velocity (noise - picture) of packed latents [B, N, 64] at noise levels t [B] in 0..1."""
        side = round(tokens.shape[1] ** 0.5)
        out: torch.Tensor = self.transformer(
            hidden_states=tokens,
            timestep=t,
            pooled_projections=pooled,
            encoder_hidden_states=states,
            img_ids=image_ids(side, side),
            txt_ids=torch.zeros(states.shape[1], 3),
            return_dict=False,
        )[0]
        return out


def image_ids(rows: int, columns: int) -> torch.Tensor:
    """Positions of packed tokens [rows * columns, 3]: (0, row, column), as FluxPipeline makes them."""
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)[None, :]
    return ids.reshape(rows * columns, 3)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """[B, 16, h, w] to [B, h/2 * w/2, 64], as FluxPipeline._pack_latents."""
    b, c, h, w = latents.shape
    return latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // 2) * (w // 2), c * 4)


def unpack(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """[B, rows * columns, 64] to [B, 16, 2 * rows, 2 * columns]; the inverse of `pack`."""
    b, _, c = tokens.shape
    latents = tokens.view(b, rows, columns, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return latents.reshape(b, c // 4, rows * 2, columns * 2)
