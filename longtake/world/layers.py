"""The landscape: sky, ridges and sprites as functions of x and y, many pictures at once.

N pictures (scene x frame) are drawn together.  Screen coordinates run 0..1, y down.  Colours
are floats 0..1 in tensors [N, 3, H, W]; masks are [N, H, W] with edges one pixel soft.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TURN = 2 * math.pi


@dataclass
class View:
    """Where the N cameras look: ``scroll`` and ``zoom`` are [N], ``xs`` [W], ``ys`` [H]."""

    xs: Tensor
    ys: Tensor
    scroll: Tensor
    zoom: Tensor
    seconds: Tensor

    def world_x(self, depth: Tensor) -> Tensor:
        """Return the landscape's x [N, W] seen in each column at parallax ``depth`` [N]."""
        seen = (self.xs - 0.5) / self.zoom[:, None] + 0.5
        return seen + (depth * self.scroll)[:, None]

    def world_y(self) -> Tensor:
        """Return the y before zooming [N, H] of each row."""
        return (self.ys - 0.5) / self.zoom[:, None] + 0.5


@dataclass
class Band:
    """One layer of every picture.  Scalars are [N]; colours [N, 3]; ``table`` [N, 32].

    ``profile`` is 0 for sines, 1 for steps (buildings), 2 for spikes (tree tops).
    ``grains`` is [N, 4]: strength of waves, soft patches, road dashes and windows.
    """

    base: Tensor
    swell: Tensor
    pitch: Tensor
    profile: Tensor
    table: Tensor
    top: Tensor
    bottom: Tensor
    depth: Tensor
    grains: Tensor
    window_glow: Tensor


def edge(band: Band, x: Tensor) -> Tensor:
    """Return the y of a band's upper edge [N, W] at landscape positions ``x`` [N, W]."""
    pitch, phase = band.pitch[:, None], band.table * TURN
    waves = (
        0.55 * torch.sin(TURN * pitch * x + phase[:, :1])
        + 0.30 * torch.sin(TURN * 1.73 * pitch * x + phase[:, 1:2])
        + 0.15 * torch.sin(TURN * 3.1 * pitch * x + phase[:, 2:3])
    )
    cells = x * pitch
    cell = torch.floor(cells)
    part = cells - cell
    index = cell.long()
    here = band.table.gather(1, index % 32) * 2 - 1
    after = band.table.gather(1, (index + 1) % 32) * 2 - 1
    steps = here + (after - here) * ((part - 0.86) / 0.14).clamp(0, 1)
    # Trees: a point in the middle of each cell, as high as the table says.
    spikes = (2 * part - 1).abs() * 1.8 - 0.9 + 0.5 * here
    kind = band.profile[:, None]
    shape = torch.where(kind == 0, waves, torch.where(kind == 1, steps, spikes))
    return band.base[:, None] + band.swell[:, None] * shape


def draw_band(canvas: Tensor, band: Band, view: View) -> Tensor:
    """Draw a band over ``canvas`` in place; return its mask [N, H, W]."""
    x, y = view.world_x(band.depth), view.world_y()
    sharpness = len(view.ys) * view.zoom
    mask = (y[:, :, None] - edge(band, x)[:, None, :]) * sharpness[:, None, None]
    mask = (mask + 0.5).clamp_(0, 1)
    down = ((y - band.base[:, None]) / (1.02 - band.base[:, None])).clamp(0, 1)
    colour = torch.lerp(band.top[:, :, None], band.bottom[:, :, None], down[:, None, :])
    picture = colour[..., None]
    if bool(band.grains.any()):
        rows, columns = _grain(band, x, y, view.seconds)
        picture = picture * (1 + rows @ columns)[:, None]
    if bool(band.window_glow.any()):
        picture = picture + _windows(band, x, y)
    canvas += mask[:, None] * (picture - canvas)
    return mask


def _grain(band: Band, x: Tensor, y: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
    """Return the brightness pattern as rows [N, H, 4] times columns [N, 4, W]."""
    time = seconds[:, None]
    rows = torch.stack(
        [
            torch.sin(TURN * 11 * y),
            torch.sin(TURN * 5.3 * y),
            ((0.022 - (y - 0.955).abs()) * 60).clamp(0, 1),
            (torch.sin(TURN * 13 * y) * 2).clamp(0, 1),
        ],
        2,
    )
    columns = torch.stack(
        [
            torch.sin(TURN * (1.9 * x + 0.25 * time)) + 0.5 * torch.sin(TURN * (4.3 * x - 0.2 * time)),
            torch.sin(TURN * 2.1 * x) + 0.6 * torch.sin(TURN * 3.7 * x + 1),
            (torch.sin(TURN * 2 * x) * 3).clamp(0, 1),
            (torch.sin(TURN * 4 * band.pitch[:, None] * x) * 2).clamp(0, 1),
        ],
        1,
    )
    return rows, columns * band.grains[:, :, None]


def _windows(band: Band, x: Tensor, y: Tensor) -> Tensor:
    """Return the light [N, 3, H, W] of the windows lit at night."""
    rows = (torch.sin(TURN * 13 * y) * 2).clamp(0, 1)
    columns = (torch.sin(TURN * 4 * band.pitch[:, None] * x) * 2).clamp(0, 1)
    some = (torch.sin(TURN * 0.83 * band.pitch[:, None] * x) > -0.2) * band.window_glow[:, None]
    light = rows[:, :, None] * (columns * some)[:, None, :]
    return light[:, None] * light.new_tensor([0.62, 0.48, 0.12])[:, None, None]


@dataclass
class Sky:
    """The sky of B scenes: colours [B, 3], lamp position [B, 2], other fields [B]."""

    top: Tensor
    bottom: Tensor
    lamp: Tensor
    lamp_xy: Tensor
    lamp_radius: Tensor
    glow: Tensor
    stars: Tensor
    star_xy: Tensor  # [B, S, 2]


def draw_sky(sky: Sky, xs: Tensor, ys: Tensor) -> Tensor:
    """Return the skies [B, 3, H, W]; they neither scroll nor zoom."""
    down = (ys / 0.62).clamp(0, 1)
    column = torch.lerp(sky.top[:, :, None], sky.bottom[:, :, None], down)
    canvas = column[..., None].expand(-1, -1, -1, len(xs)).clone()
    distance = torch.sqrt(
        (ys[:, None] - sky.lamp_xy[:, 1, None, None]) ** 2 + (xs - sky.lamp_xy[:, 0, None, None]) ** 2
    )
    radius = sky.lamp_radius[:, None, None]
    halo = torch.exp(-((distance / (3.2 * radius)) ** 2)) * sky.glow[:, None, None]
    disc = ((radius - distance) * len(ys) + 0.5).clamp(0, 1)
    light = torch.maximum(halo, disc)[:, None]
    canvas += light * (sky.lamp[:, :, None, None] - canvas)
    sharp = -((len(ys) * 0.9) ** 2) * 0.8
    rows = torch.exp(sharp * (ys[:, None] - sky.star_xy[:, None, :, 1]) ** 2)
    columns = torch.exp(sharp * (xs - sky.star_xy[:, :, 0, None]) ** 2)
    canvas += (rows @ (columns * sky.stars[:, None, None]))[:, None]
    return canvas


def sprite(cells: Tensor, xs: Tensor, ys: Tensor, box: Tensor) -> Tensor:
    """Return upright sprites [N, 4, H, W] (premultiplied) standing in ``box``.

    ``cells`` is [N, 4, C, C]; ``box`` [N, 3] is the middle x, the floor y and the edge length.
    Two small matrices of tent weights resample rows and columns: exact, antialiased, quick.
    """
    size = cells.shape[-1]
    middle, floor, length = (box[:, i, None, None] for i in range(3))
    reach = (size / (length * len(ys))).clamp(min=1)
    # The lattice reaches past the cell, so that the sum of a row is right at its border too.
    beyond = 4
    source = torch.arange(-beyond, size + beyond, device=cells.device) + 0.5

    def weights(place: Tensor, start: Tensor) -> Tensor:
        far = ((place[:, None] - start) / length * size - source).abs() / reach
        tent = (1 - far).clamp(min=0)
        return (tent / tent.sum(2, keepdim=True).clamp(min=0.5))[:, :, beyond:-beyond]

    rows, columns = weights(ys, floor - length), weights(xs, middle - length / 2)
    return rows[:, None] @ (cells @ columns[:, None].transpose(2, 3))


def paste(canvas: Tensor, picture: Tensor, gain: Tensor) -> None:
    """Lay premultiplied ``picture`` [N, 4, H, W], its colour times ``gain`` [N, 3], on canvas."""
    canvas *= 1 - picture[:, 3:]
    canvas += picture[:, :3] * gain[:, :, None, None]
