"""How the places and the times of day look: numbers only, storybook colours.

Each place is four layers, far to front.  The front layer is drawn over the subject (waves).
Heights are y of the layer's edge (0 top, 1 bottom); a base of 2 hides a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Layer:
    """One band of the landscape: an edge and a vertical gradient below it."""

    base: float
    swell: float  # half height of the ridge's waves
    pitch: float  # waves (or buildings, or trees) per frame width
    profile: str  # "sine", "steps" (buildings) or "spikes" (tree tops)
    top: Colour
    bottom: Colour
    depth: float  # parallax: 1 moves with the ground
    waves: float = 0.0  # strength of moving water lines
    grain: float = 0.0  # strength of soft patches fixed to the ground
    dashes: float = 0.0  # strength of a road's middle line
    windows: float = 0.0  # strength of lit windows


@dataclass(frozen=True)
class Place:
    layers: tuple[Layer, Layer, Layer, Layer]
    decor: tuple[str, ...]  # sprites scattered on the middle layer
    decor_size: float
    haze: Colour  # its share in the sky's lower edge


@dataclass(frozen=True)
class Time:
    sky_top: Colour
    sky_bottom: Colour
    light: tuple[float, float, float]  # on the landscape
    subject_light: tuple[float, float, float]
    lamp: Colour  # sun or moon
    lamp_xy: tuple[float, float]
    lamp_radius: float
    glow: float
    stars: float


NOWHERE = Layer(2.0, 0.0, 1.0, "sine", (0, 0, 0), (0, 0, 0), 1.0)


def _place(far, mid, near, front, decor, decor_size, haze) -> Place:
    return Place(
        (
            Layer(*far[0], **far[1]),
            Layer(*mid[0], **mid[1]),
            Layer(*near[0], **near[1]),
            Layer(*front[0], **front[1]) if front else NOWHERE,
        ),
        decor,
        decor_size,
        haze,
    )


PLACES = {
    "green hills": _place(
        ((0.46, 0.09, 0.9, "sine", (126, 178, 150), (96, 158, 116), 0.12), {}),
        ((0.58, 0.07, 0.7, "sine", (104, 178, 84), (76, 148, 62), 0.4), {}),
        ((0.76, 0.035, 0.5, "sine", (88, 168, 60), (52, 124, 44), 1.0), {"grain": 0.07}),
        None,
        ("tree", "house"),
        0.26,
        (220, 240, 225),
    ),
    "meadow": _place(
        ((0.58, 0.015, 0.8, "sine", (156, 196, 120), (146, 190, 100), 0.12), {}),
        ((0.64, 0.012, 0.6, "sine", (190, 212, 88), (168, 200, 72), 0.4), {"grain": 0.05}),
        ((0.76, 0.012, 0.5, "sine", (170, 204, 66), (122, 168, 48), 1.0), {"grain": 0.10}),
        None,
        ("sunflower", "tulip", "daisy"),
        0.19,
        (250, 246, 215),
    ),
    "sea": _place(
        ((0.50, 0.03, 0.55, "sine", (128, 176, 204), (108, 164, 198), 0.06), {}),
        ((0.53, 0.0, 0.5, "sine", (84, 178, 224), (46, 134, 204), 0.3), {"waves": 0.06}),
        ((0.70, 0.012, 1.3, "sine", (52, 140, 210), (30, 104, 184), 1.0), {"waves": 0.09}),
        ((0.87, 0.015, 1.7, "sine", (40, 122, 200), (20, 76, 150), 1.15), {"waves": 0.06}),
        ("island",),
        0.17,
        (215, 238, 250),
    ),
    "beach": _place(
        ((0.49, 0.02, 0.5, "sine", (134, 184, 176), (118, 172, 168), 0.06), {}),
        ((0.51, 0.0, 0.5, "sine", (72, 190, 212), (110, 212, 216), 0.25), {"waves": 0.05}),
        ((0.68, 0.018, 0.6, "sine", (250, 228, 172), (226, 188, 122), 1.0), {"grain": 0.05}),
        None,
        ("palm", "umbrella"),
        0.27,
        (225, 244, 250),
    ),
    "desert": _place(
        ((0.47, 0.08, 0.6, "sine", (222, 158, 104), (210, 146, 92), 0.12), {}),
        ((0.60, 0.055, 0.8, "sine", (232, 170, 92), (216, 150, 76), 0.4), {}),
        ((0.76, 0.02, 0.5, "sine", (240, 188, 108), (208, 146, 72), 1.0), {"grain": 0.05}),
        None,
        ("cactus", "rock"),
        0.25,
        (250, 226, 190),
    ),
    "snow": _place(
        ((0.43, 0.12, 0.8, "sine", (168, 188, 220), (196, 212, 236), 0.12), {}),
        ((0.60, 0.05, 0.7, "sine", (214, 226, 244), (200, 216, 240), 0.4), {}),
        ((0.76, 0.022, 0.5, "sine", (246, 250, 255), (206, 220, 242), 1.0), {"grain": 0.03}),
        None,
        ("evergreen", "snowman"),
        0.26,
        (236, 242, 250),
    ),
    "forest": _place(
        ((0.32, 0.06, 5.0, "spikes", (58, 112, 84), (44, 96, 70), 0.12), {}),
        ((0.46, 0.08, 3.4, "spikes", (40, 98, 56), (24, 70, 42), 0.4), {}),
        ((0.77, 0.015, 0.6, "sine", (84, 112, 50), (52, 74, 34), 1.0), {"grain": 0.10}),
        None,
        ("evergreen", "tree", "evergreen"),
        0.40,
        (200, 226, 200),
    ),
    "city": _place(
        ((0.36, 0.13, 5.0, "steps", (146, 158, 190), (164, 172, 198), 0.12), {"windows": 0.10}),
        ((0.47, 0.13, 3.2, "steps", (104, 112, 152), (120, 126, 160), 0.4), {"windows": 0.30}),
        ((0.74, 0.0, 0.5, "sine", (124, 124, 134), (86, 86, 98), 1.0), {"dashes": 0.30}),
        None,
        ("tree", "tower"),
        0.24,
        (222, 222, 234),
    ),
}

TIMES = {
    "dawn": Time(
        (150, 186, 236),
        (255, 206, 206),
        (1.0, 0.88, 0.88),
        (1.0, 0.95, 0.94),
        (255, 244, 206),
        (0.20, 0.36),
        0.075,
        0.45,
        0.0,
    ),
    "noon": Time(
        (84, 168, 244),
        (192, 230, 252),
        (1.0, 1.0, 1.0),
        (1.0, 1.0, 1.0),
        (255, 226, 90),
        (0.78, 0.14),
        0.075,
        0.30,
        0.0,
    ),
    "dusk": Time(
        (104, 70, 140),
        (255, 162, 96),
        (0.88, 0.69, 0.68),
        (1.0, 0.90, 0.86),
        (255, 92, 52),
        (0.78, 0.38),
        0.10,
        0.55,
        0.0,
    ),
    "night": Time(
        (20, 26, 78),
        (62, 80, 150),
        (0.42, 0.48, 0.66),
        (0.93, 0.95, 1.0),
        (250, 246, 220),
        (0.24, 0.16),
        0.075,
        0.22,
        1.0,
    ),
}


def seeded(seed: int, count: int, stream: int) -> np.ndarray:
    """Return ``count`` numbers in 0..1 that depend on nothing but the seed and the stream."""
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64((seed * 1000003 + stream * 7919 + 12345) % 2**63)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2**53
