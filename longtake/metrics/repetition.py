"""Whether a video comes back to what it showed (looping), and whether its frames are in order.

Every frame becomes an 8 x 8 picture by averaging, and D(d) is the root mean square difference, in grey levels, of
pictures d frames apart. As a video goes on it moves away from where it was, so D grows and settles.

    repetition   max over lags d of one second to half the video of 1 - D(d) / max_{e < d} D(e): 1 when all of it comes
                 back exactly after d frames, near 0 when it never does; the lag is reported as the period
    disorder     D(1) / D(2): 1/2 of steady motion, 0.7 of a random walk, 1 when neighbours are as far apart as any two
                 (shuffled frames), more when every other frame is out of place

A video that nearly stands still (no D above one grey level, for disorder D(2) not above two, which noise could reach)
has 0 of both: it does not come back, it never left. A loop has to fill the video: one that begins late counts by its
share. Periodic motion before a still camera comes back too, and is no fault. Both are ours.

Cost: D at all lags is one Fourier transform a pixel, O(N log N). Memory: 384 bytes a frame.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

SIDE = 8
STILL, NOISY = 1.0, 2.0
"""Grey levels."""


class Thumbnails:
    """Every frame as an 8 x 8 picture."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def update(self, frames: UInt8[Tensor, "T H W 3"]) -> None:
        """Take the next frames."""
        small = [_small(frame) for frame in frames.cpu().numpy()]
        if small:
            # half floats of 0..255 are exact to an eighth of a level
            self._parts.append(torch.from_numpy(np.stack(small)).reshape(len(small), -1).half())

    def pictures(self) -> Float[Tensor, "T D"]:
        """All of them, as half floats."""
        return torch.cat(self._parts) if self._parts else torch.zeros(0, SIDE * SIDE * 3)


def lag_distances(pictures: Float[Tensor, "T D"]) -> Float[Tensor, " L"]:
    """D(0) = 0, D(1), ..., D(T // 2) of pictures, by autocorrelation."""
    number = len(pictures)
    most = number // 2
    size = 1 << (2 * number - 1).bit_length()
    square, products = torch.zeros(number, dtype=torch.float64), torch.zeros(most + 1, dtype=torch.float64)
    for index in range(pictures.shape[1]):  # one column at a time: memory does not grow with their number
        column = pictures[:, index].double()
        column -= column.mean()  # what all share only costs digits
        square += column.square()
        spectrum = torch.fft.rfft(column, size)
        products += torch.fft.irfft(spectrum * spectrum.conj(), size)[: most + 1]
    total = square.cumsum(0)
    lags = torch.arange(most + 1)
    early = total[number - 1 - lags]  # of frames 0 .. T-1-d
    late = total[-1] - torch.where(lags > 0, total[(lags - 1).clamp(min=0)], 0.0)
    counts = (number - lags) * pictures.shape[1]
    return ((early + late - 2 * products).clamp(min=0) / counts).sqrt()


def repetition(distances: Float[Tensor, " L"], fps: float) -> dict[str, float]:
    """{"value", "period"}: how completely the video comes back, 0..1, and after how many seconds (0: it does not)."""
    gap = max(2, round(fps))
    if len(distances) <= gap or distances.max() < STILL:
        return {"value": 0.0, "period": 0.0}
    reached = distances.cummax(0).values
    dips = 1 - distances[gap:] / torch.cat([reached[:1], reached[:-1]])[gap:].clamp(min=STILL)
    value = float(dips.max())
    if value <= 0:
        return {"value": 0.0, "period": 0.0}
    # of lags that do as well, the first: its multiples come back too
    best = int((dips >= 0.9 * value).nonzero()[0])
    while best + 1 < len(dips) and dips[best + 1] > dips[best]:
        best += 1
    return {"value": value, "period": (best + gap) / fps}


def disorder(distances: Float[Tensor, " L"]) -> float:
    """How far apart neighbours are, against next neighbours."""
    if len(distances) <= 2 or distances[2] < NOISY:
        return 0.0
    return float(distances[1] / distances[2])


def _small(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(np.ascontiguousarray(frame).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
