"""The sprites: one WebP sheet of 64 x 64 RGBA cells, decoded once and kept."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from longtake.world.grammar import PROPS, SUBJECTS

CELL = 64
LOOP = 8  # frames in a subject's loop
PATH = Path(__file__).with_name("atlas.webp")


@lru_cache(maxsize=4)
def cells(device: str = "cpu") -> torch.Tensor:
    """Return all cells as float [N, 4, 64, 64], colour premultiplied by alpha, in 0..1."""
    with Image.open(PATH) as sheet:
        grid = np.asarray(sheet.convert("RGBA"))
    rows = grid.shape[0] // CELL
    grid = grid.reshape(rows, CELL, LOOP, CELL, 4).transpose(0, 2, 4, 1, 3)
    flat = torch.from_numpy(grid.reshape(rows * LOOP, 4, CELL, CELL).astype(np.float32) / 255)
    flat[:, :3] *= flat[:, 3:]
    return flat.to(device)


@lru_cache(maxsize=len(SUBJECTS))
def height_share(subject: str) -> float:
    """Return how much of its cell's height a subject fills, 0..1."""
    first = subject_cell(subject)
    covered = cells()[first : first + LOOP, 3].amax(dim=(0, 2)) > 0.1
    return float(covered.sum()) / CELL


def subject_cell(subject: str, frame: int = 0) -> int:
    """Return the index in ``cells`` of one frame of a subject's loop."""
    return SUBJECTS.index(subject) * LOOP + frame % LOOP


def prop_cell(prop: str) -> int:
    """Return the index in ``cells`` of a prop."""
    return len(SUBJECTS) * LOOP + PROPS.index(prop)
