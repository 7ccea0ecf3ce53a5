"""Tiny random pipelines of the Wan family in the real diffusers classes: built offline in memory, about 300 kB each.

The structure is that of the real thing (patch 1x2x2, causal video autoencoder with 4x in time and 8x in space,
text encoder with cross attention); only the weights mean nothing. Every part of the input reaches the output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

WORDS = (
    "a", "the", "dog", "cat", "owl", "rocket", "boat", "runs", "flies", "sails", "right", "left", "across", "over",
    "hills", "sea", "forest", "at", "noon", "dusk", "and",
)  # fmt: skip


def tiny_wan(seed: int = 0, ti2v: bool = False, scheduler: str = "unipc", boundary: float | None = None) -> WanPipeline:
    """A random `WanPipeline`; `ti2v` builds the Wan 2.2 layout (16x in space, residual autoencoder, timesteps a token).

    `scheduler` is "unipc", "dpmpp_2m" or "euler", each with flow shift 3; `boundary` (a share of the training times)
    adds a second expert, as Wan 2.2 A14B has. Draws nothing from the global generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = _vae(ti2v)
        transformer = _transformer(vae.config.z_dim)
        encoder = text_encoder()
        low = None if boundary is None else _transformer(vae.config.z_dim)
    frozen(vae, transformer, encoder, low)
    return WanPipeline(
        tokenizer=tokenizer(),
        text_encoder=encoder,
        vae=vae,
        scheduler=tiny_scheduler(scheduler),
        transformer=transformer,
        transformer_2=low,
        boundary_ratio=boundary,
        expand_timesteps=ti2v,
    )


def tiny_wan_image(
    seed: int = 0, clip: bool = True, two: bool = False, scheduler: str = "unipc", boundary: float | None = None
) -> WanImageToVideoPipeline:
    """A random `WanImageToVideoPipeline` that takes pictures by channels.

    With `clip` as Wan 2.1, where CLIP sees the picture too (`two`: a first and a last one); without as Wan 2.2 A14B.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = _vae(False)
        z = vae.config.z_dim
        extra: dict[str, Any] = {}
        eye = processor = None
        if clip:
            eye, processor = _clip()
            tokens = eye.embeddings.num_positions
            extra = dict(
                image_dim=eye.config.hidden_size, added_kv_proj_dim=32, pos_embed_seq_len=2 * tokens if two else None
            )
        transformer = _transformer(z, 2 * z + 4, **extra)
        encoder = text_encoder()
        low = None if boundary is None else _transformer(z, 2 * z + 4, **extra)
    frozen(vae, transformer, encoder, eye, low)
    return WanImageToVideoPipeline(
        tokenizer=tokenizer(),
        text_encoder=encoder,
        vae=vae,
        scheduler=tiny_scheduler(scheduler),
        image_encoder=eye,
        image_processor=processor,
        transformer=transformer,
        transformer_2=low,
        boundary_ratio=boundary,
    )


def frozen(*modules: torch.nn.Module | None) -> None:
    """Put modules in evaluation mode, without gradients."""
    for module in modules:
        if module is not None:
            module.eval().requires_grad_(False)


def save_tiny(folder: str | Path, seed: int = 0, ti2v: bool = False, scheduler: str = "unipc") -> Path:
    """Save `tiny_wan` as a stock pipeline folder of safetensors and JSON; returns the folder."""
    tiny_wan(seed, ti2v, scheduler).save_pretrained(folder, safe_serialization=True)
    return Path(folder)


def tiny_scheduler(name: str, shift: float = 3.0) -> Any:
    """A flow-matching scheduler of diffusers by the name of its solver."""
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    kind = {"unipc": UniPCMultistepScheduler, "dpmpp_2m": DPMSolverMultistepScheduler}[name]
    return kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def _vae(ti2v: bool) -> AutoencoderKLWan:
    # 8x: two halvings and pixel patches of 2; 16x: three halvings and patches of 2, as Wan 2.2
    shape: dict[str, Any] = dict(
        base_dim=4, decoder_base_dim=4, z_dim=6, num_res_blocks=1, patch_size=2, in_channels=12, out_channels=12
    )
    if ti2v:
        shape |= dict(dim_mult=[1, 1, 2, 2], temperal_downsample=[False, True, True], is_residual=True)
    else:
        shape |= dict(dim_mult=[1, 2, 2], temperal_downsample=[True, True])
    z = shape["z_dim"]
    return AutoencoderKLWan(
        **shape,
        scale_factor_spatial=16 if ti2v else 8,
        scale_factor_temporal=4,
        latents_mean=[0.1 * (i - z / 2) for i in range(z)],
        latents_std=[0.5 + 0.25 * i for i in range(z)],
    )


def _clip() -> tuple[CLIPVisionModel, CLIPImageProcessorPil]:
    config = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    return CLIPVisionModel(config), CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )


def _transformer(channels: int, channels_in: int | None = None, **more: Any) -> WanTransformer3DModel:
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=channels_in or channels,
        out_channels=channels,
        text_dim=32,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        cross_attn_norm=True,
        rope_max_seq_len=64,
        **more,
    )
    return audible(model)


def audible(model: Any) -> Any:
    """The model with weights of a scale at which every branch matters: torch's default leaves text and time an echo."""
    for name, weight in model.named_parameters():
        if weight.ndim >= 2 and "scale_shift" not in name:
            torch.nn.init.normal_(weight, std=1.2 * weight[0].numel() ** -0.5)
    return model


def text_encoder() -> UMT5EncoderModel:
    """A random UMT5 encoder of width 32 for the words of `tokenizer`."""
    config = UMT5Config(
        vocab_size=3 + len(WORDS) * 2,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=2,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        tie_word_embeddings=False,
    )
    return UMT5EncoderModel(config)


def tokenizer() -> T5Tokenizer:
    """A T5 tokenizer that knows `WORDS`."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    pieces += [("▁" + word, -2.0) for word in WORDS] + [(word, -4.0) for word in WORDS]
    return T5Tokenizer(vocab=pieces, extra_ids=0)
