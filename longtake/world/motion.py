"""Where the subject and the camera are at every moment: exact, for any time, without end.

Everything is a closed form of time, so a shot may start at any frame and last for hours.  A
travelling subject is followed by the camera: it sways about the middle while the world
scrolls past.  Lengths are in frame widths, times in seconds, y points down.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from longtake.world.grammar import TRAVELLING, Scene, kind

TURN = 2 * np.pi
ZOOM_SECONDS = 8.0  # a zoom lasts that long, then the camera holds
ZOOM_WIDE, ZOOM_NEAR = 0.88, 1.19
FRONTAL = ("penguin", "butterfly", "owl")  # they look at us and never turn


@dataclass
class Path:
    """The course of one shot; every field float64 of shape [F] (or [B, F] when stacked)."""

    x: np.ndarray  # middle of the subject's cell
    y: np.ndarray  # floor of the subject's cell
    lift: np.ndarray  # height of the floor over the ground (shadow)
    mirror: np.ndarray  # -1 faces left .. +1 faces right (between: turning)
    tilt: np.ndarray  # radians, positive: nose down when facing right
    squash: np.ndarray  # height factor
    scale: np.ndarray  # size factor
    frame: np.ndarray  # of the sprite's loop
    scroll: np.ndarray  # how far the camera has travelled
    zoom: np.ndarray


def path(scene: Scene, seconds: np.ndarray) -> Path:
    """Return the course of ``scene`` at times ``seconds`` [F]."""
    zero = np.zeros_like(seconds)
    one = zero + 1
    heading = {"left": -1, "right": 1}.get(scene.motion, scene.heading)
    floor = ground(scene)
    start = 7.31 * scene.phase  # seconds into every loop; unrelated to the loops' periods
    course = Path(
        x=0.5 + zero,
        y=floor + zero,
        lift=zero,
        mirror=heading * one,
        tilt=zero,
        squash=one,
        scale=one,
        frame=np.floor((seconds * scene.speed + start) * 6),
        scroll=zero + 9 * scene.phase,
        zoom=_zoom(scene, seconds),
    )
    _MOVES[scene.motion](course, scene, scene.speed * seconds + start, heading)
    if scene.motion in TRAVELLING:
        travel = 0.30 * heading * scene.speed
    else:
        travel = {"pan left": -0.16, "pan right": 0.16}.get(scene.camera, 0.0)
    course.scroll = course.scroll + travel * seconds
    return course


def paths(scenes: list[Scene], seconds: np.ndarray) -> Path:
    """Return the courses of B scenes at times ``seconds`` [B, F], stacked to [B, F]."""
    all_ = [path(scene, row) for scene, row in zip(scenes, seconds, strict=True)]
    return Path(*(np.stack([getattr(p, f.name) for p in all_]) for f in fields(Path)))


def ground(scene: Scene) -> float:
    """Return the y on which the subject stands, swims or flies when it is at rest."""
    low, high = {
        "land": (0.93, 0.84),
        "vehicle": (0.93, 0.84),
        "water": (0.93, 0.87),
        "boat": (0.92, 0.86),
        "flyer": (0.78, 0.66),
        "aircraft": (0.76, 0.64),
    }[kind(scene)]
    return low + (high - low) * scene.height


def _zoom(scene: Scene, seconds: np.ndarray) -> np.ndarray:
    progress = np.clip(seconds / ZOOM_SECONDS, 0, 1)
    if scene.camera == "zoom in":
        return ZOOM_WIDE * (ZOOM_NEAR / ZOOM_WIDE) ** progress
    if scene.camera == "zoom out":
        return ZOOM_NEAR * (ZOOM_WIDE / ZOOM_NEAR) ** progress
    return np.ones_like(seconds)


def _travel(course: Path, scene: Scene, t: np.ndarray, heading: int) -> None:
    course.x = 0.5 - 0.05 * heading + 0.10 * np.sin(TURN * t / 11)
    if kind(scene) in ("land", "vehicle"):
        course.lift = 0.012 * np.abs(np.sin(TURN * t / 0.9))
        course.y = course.y - course.lift
    elif kind(scene) in ("water", "boat"):
        course.y = course.y + 0.015 * np.sin(TURN * t / 2.3)
        course.tilt = 0.07 * heading * np.sin(TURN * t / 2.3 + 1)
    else:
        course.y = course.y + 0.03 * np.sin(TURN * t / 3.1)


def _jump(course: Path, scene: Scene, t: np.ndarray, heading: int) -> None:
    part = (t / 1.3) % 1
    near_floor = np.clip(1 - 7 * np.minimum(part, 1 - part), 0, 1)
    course.lift = 4 * part * (1 - part) * 0.25
    course.squash = 1 - 0.18 * near_floor
    course.x = 0.5 + 0.04 * np.sin(TURN * t / 9)
    course.y = course.y - course.lift


def _circle(course: Path, scene: Scene, t: np.ndarray, heading: int) -> None:
    angle = TURN * t / 4.5 * heading
    flies = kind(scene) in ("flyer", "aircraft")
    course.x = 0.5 + 0.25 * np.cos(angle)
    course.y = course.y + (0.15 if flies else 0.045) * np.sin(angle) - (0 if flies else 0.03)
    course.scale = 1 + 0.13 * np.sin(angle)
    if scene.subject in FRONTAL:
        return
    turn = np.clip(-2.5 * np.sin(angle) * heading, -1, 1)
    # Never edge on: a sprite turns like a card that is at least a third of its width.
    course.mirror = np.where(turn < 0, -1.0, 1.0) * np.maximum(np.abs(turn), 0.35)


def _arc(course: Path, scene: Scene, t: np.ndarray, heading: int) -> None:
    height = 0.30 if kind(scene) == "water" else 0.26
    angle = np.pi * t / 2.6
    course.x = 0.5 - 0.05 * heading + 0.06 * np.sin(TURN * t / 11)
    course.y = course.y + 0.06 - height * np.sin(angle) ** 2
    course.tilt = -0.5 * heading * np.sin(2 * angle)


def _float(course: Path, scene: Scene, t: np.ndarray, heading: int) -> None:
    course.x = 0.5 + 0.05 * np.sin(TURN * t / 7)
    course.y = course.y + 0.03 * np.sin(TURN * t / 3.7)
    course.tilt = 0.08 * np.sin(TURN * t / 5.3)


def _updown(course: Path, scene: Scene, t: np.ndarray, heading: int) -> None:
    reach = 0.10 if kind(scene) == "boat" else 0.14
    course.x = 0.5 + 0.02 * np.sin(TURN * t / 9)
    course.y = course.y + reach * np.sin(TURN * t / 3.2) - (0.06 if reach == 0.10 else 0)
    course.tilt = -0.07 * np.cos(TURN * t / 3.2) * heading


_MOVES = {
    "left": _travel,
    "right": _travel,
    "jump": _jump,
    "circle": _circle,
    "arc": _arc,
    "float": _float,
    "updown": _updown,
}
