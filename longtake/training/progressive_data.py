"""Clips for progressive training, encoded once: pocket's cache, or a folder of videos with captions.

A folder holds `name.mp4` with its caption in `name.txt`. Videos are scaled to cover the model's size, cropped, and cut
into pieces as long as the model's window; each piece is encoded as a video of its own, as the base model's were. What
is encoded is kept for as long as the folder holds the same files and captions and the model is the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.core.noise import fold
from longtake.errors import UsageError
from longtake.output.video import read_frames

VIDEOS = (".mp4", ".webm", ".mov", ".mkv", ".avi")


@dataclass(frozen=True)
class Material:
    """`latents` [N,L,C,H,W] as the transformer reads them (halves), the clips' captions, and what embeds one."""

    latents: Tensor
    captions: tuple[str, ...]
    embed: Any

    @property
    def window(self) -> int:
        """Latents a clip."""
        return self.latents.shape[1]

    def draw(
        self, batch: int, offset: int, rows: int, empty: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Random clips' latents [B,rows,C,H,W] from `offset` on, and words [B,T,D]; a share `empty` has no caption."""
        picks = torch.randint(0, len(self.latents), (batch,), generator=generator)
        dropped = torch.rand(batch, generator=generator) < empty
        said = ["" if drop else self.captions[pick] for pick, drop in zip(picks.tolist(), dropped, strict=True)]
        words = torch.stack([self.embed(text).float() for text in said])
        return self.latents[picks, offset : offset + rows].float(), words


def material(model: Any, clips: Path | None, out: Path, kept: Path) -> Material:
    """The clips to train `model` (as loaded) on; those of a folder are encoded once and kept in `kept`."""
    if clips is None:
        return from_cache(model, out / "clips.safetensors")
    if not clips.is_dir():
        raise UsageError(f"--clips {clips} is no folder; give one that holds name.mp4 and name.txt for every clip")
    key = _key(model, clips)
    if not (kept / "clips.safetensors").is_file() or _key_of(kept / "clips.safetensors") != key:
        _encode(model, clips, kept, key)
    captions = json.loads((kept / "captions.json").read_text())
    return Material(load_file(kept / "clips.safetensors")["latents"], tuple(captions), model.denoiser.text)


def from_cache(model: Any, path: Path) -> Material:
    """The clips that `train pocket` encoded; they are not normalised there, and captions are stored as tokens."""
    if not path.is_file():
        raise UsageError(
            f"there is no cache of encoded clips at {path}; make one with: longtake train pocket --stage long "
            f"--minutes 1, or give a folder of videos with --clips"
        )
    data = load_file(path)
    shape = tuple(data["latents"].shape[2:])
    if shape != tuple(model.denoiser.can.latent_shape):
        raise UsageError(
            f"{path} holds latents of {shape}, {model.name} reads {tuple(model.denoiser.can.latent_shape)}"
        )
    config, text = model.codec.vae.config, model.denoiser.text
    mean, std = (torch.tensor(value)[:, None, None] for value in (config.latents_mean, config.latents_std))
    latents = torch.stack([((one.float() - mean) / std).half() for one in data["latents"]])
    captions = text.tokenizer.batch_decode(data["ids"].tolist(), skip_special_tokens=True)
    return Material(latents, tuple(captions), text)


def _key(model: Any, clips: Path) -> str:
    """Another for another model, other files or other captions."""
    told = []
    for video in sorted(path for path in clips.iterdir() if path.suffix.lower() in VIDEOS):
        caption = video.with_suffix(".txt")
        said = caption.read_text(encoding="utf-8") if caption.is_file() else ""
        told.append((video.name, video.stat().st_size, said))
    return f"{fold(0, model.weights_hash, repr(model.size), repr(told)):016x}"


def _key_of(path: Path) -> str:
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("clips", "")


def _encode(model: Any, clips: Path, kept: Path, key: str) -> None:
    latents, captions = [], []
    length = 4 * (model.window - 1) + 1
    for video in sorted(path for path in clips.iterdir() if path.suffix.lower() in VIDEOS):
        told = video.with_suffix(".txt")
        if not told.is_file():
            raise UsageError(f"{video} has no caption; write one into {told.name} beside it")
        for piece in pieces(read_frames(video), model.size, length):
            latents.append(model.codec.encode(piece).half().cpu())
            captions.append(told.read_text(encoding="utf-8").strip())
    if not latents:
        raise UsageError(f"{clips} holds no video of at least {length} frames; videos end in {', '.join(VIDEOS)}")
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "captions.json").write_text(json.dumps(captions))
    save_file({"latents": torch.stack(latents)}, kept / "clips.safetensors", {"clips": key})


def pieces(frames: Iterator[np.ndarray], size: tuple[int, int], length: int) -> Iterator[Tensor]:
    """Consecutive pieces uint8 [length,H,W,3] of a video at `size` (width, height); what is left over is dropped."""
    piece: list[Tensor] = []
    for frame in frames:
        piece.append(cover(torch.from_numpy(np.array(frame)), size))
        if len(piece) == length:
            yield torch.stack(piece)
            piece = []


def cover(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture uint8 [H,W,3] scaled to cover `size` (width, height) and cropped to its middle."""
    width, height = size
    if frame.shape[:2] == (height, width):
        return frame
    scale = max(width / frame.shape[1], height / frame.shape[0])
    sides = (max(height, round(frame.shape[0] * scale)), max(width, round(frame.shape[1] * scale)))
    picture = frame.permute(2, 0, 1)[None].float()
    picture = F.interpolate(picture, sides, mode="bilinear", antialias=True)
    top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
    picture = picture[0, :, top : top + height, left : left + width]
    return picture.round().clamp(0, 255).byte().permute(1, 2, 0).contiguous()
