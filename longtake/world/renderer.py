"""Scenes to pictures with exact truth, for any start frame and any length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from longtake.world import staging
from longtake.world.grammar import CAMERAS, MOTIONS, PLACES, SUBJECTS, TIMES, Scene
from longtake.world.layers import View, draw_band, draw_sky, paste, sprite
from longtake.world.motion import paths

CHUNK = 48  # pictures drawn together: what stays in a core's cache
FAR_CHUNK = 2048  # the same on an accelerator, which wants few large kernels (about 2 GB at 64 x 64)


@dataclass(frozen=True)
class Clip:
    """B shots of F frames and what is true of them.

    ``pixels`` uint8 [B, F, 3, H, W]; ``mask`` uint8 [B, F, H, W], the visible share of the
    subject (255 = all); ``position`` float32 [B, F, 2], the middle of the subject's cell
    (x, y in 0..1); ``extent`` float32 [B, F], the cell's edge in frame heights; ``labels``
    int64 [B] each for subject, place, time, motion and camera (indices in ``grammar``).
    """

    pixels: Tensor
    mask: Tensor
    position: Tensor
    extent: Tensor
    labels: dict[str, Tensor]


@torch.no_grad()
def render(
    scenes: list[Scene],
    num_frames: int,
    start: int | list[int] = 0,
    size: int = 64,
    fps: float = 8.0,
    device: str = "cpu",
) -> Clip:
    """Draw ``num_frames`` frames of each scene from frame ``start`` (one for all or one each).

    A frame depends on its scene and its own index only: a later start gives the same pictures
    as cutting a longer shot.  The tensors are small: on a busy machine one torch thread
    (``torch.set_num_threads(1)``) is many times faster than two that wait for each other.
    """
    count = len(scenes)
    starts = np.broadcast_to(np.asarray(start, dtype=np.float64), (count,))
    seconds = (starts[:, None] + np.arange(num_frames)) / fps
    course = paths(scenes, seconds)
    stage = staging.stage(scenes, course, seconds, size, device)
    pixels = torch.empty(count * num_frames, 3, size, size, dtype=torch.uint8, device=device)
    mask = torch.empty(count * num_frames, size, size, dtype=torch.uint8, device=device)
    skies = draw_sky(stage.sky, stage.xs, stage.ys)
    chunk = CHUNK if device == "cpu" else FAR_CHUNK
    for at in range(0, len(pixels), chunk):
        picks = torch.arange(at, min(at + chunk, len(pixels)), device=device)
        pixels[picks], mask[picks] = _draw(stage, skies, picks, picks // num_frames)
    shape = (count, num_frames)
    return Clip(
        pixels.view(*shape, 3, size, size),
        mask.view(*shape, size, size),
        stage.box[:, :2].reshape(*shape, 2),
        stage.box[:, 2].reshape(shape),
        _labels(scenes, device),
    )


def _labels(scenes: list[Scene], device: str) -> dict[str, Tensor]:
    names = {"subject": SUBJECTS, "place": PLACES, "time": TIMES, "motion": MOTIONS, "camera": CAMERAS}
    return {
        field: torch.tensor([words.index(getattr(s, field)) for s in scenes], device=device)
        for field, words in names.items()
    }


def _draw(stage: staging.Stage, skies: Tensor, n: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Draw pictures ``n`` [N] of scenes ``b`` [N]; return uint8 pixels and subject masks."""
    view = View(stage.xs, stage.ys, stage.scroll[n], stage.zoom[n], stage.seconds[n])
    canvas = skies[b]
    _sprites(canvas, stage, staging.SKY_SPRITES, n, b)
    draw_band(canvas, stage.band(0, b), view)
    draw_band(canvas, stage.band(1, b), view)
    _sprites(canvas, stage, staging.DECOR_SPRITES, n, b)
    draw_band(canvas, stage.band(2, b), view)
    _sprites(canvas, stage, staging.NEAR_SPRITES, n, b)
    _shadow(canvas, stage, n)
    subject = _subject(stage, n)
    paste(canvas, subject, stage.subject_gain[b])
    visible = subject[:, 3]
    if bool((stage.band(3, b).base < 1).any()):
        visible = visible * (1 - draw_band(canvas, stage.band(3, b), view))
    to_bytes = (canvas.clamp_(0, 1) * 255).round_().to(torch.uint8)
    return to_bytes, (visible * 255).round().to(torch.uint8)


def _sprites(canvas: Tensor, stage: staging.Stage, slots: range, n: Tensor, b: Tensor) -> None:
    """Draw the scattered sprites of some slots, only where one is in sight."""
    for slot in slots:
        box = stage.sprite_box[n, slot]
        half = box[:, 2] / 2
        seen = (box[:, 0] > -half) & (box[:, 0] < 1 + half) & (half > 0)
        if not bool(seen.any()):
            continue
        rows = seen.nonzero()[:, 0]
        cells = stage.cells[stage.sprite_cell[b[rows], slot]]
        picture = sprite(cells, stage.xs, stage.ys, box[rows])
        part = canvas[rows]
        paste(part, picture, stage.sprite_gain[b[rows], slot])
        canvas[rows] = part


def _subject(stage: staging.Stage, n: Tensor) -> Tensor:
    """Return the subject's sprites [N, 4, H, W], turned, mirrored and squashed."""
    box, tilt = stage.box[n], stage.tilt[n]
    cos, sin = torch.cos(tilt), torch.sin(tilt)
    half = box[:, 2] / 2
    wide, high = half * stage.mirror[n], half * stage.squash[n]
    # affine_grid's output runs over -1..1 of the screen; p = 0.5 + out / 2.
    dx, dy = 0.5 - box[:, 0], 0.5 - box[:, 1]
    matrix = torch.stack(
        [
            torch.stack([cos / 2, sin / 2, cos * dx + sin * dy], 1) / wide[:, None],
            torch.stack([-sin / 2, cos / 2, cos * dy - sin * dx], 1) / high[:, None],
        ],
        1,
    )
    size = len(stage.ys)
    grid = affine_grid(matrix, [len(n), 4, size, size], align_corners=False)
    return grid_sample(
        stage.subject_cells[stage.subject_cell[n]], grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )


def _shadow(canvas: Tensor, stage: staging.Stage, n: Tensor) -> None:
    """Darken the ground under a subject that walks on it."""
    x, y, wide, strength = stage.shadow[n].unbind(1)
    across = torch.exp(-(((stage.xs - x[:, None]) / wide[:, None]) ** 2))
    along = torch.exp(-(((stage.ys - y[:, None]) / (0.16 * wide[:, None])) ** 2))
    canvas *= 1 - (along * strength[:, None])[:, None, :, None] * across[:, None, None, :]
