"""Independent second sides for the laws: short loops written from the papers, sharing no helper with the library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def fifo(denoiser: Any, noise: Any, num: int, window: int, history: int) -> list[Tensor]:
    """FIFO with lookahead and Euler, fan-out start, on an even window. `noise(i)` is row i's initial noise.

    METHODS.md 1.4: read windows of f rows with stride f/2, keep the noisier half, all reads before all writes.
    """
    sig, al = denoiser.schedule.sigmas, denoiser.schedule.alphas
    top, half = len(sig) - 1, window // 2
    rows: list[list[Any]] = [[noise(0), top]]  # [sample, level], cleanest first
    done: list[Tensor] = []
    entered = 1
    while len(done) < num:
        padded = [[past, 0] for past in (done[-history:] if history else [])] + rows
        pad = len(padded) - len(rows)
        new: list[Any] = [None] * len(rows)
        for begin in range(0, len(rows), half):
            end = min(begin + half, len(rows))
            left = min(max(end + pad - window, 0), max(len(padded) - window, 0))
            part = padded[left : min(left + window, len(padded))]
            x0 = denoiser(torch.stack([x for x, _ in part])[None], torch.tensor([[k for _, k in part]]), ["a"])[0]
            for place in range(begin, end):
                x, k = rows[place]
                clean = x0[place + pad - left]
                velocity = (x - clean) / sig[k] if al[0] == 1 else None
                new[place] = [x + (sig[k - 1] - sig[k]) * velocity, k - 1]
        rows = new
        if rows[0][1] == 0:
            done.append(rows.pop(0)[0])
        rows.append([noise(entered), top])
        entered += 1
    return done


def clips(denoiser: Any, noise: Any, num: int, window: int, overlap: int) -> list[Tensor]:
    """Chunk by chunk with Euler: the last `overlap` clean latents stay in front of each next clip."""
    sig = denoiser.schedule.sigmas
    done: list[Tensor] = []
    while len(done) < num:
        context = done[-overlap:] if overlap and done else []
        fresh = [noise(len(done) + place) for place in range(window - len(context))]
        for k in range(len(sig) - 1, 0, -1):
            levels = [0] * len(context) + [k] * len(fresh)
            x0 = denoiser(torch.stack(context + fresh)[None], torch.tensor([levels]), ["a"])[0][len(context) :]
            fresh = [x + (sig[k - 1] - sig[k]) * (x - clean) / sig[k] for x, clean in zip(fresh, x0, strict=True)]
        done += fresh
    return done


def fifo_nfe(steps: int, window: int, num: int, start: str) -> int:
    """CONTRACT.md 3: window calls of FIFO with lookahead, warm-up and exact ending included."""
    parts = steps // window
    saved = parts * (2 * parts - 1)
    if start == "replicate":
        return steps + (num + steps - window) * 2 * parts - saved
    # an odd window's halves are cut at ceil(i f / 2), so the count of blocks is floor(2 (r - 1) / f) + 1
    blocks = (-(-2 * r // window) if window % 2 == 0 else 2 * (r - 1) // window + 1 for r in range(1, steps + 1))
    filling = sum(max(1, many - 1) for many in blocks)
    return filling + (num - 1) * 2 * parts - saved


def chunk_nfe(steps: int, window: int, overlap: int, num: int) -> int:
    """Header of rollouts/chunk."""
    return steps * (1 + max(0, -(-(num - window) // (window - overlap))))
