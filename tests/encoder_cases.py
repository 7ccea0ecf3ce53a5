"""What tests of encoders share: weights that depend on their name alone, and pictures with known motion.

With such weights a network of ours and its published implementation must give the same numbers; those of the published
one were computed once, and are kept in tests/encoder_golden.json with the name and version of the code that gave them.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

GOLDEN = json.loads((Path(__file__).parent / "encoder_golden.json").read_text())


def fill(shapes: dict[str, tuple[int, ...]], gain: float = 1.4) -> dict[str, Tensor]:
    """Weights by name: normal, with the size that keeps signals alive; norms near 1, biases and means near 0."""
    found = {}
    for name, shape in shapes.items():
        draw = np.random.RandomState(zlib.crc32(name.encode()))
        values = draw.standard_normal(shape)
        if name.endswith("num_batches_tracked"):
            found[name] = torch.zeros(shape, dtype=torch.long)
            continue
        if name.endswith("running_var"):
            values = 1 + 0.1 * np.abs(values)
        elif len(shape) > 1:
            values = values * gain / np.sqrt(np.prod(shape[1:]))
        elif name.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values = 0.1 * values
        found[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return found


def shapes_of(net: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's weights."""
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def noise_pictures(count: int, height: int, width: int) -> Tensor:
    """Pictures [T,3,H,W] of numbers like normalised pixels, the same everywhere."""
    draw = np.random.RandomState(7).standard_normal((count, 3, height, width))
    return torch.from_numpy(draw.astype(np.float32))


def plane(side: int = 128) -> Tensor:
    """A smooth coloured pattern (3, side, side) in 0..1."""
    draw = torch.from_numpy(np.random.RandomState(3).rand(1, 3, side // 8, side // 8).astype(np.float32))
    return F.interpolate(draw, (side, side), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def seen(pattern: Tensor, dx: int, dy: int, side: int = 64) -> Tensor:
    """The middle of the pattern moved by (dx, dy): uint8 (side, side, 3)."""
    start = (pattern.shape[1] - side) // 2
    part = pattern[:, start - dy : start - dy + side, start - dx : start - dx + side]
    return (part * 255).round().byte().permute(1, 2, 0).contiguous()


def same_as_golden(name: str, found: Tensor, rtol: float = 1e-3) -> None:
    """Mean, spread and first numbers as the published code gave them."""
    wanted = GOLDEN[name]["numbers"]
    assert list(found.shape) == GOLDEN[name]["shape"]
    scale = wanted[1]
    got = summary(found)
    assert all(abs(a - b) <= rtol * scale for a, b in zip(got, wanted, strict=True)), (name, got, wanted)


def summary(found: Tensor) -> list[float]:
    """Mean, standard deviation, and six numbers spread over a tensor."""
    flat = found.detach().double().flatten()
    picks = torch.linspace(0, len(flat) - 1, 6).long()
    return [float(flat.mean()), float(flat.std()), *(float(value) for value in flat[picks])]
