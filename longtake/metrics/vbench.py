"""VBench's video quality formulas (Huang et al. 2024), folded over a stream of frames in flat memory.

    subject, background   mean over i >= 1 of ( max(0, cos(f[i-1], f[i])) + max(0, cos(f[0], f[i])) ) / 2
                          f: DINO ViT-B/16 for subject, CLIP ViT-B/32 for background
    temporal flickering   (255 - mean |x[i] - x[i-1]|) / 255
    motion smoothness     (255 - mean |x[i] - middle(x[i-1], x[i+1])|) / 255 over odd i; middle: AMT-S
    dynamic degree        every max(1, round(fps / 8))-th of the frames; the mean of the largest 5 % of a pair's flow
                          magnitudes is above 6 min(h, w) / 256 in at least round(4 n / 16) pairs of n such frames;
                          flow: RAFT
    aesthetic, imaging    mean over frames of the LAION head / 10 and of MUSIQ-SPAQ / 100

The k-step paper's variants (chunk-wise generation with k-step search, Sec. 4.3) of the first row are the plain mean
over i >= 1 of cos(f[i-1], f[i]): no first frame, no clamp. Its other rows are the ones above.

Over several videos VBench weights subject, background and aesthetic by frames (pairs for the first two) and the rest by
video (`mean_over_videos`).

Deviations. Two frames need one moving pair, where VBench's rounding asks for none and calls every still video dynamic.
A video too short for two sampled frames is sampled at both ends. Flow is taken without the padding of RAFT's adapter:
an encoder pads and cuts back as it needs.

Cost: one picture through an encoder a frame, one flow a sampled frame, one interpolation every second frame. Memory:
the frames between two sampled ones, one number a frame.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from longtake.rewards.features import Encoder, Flow, Middle, Scorer

Frames = UInt8[Tensor, "T H W 3"]

SAMPLED_FPS = 8
"""Rate at which VBench looks for motion."""

BY_FRAME = ("subject_consistency", "background_consistency", "aesthetic_quality")
"""Metrics that VBench averages over the frames of all videos, not over videos."""


class Consistency:
    """Cosines of every frame's features with those of the frame before and of the first frame.

    to_previous, to_first: one number for every frame but the first, not clamped.
    """

    def __init__(self, encoder: Encoder | None = None) -> None:
        """Without an encoder `update` takes features [T,D] instead of frames."""
        self.encoder = encoder
        self.to_previous, self.to_first = array("d"), array("d")
        self._first: Tensor | None = None
        self._previous: Tensor | None = None

    def update(self, frames: Frames | Float[Tensor, "T D"]) -> None:
        """Take the next frames (or their features)."""
        if len(frames) == 0:
            return
        features = frames if self.encoder is None else self.encoder(frames)
        unit = F.normalize(features.double(), dim=1, eps=1e-12)
        if self._first is None or self._previous is None:
            self._first = self._previous = unit[0].clone()
            unit = unit[1:]
        if len(unit):
            before = torch.cat([self._previous[None], unit[:-1]])
            self.to_previous.extend((before * unit).sum(1).tolist())
            self.to_first.extend((unit @ self._first).tolist())
            self._previous = unit[-1].clone()

    def result(self) -> float | None:
        """VBench's number; None of fewer than two frames."""
        return consistency(self.to_previous, self.to_first)


class Flicker:
    """Mean absolute difference of neighbouring frames in grey levels; `errors` has one number a pair."""

    def __init__(self) -> None:
        self.errors = array("d")
        self._previous: Tensor | None = None

    def update(self, frames: Frames) -> None:
        """Take the next frames."""
        for frame in frames:
            if self._previous is not None:
                self.errors.append(difference(self._previous, frame))
            self._previous = frame
        if self._previous is not None:
            self._previous = self._previous.clone()  # else a view keeps the whole batch

    def result(self) -> float | None:
        """VBench's number; None of fewer than two frames."""
        return evenness(self.errors)


class Smoothness:
    """How well the frames of odd index are foretold by their neighbours; `errors` has one number for each of them.

    Pictures whose shorter side is over `most_side` are made smaller to that; None: never.
    """

    def __init__(self, middle: Middle, most_side: int | None = None) -> None:
        self.middle, self.most_side = middle, most_side
        self.errors = array("d")
        self._pending = torch.empty(0)

    def update(self, frames: Frames) -> None:
        """Take the next frames."""
        frames = reduced(frames, self.most_side)
        held = torch.cat([self._pending, frames]) if len(self._pending) else frames
        count = (len(held) - 1) // 2
        if count > 0:
            even, odd = held[: 2 * count + 1 : 2], held[1 : 2 * count : 2]
            # whole numbers, as VBench compares: its AMT writes them rounded down (encoders/amt does); a stand-in's go
            # to the nearest, or what its arithmetic leaves of a still picture would count as change
            made = self.middle(even[:-1], even[1:]).round().clamp(0, 255).to(torch.uint8)
            self.errors.extend(difference(a, b) for a, b in zip(made, odd, strict=True))
        self._pending = held[2 * max(count, 0) :].clone()

    def result(self) -> float | None:
        """VBench's number; None of fewer than three frames."""
        return evenness(self.errors)


class Motion:
    """Flow from every sampled frame to the next. `seconds`: the second frames of the pairs, `tops`, `means` of each.

    grids: which frames are sampled, ranges of step `interval`; frames in none of them are not looked at. By default
    every `interval`-th from the first. Pictures whose shorter side is over `most_side` are made smaller to that for the
    flow, which is scaled back; None: never.
    """

    def __init__(
        self, flow: Flow, interval: int, grids: Sequence[range] | None = None, most_side: int | None = None
    ) -> None:
        self.flow, self.interval, self.most_side = flow, interval, most_side
        self.grids = [range(0, sys.maxsize, interval)] if grids is None else list(grids)
        self.seconds, self.tops, self.means = array("q"), array("d"), array("d")
        self.side = 0
        self._count = 0
        self._kept: deque[Tensor | None] = deque(maxlen=interval)

    def update(self, frames: Frames) -> None:
        """Take the next frames."""
        if len(frames) == 0:
            return
        self.side = min(frames.shape[1:3])
        frames = reduced(frames, self.most_side)
        factor = self.side / min(frames.shape[1:3])
        for frame in frames:
            index = self._count
            if any(index in grid and index - self.interval >= grid.start for grid in self.grids):
                first = self._kept[0]
                assert first is not None
                magnitude = factor * self.flow(first[None], frame[None])[0].double().square().sum(0).sqrt()
                self.seconds.append(index)
                self.tops.append(strongest(magnitude))
                self.means.append(float(magnitude.mean()))
            wanted = any(index in grid for grid in self.grids)
            self._kept.append(frame.clone() if wanted else None)
            self._count += 1

    def pairs(self, grid: range | None = None) -> list[int]:
        """Which pairs are a grid's (the first grid's if none is given), as far as they were seen: indices of `tops`."""
        grid = grid or self.grids[0]
        low, high = (bisect_left(self.seconds, edge) for edge in (grid.start + self.interval, grid.stop))
        return [index for index in range(low, high) if self.seconds[index] in grid]

    def moves(self, grid: range | None = None) -> bool | None:
        """VBench's dynamic degree over a grid; None of fewer than two sampled frames."""
        found = [self.tops[index] for index in self.pairs(grid)]
        return dynamic_degree(found, self.side) if found else None

    def mean(self, grid: range | None = None) -> float | None:
        """Mean length of the flow over all pixels and pairs of a grid, in pixels from one sampled frame to the next."""
        return average([self.means[index] for index in self.pairs(grid)])


class Scores:
    """One number a frame of a scorer, such as aesthetic or imaging quality."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.values = array("d")

    def update(self, frames: Frames) -> None:
        """Take the next frames."""
        if len(frames):
            self.values.extend(self.scorer(frames).double().tolist())

    def result(self) -> float | None:
        """Their mean."""
        return average(self.values)


def consistency(to_previous: Sequence[float], to_first: Sequence[float]) -> float | None:
    """Subject or background consistency from the cosines of frames 1, 2, ...; None of none."""
    return average([(max(0.0, a) + max(0.0, b)) / 2 for a, b in zip(to_previous, to_first, strict=True)])


def consecutive(to_previous: Sequence[float]) -> float | None:
    """The k-step paper's consistency: the mean cosine of neighbouring frames."""
    return average(to_previous)


def evenness(errors: Sequence[float]) -> float | None:
    """(255 - mean) / 255 of errors in grey levels: temporal flickering and motion smoothness."""
    mean = average(errors)
    return None if mean is None else (255 - mean) / 255


def dynamic_degree(tops: Sequence[float], side: int) -> bool:
    """Whether enough pairs move: `tops` are the mean largest flows of neighbouring sampled frames, `side` min(h, w)."""
    needed = max(1, round(4 * (len(tops) + 1) / 16))
    return sum(top > threshold(side) for top in tops) >= needed


def threshold(side: int) -> float:
    """Pixels that the strongest flow of a moving pair passes, in pictures of shorter side `side`."""
    return 6 * side / 256


def strongest(magnitude: Float[Tensor, "H W"]) -> float:
    """The mean of the largest 5 % of flow magnitudes; of the largest one in pictures of fewer than 20 pixels."""
    count = max(1, int(magnitude.numel() * 0.05))
    return float(magnitude.flatten().topk(count).values.mean())


def interval_of(fps: float) -> int:
    """Every how many frames VBench looks for motion."""
    return max(1, round(fps / SAMPLED_FPS))


def difference(first: UInt8[Tensor, "H W 3"], second: UInt8[Tensor, "H W 3"]) -> float:
    """Mean absolute difference of two pictures in grey levels, exact."""
    return cv2.norm(first.numpy(), second.numpy(), cv2.NORM_L1) / first.numel()


def reduced(frames: Frames, side: int | None) -> Frames:
    """Pictures with their shorter side at most `side`, made smaller by averaging areas; None: as they are."""
    height, width = frames.shape[1:3]
    if side is None or min(height, width) <= side:
        return frames
    size = (max(1, round(width * side / min(height, width))), max(1, round(height * side / min(height, width))))
    return torch.from_numpy(
        np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames.numpy()])
    )


def average(values: Iterable[float]) -> float | None:
    """The mean, None of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else None


def mean_over_videos(name: str, values: Sequence[float], counts: Sequence[int]) -> float:
    """VBench's mean of one metric over videos; `counts` are the frames or pairs that each value is the mean of."""
    metric, _, formula = name.partition("@")
    if metric not in BY_FRAME or formula not in ("vbench", "vbench-formula"):
        return sum(values) / len(values)
    return sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)
