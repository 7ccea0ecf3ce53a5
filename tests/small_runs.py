"""Small videos and run directories for tests of the tools around videos."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from longtake.output.video import Format, VideoWriter


def picture_frames(count: int = 40, side: int = 32, seed: int = 0) -> Tensor:
    """A bright square that wanders over a dark ground: uint8 (T, side, side, 3)."""
    colour = np.random.RandomState(seed).randint(80, 256, 3)
    frames = np.full((count, side, side, 3), 30, dtype=np.uint8)
    for i in range(count):
        x = (2 * i + 5 * seed) % (side - 10)
        frames[i, 8:18, x : x + 10] = colour
    return torch.from_numpy(frames)


def save_video(path: Path, frames: Tensor | None = None, fps: str = "8", comment: str | None = None) -> Path:
    """Write frames as the engine writes a film."""
    frames = picture_frames() if frames is None else frames
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = VideoWriter(path, Format(frames.shape[2], frames.shape[1], Fraction(fps)), comment=comment)
    writer.write(frames)
    writer.flush()
    return path


def save_run(folder: Path, prompt: str, seed: int = 0, fps: str = "8", ended: bool = True) -> Path:
    """A run directory with a film of its own."""
    save_video(folder / "video.mp4", picture_frames(seed=seed), fps)
    settings = {"format": 1, "prompt": prompt, "seed": seed, "model_name": "pocket", "method": "fifo", "fps": fps}
    (folder / "run.json").write_text(json.dumps(settings))
    if ended:
        (folder / "FINISHED").write_text(json.dumps({"frames": 40, "latents": 10, "nfe": 0, "seconds": 0.0}))
    return folder
