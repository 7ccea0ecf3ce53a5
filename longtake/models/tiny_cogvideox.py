"""A tiny random CogVideoX pipeline in the real diffusers classes, for tests."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel

from longtake.models.tiny import WORDS, audible, frozen, tokenizer

SCHEDULERS: dict[str, Any] = {"ddim": CogVideoXDDIMScheduler, "cogvideox_dpm": CogVideoXDPMScheduler}

PUBLISHED: dict[str, Any] = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
    prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=3.0, timestep_spacing="trailing",
)  # fmt: skip
"""The published checkpoints' noise schedule."""


def tiny_cogvideox(
    seed: int = 0,
    image: bool = False,
    rotary: bool = False,
    learned: bool = False,
    newer: bool = False,
    scheduler: str = "cogvideox_dpm",
) -> Any:
    """A random `CogVideoXPipeline` (2B: fixed positions; `rotary`: 5B), or with `image` its image-to-video form.

    `learned` positions know 32x48 pixels alone; `newer` is CogVideoX 1.5. Draws nothing from the global generator.
    """
    z = 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = _vae(z)
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=2 * z if image else z,
            out_channels=z,
            time_embed_dim=16,
            text_embed_dim=32,
            num_layers=2,
            sample_width=6,
            sample_height=4,
            sample_frames=17,
            max_text_seq_length=226,
            use_rotary_positional_embeddings=rotary or newer,
            use_learned_positional_embeddings=learned,
            patch_size_t=2 if newer else None,
            patch_bias=not newer,
            ofs_embed_dim=16 if newer and image else None,
        )
        encoder = T5EncoderModel(
            T5Config(
                vocab_size=3 + 2 * len(WORDS), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=2, dropout_rate=0.0
            )
        )
        audible(transformer)
    frozen(vae, transformer, encoder)
    kind = CogVideoXImageToVideoPipeline if image else CogVideoXPipeline
    return kind(
        tokenizer=tokenizer(),
        text_encoder=encoder,
        vae=vae,
        transformer=transformer,
        scheduler=SCHEDULERS[scheduler](**PUBLISHED),
    )


def _vae(z: int) -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=z,
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=0.7,
        temporal_compression_ratio=4,
    )
