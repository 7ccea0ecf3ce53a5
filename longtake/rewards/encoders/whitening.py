"""EfficientNet-Lite features with what does not tell a subject apart taken out: centred, then whitened within classes.

    y = (x - m) P,  P = U (U' W U)^(-1/2)

m is the mean feature, W the covariance of features around the mean of their own subject (same animal, same tint and
size, elsewhere), U the 128 directions of most variance. What varies most between pictures of one and the same subject
counts least. m and P (about 330 kB) are fitted on rendered subjects by `longtake.training.whitening` and are part of
this package; the network itself is the user's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor

from longtake.rewards.encoders.mobile import efficientnet

WEIGHTS = Path(__file__).parent.parent.parent / "models" / "weights" / "whitening"
WIDTH = 128
SHRINK = 0.05
"""Share of the mean variance that is added to every direction of W, which has fewer samples than it would take."""


@dataclass(frozen=True, eq=False)
class Whitened:
    """An encoder behind a centring and a matrix."""

    name: str
    encoder: Any
    mean: Float[Tensor, " D"]
    matrix: Float[Tensor, "D 128"]

    def __call__(self, frames: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "T 128"]:
        """Whitened features of each frame."""
        return (self.encoder(frames) - self.mean) @ self.matrix


def fit(features: Float[Tensor, "N D"], subjects: Tensor, width: int = WIDTH) -> dict[str, Tensor]:
    """`mean` and `matrix` from features of pictures and whose they are [N]. Float64 throughout."""
    x = features.double()
    mean = x.mean(0)
    x = x - mean
    _, whose = subjects.unique(return_inverse=True)
    count = int(whose.max()) + 1
    sums = torch.zeros(count, x.shape[1], dtype=x.dtype).index_add_(0, whose, x)
    own = sums / whose.bincount(minlength=count)[:, None]
    values, vectors = torch.linalg.eigh(x.T @ x)
    directions = vectors[:, values.argsort(descending=True)[:width]]
    rest = (x - own[whose]) @ directions
    within = rest.T @ rest / max(len(x) - count, 1)
    within += SHRINK * within.diagonal().mean() * torch.eye(len(within), dtype=x.dtype)
    values, vectors = torch.linalg.eigh(within)
    return {"mean": mean, "matrix": directions @ (vectors * values.rsqrt()) @ vectors.T}


def whitened(folder: Path) -> Whitened:
    """EfficientNet-Lite from its folder, with the whitening of this package."""
    found = load_file(WEIGHTS / f"{folder.name}.safetensors")
    return Whitened(f"{folder.name}-whitened", efficientnet(folder), found["mean"].float(), found["matrix"].float())
