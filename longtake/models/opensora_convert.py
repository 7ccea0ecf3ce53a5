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

from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models.families import Source
from longtake.models.folder import header
from longtake.models.own import build

Read = Callable[[Path], dict[str, Any]]
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
COPIED = (".json", ".model", ".txt")


def open_sora(read: Read, source: Path, folder: Path) -> None:
    """Open-Sora 1.2, from hpcai-tech's OpenSora-STDiT-v3 and OpenSora-VAE-v1.2 and DeepFloyd's t5-v1_1-xxl."""
    from longtake.models import opensora

    assemble(read, source, folder, opensora.PARTS)
    described = describe(folder, "open-sora", "apache-2.0")
    same_layout(build(lambda: opensora.network_of(described)), described.path("transformer"))
    same_layout(build(lambda: opensora.vae_of(described)), described.path("vae"))


def open_sora_plan(read: Read, source: Path, folder: Path) -> None:
    """Open-Sora-Plan 1.3, from two folders of LanguageBind/Open-Sora-Plan-v1.3.0 and google/mt5-xxl."""
    from longtake.models import opensoraplan

    assemble(read, source, folder, opensoraplan.PARTS)
    described = describe(folder, "open-sora-plan", "mit")
    same_layout(build(lambda: opensoraplan.network_of(described)), described.path("transformer"))
    same_layout(build(lambda: opensoraplan.vae_of(described)), described.path("vae"))


def consisti2v(read: Read, source: Path, folder: Path) -> None:
    """ConsistI2V, from TIGER-Lab/ConsistI2V, whose folders have these names."""
    from longtake.models import consisti2v

    assemble(read, source, folder, consisti2v.PARTS)
    described = describe(folder, "consisti2v", "openrail++")
    same_layout(build(lambda: consisti2v.network_of(described)), described.path("unet"))


def describe(folder: Path, family: str, license_: str) -> Source:
    """Write the `longtake.json` that makes the folder a model; returns it as a source."""
    settings = {"family": family, "license": license_}
    (folder / "longtake.json").write_text(json.dumps(settings) + "\n")
    return Source(folder.name, folder, settings=settings)


def same_layout(network: nn.Module, folder: Path) -> None:
    """UsageError unless the folder's weights are those of the network, name for name and shape for shape."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= {name: tuple(entry["shape"]) for name, entry in header(file).items() if name != "__metadata__"}
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise UsageError(
                f"the {folder.name} is another network: {name} is {found.get(name)}, it should be {wanted.get(name)}"
            )


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
