"""From VideoCrafter2's published checkpoint to a folder that this package loads.

One file holds the network, Stable Diffusion's autoencoder and open_clip's text tower under the names of the latent
diffusion code base. Sizes are read off the shapes. The tower loses its last block, since the network was trained on
what the one before it says, and becomes the `CLIPTextModel` of 23 layers that Stable Diffusion 2.1 ships. CLIP's
tokenizer is not in the file: its folder has to lie beside it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from longtake.errors import UsageError
from longtake.models.own import build, fill
from longtake.models.parts import no_progress_bars
from longtake.models.videocrafter_unet import VideoCrafterUNet

PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text": "cond_stage_model.model."}
WRAPPER = "_forward_module."
LICENSE = "VideoCrafter: Apache-2.0 text with a clause for research and non-commercial use"


def convert(read: Callable[[Path], dict[str, Any]], source: Path, folder: Path) -> None:
    """Write the folder: unet, vae, text_encoder, tokenizer, scheduler, longtake.json. UsageError if a part is missing.

    source: the checkpoint, or a folder with it. `tokenizer/` (of Stable Diffusion 2.1) lies in that folder.
    """
    tokenizer = (source if source.is_dir() else source.parent) / "tokenizer"
    if not (tokenizer / "vocab.json").is_file() and not (tokenizer / "tokenizer.json").is_file():
        raise UsageError(f"there is no {tokenizer}; put the folder 'tokenizer' of Stable Diffusion 2.1 there")
    parts = split(read(source), source)
    write_unet(parts["unet"], folder / "unet")
    write_autoencoder(parts["vae"], folder / "vae")
    write_text(parts["text"], folder / "text_encoder")
    shutil.copytree(tokenizer, folder / "tokenizer")
    with no_progress_bars():
        DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ).save_pretrained(folder / "scheduler")  # fmt: skip
    settings = {"family": "videocrafter2", "license": LICENSE}
    (folder / "longtake.json").write_text(json.dumps(settings, indent=2) + "\n")


def split(weights: Mapping[str, Tensor], source: Path) -> dict[str, dict[str, Tensor]]:
    """The three parts by name, prefixes dropped, in float32. UsageError if one is missing."""
    plain = {name.removeprefix(WRAPPER): value for name, value in weights.items()}
    parts = {
        part: {name[len(prefix) :]: value.float() for name, value in plain.items() if name.startswith(prefix)}
        for part, prefix in PREFIXES.items()
    }
    for part, found in parts.items():
        if not found:
            raise UsageError(f"{source} holds no weight under {PREFIXES[part]}; is it VideoCrafter2's model.ckpt?")
    return parts


# -- the network -------------------------------------------------------------------------------------------------


def write_unet(weights: Mapping[str, Tensor], folder: Path) -> None:
    """The network under its published names, with the configuration that its shapes tell."""
    from longtake.models.videocrafter import unet_config

    config = unet_sizes(weights)
    fill(build(lambda: VideoCrafterUNet(unet_config(config, folder))), weights, "the checkpoint",
         torch.device("meta"), torch.float32)  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({name: value.contiguous() for name, value in weights.items()},
              folder / "diffusion_pytorch_model.safetensors")  # fmt: skip


def unet_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configuration of a network with these weights, in the keys of the diffusers-style conversion."""
    levels: list[list[tuple[int, bool]]] = [[]]
    number = 1
    while any(name.startswith(f"input_blocks.{number}.") for name in weights):
        if f"input_blocks.{number}.0.op.weight" in weights:
            levels.append([])
        else:
            width = weights[f"input_blocks.{number}.0.out_layers.3.weight"].shape[0]
            levels[-1].append((width, f"input_blocks.{number}.1.proj_in.weight" in weights))
        number += 1
    text = next(value.shape[1] for name, value in weights.items()
                if name.startswith("middle_block.1.") and name.endswith("attn2.to_k.weight"))  # fmt: skip
    return {
        "_class_name": "UNet3DVideoCrafterConditionModel",
        "in_channels": weights["input_blocks.0.0.weight"].shape[1],
        "block_out_channels": [level[0][0] for level in levels],
        "layers_per_block": len(levels[0]),
        "down_block_types": ["CrossAttnDownBlock3D" if level[0][1] else "DownBlock3D" for level in levels],
        "attention_head_dim": weights["init_attn.0.proj_in.weight"].shape[0] // 8,
        "cross_attention_dim": text,
        "fps_cond": True,
    }


# -- the autoencoder ---------------------------------------------------------------------------------------------

_VAE_RULES = [
    (r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
]


def autoencoder_name(name: str, num_levels: int = 4) -> str:
    """The diffusers name of a weight of the autoencoder; in latent diffusion its decoder counts levels from the end."""
    for pattern, put in _VAE_RULES:
        name = re.sub(pattern, put, name)

    def turned(found: re.Match[str]) -> str:
        return f"decoder.up_blocks.{num_levels - 1 - int(found[1])}."

    name = re.sub(r"^decoder\.up\.(\d+)\.", turned, name)
    name = re.sub(r"^(decoder\.up_blocks\.\d+)\.block\.", r"\1.resnets.", name)
    return re.sub(r"^(decoder\.up_blocks\.\d+)\.upsample\.", r"\1.upsamplers.0.", name)


def write_autoencoder(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Stable Diffusion's autoencoder as diffusers has it. UsageError if the weights are not those of one."""
    widths = []
    while (first := f"encoder.down.{len(widths)}.block.0.conv2.weight") in weights:
        widths.append(weights[first].shape[0])
    layers = sum(bool(re.fullmatch(r"encoder\.down\.0\.block\.\d+\.conv1\.weight", name)) for name in weights)
    wanted = re.compile(r"(encoder|decoder|quant_conv|post_quant_conv)\.")
    named = {autoencoder_name(name, len(widths)): value for name, value in weights.items() if wanted.match(name)}
    for name, value in named.items():
        if ".attentions." in name and value.ndim == 4:
            named[name] = value[:, :, 0, 0]
    try:
        made = AutoencoderKL(
            block_out_channels=tuple(widths), layers_per_block=layers, latent_channels=4, scaling_factor=0.18215,
            down_block_types=("DownEncoderBlock2D",) * len(widths), up_block_types=("UpDecoderBlock2D",) * len(widths),
            sample_size=512,
        )  # fmt: skip
        made.load_state_dict(named, strict=True)
    except (RuntimeError, ValueError) as problem:
        raise UsageError(f"the checkpoint's autoencoder is not Stable Diffusion's: {str(problem)[:160]}") from problem
    with no_progress_bars():
        made.save_pretrained(folder)


# -- the text tower ----------------------------------------------------------------------------------------------

_BLOCK = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
          "attn.out_proj": "self_attn.out_proj"}  # fmt: skip


def text_weights(weights: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """open_clip's text tower in the names of `CLIPTextModel`, of its first `num_layers` blocks."""
    found = {
        "embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "embeddings.position_embedding.weight": weights["positional_embedding"],
        "final_layer_norm.weight": weights["ln_final.weight"],
        "final_layer_norm.bias": weights["ln_final.bias"],
    }
    for number in range(num_layers):
        theirs, ours = f"transformer.resblocks.{number}", f"encoder.layers.{number}"
        for side in ("weight", "bias"):
            for old, new in _BLOCK.items():
                found[f"{ours}.{new}.{side}"] = weights[f"{theirs}.{old}.{side}"]
            fused = weights[f"{theirs}.attn.in_proj_{side}"].chunk(3)
            for letter, value in zip("qkv", fused, strict=True):
                found[f"{ours}.self_attn.{letter}_proj.{side}"] = value
    return found


def write_text(weights: Mapping[str, Tensor], folder: Path) -> None:
    """The text tower without its last block. UsageError if the weights are not those of one."""
    try:
        blocks = 1 + max(
            int(found[1]) for name in weights if (found := re.match(r"transformer\.resblocks\.(\d+)\.", name))
        )
        vocabulary, width = weights["token_embedding.weight"].shape
        inner = len(weights["transformer.resblocks.0.mlp.c_fc.bias"])
        made = CLIPTextModel(CLIPTextConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=inner,
            num_hidden_layers=blocks - 1, num_attention_heads=max(width // 64, 1), hidden_act="gelu",
            max_position_embeddings=len(weights["positional_embedding"]), projection_dim=width // 2, pad_token_id=0,
            bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1,
        ))  # fmt: skip
        made.load_state_dict(text_weights(weights, blocks - 1), strict=True)
    except (KeyError, ValueError, RuntimeError) as problem:
        raise UsageError(f"the checkpoint's text tower is not open_clip's: {str(problem)[:160]}") from problem
    with no_progress_bars():
        made.save_pretrained(folder)
