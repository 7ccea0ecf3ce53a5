"""How a video changes with its length: any number a frame as a curve over time, its slope, and the drift of colours.

    curve    the mean of the numbers of every two seconds
    slope    least squares through the points of the curve, a level of its own for every shot: a cut is no drift, and a
             point that a cut falls into is left out; its interval is the 95 % bootstrap over points
    colour   every frame's mean L*, a*, b* (CIE Lab, D65), their slopes over half seconds as above, times the length of
             the video: the value is the length of that vector, so the colour difference (CIE76, 1 is barely visible) of
             the two ends as if it had been one shot

Slopes need 4 points. PA-VDM plots its metrics over 2-second clips in the same way (Sec. 4); the slope, its interval and
colour drift are ours. Memory: one number a frame and metric.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from longtake.metrics.scenes import shots
from longtake.metrics.vbench import average

POINT_SECONDS, COLOUR_SECONDS = 2.0, 0.5
FEWEST_POINTS = 4
MOST_POINTS = 400
"""Of a slope: of longer videos every point is longer."""
RESAMPLES, PORTION = 2000, 50
SIDE = 32
"""Pixels a side of the picture that colours are averaged over."""


class Colours:
    """Mean L*, a*, b* of every frame, in `lab` one after the other."""

    def __init__(self) -> None:
        self.lab = array("d")

    def update(self, frames: UInt8[Tensor, "T H W 3"]) -> None:
        """Take the next frames."""
        for frame in frames.cpu().numpy():
            small = cv2.resize(np.ascontiguousarray(frame), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
            self.lab.extend(lab.mean((0, 1), dtype=np.float64).tolist())

    def channels(self) -> Float[Tensor, "3 T"]:
        """L*, a* and b* over time."""
        return torch.tensor(self.lab, dtype=torch.float64).reshape(-1, 3).T


def by_frame(
    num_frames: int,
    values: Mapping[int, float],
    cuts: Sequence[int] = (),
    before: int = 0,
    after: int = 0,
) -> array[float]:
    """A number for every frame, NaN where there is none.

    values: by frame. One that compares frames from `before` ahead of it to `after` behind it counts as none if a cut
    falls between them: a cut is no drift.
    """
    series = array("d", [math.nan]) * num_frames
    for frame, value in values.items():
        series[frame] = value
    for cut in cuts:
        for frame in range(max(cut - after, 0), min(cut + before, num_frames)):
            series[frame] = math.nan
    return series


def curve(series: Sequence[float], fps: float) -> list[float | None]:
    """Means over every two seconds of a number a frame; None where there is none."""
    return [_mean(series[part.start : part.stop]) for part in _parts(len(series), _length(POINT_SECONDS, fps))]


def slope(
    series: Sequence[float], fps: float, cuts: Sequence[int] = (), seconds: float = POINT_SECONDS
) -> dict[str, float] | None:
    """Change a minute of a number a frame: {"value", "low", "high"}; None of fewer than 4 points."""
    times, heights, groups = _points(series, fps, cuts, seconds)
    if len(times) - len(set(groups.tolist())) + 1 < FEWEST_POINTS:
        return None
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(RESAMPLES // PORTION):  # in portions, so that memory does not grow with the number of points
        draws = torch.randint(0, len(times), (PORTION, len(times)), generator=generator)
        found.append(_fits(times[draws], heights[draws], groups[draws]))
    spread = torch.cat(found)
    spread = spread[torch.isfinite(spread)]
    low, high = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"value": float(_fits(times[None], heights[None], groups[None])), "low": low, "high": high}


def colour_drift(lab: Float[Tensor, "3 T"], fps: float, cuts: Sequence[int] = ()) -> dict[str, Any] | None:
    """{"value", "low", "high", "lab", "curve"}: colour difference of the ends with its interval, and of each channel.

    The interval is that of the drift along the direction found. None of videos too short for a slope (two seconds).
    """
    minutes = lab.shape[1] / fps / 60
    parts = [slope(channel.tolist(), fps, cuts, COLOUR_SECONDS) for channel in lab]
    shift = torch.tensor([part["value"] * minutes for part in parts if part], dtype=torch.float64)
    if len(shift) < 3:
        return None
    value = float(shift.norm())
    total = slope(((shift / max(value, 1e-12)) @ lab).tolist(), fps, cuts, COLOUR_SECONDS)
    assert total is not None
    points = torch.tensor([curve(channel.tolist(), fps) for channel in lab], dtype=torch.float64)
    away = (points - points[:, :1]).norm(dim=0).tolist()
    interval = {"low": total["low"] * minutes, "high": total["high"] * minutes}
    return {"value": value, **interval, "lab": shift.tolist(), "curve": away}


def _points(series: Sequence[float], fps: float, cuts: Sequence[int], seconds: float) -> tuple[Tensor, Tensor, Tensor]:
    # Times in minutes, means and shots of the points that no cut falls into
    length = max(_length(seconds, fps), len(series) // MOST_POINTS)
    rows = []
    for group, shot in enumerate(shots(list(cuts), len(series))):
        for part in _parts(len(series), length):
            inside = part.start >= shot.start and part.stop <= shot.stop
            if inside and (mean := _mean(series[part.start : part.stop])) is not None:
                rows.append(((part.start + part.stop - 1) / 2 / fps / 60, mean, group))
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2].long()


def _parts(num_frames: int, length: int) -> list[range]:
    # A last one shorter than half of the length is left out, unless it is all
    found = [range(start, min(start + length, num_frames)) for start in range(0, num_frames, length)]
    return found if len(found) < 2 or 2 * len(found[-1]) >= length else found[:-1]


def _length(seconds: float, fps: float) -> int:
    return max(1, round(seconds * fps))


def _mean(values: Sequence[float]) -> float | None:
    return average(value for value in values if not math.isnan(value))


def _fits(times: Tensor, heights: Tensor, groups: Tensor) -> Tensor:
    # Least squares slope [R] of each row of [R,P], every shot with a level of its own
    up, across = torch.zeros(len(times), dtype=torch.float64), torch.zeros(len(times), dtype=torch.float64)
    for group in groups.unique():
        inside = (groups == group).double()
        count = inside.sum(1, keepdim=True).clamp(min=1)
        t = (times - (times * inside).sum(1, keepdim=True) / count) * inside
        h = (heights - (heights * inside).sum(1, keepdim=True) / count) * inside
        up, across = up + (t * h).sum(1), across + t.square().sum(1)
    return torch.where(across > 0, up / across, torch.nan)
