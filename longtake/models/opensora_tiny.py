"""A tiny random Open-Sora in its folder format, built offline, for tests and docs: only the weights mean nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn
from transformers import T5Config, T5EncoderModel

from longtake.models.opensora_stdit import STDiT3, STDiT3Config
from longtake.models.opensora_vae import IMAGE_PART, OpenSoraVAE, TemporalConfig
from longtake.models.tiny import WORDS, tiny_wan
from longtake.models.tiny_own import seeded

SIZES = STDiT3Config(depth=2, hidden_size=32, num_heads=2, caption_channels=16, model_max_length=24)
IMAGE = dict(IMAGE_PART, block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2)
TEMPORAL = TemporalConfig(filters=4, num_res_blocks=1, num_groups=2)


def save_tiny_open_sora(folder: str | Path, seed: int = 0) -> Path:
    """Write the folder; returns it. About 1 MB."""
    home = Path(folder)
    save_own(home / "transformer", seeded(seed, lambda: STDiT3(SIZES)), asdict(SIZES))
    vae = seeded(seed + 1, lambda: OpenSoraVAE(IMAGE, TEMPORAL))
    save_own(home / "vae", vae, {"image": IMAGE, "temporal": asdict(TEMPORAL)})
    save_t5(home, seed + 2)
    settings = {"family": "open-sora", "window": 15, "size": [48, 32], "max_sequence_length": 24}
    (home / "longtake.json").write_text(json.dumps(settings) + "\n")
    return home


def save_own(folder: Path, network: nn.Module, config: dict[str, Any]) -> None:
    """One of our networks as a part of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config) + "\n")


def save_t5(folder: Path, seed: int, kind: Any = T5EncoderModel, config: type = T5Config) -> None:
    """A tiny T5 tower and its tokenizer as `text_encoder` and `tokenizer`."""
    sizes = config(
        vocab_size=3 + len(WORDS) * 2, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    seeded(seed, lambda: kind(sizes)).save_pretrained(folder / "text_encoder", safe_serialization=True)
    tiny_wan().tokenizer.save_pretrained(folder / "tokenizer")
