"""Single numbers that papers make of several: over metrics, and over seeds.

    miga           mean of subject, background, motion smoothness, temporal flickering (MIGA Table 1, "O.S.")
    scalingnoise   the same and imaging quality (ScalingNoise Table 2)
    spread         min, max, range and standard deviation over seeds of one prompt (k-step paper Table 1)
    mean_curve     a metric over the clips of long videos, averaged over videos clip by clip (PA-VDM's plots over time)

PA-VDM's table prints no mean of metrics. Its row is VBench-Long's subject and background consistency with clip-to-clip
scores, and the in-clip means of motion smoothness, dynamic degree, aesthetic and imaging quality.

None of the first two means contains motion: a still video has the best of both. Print dynamic degree beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from longtake.metrics.vbench import average

MIGA = ("subject_consistency", "background_consistency", "motion_smoothness", "temporal_flickering")
SCALINGNOISE = (*MIGA, "imaging_quality")


def overall(values: Mapping[str, float], names: Sequence[str]) -> float | None:
    """The plain mean of the metrics `names`; None if one is missing."""
    if any(name not in values for name in names):
        return None
    return sum(values[name] for name in names) / len(names)


def spread(values: Sequence[float]) -> dict[str, float]:
    """min, max, range and std over seeds. The standard deviation is the population's (divided by n)."""
    if not values:
        raise ValueError("no values to spread")
    mean = sum(values) / len(values)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    low, high = min(values), max(values)
    return {"min": low, "max": high, "range": high - low, "std": std}


def mean_spread(samples: Sequence[Sequence[float]]) -> dict[str, float]:
    """`spread` of each sample (the seeds of one prompt), averaged over samples: a row of the k-step paper's Table 1."""
    each = [spread(sample) for sample in samples]
    return {name: sum(one[name] for one in each) / len(each) for name in each[0]}


def mean_curve(curves: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean over videos at every point; at points that some do not reach, over those that do."""
    longest = max(map(len, curves), default=0)
    reaching = [[c[at] for c in curves if at < len(c)] for at in range(longest)]
    return [average(value for value in values if value is not None) for values in reaching]
