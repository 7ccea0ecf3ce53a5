"""Downloads of Open-Sora, Open-Sora-Plan and ConsistI2V put together as folders that this package loads.

Their parts are published apart, the text encoder by others, weights partly pickled. `longtake convert` is given a
folder with one folder for each part; names of weights stay as published.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from longtake.errors import UsageError

Read = Callable[[Path], dict[str, Any]]
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
COPIED = (".json", ".model", ".txt")


def open_sora(read: Read, source: Path, folder: Path) -> None:
    """Open-Sora 1.2, from hpcai-tech's OpenSora-STDiT-v3 and OpenSora-VAE-v1.2 and DeepFloyd's t5-v1_1-xxl."""
    assemble(read, source, folder, ("transformer", "vae", "text_encoder", "tokenizer"))
    describe(folder, "open-sora", "apache-2.0")


def open_sora_plan(read: Read, source: Path, folder: Path) -> None:
    """Open-Sora-Plan 1.3, from two folders of LanguageBind/Open-Sora-Plan-v1.3.0 and google/mt5-xxl."""
    assemble(read, source, folder, ("transformer", "vae", "text_encoder", "tokenizer"))
    describe(folder, "open-sora-plan", "mit")


def consisti2v(read: Read, source: Path, folder: Path) -> None:
    """ConsistI2V, from TIGER-Lab/ConsistI2V, whose folders have these names."""
    assemble(read, source, folder, ("unet", "vae", "text_encoder", "tokenizer"))
    describe(folder, "consisti2v", "openrail++")


def describe(folder: Path, family: str, license_: str) -> None:
    """Write the `longtake.json` that makes the folder a model."""
    (folder / "longtake.json").write_text(json.dumps({"family": family, "license": license_}) + "\n")


def assemble(read: Read, source: Path, folder: Path, parts: Sequence[str]) -> None:
    """Copy the parts, weights as safetensors. UsageError names a part that is missing or without weights."""
    missing = [part for part in parts if not (source / part).is_dir()]
    if missing:
        raise UsageError(f"{source} has no folder {missing[0]!r}; put the downloads in it as {', '.join(parts)}")
    for part in parts:
        (folder / part).mkdir()
        for file in sorted((source / part).iterdir()):
            if file.suffix in COPIED and not file.name.endswith(".index.json"):
                shutil.copy(file, folder / part / file.name)
        if part != "tokenizer":
            _weights(read, source / part, folder / part)


def _weights(read: Read, source: Path, folder: Path) -> None:
    from safetensors.torch import save_file

    files = sorted(source.glob("*.safetensors"))
    files = files or sorted(file for file in source.iterdir() if file.suffix in PICKLED)
    if not files:
        raise UsageError(f"{source} holds no weights ({', '.join(('.safetensors', *PICKLED))})")
    many, index, stem = len(files), {}, "diffusion_pytorch_model" if _of_diffusers(folder) else "model"
    for number, file in enumerate(files, start=1):
        name = f"{stem}.safetensors" if many == 1 else f"{stem}-{number:05d}-of-{many:05d}.safetensors"
        weights = {key: value.contiguous().clone() for key, value in _unique(read(file)).items()}
        save_file(weights, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(weights, name)
    if many > 1:
        content = {"metadata": {}, "weight_map": index}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(content) + "\n")


def _of_diffusers(folder: Path) -> bool:
    # diffusers looks for its own file name; our networks read any
    config = folder / "config.json"
    return config.is_file() and "_class_name" in json.loads(config.read_text(encoding="utf-8"))


def _unique(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    # T5 stores its embedding under two names; safetensors may hold a tensor once, and transformers ties it again
    if "shared.weight" in weights:
        return {name: value for name, value in weights.items() if name != "encoder.embed_tokens.weight"}
    return weights
