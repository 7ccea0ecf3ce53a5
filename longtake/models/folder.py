"""Pipeline folders in diffusers format: everything that can be wrong with one is said in one line before it loads.

Only safetensors and JSON are read, never pickle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import nn

from longtake.errors import UsageError

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHTED = PARTS[:3]
JSON = ("model_index.json", "longtake.json", "*/config.json", "*/scheduler_config.json")
"""What a plan reads: configurations, not the megabytes of a tokenizer."""
PATTERNS = ("*.json", "*/*.safetensors", "preview.safetensors", "*.model", "*.txt", "README.md")
"""What a model is loaded from. Weights lie in the folders of parts; repositories may have all in one file as well."""
VARIANTS = ("*.fp16*", "*.bf16*", "*.non_ema*")
"""The same weights once more in another form, which is not loaded."""
WHOLE = 64 << 20  # files up to this size are hashed whole
SAMPLE = 1 << 20


def resolve(source: str | Path, names: Mapping[str, Path | str | None], weights: bool = True) -> Path:
    """The local folder of a model name, a folder or a hub id. `names` maps to a folder, a hub id, or None.

    What the hub has is downloaded once and cached: safetensors and text, or without `weights` the JSON alone, for plans
    that load nothing.
    """
    text = str(source)
    if text in names:
        home = names[text]
        if home is None:
            raise UsageError(
                f"{text!r} is a family without a checkpoint of its own here; convert one and pass its folder"
            )
        if isinstance(home, str):
            return _download(home, weights)
        if not home.is_dir():
            raise UsageError(f"the weights of {text!r} are not in this installation; pass a folder or a hub id instead")
        return home
    folder = Path(text).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UsageError(f"{text!r} is a file; a model is a pipeline folder in diffusers format")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text):
        raise UsageError(f"no folder {text!r} here; give a folder, a hub id (owner/name) or one of: {', '.join(names)}")
    return _download(text, weights)


def _download(hub_id: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and needed for hub ids alone

    try:
        wanted = list(PATTERNS if weights else JSON)
        return Path(snapshot_download(hub_id, allow_patterns=wanted, ignore_patterns=list(VARIANTS)))
    except Exception as problem:  # the client raises a dozen unrelated types for "not there" and "no network"
        reason = str(problem).strip().split("\n")[0].split(". ")[0][:160]
        raise UsageError(
            f"{hub_id!r} is neither a folder here nor a model that could be fetched or found in the cache: {reason}"
        ) from problem


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; UsageError names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} is missing") from None
    except (UnicodeDecodeError, json.JSONDecodeError, OSError) as problem:
        raise UsageError(f"{path} is not readable JSON: {problem}") from problem
    if not isinstance(value, dict):
        raise UsageError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


def settings(folder: Path) -> dict[str, Any]:
    """The folder's `longtake.json` (defaults of the model: window, fps, steps, ...), empty if there is none."""
    path = folder / "longtake.json"
    return read_json(path) if path.is_file() else {}


def index_of(folder: Path) -> dict[str, Any]:
    """The model index of a pipeline folder; {} for an own layout, whose `longtake.json` names its family."""
    if (folder / "model_index.json").is_file():
        return read_json(folder / "model_index.json")
    if "family" in settings(folder):
        return {}
    raise UsageError(f"{folder} has no model_index.json; a model is a pipeline folder in diffusers format")


def check_part(folder: Path) -> None:
    """UsageError unless the folder of a part holds a configuration and whole safetensors."""
    read_json(folder / "config.json")
    _check_weights(folder)


def _check_weights(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
        if pickles:
            raise UsageError(f"{folder} holds {pickles[0]}, a pickle; only safetensors are loaded: convert the model")
        raise UsageError(f"{folder} holds no weights (*.safetensors)")
    for path in folder.glob("*.safetensors.index.json"):
        missing = sorted(set(read_json(path).get("weight_map", {}).values()) - {file.name for file in files})
        if missing:
            raise UsageError(f"{folder} lacks {missing[0]}, which {path.name} names; download the model again")
    for file in files:
        header(file)


def header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file whose length agrees with it; UsageError if the file is cut off or damaged."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        raw = file.read(length) if 0 < length <= size - 8 else b""
    try:
        entries = json.loads(raw)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as problem:
        raise UsageError(f"{path} is damaged: its safetensors header cannot be read; copy the file again") from problem
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise UsageError(f"{path} is damaged: {size} bytes where its header says {expected}; copy the file again")
    return entries


def license_of(folder: Path) -> str | None:
    """The licence that the model card (README.md) states in its front matter, if any."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    found = re.search(r"^license:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return found.group(1) if found else None


def folder_hash(parts: Iterable[Path]) -> str:
    """16 hex digits that name the weights in these part folders, under their last two names.

    Whole files up to 64 MiB, 64 spread-out samples of larger ones.
    """
    digest = sha256()
    for path in sorted(
        (file for part in parts for file in part.glob("*.safetensors")), key=lambda file: file.parts[-2:]
    ):
        size = path.stat().st_size
        digest.update(f"{path.parent.name}/{path.name} {size} ".encode())
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                continue
            for number in range(64):
                file.seek(number * (size - SAMPLE) // 63)
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()[:16]


def module_hash(modules: Iterable[nn.Module]) -> str:
    """16 hex digits that name the weights of live modules: names, shapes, dtypes and up to 1,024 values of each."""
    digest = sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            flat = value.detach().flatten()
            flat = flat[:: max(1, flat.numel() // 1024)].float().cpu()
            digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode() + flat.numpy().tobytes())
    return digest.hexdigest()[:16]
