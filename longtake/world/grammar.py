"""What pocket's world contains, and how a seed picks one scene of it.

A ``Scene`` has captioned attributes (what the words say) and hidden ones (what they do not:
tint, size, height, phase, speed, ...).  Hidden attributes are what a long shot can lose.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

LAND = (
    "dog",
    "cat",
    "cow",
    "ox",
    "horse",
    "ram",
    "goat",
    "sheep",
    "pig",
    "elephant",
    "tiger",
    "leopard",
    "rabbit",
    "deer",
    "kangaroo",
    "llama",
    "camel",
    "rooster",
    "penguin",
    "turtle",
    "crocodile",
    "snail",
)
WATER = ("duck", "swan", "whale", "dolphin", "shark", "fish")
BOATS = ("sailboat",)
VEHICLES = ("bus", "car", "truck", "tractor", "locomotive")
FLYERS = ("butterfly", "owl")
AIRCRAFT = ("rocket", "helicopter", "airplane")

KINDS = {"land": LAND, "water": WATER, "boat": BOATS, "vehicle": VEHICLES, "flyer": FLYERS, "aircraft": AIRCRAFT}
SUBJECTS = LAND + WATER + BOATS + VEHICLES + FLYERS + AIRCRAFT
KIND_OF = {subject: kind for kind, members in KINDS.items() for subject in members}

PLACES = ("green hills", "meadow", "sea", "beach", "desert", "snow", "forest", "city")
DRY = tuple(place for place in PLACES if place != "sea")
PLACES_OF = {"land": DRY, "water": ("sea",), "boat": ("sea",), "vehicle": DRY, "flyer": PLACES, "aircraft": PLACES}

TIMES = ("dawn", "noon", "dusk", "night")

MOTIONS = ("left", "right", "jump", "circle", "arc", "float", "updown")
MOTIONS_OF = {
    "land": ("left", "right", "jump", "circle"),
    "vehicle": ("left", "right", "jump", "circle"),
    "water": ("left", "right", "circle", "arc", "float", "jump"),
    "boat": ("left", "right", "circle", "float", "updown"),
    "flyer": ("left", "right", "circle", "arc", "float", "updown"),
    "aircraft": ("left", "right", "circle", "arc", "float", "updown"),
}

CAMERAS = ("still", "pan left", "pan right", "zoom in", "zoom out")
# A camera that already follows a travelling subject cannot be seen to pan.
TRAVELLING = ("left", "right", "arc")

PROPS = (
    "tree",
    "evergreen",
    "palm",
    "cactus",
    "tulip",
    "sunflower",
    "daisy",
    "mushroom",
    "house",
    "hut",
    "castle",
    "tent",
    "rock",
    "snowman",
    "umbrella",
    "island",
    "tower",
    "fountain",
    "wheel",
    "cloud",
    "stump",
    "circus",
    "shell",
    "christmas tree",
)
# Props a caption may name, by place; the other sprites only decorate.
PROPS_OF = {
    "green hills": ("tree", "house", "castle", "sunflower", "tent"),
    "meadow": ("tree", "sunflower", "tulip", "daisy", "house"),
    "sea": ("island",),
    "beach": ("palm", "umbrella", "hut", "rock"),
    "desert": ("cactus", "palm", "tent", "rock"),
    "snow": ("snowman", "evergreen", "house"),
    "forest": ("mushroom", "evergreen", "tent", "hut"),
    "city": ("fountain", "tree", "circus"),
}

HELD_OUT_SHARE = 0.12


@dataclass(frozen=True, slots=True)
class Scene:
    """One shot: six captioned attributes, then the hidden ones."""

    subject: str
    place: str
    time: str = "noon"
    motion: str = "right"
    camera: str = "still"
    prop: str | None = None
    # Hidden.
    heading: int = 1  # +1 right, -1 left; for left and right the motion decides
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)  # colour gains of the subject
    shade: tuple[float, float, float] = (1.0, 1.0, 1.0)  # colour gains of the background
    size: float = 0.5  # edge of the sprite's cell in frame heights
    height: float = 0.5  # 0 low .. 1 high within the band where the subject may be
    speed: float = 1.0  # of travel, steps and loops
    phase: float = 0.0  # 0..1: where in its loops the shot starts
    backdrop: int = 0  # seed of ridges, decoration and clouds
    paraphrase: int = 0  # seed of the caption's wording


def kind(scene: Scene) -> str:
    """Return the kind of the scene's subject: land, water, boat, vehicle, flyer, aircraft."""
    return KIND_OF[scene.subject]


def combinations() -> list[tuple[str, str, str]]:
    """Return every sensible (subject, place, motion)."""
    return [(s, p, m) for s in SUBJECTS for p in PLACES_OF[KIND_OF[s]] for m in MOTIONS_OF[KIND_OF[s]]]


def is_held_out(subject: str, place: str, motion: str) -> bool:
    """Tell whether this combination is kept from training (the same answer for ever)."""
    key = f"longtake-world-1/{subject}/{place}/{motion}".encode()
    return hashlib.sha256(key).digest()[0] < HELD_OUT_SHARE * 256


def scene(seed: int, split: str = "train") -> Scene:
    """Return scene number ``seed`` of a split ("train" or "heldout")."""
    if split not in ("train", "heldout"):
        raise ValueError(f"split must be 'train' or 'heldout', not {split!r}")
    draw = random.Random(f"longtake-world-1/{split}/{seed}").random
    while True:
        subject = _pick(draw, SUBJECTS)
        place = _pick(draw, PLACES_OF[KIND_OF[subject]])
        motion = _pick(draw, MOTIONS_OF[KIND_OF[subject]])
        if is_held_out(subject, place, motion) == (split == "heldout"):
            break
    cameras = ("still",) * 6 + (CAMERAS[3:] if motion in TRAVELLING else CAMERAS[1:])
    prop = _pick(draw, PROPS_OF[place]) if draw() < 0.35 else None
    return Scene(subject, place, _pick(draw, TIMES), motion, _pick(draw, cameras), prop, **_hidden(draw))


def _hidden(draw) -> dict:
    """Draw the attributes no caption tells."""
    dark = 0.84 + 0.24 * draw()
    return {
        "heading": 1 if draw() < 0.5 else -1,
        "tint": tuple(min(dark + 0.22 * (draw() - 0.5), 1.12) for _ in range(3)),
        "shade": tuple(0.93 + 0.14 * draw() for _ in range(3)),
        "size": 0.44 + 0.12 * draw(),
        "height": draw(),
        "speed": 0.75 + 0.6 * draw(),
        "phase": draw(),
        "backdrop": int(draw() * 2**31),
        "paraphrase": int(draw() * 2**31),
    }


def _pick(draw, options: tuple[str, ...]) -> str:
    return options[int(draw() * len(options))]
