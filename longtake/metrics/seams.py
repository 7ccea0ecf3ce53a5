"""Whether the joins of a video made in pieces can be seen.

    jump(i)      |x[i] - x[i-1]| + 0.1, the mean absolute difference of neighbouring frames in grey levels
    around(i)    the median of the jumps within half a second of i, other joins left out
    seam         the geometric mean over joins j of jump(j) / around(j): 1 when joins look like any other moment, 2 when
                 the picture moves twice as much there, below 1 when it halts (a frame shown twice)
    chance       the share of other moments that jump less than a join does, over all pairs of both (a tie counts half):
                 0.5 when joins cannot be told apart, 1 when every join stands out

Where the joins are is the caller's to know: for a run, where the emissions of more than one latent begin. Ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import torch

FLOOR = 0.1
"""Grey levels added to every jump, so that a still picture has a ratio of 1."""


def seam_visibility(errors: Sequence[float], joins: Sequence[int], fps: float) -> dict[str, float] | None:
    """{"value", "chance", "n"}; None if no join has frames on both sides.

    errors: difference of frames i and i + 1. joins: the first frame after each join.
    """
    inside = sorted({join for join in joins if 1 <= join <= len(errors)})
    reach = max(2, round(fps / 2))
    known = set(inside)
    ratios = {frame: ratio for frame in range(1, len(errors) + 1) if (ratio := _ratio(errors, frame, known, reach))}
    at = torch.tensor([ratios[join] for join in inside if join in ratios], dtype=torch.float64)
    other = torch.tensor([ratio for frame, ratio in ratios.items() if frame not in known], dtype=torch.float64)
    if not len(at) or not len(other):
        return None
    ordered = other.sort().values
    less = torch.searchsorted(ordered, at, right=False) + torch.searchsorted(ordered, at, right=True)
    chance = float(less.double().mean()) / 2 / len(other)
    return {"value": math.exp(float(at.log().mean())), "chance": chance, "n": len(at)}


def _ratio(errors: Sequence[float], frame: int, joins: set[int], reach: int) -> float | None:
    around = [
        errors[other - 1] + FLOOR
        for other in range(max(1, frame - reach), min(len(errors), frame + reach) + 1)
        if other != frame and other not in joins
    ]
    return (errors[frame - 1] + FLOOR) / median(around) if around else None
