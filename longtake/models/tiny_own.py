"""Tiny random models of the families other than Wan, in their real folder formats, built offline, a few MB each.

Only the weights mean nothing: the structure is that of the real thing, and every part of the input reaches the output.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    DDIMScheduler,
    EulerDiscreteScheduler,
    LattePipeline,
    LatteTransformer3DModel,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from longtake.models.latte_ucf_network import LatteConfig, LatteUCF
from longtake.models.tiny import WORDS
from longtake.models.videocrafter_unet import UNetConfig, VideoCrafterUNet

VIDEOCRAFTER = UNetConfig(channels=32, mults=(1, 2), units=1, attention=(True, False), head_dim=8, text_dim=16)
LATTE_UCF = LatteConfig(width=32, depth=4, heads=2, side=4, frames=4, time_width=16)


def seeded(seed: int, make: Callable[[], Any]) -> Any:
    """`make()` under a seed, the global generator left as it was; modules come back frozen and loud (`louder`)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = make()
        return louder(made) if isinstance(made, nn.Module) else made


@torch.no_grad()
def louder(module: nn.Module) -> nn.Module:
    """Weights large enough that text, time and pixels all matter, which torch's default scale does not give."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    for weight in module.parameters():
        if weight.ndim >= 2 and id(weight) not in tables:
            nn.init.normal_(weight, std=1.2 * weight[0].numel() ** -0.5)
        elif weight.ndim == 1:
            weight.add_(0.1 * torch.randn_like(weight))
    return module.eval().requires_grad_(False)


def tiny_autoencoder(seed: int = 0) -> AutoencoderKL:
    """Stable Diffusion's picture autoencoder, small: 4 channels, 8x in space."""
    return seeded(seed, lambda: AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32,
        scaling_factor=0.18215,
    ))  # fmt: skip


def tiny_clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer over the words of `tiny.WORDS` and single letters; padded with "!", id 0, as in SD 2.1."""
    letters = [chr(code) for code in range(97, 123)]
    pieces = ["!", *letters, *(letter + "</w>" for letter in letters)]
    words = [word + "</w>" for word in WORDS if len(word) > 1]
    # one merge a word would skip its parts: merge from the left, letter by letter
    merges, known = [], {*pieces}
    for word in sorted(WORDS):
        left = word[0]
        for place, letter in enumerate(word[1:], start=1):
            right = letter + ("</w>" if place == len(word) - 1 else "")
            if (left, right) not in merges:
                merges.append((left, right))
            left += right
            known.add(left)
    pieces += sorted(known - {*pieces} | {*words} - {*pieces})
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: place for place, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token="!", model_max_length=77)


def tiny_clip_text(vocabulary: int, width: int = 16, seed: int = 0) -> CLIPTextModel:
    """CLIP's text tower of two layers; the end token is the last of the vocabulary."""
    return seeded(seed, lambda: CLIPTextModel(CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, projection_dim=width, pad_token_id=0, bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1, hidden_act="gelu",
    )))  # fmt: skip


def save_tiny_videocrafter(folder: str | Path, seed: int = 0, spacing: str = "leading") -> Path:
    """A random VideoCrafter2 folder of ours; returns it."""
    folder = Path(folder)
    tokenizer = tiny_clip_tokenizer()
    save_own(folder, "unet", seeded(seed, lambda: VideoCrafterUNet(VIDEOCRAFTER)), {
        "_class_name": "UNet3DVideoCrafterConditionModel", "block_out_channels": [32, 64], "layers_per_block": 1,
        "cross_attention_dim": 16, "attention_head_dim": 8, "in_channels": 4,
        "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    })  # fmt: skip
    tiny_autoencoder(seed + 1).save_pretrained(folder / "vae")
    tiny_clip_text(len(tokenizer), 16, seed + 2).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        timestep_spacing=spacing,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    settings = {"family": "videocrafter2", "window": 4, "steps": 6, "size": [32, 48]}
    (folder / "longtake.json").write_text(json.dumps(settings) + "\n")
    return folder


def tiny_latte(seed: int = 0) -> LattePipeline:
    """A random `LattePipeline`: 4 frames, latents of any size, two pairs of blocks, DDIM that ends at a clean frame."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    pieces += [("\u2581" + word, -2.0) for word in WORDS] + [(word, -4.0) for word in WORDS]
    encoder = seeded(seed + 2, lambda: T5EncoderModel(T5Config(
        vocab_size=len(pieces), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=2, dropout_rate=0.0,
        relative_attention_num_buckets=8, relative_attention_max_distance=16,
    )))  # fmt: skip
    transformer = seeded(seed, lambda: LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=32, attention_bias=True, sample_size=8, patch_size=2, activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000, norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
        caption_channels=32, video_length=4,
    ))  # fmt: skip
    return LattePipeline(
        tokenizer=T5Tokenizer(vocab=pieces, extra_ids=0), text_encoder=encoder, vae=tiny_autoencoder(seed + 1),
        transformer=transformer, scheduler=tiny_ddim(),
    )  # fmt: skip


def tiny_ddim() -> DDIMScheduler:
    """Latte's scheduler, its last step to a clean frame."""
    return DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)


def save_tiny_latte_ucf(folder: str | Path, seed: int = 0) -> Path:
    """A random class-conditional Latte folder of ours; returns it."""
    folder = Path(folder)
    network = seeded(seed, lambda: LatteUCF(LATTE_UCF))
    for table in (network.pos_embed, network.temp_embed):
        table.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(seed)))
    save_own(folder, "transformer", network, asdict(LATTE_UCF))
    tiny_autoencoder(seed + 1).save_pretrained(folder / "vae")
    tiny_ddim().save_pretrained(folder / "scheduler")
    (folder / "longtake.json").write_text(json.dumps({"family": "latte-ucf", "steps": 6}) + "\n")
    return folder


def tiny_svd(seed: int = 0) -> StableVideoDiffusionPipeline:
    """A random `StableVideoDiffusionPipeline`: 4 frames, 8x in space, the published scheduler."""
    unet = seeded(seed, lambda: UNetSpatioTemporalConditionModel(
        in_channels=8, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, num_attention_heads=(2, 4),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=32,
        addition_time_embed_dim=32, projection_class_embeddings_input_dim=96, num_frames=4, sample_size=8,
    ))  # fmt: skip
    vae = seeded(seed + 1, lambda: AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1,
    ))  # fmt: skip
    encoder = seeded(seed + 2, lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=224,
        patch_size=32, projection_dim=32,
    )))  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", interpolation_type="linear",
        prediction_type="v_prediction", sigma_max=700.0, sigma_min=0.002, steps_offset=1, timestep_spacing="leading",
        timestep_type="continuous", use_karras_sigmas=True,
    )  # fmt: skip
    return StableVideoDiffusionPipeline(
        vae=vae, image_encoder=encoder, unet=unet, scheduler=scheduler, feature_extractor=CLIPImageProcessorPil()
    )


def save_own(folder: Path, part: str, network: nn.Module, config: dict[str, Any]) -> None:
    """Write a network of ours as the folder `part`: config.json and safetensors."""
    (folder / part).mkdir(parents=True)
    (folder / part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / part / "diffusion_pytorch_model.safetensors")
