"""A tiny random SkyReels-V2 pipeline in the real diffusers classes, for tests."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Transformer3DModel,
)
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from longtake.models.tiny import audible, frozen, text_encoder, tiny_scheduler, tokenizer

Z = 6


def tiny_skyreels(
    seed: int = 0, fps: bool = False, scheduler: str = "unipc", block: int = 1
) -> SkyReelsV2DiffusionForcingPipeline:
    """A random `SkyReelsV2DiffusionForcingPipeline`, its autoencoder laid out as Wan 2.1's.

    `fps` adds the embedding of the frame rate, `block` is that of its causal blocks. Nothing is drawn from the global
    generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = _vae()
        transformer = _transformer(Z, inject_sample_info=fps, num_frame_per_block=block)
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


def tiny_skyreels_image(seed: int = 0, two: bool = False, scheduler: str = "unipc") -> SkyReelsV2ImageToVideoPipeline:
    """A random `SkyReelsV2ImageToVideoPipeline`; `two`: CLIP sees a first and a last picture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = _vae()
        config = CLIPVisionConfig(
            hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16,
            patch_size=8, projection_dim=8,
        )  # fmt: skip
        eye = CLIPVisionModelWithProjection(config)
        tokens = 2 * eye.vision_model.embeddings.num_positions if two else None
        transformer = _transformer(2 * Z + 4, image_dim=24, added_kv_proj_dim=32, pos_embed_seq_len=tokens)
        encoder = text_encoder()
        audible(transformer)
    frozen(vae, transformer, encoder, eye)
    return SkyReelsV2ImageToVideoPipeline(
        tokenizer=tokenizer(),
        text_encoder=encoder,
        image_encoder=eye,
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        transformer=transformer,
        vae=vae,
        scheduler=tiny_scheduler(scheduler),
    )


def _vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=Z,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1 * (i - Z / 2) for i in range(Z)],
        latents_std=[0.5 + 0.25 * i for i in range(Z)],
    )


def _transformer(channels: int, **more: Any) -> SkyReelsV2Transformer3DModel:
    return SkyReelsV2Transformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=channels,
        out_channels=Z,
        text_dim=32,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        rope_max_seq_len=64,
        **more,
    )
