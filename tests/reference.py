"""Independent second sides for the laws: short loops written from the papers, sharing no helper with the library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def fifo(denoiser: Any, noise: Any, num: int, window: int, history: int) -> list[Tensor]:
    """FIFO with lookahead and Euler, fan-out start, on an even window. `noise(i)` is row i's initial noise.

    As released: windows of f rows with stride f/2, the noisier half is kept, all reads before all writes.
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
    """Window calls of FIFO with lookahead, warm-up and exact ending included."""
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


def progressive(
    denoiser: Any, noise: Any, num: int, window: int, chunk: int, prefix: int, first: Tensor | str | None = None
) -> list[Tensor]:
    """PA-VDM Alg. 1 with Sec. 3.2-3.4 and Euler: one window, a chunk in whenever there is room for one.

    `first`: what stands at position 0 of every window that has clean rows; "own" is the video's own first latent.
    """
    sig = denoiser.schedule.sigmas
    steps = len(sig) - 1
    period = steps * chunk // window
    done: list[Tensor] = []
    rows: list[list[Any]] = []
    entered = tick = 0
    while len(done) < num:
        if tick % period == 0:
            rows += [[noise(entered + place), steps] for place in range(chunk)]
            entered += chunk
        clean = done[-prefix:] if prefix else []
        if first is not None and clean:
            clean = [done[0] if isinstance(first, str) else first, *clean[1:]]
        x = torch.stack([*clean, *(row[0] for row in rows)])[None]
        levels = torch.tensor([[0] * len(clean) + [row[1] for row in rows]])
        x0 = denoiser(x, levels, ["a"])[0][len(clean) :]
        for row, estimate in zip(rows, x0, strict=True):
            k = row[1]
            row[0] = row[0] + (sig[k - 1] - sig[k]) * (row[0] - estimate) / sig[k]
            row[1] = k - 1
        done += [row[0] for row in rows if row[1] == 0]
        rows = [row for row in rows if row[1]]
        tick += 1
    return done


def replaced(denoiser: Any, noise: Any, again: Any, num: int, window: int, overlap: int) -> list[Tensor]:
    """PA-VDM Eq. 6 with Euler. `again(i, k)` is the noise with which held row i is brought to level k."""
    sig, al = denoiser.schedule.sigmas, denoiser.schedule.alphas
    done: list[Tensor] = []
    while len(done) < num:
        held = list(range(max(len(done) - overlap, 0), len(done))) if overlap else []
        fresh = [noise(len(done) + place) for place in range(window - len(held))]
        for k in range(len(sig) - 1, 0, -1):
            noised = [al[k] * done[i] + sig[k] * again(i, k) for i in held]
            x = torch.stack(noised + fresh)[None]
            x0 = denoiser(x, torch.full((1, window), k), ["a"])[0][len(held) :]
            fresh = [x + (sig[k - 1] - sig[k]) * (x - clean) / sig[k] for x, clean in zip(fresh, x0, strict=True)]
        done += fresh
    return done


def rolling(denoiser: Any, noise: Any, num: int, window: int, block: int, delay: int, overlap: int) -> list[Tensor]:
    """Diffusion forcing in blocks with Euler: one window after the other, each block `delay` steps behind the last."""
    sig = denoiser.schedule.sigmas
    steps = len(sig) - 1
    done: list[Tensor] = []
    while len(done) < num:
        clean = done[-overlap:] if overlap and done else []
        fresh = [noise(len(done) + place) for place in range(window - len(clean))]
        many = -(-len(fresh) // block)
        for tick in range(steps + delay * (many - 1)):
            level = [steps - min(max(tick - delay * (place // block), 0), steps) for place in range(len(fresh))]
            x0 = denoiser(torch.stack(clean + fresh)[None], torch.tensor([[0] * len(clean) + level]), ["a"])[0]
            for place, k in enumerate(level):
                if k > 0 and tick >= delay * (place // block):
                    velocity = (fresh[place] - x0[len(clean) + place]) / sig[k]
                    fresh[place] = fresh[place] + (sig[k - 1] - sig[k]) * velocity
        done += fresh
    return done


def windows(denoiser: Any, rows: list[Tensor], window: int, overlap: int, weights: list[float]) -> list[Tensor]:
    """Gen-L-Video Sec. 3.3 with Euler: all rows at one level, the overlapping estimates averaged by `weights`."""
    sig = denoiser.schedule.sigmas
    num = len(rows)
    begins = [b for b in range(0, num - window, window - overlap)] + [num - window]
    for k in range(len(sig) - 1, 0, -1):
        total = [torch.zeros_like(row) for row in rows]
        mass = [0.0] * num
        for b in begins:
            x0 = denoiser(torch.stack(rows[b : b + window])[None], torch.full((1, window), k), ["a"])[0]
            for place in range(window):
                total[b + place] += weights[place] * x0[place]
                mass[b + place] += weights[place]
        clean = [t / m for t, m in zip(total, mass, strict=True)]
        rows = [x + (sig[k - 1] - sig[k]) * (x - c) / sig[k] for x, c in zip(rows, clean, strict=True)]
    return rows


def miga(denoiser: Any, noise: Any, num: int, f: int, z: int, h: int, m: int, s: int) -> list[Tensor]:
    """MIGA Alg. 5 with Alg. 7's windows (first s rows written, guides in front) and Euler, batch form, from nothing."""
    sig = denoiser.schedule.sigmas
    steps = len(sig) - 1

    def one_pass(x: list[Tensor], level: list[int]) -> list[Tensor]:
        out: list[Any] = [None] * len(x)
        for a in range(0, len(x), s):
            b, guide = max(min(a, len(x) - (f - m)), 0), []  # the last windows slide back to the end
            if b < m:
                b = max(min(a, len(x) - f), 0)  # too few rows in front: no guides, the whole window is dense
            elif b < m * z:
                guide = [k * b // m for k in range(m)]
            else:
                guide = [b - max(z // 2, 1) - k * z for k in range(m - 1, -1, -1)]
            read = guide + list(range(b, min(b + f - len(guide), len(x))))
            got = denoiser(torch.stack([x[i] for i in read])[None], torch.tensor([[level[i] for i in read]]), ["a"])[0]
            for i in range(a, min(a + s, len(x))):
                k = level[i]
                out[i] = x[i] + (sig[k - 1] - sig[k]) * (x[i] - got[read.index(i)]) / sig[k]
        return out

    queue: list[Tensor] = []
    level: list[int] = []
    popped: list[Tensor] = []
    entered = 0
    while len(popped) < num and h < steps:
        queue += [noise(entered + place) for place in range(z)]
        level += [steps] * z
        entered += z
        queue = one_pass(queue, level)
        level = [k - 1 for k in level]
        while level and level[0] == h:
            popped.append(queue.pop(0))
            level.pop(0)
    if h == steps:
        popped = [noise(i) for i in range(-(-num // z) * z)]
    for k in range(h, 0, -1):
        popped = one_pass(popped, [k] * len(popped))
    return popped


FAR = 1 << 30


def _miga_calls(rows: int, stop: int, o: int, f: int, z: int, m: int, s: int, side: str) -> list[tuple[set[int], int]]:
    """(rows read, first row written) of the windows that write rows 0..rows-1 and may read those below `stop`."""
    found: list[tuple[set[int], int]] = []
    edges = [0] + [edge for edge in range(o % s, rows + s, s) if edge > 0]
    for a, e in zip(edges, edges[1:], strict=False):
        if a >= rows:
            break
        e, guides = min(e, rows) if stop < FAR else e, []
        for size in (f - m, f):  # without guides the whole window is dense
            b = max(min(a if side == "after" else e - size, stop - size), 0)
            if 0 < m <= b:
                guides = [k * b // m for k in range(m)] if b < m * z else [b - max(z // 2, 1) - k * z for k in range(m)]
                break
        read = {*guides, *range(b, min(b + size, stop))}
        if not found or found[-1][0] != read:
            found.append((read, a))
    return found


def miga_nfe(num: int, steps: int, f: int, z: int, h: int, m: int, s: int, side: str, rotate: bool, r: int) -> int:
    """Header of rollouts/miga: from the last latent backwards, which rows every level needs of the one before."""
    total, need = 0, num
    for level in [*range(1, r + 1), *range(1, h + 1)]:
        calls = _miga_calls(need, FAR, level if rotate else 0, f, z, m, s, side)
        total, need = total + len(calls), max(need, *(max(read) + 1 for read, _ in calls))
    last = (need - 1) // z + steps - h - 1
    for tick in range(last if steps > h else -1, -1, -1):
        head = z * max(0, tick - (steps - h) + 1)
        rows = z * (tick + 1) - head
        calls = _miga_calls(rows, rows, tick if rotate else 0, f, z, m, s, side)
        living = [read for read, a in calls if head + a < need]
        total, need = total + len(living), max(need, *(head + max(read) + 1 for read in living))
    return total
