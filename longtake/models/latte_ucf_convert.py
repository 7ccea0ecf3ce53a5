"""From Latte's published UCF-101 checkpoint to a folder that this package loads.

The file holds the averaged weights under `ema`, beside those of training. Sizes are read off the shapes. The picture
autoencoder is not in it: its diffusers folder, `vae`, has to lie beside the file, in safetensors.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from longtake.errors import UsageError
from longtake.models.latte_ucf_network import LatteConfig, LatteUCF
from longtake.models.own import build, fill

SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02,
             "beta_schedule": "linear", "timestep_spacing": "linspace", "prediction_type": "epsilon",
             "clip_sample": False, "variance_type": "learned_range"}  # fmt: skip


def convert(read: Callable[[Path], dict[str, Any]], source: Path, folder: Path) -> None:
    """Write the folder: transformer, vae, scheduler, longtake.json. UsageError if a part is missing.

    source: the checkpoint; `vae/` lies in the same folder.
    """
    vae = source.parent / "vae"
    if source.is_dir() or not (vae / "config.json").is_file() or not [*vae.glob("*.safetensors")]:
        raise UsageError(
            f"give the checkpoint itself, and beside it the folder 'vae' of Latte-1 in safetensors ({vae})"
        )
    weights = {name: value.float() for name, value in read(source).items()}
    config = sizes(weights, source)
    fill(build(lambda: LatteUCF(config)), weights, source, torch.device("meta"), torch.float32)
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
    save_file({name: value.contiguous() for name, value in weights.items()},
              folder / "transformer" / "diffusion_pytorch_model.safetensors")  # fmt: skip
    shutil.copytree(vae, folder / "vae", ignore=shutil.ignore_patterns("*.bin", "*.pt", "*.pth", "*.ckpt"))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    settings = {"family": "latte-ucf", "license": "apache-2.0"}
    (folder / "longtake.json").write_text(json.dumps(settings, indent=2) + "\n")


def sizes(weights: Mapping[str, Tensor], source: Path) -> LatteConfig:
    """The configuration of a network with these weights. UsageError if they are not Latte's."""
    try:
        width, channels, patch, _ = weights["x_embedder.proj.weight"].shape
        blocks = [int(found[1]) for name in weights if (found := re.match(r"blocks\.(\d+)\.", name))]
        return LatteConfig(
            width=width,
            depth=1 + max(blocks),
            heads=16 if width in (1152, 1024) else max(width // 64, 1),
            patch=patch,
            channels=channels,
            side=isqrt(weights["pos_embed"].shape[1]) * patch,
            frames=weights["temp_embed"].shape[1],
            classes=len(weights["y_embedder.embedding_table.weight"]) - 1,
            time_width=weights["t_embedder.mlp.0.weight"].shape[1],
        )
    except (KeyError, ValueError) as problem:
        raise UsageError(f"{source} is not Latte's class-conditional checkpoint: {problem} is missing") from problem
