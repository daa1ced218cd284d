"""What networks that make clips and sound are called with (see core.generation.dummy_inputs)."""

from __future__ import annotations

from typing import Any

import torch

from core.generation.dummy_inputs import Call, Inputs, Size, empty

# LTX-2 makes sound of the length of its clip. Its stock pipeline plays 24 frames a second; a second of sound is 16,000
# samples, 160 a mel frame, 4 mel frames a latent.
_LTX2_RATE = 24
_LTX2_SOUND_RATE = 25
_LTX2_MEL = 4


def _ltx2_sound(size: Size) -> int:
    """Latent positions of the sound of a clip (LTX2Pipeline: audio_num_frames)."""
    return round((8 * (size.frames - 1) + 1) / _LTX2_RATE * _LTX2_SOUND_RATE)


def _wan(config: Any, size: Size) -> Inputs:
    positions = size.frames * (size.height // 2) * (size.width // 2)
    # the 5B model has a timestep for each position (WanPipeline's expand_timesteps); its latents have 48 channels
    steps = (1, positions) if config.in_channels == 48 else (1,)
    return {
        "hidden_states": empty(1, config.in_channels, size.frames, size.height, size.width),
        "timestep": empty(*steps, dtype=torch.int64),
        "encoder_hidden_states": empty(1, size.tokens, config.text_dim),
    }


def _ltx(config: Any, size: Size) -> Inputs:
    return {
        "hidden_states": empty(1, size.frames * size.height * size.width, config.in_channels),
        "encoder_hidden_states": empty(1, size.tokens, config.caption_channels),
        "timestep": empty(1),
        "encoder_attention_mask": empty(1, size.tokens, dtype=torch.int64),
        "num_frames": size.frames,
        "height": size.height,
        "width": size.width,
        "rope_interpolation_scale": (8 / 25, 32, 32),  # LTXPipeline at its 25 frames a second
    }


def _ltx2(config: Any, size: Size) -> Inputs:
    sound = _ltx2_sound(size)
    return {
        "hidden_states": empty(1, size.frames * size.height * size.width, config.in_channels),
        "audio_hidden_states": empty(1, sound, config.audio_in_channels),
        "encoder_hidden_states": empty(1, size.tokens, config.caption_channels),
        "audio_encoder_hidden_states": empty(1, size.tokens, config.caption_channels),
        "timestep": empty(1),
        "sigma": empty(1),
        "encoder_attention_mask": empty(1, size.tokens),
        "audio_encoder_attention_mask": empty(1, size.tokens),
        "num_frames": size.frames,
        "height": size.height,
        "width": size.width,
        "fps": float(_LTX2_RATE),
        "audio_num_frames": sound,
        "use_cross_timestep": True,
    }


def _connectors(config: Any, size: Size) -> Inputs:
    width = config.caption_channels * config.text_proj_in_factor
    return {
        "text_encoder_hidden_states": empty(1, size.tokens, width),
        "attention_mask": empty(1, size.tokens, dtype=torch.int64),
    }


def _stable_audio(config: Any, size: Size) -> Inputs:
    seconds = 2  # tokens of their own: where the sound starts and how long it is
    rotary = (size.frames + 1, config.attention_head_dim // 2)
    return {
        "hidden_states": empty(1, config.in_channels, size.frames),
        "timestep": empty(1),
        "encoder_hidden_states": empty(1, size.tokens + seconds, config.cross_attention_input_dim),
        "global_hidden_states": empty(1, 1, config.global_states_input_dim),
        "rotary_embedding": (empty(*rotary, dtype=torch.float32), empty(*rotary, dtype=torch.float32)),
    }


def _ace_step(config: Any, size: Size) -> Inputs:
    context = config.in_channels - config.audio_acoustic_hidden_dim  # what surrounds the sound, and which of it to make
    return {
        "hidden_states": empty(1, size.frames, config.audio_acoustic_hidden_dim),
        "timestep": empty(1),
        "timestep_r": empty(1),
        "encoder_hidden_states": empty(1, size.tokens + 1, config.encoder_hidden_size or config.hidden_size),
        "context_latents": empty(1, size.frames, context),
    }


def _ace_conditions(config: Any, size: Size) -> Inputs:
    # half of the tokens describe, half are sung; the voice is shown by 30 seconds of sound at 25 latents a second
    lyrics, timbre = size.tokens // 2, 30 * 25
    text = size.tokens - lyrics
    return {
        "text_hidden_states": empty(1, text, config.text_hidden_dim),
        "text_attention_mask": empty(1, text, dtype=torch.int64),
        "lyric_hidden_states": empty(1, lyrics, config.text_hidden_dim),
        "lyric_attention_mask": empty(1, lyrics, dtype=torch.int64),
        "refer_audio_acoustic_hidden_states_packed": empty(1, timbre, config.timbre_hidden_dim),
        "refer_audio_order_mask": empty(1, dtype=torch.int64),
    }


def _one_voice(module: Any) -> None:
    """Sorting voices into samples asks for values; one voice of one sample stays where it is."""

    def unpack(packed: torch.Tensor, order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return packed.unsqueeze(0), order.unsqueeze(0)

    module.timbre_encoder.unpack_timbre_embeddings = unpack


def _seconds(config: Any, size: Size) -> Inputs:
    return {
        "text_hidden_states": empty(1, size.tokens, config.text_encoder_dim),
        "start_seconds": empty(1, dtype=torch.float32),
        "end_seconds": empty(1, dtype=torch.float32),
    }


def _wan_latents(config: Any, size: Size) -> Inputs:
    return {"z": empty(1, config.z_dim, size.frames, size.height, size.width)}


def _wan_clip(config: Any, size: Size) -> Inputs:
    frames = config.scale_factor_temporal * (size.frames - 1) + 1
    factor = config.scale_factor_spatial
    return {"x": empty(1, 3, frames, size.height * factor, size.width * factor)}


def _ltx_latents(config: Any, size: Size) -> Inputs:
    latents = {"z": empty(1, config.latent_channels, size.frames, size.height, size.width)}
    return latents | ({"temb": empty(1)} if config.timestep_conditioning else {})


def _ltx_clip(config: Any, size: Size) -> Inputs:
    return {"x": empty(1, config.in_channels, 8 * (size.frames - 1) + 1, size.height * 32, size.width * 32)}


def _upsampled(config: Any, size: Size) -> Inputs:
    return {"hidden_states": empty(1, config.in_channels, size.frames, size.height, size.width)}


def _sound_latents(config: Any, size: Size) -> Inputs:
    return {"z": empty(1, config.latent_channels, _ltx2_sound(size), config.mel_bins // _LTX2_MEL)}


def _mel(config: Any, size: Size) -> Inputs:
    # in_channels are those of both sides of stereo
    return {"hidden_states": empty(1, 2, _LTX2_MEL * _ltx2_sound(size) - 3, config.in_channels // 2)}


def _oobleck_latents(config: Any, size: Size) -> Inputs:
    return {"z": empty(1, config.decoder_input_channels, size.frames)}


def _oobleck_sound(config: Any, size: Size) -> Inputs:
    factor = 1
    for ratio in config.downsampling_ratios:
        factor *= ratio
    return {"x": empty(1, config.audio_channels, size.frames * factor)}


CALLS: dict[str, Call] = {
    "WanTransformer3DModel": Call("clip denoiser", _wan),
    "LTXVideoTransformer3DModel": Call("clip denoiser", _ltx),
    "LTX2VideoTransformer3DModel": Call("sounding clip denoiser", _ltx2),
    "LTX2TextConnectors": Call("connected text", _connectors),
    "LTX2LatentUpsamplerModel": Call("clip upsampler", _upsampled),
    "LTX2Vocoder": Call("clip sound", _mel),
    "StableAudioDiTModel": Call("sound denoiser", _stable_audio),
    "StableAudioProjectionModel": Call("text", _seconds),
    "AceStepTransformer1DModel": Call("sound denoiser", _ace_step),
    "AceStepConditionEncoder": Call("text", _ace_conditions, prepare=_one_voice),
    "AutoencoderKLWan": Call("clip vae", _wan_latents, "decode", _wan_clip),
    "AutoencoderKLLTXVideo": Call("clip vae", _ltx_latents, "decode", _ltx_clip),
    "AutoencoderKLLTX2Video": Call("clip vae", _ltx_latents, "decode", _ltx_clip),
    "AutoencoderKLLTX2Audio": Call("clip sound", _sound_latents, "decode"),
    "AutoencoderOobleck": Call("sound vae", _oobleck_latents, "decode", _oobleck_sound),
}
"""Clips and sound, by class name."""
