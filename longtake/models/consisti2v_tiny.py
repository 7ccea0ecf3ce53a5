"""A tiny random ConsistI2V in its folder format, built offline, for tests and docs: only the weights mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from longtake.models.consisti2v_unet import ConsistConfig, ConsistUNet
from longtake.models.opensora_tiny import save_own
from longtake.models.tiny_own import seeded, tiny_autoencoder, tiny_clip_text, tiny_clip_tokenizer

SIZES = ConsistConfig(channels=(16, 32, 32), layers=1, heads=(2, 2, 4), temporal_heads=2, context=16, groups=4)


def save_tiny_consisti2v(folder: str | Path, seed: int = 0) -> Path:
    """Write the folder; returns it. About 2 MB."""
    home, tokenizer = Path(folder), tiny_clip_tokenizer()
    save_own(home / "unet", _unet(seed), {
        "_class_name": "VideoLDMUNet3DConditionModel", "block_out_channels": list(SIZES.channels),
        "layers_per_block": SIZES.layers, "attention_head_dim": list(SIZES.heads), "n_temp_heads": SIZES.temporal_heads,
        "cross_attention_dim": SIZES.context, "norm_num_groups": SIZES.groups, "in_channels": 4, "out_channels": 4,
    })  # fmt: skip
    tiny_autoencoder(seed + 1).save_pretrained(home / "vae")
    tiny_clip_text(len(tokenizer), SIZES.context, seed + 2).save_pretrained(home / "text_encoder")
    tokenizer.save_pretrained(home / "tokenizer")
    settings = {"family": "consisti2v", "window": 6, "size": [64, 32], "steps": 6}
    (home / "longtake.json").write_text(json.dumps(settings) + "\n")
    return home


def _unet(seed: int) -> ConsistUNet:
    made = seeded(seed, lambda: ConsistUNet(SIZES))
    draw = torch.Generator().manual_seed(seed)
    for name, weight in made.named_parameters():
        if name.endswith("alpha"):  # shares inside 0..1, where the layers over time count
            weight.copy_(torch.rand(1, generator=draw) * 0.8 + 0.1)
    fresh = ConsistUNet(SIZES).state_dict()
    rotary = {name: value for name, value in fresh.items() if name.endswith(".freqs")}
    made.load_state_dict(rotary, strict=False)
    return made
