"""FreePCA (Tan et al. 2025): more frames in one window than trained, global appearance joined to local motion.

In each attention over time the rows read all rows (global), and in overlapping windows of the trained length they read
their window alone (local). In the space of the global features' principal components over the frames of a window, the
components in which both agree most hold the appearance: those few are taken from the global features, the rest, the
motion, from the local ones. Windows are averaged where they overlap.

Symbols: window length and stride -> window, 4; the number of components taken -> min(i, 3) in window i, so the first
window is the network's own; attention entropy: q is scaled by sqrt(log_window(F)) where rows read all rows.
As released: principal directions over frames, fitted to all pixels and channels of a clip; both sides centred by their
own mean over the window's frames, and the mean taken from the global side; only while the training time is above 250.
Deviations: one fit a clip of a batch (the release fits a batch together, so its clips would depend on their company);
the time is the mean over the window's rows; the empty direction that centring leaves is never chosen; a last window is
added where the stride does not end at the last row. The reuse of the noise's mean is left out: noise is keyed here.
No extra network calls.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longtake.models.temporal import attend, replaced

STRIDE = 4
MOST = 3
LATE = 250.0


def applied(
    network: nn.Module, times: Float[Tensor, "B F"], window: int, late: float = LATE
) -> AbstractContextManager[None]:
    """While open, `network` joins. times: what it is told of each row; window: the trained number of rows.

    late: the time above which windows are joined, in the network's own unit.
    """

    def read(layer: nn.Module, x: Float[Tensor, "N F C"]) -> Float[Tensor, "N F C"]:
        if x.shape[1] <= window:
            return attend(layer, x)
        sharpen = math.sqrt(math.log(x.shape[1], window))
        clips = zip(attend(layer, x, sharpen=sharpen).chunk(len(times)), x.chunk(len(times)), times, strict=True)
        return torch.cat([_joined(layer, *clip, window, late) for clip in clips])

    return replaced(network, read)


def _joined(layer: nn.Module, everything: Tensor, x: Tensor, times: Tensor, window: int, late: float) -> Tensor:
    total, count = torch.zeros_like(everything), torch.zeros(x.shape[1], device=x.device)
    for number, first in enumerate(starts(x.shape[1], window)):
        rows = slice(first, first + window)
        local = attend(layer, x[:, rows])
        if number and float(times[rows].mean()) > late:
            local = join(everything[:, rows], local, min(number, MOST))
        total[:, rows] += local
        count[rows] += 1
    return total / count.to(total.dtype)[:, None]


def starts(num_frames: int, window: int, stride: int = STRIDE) -> list[int]:
    """First rows of the windows; the last window ends at the last row."""
    found = list(range(0, num_frames - window + 1, stride))
    return found if found[-1] == num_frames - window else [*found, num_frames - window]


def join(everything: Float[Tensor, "N F C"], local: Float[Tensor, "N F C"], many: int) -> Float[Tensor, "N F C"]:
    """`local` with its `many` components that agree most with `everything` taken from there, and its mean."""
    whole, part = (features.transpose(1, 2).flatten(0, 1).float() for features in (everything, local))
    mean = whole.mean(1, keepdim=True)
    whole, part = whole - mean, part - part.mean(1, keepdim=True)
    spread, directions = torch.linalg.eigh(whole.T @ whole)
    ours, theirs = part @ directions, whole @ directions
    agree = torch.nn.functional.cosine_similarity(ours, theirs, dim=0)
    agree[spread <= 1e-6 * spread[-1]] = -math.inf
    taken = torch.zeros_like(agree, dtype=torch.bool)
    taken[agree.topk(many).indices] = True
    fused = torch.where(taken, theirs, ours) @ directions.T + mean
    return fused.unflatten(0, (len(local), -1)).transpose(1, 2).to(local.dtype)
