"""From scenes to numbers: every tensor the renderer needs, laid out for drawing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longtake.world import atlas
from longtake.world.grammar import Scene, kind
from longtake.world.layers import Band, Sky
from longtake.world.motion import Path
from longtake.world.places import PLACES, TIMES, Layer, seeded

# Slots of scattered sprites: two clouds, three decorations, the prop of the caption.
SKY_SPRITES, DECOR_SPRITES, NEAR_SPRITES = range(0, 2), range(2, 5), range(5, 6)
SLOTS = 6
STARS = 9
PROFILES = ("sine", "steps", "spikes")
HAZE = (0.30, 0.10, 0.0, 0.0)  # share of the sky's colour in each layer


@dataclass
class Stage:
    """All of it, for B scenes and N = B * F pictures.  Boxes are (x, y, edge)."""

    xs: Tensor
    ys: Tensor
    scroll: Tensor
    zoom: Tensor
    seconds: Tensor
    box: Tensor  # [N, 3] the subject's cell: middle x, middle y, edge
    mirror: Tensor
    squash: Tensor
    tilt: Tensor
    shadow: Tensor  # [N, 4] x, y, half width, strength
    subject_cell: Tensor  # [N]
    subject_gain: Tensor  # [B, 3]
    sprite_box: Tensor  # [N, SLOTS, 3] middle x, floor y, edge (0: none)
    sprite_cell: Tensor  # [B, SLOTS]
    sprite_gain: Tensor  # [B, SLOTS, 3]
    sky: Sky
    bands: tuple[Band, ...]
    cells: Tensor
    subject_cells: Tensor

    def band(self, layer: int, scenes: Tensor) -> Band:
        """Return layer ``layer`` for the pictures of ``scenes`` [N]."""
        return Band(*(value[scenes] for value in vars(self.bands[layer]).values()))


def stage(scenes: list[Scene], course: Path, seconds: np.ndarray, size: int, device: str) -> Stage:
    """Lay out ``scenes`` on their ``course`` ([B, F] fields) for pictures of ``size``."""

    def put(value) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)).to(device)

    def flat(value: np.ndarray) -> Tensor:
        return put(np.broadcast_to(value, seconds.shape).reshape(-1))

    grid = (torch.arange(size, device=device) + 0.5) / size
    box, shadow = _boxes(scenes, course)
    loops = (
        course.frame.astype(np.int64) % atlas.LOOP + np.array([atlas.subject_cell(s.subject) for s in scenes])[:, None]
    )
    sprite_box, sprite_cell, sprite_gain = _sprites(scenes, course, seconds)
    cells = atlas.cells(device)
    small = torch.nn.functional.avg_pool2d(cells, 2) if size <= 96 else cells
    gains = [np.multiply(s.tint, TIMES[s.time].subject_light) for s in scenes]
    return Stage(
        xs=grid,
        ys=grid,
        scroll=flat(course.scroll),
        zoom=flat(course.zoom),
        seconds=flat(seconds),
        box=put(box),
        mirror=flat(course.mirror),
        squash=flat(course.squash),
        tilt=flat(course.tilt),
        shadow=put(shadow),
        subject_cell=torch.from_numpy(loops.reshape(-1)).to(device),
        subject_gain=put(gains),
        sprite_box=put(sprite_box),
        sprite_cell=torch.from_numpy(sprite_cell).to(device),
        sprite_gain=put(sprite_gain),
        sky=_sky(scenes, put),
        bands=tuple(_band(scenes, i, put) for i in range(4)),
        cells=small,
        subject_cells=cells,
    )


def _boxes(scenes: list[Scene], course: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the subjects' cells [N, 3] and their shadows [N, 4] on the screen."""
    # A long low sprite gets a larger cell, or a small picture could not show it.
    own = np.array([s.size * min(atlas.height_share(s.subject) ** -0.5, 1.2) for s in scenes])
    edge = own[:, None] * course.scale * course.zoom
    x = 0.5 + (course.x - 0.5) * course.zoom
    floor = 0.5 + (course.y - 0.5) * course.zoom
    grounded = np.array([0.34 * (kind(s) in ("land", "vehicle")) for s in scenes])[:, None]
    box = np.stack([x, floor - edge * course.squash / 2, edge], -1).reshape(-1, 3)
    strength = grounded * np.clip(1 - 2.2 * course.lift, 0.2, 1)
    shadow = np.stack([x, floor + course.lift * course.zoom - 0.01, 0.36 * edge, strength], -1)
    return box, shadow.reshape(-1, 4)


def _sprites(scenes: list[Scene], course: Path, seconds: np.ndarray):
    """Return boxes [N, SLOTS, 3], cells [B, SLOTS] and colour gains [B, SLOTS, 3]."""
    count, frames = seconds.shape
    boxes = np.zeros((count, frames, SLOTS, 3))
    cells = np.zeros((count, SLOTS), dtype=np.int64)
    gains = np.ones((count, SLOTS, 3))
    for i, scene in enumerate(scenes):
        time = TIMES[scene.time]
        travelled, zoom = course.scroll[i], course.zoom[i]
        dice = seeded(scene.backdrop, 2 * SLOTS, 3)
        gains[i] = np.multiply(time.light, scene.shade)
        for slot in range(SLOTS):
            name, at, floor, edge, period = _slot(scene, slot, dice)
            cells[i, slot] = atlas.prop_cell(name)
            if slot in SKY_SPRITES:
                gains[i, slot] = np.array(time.light) * 0.75 + 0.25
                boxes[i, :, slot, 0] = (at + 0.012 * seconds[i] - 0.04 * travelled) % period - 0.3
                boxes[i, :, slot, 1:] = floor, edge
                continue
            depth = 1.0 if slot in NEAR_SPRITES else 0.6
            x = (at - depth * travelled) % period - 0.3
            boxes[i, :, slot, 0] = 0.5 + (x - 0.5) * zoom
            boxes[i, :, slot, 1] = 0.5 + (floor - 0.5) * zoom
            boxes[i, :, slot, 2] = edge * zoom
    return boxes.reshape(-1, SLOTS, 3), cells, gains


def _slot(scene: Scene, slot: int, dice: np.ndarray) -> tuple[str, float, float, float, float]:
    """Return name, first x, floor, edge (0: none) and period of one scattered sprite."""
    place, roll, other = PLACES[scene.place], dice[2 * slot], dice[2 * slot + 1]
    if slot in SKY_SPRITES:
        edge = 0.0 if scene.time == "night" else 0.16 + 0.10 * other
        return "cloud", roll * 1.7 + 0.85 * slot, 0.18 + 0.14 * other + 0.06 * slot, edge, 1.7
    ground = place.layers[2].base
    if slot in DECOR_SPRITES:
        number = slot - DECOR_SPRITES.start
        edge = place.decor_size * (0.85 + 0.3 * other)
        return place.decor[number % len(place.decor)], 0.62 * number + 0.3 * roll, ground + 0.03, edge, 1.86
    # The prop of the caption starts beside the subject; a travelling camera passes it again
    # and again, at the shortest period that never shows it twice.
    beside = 0.5 + (0.34 if roll < 0.5 else -0.34) + 0.3 + 9 * scene.phase
    edge = 0.36 if scene.prop else 0.0
    return scene.prop or "tree", beside, ground + 0.05, edge, 1.6


def _colour(rgb: tuple[int, int, int]) -> np.ndarray:
    return np.array(rgb) / 255


def _sky(scenes: list[Scene], put) -> Sky:
    times = [TIMES[s.time] for s in scenes]
    shades = np.array([s.shade for s in scenes])
    haze = np.array([_colour(PLACES[s.place].haze) for s in scenes])
    bottom = np.array([_colour(t.sky_bottom) for t in times]) * (0.65 + 0.35 * haze)
    dice = np.stack([seeded(s.backdrop, 2 * STARS + 2, 4) for s in scenes])
    lamp_xy = np.array([t.lamp_xy for t in times]) + (dice[:, :2] - 0.5) * [0.16, 0.08]
    star_xy = dice[:, 2:].reshape(-1, STARS, 2) * [0.62, 0.45] + [0.36, 0.02]
    return Sky(
        put(np.array([_colour(t.sky_top) for t in times]) * shades),
        put(bottom * shades),
        put([_colour(t.lamp) for t in times]),
        put(lamp_xy),
        put([t.lamp_radius for t in times]),
        put([t.glow for t in times]),
        put([0.7 * t.stars for t in times]),
        put(star_xy),
    )


def _band(scenes: list[Scene], index: int, put) -> Band:
    layers: list[Layer] = [PLACES[s.place].layers[index] for s in scenes]
    times = [TIMES[s.time] for s in scenes]
    light = np.array([t.light for t in times]) * np.array([s.shade for s in scenes])
    haze = np.array([_colour(t.sky_bottom) for t in times]) * HAZE[index]

    def coloured(name: str) -> Tensor:
        colours = np.array([_colour(getattr(layer, name)) for layer in layers])
        return put(colours * light * (1 - HAZE[index]) + haze)

    def numbers(name: str) -> Tensor:
        return put([getattr(layer, name) for layer in layers])

    dark = np.array([s.time == "night" for s in scenes])
    windows = np.array([layer.windows for layer in layers])
    grains = np.stack([[layer.waves, layer.grain, layer.dashes, 0] for layer in layers])
    grains[:, 3] = np.where(dark, 0, windows)
    return Band(
        numbers("base"),
        numbers("swell"),
        numbers("pitch"),
        put([PROFILES.index(layer.profile) for layer in layers]),
        put([seeded(s.backdrop, 32, 10 + index) for s in scenes]),
        coloured("top"),
        coloured("bottom"),
        numbers("depth"),
        put(grains),
        put(np.where(dark, 3 * windows, 0)),
    )
