"""Frechet distance of two sets of features (FVD, Unterthiner et al. 2018) that stays finite, and the inception score.

    d2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2       (m, S: mean and covariance, divided by n - 1)

The last trace is the sum of the singular values of S1^1/2 S2^1/2. Both roots are taken of symmetric matrices with
eigenvalues below rounding error set to 0, and no root of a product is ever taken: so sets smaller than the dimension,
where the usual matrix root diverges (PA-VDM met -3.62e64), give a number >= 0, and equal sets give 0.

A finite number is not yet a true one: the covariance of n samples in D dimensions is too uneven by O(D/n), which adds a
bias of the same order to d2. `frechet` therefore refuses n < 2 D, unless `shrink` is asked for: then covariances are
S + lambda (tr S / D - S) with the lambda of Ledoit and Wolf (2004), which is reported, and n >= 32 is enough. A shrunk
distance compares sets of equal n only.

    IS = exp( mean over x of KL( p(y|x) || mean p(y) ) )                 (Salimans et al. 2016)

The features are the caller's: FVD as published is I3D logits (400) or VideoMAE-v2 (1408) of 16-frame clips; VBench-Long
style evaluation takes 2-second clips. `over_clips` feeds a video encoder. Results name n, and the caller its encoder.
Cost: O(n D^2 + D^3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from longtake.errors import UsageError
from longtake.rewards.features import VideoEncoder

PER_DIMENSION = 2
FEWEST_SHRUNK = 32


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean [D] and covariance [D,D] of n samples; `shrinkage` is the weight of the round part, 0 if there is none."""

    mean: Float[Tensor, " D"]
    covariance: Float[Tensor, "D D"]
    n: int
    shrinkage: float = 0.0


def fit(features: Float[Tensor, "N D"], shrink: bool = False) -> Gaussian:
    """Moments of features in float64. UsageError of fewer than two samples or values that are not finite."""
    data = features.double()
    if data.ndim != 2 or len(data) < 2:
        raise UsageError(f"a covariance needs two or more feature vectors, got shape {list(data.shape)}")
    if not torch.isfinite(data).all():
        raise UsageError("the features hold values that are not finite; look at the videos they come from")
    mean = data.mean(0)
    centred = data - mean
    covariance = centred.T @ centred / (len(data) - 1)
    if not shrink:
        return Gaussian(mean, covariance, len(data))
    weight = ledoit_wolf(centred)
    level = covariance.trace() / covariance.shape[0]
    covariance = (1 - weight) * covariance + weight * level * torch.eye(covariance.shape[0], dtype=torch.float64)
    return Gaussian(mean, covariance, len(data), weight)


def ledoit_wolf(centred: Float[Tensor, "N D"]) -> float:
    """The best weight of the round part, from centred samples: sampling error of S over its distance from round."""
    count, size = centred.shape
    biased = centred.T @ centred / count
    level = biased.trace() / size
    distance = (biased - level * torch.eye(size, dtype=biased.dtype)).square().sum() / size
    if distance == 0:
        return 1.0
    # mean over samples of |x x' - S|^2 = mean |x|^4 - |S|^2
    error = (centred.square().sum(1).square().mean() - biased.square().sum()) / (size * count)
    return float((error / distance).clamp(0, 1))


def distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Frechet distance of two Gaussians, >= 0 whatever their rank."""
    if first.mean.shape != second.mean.shape:
        raise UsageError(f"features of {len(first.mean)} and of {len(second.mean)} dimensions cannot be compared")
    apart = (first.mean - second.mean).square().sum()
    cross = torch.linalg.svdvals(_root(first.covariance) @ _root(second.covariance)).sum()
    value = float(apart + first.covariance.trace() + second.covariance.trace() - 2 * cross)
    # what rounding leaves of equal covariances is nothing
    noise = 1e-9 * float(first.covariance.trace() + second.covariance.trace())
    return value if value > noise else 0.0


def frechet(first: Float[Tensor, "N D"], second: Float[Tensor, "M D"], shrink: bool = False) -> dict[str, object]:
    """The distance of two sets of features: {"value", "n": [N, M], "dimensions", "shrinkage": [.., ..]}.

    UsageError if a set is too small to say anything.
    """
    dimensions = first.shape[-1]
    fewest = FEWEST_SHRUNK if shrink else PER_DIMENSION * dimensions
    least = min(len(first), len(second))
    if least < fewest:
        more = "" if shrink else f", or shrink=True from {FEWEST_SHRUNK} on"
        raise UsageError(
            f"a Frechet distance in {dimensions} dimensions of {least} samples is mostly sampling error; "
            f"give {fewest} or more of each{more}"
        )
    one, two = fit(first, shrink), fit(second, shrink)
    return {
        "value": distance(one, two),
        "n": [one.n, two.n],
        "dimensions": dimensions,
        "shrinkage": [one.shrinkage, two.shrinkage],
    }


def inception_score(probabilities: Float[Tensor, "N K"]) -> float:
    """IS of class probabilities, rows summing to 1. UsageError if they do not."""
    p = probabilities.double()
    if p.ndim != 2 or len(p) == 0 or bool((p < 0).any()) or not torch.allclose(p.sum(1), torch.ones(len(p)).double()):
        raise UsageError("the inception score needs class probabilities: rows of numbers >= 0 that sum to 1")
    mean = p.mean(0, keepdim=True)
    # 0 log 0 = 0
    terms = torch.where(p > 0, p * (p.clamp(min=1e-300).log() - mean.clamp(min=1e-300).log()), 0.0)
    return float(terms.sum(1).mean().exp())


def over_clips(encoder: VideoEncoder, clips: Iterable[UInt8[Tensor, "T H W 3"]]) -> Float[Tensor, "N D"]:
    """Features of clips, one encoded at a time; those of another length are sampled to the encoder's, evenly."""
    found = []
    for clip in clips:
        if encoder.num_frames is not None and len(clip) != encoder.num_frames:
            clip = clip[torch.linspace(0, len(clip) - 1, encoder.num_frames).round().long()]
        found.append(encoder(clip[None])[0])
    if not found:
        raise UsageError("there are no clips to take features of")
    return torch.stack(found)


def _root(matrix: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    values, vectors = torch.linalg.eigh(matrix)
    noise = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return (vectors * torch.where(values > noise, values, 0.0).sqrt()) @ vectors.T
