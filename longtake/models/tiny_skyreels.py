"""A tiny random SkyReels-V2 pipeline in the real diffusers classes, for tests."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan, SkyReelsV2DiffusionForcingPipeline, SkyReelsV2Transformer3DModel

from longtake.models.tiny import audible, frozen, text_encoder, tiny_scheduler, tokenizer


def tiny_skyreels(seed: int = 0, fps: bool = False, scheduler: str = "unipc") -> SkyReelsV2DiffusionForcingPipeline:
    """A random `SkyReelsV2DiffusionForcingPipeline`, its autoencoder laid out as Wan 2.1's.

    `fps` adds the embedding of the frame rate. Draws nothing from the global generator.
    """
    z = 6
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLWan(
            base_dim=4,
            z_dim=z,
            dim_mult=[1, 2, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.1 * (i - z / 2) for i in range(z)],
            latents_std=[0.5 + 0.25 * i for i in range(z)],
        )
        transformer = SkyReelsV2Transformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=z,
            out_channels=z,
            text_dim=32,
            freq_dim=32,
            ffn_dim=64,
            num_layers=2,
            rope_max_seq_len=64,
            inject_sample_info=fps,
        )
        encoder = text_encoder()
        audible(transformer)
    frozen(vae, transformer, encoder)
    return SkyReelsV2DiffusionForcingPipeline(
        tokenizer=tokenizer(),
        text_encoder=encoder,
        vae=vae,
        scheduler=tiny_scheduler(scheduler),
        transformer=transformer,
    )
