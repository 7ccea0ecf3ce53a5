"""What the judge learns from: pictures in fours, and clips as pairs of neighbouring frames. All rendered truth.

Four pictures are two subjects in two places, each pair at another moment and in another motion:

    subject 0, place 0   subject 0, place 1
    subject 1, place 0   subject 1, place 1

so that what a row has in common is the subject and what a column has in common is the place. A third of the fours show
two subjects of one kind (told apart by tint and size alone), a third two views of one kind of place (told apart by
shade and ridges alone). Combinations of subject, place and motion that are held out never occur.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtake.metrics.judge import CELLS, SPAN, pairs_of
from longtake.training import fold
from longtake.training.pool import LONGEST
from longtake.world.grammar import CAMERAS, KIND_OF, MOTIONS_OF, PLACES_OF, SUBJECTS, Scene, is_held_out, scene
from longtake.world.motion import paths
from longtake.world.renderer import Clip, render

LABELS = ("subject", "place", "time")
HIDDEN = 7  # tint (3), size, shade (3), each about -1..1
SAME = 1 / 3
CHUNK = 16  # groups or clips that are drawn together


@dataclass
class Fours:
    """N groups: `pixels` uint8 [N,4,3,64,64], `mask` uint8 [N,4,8,8], `labels` [N,4,3], `hidden` [N,4,7],
    `same` [N,4,2]: which subject and which place of its group a picture shows (0 or 1)."""

    pixels: Tensor
    mask: Tensor
    labels: Tensor
    hidden: Tensor
    same: Tensor


@dataclass
class Moves:
    """N clips: `pairs` uint8 [N,15,6,32,32], `motion` [N], `course` [N,15,4] as the estimator should say it."""

    pairs: Tensor
    motion: Tensor
    course: Tensor


def four(seed: int) -> list[Scene]:
    """The four scenes of a group."""
    dice = random.Random(f"longtake-judge-1/{seed}")
    while True:
        first = dice.choice(SUBJECTS)
        alike = [s for s in SUBJECTS if set(PLACES_OF[KIND_OF[first]]) & set(PLACES_OF[KIND_OF[s]])]
        second = first if dice.random() < SAME else dice.choice(alike)
        shared = [p for p in PLACES_OF[KIND_OF[first]] if p in PLACES_OF[KIND_OF[second]]]
        place = dice.choice(shared)
        other = place if dice.random() < SAME else dice.choice(shared)
        ones, twos = (scene(dice.randrange(2**40)) for _ in range(2))
        whos = [{"subject": s, "tint": a.tint, "size": a.size} for s, a in ((first, ones), (second, twos))]
        wheres = [
            {"place": p, "time": ones.time, "shade": a.shade, "backdrop": a.backdrop, "prop": None}
            for p, a in ((place, ones), (other, twos))
        ]
        found = [_moving(dice, who | where) for who in whos for where in wheres]
        if all(found):
            return [s for s in found if s is not None]


def _moving(dice: random.Random, known: dict) -> Scene | None:
    """A scene of that subject and place in some motion that is not held out."""
    motions = [m for m in MOTIONS_OF[KIND_OF[known["subject"]]] if not is_held_out(known["subject"], known["place"], m)]
    if not motions:
        return None
    varied = replace(scene(dice.randrange(2**40)), motion=dice.choice(motions), camera=dice.choice(CAMERAS))
    return replace(varied, **known)


def hidden_of(wanted: Scene) -> list[float]:
    """Tint, size and shade of a scene as numbers of about -1..1."""
    return [
        *((v - 0.96) / 0.15 for v in wanted.tint),
        (wanted.size - 0.5) / 0.06,
        *((v - 1) / 0.07 for v in wanted.shade),
    ]


def cells(mask: Tensor) -> Tensor:
    """Subject masks uint8 [N,H,W] to shares uint8 [N,8,8]."""
    return F.avg_pool2d(mask[:, None].float(), mask.shape[-1] // CELLS)[:, 0].round().byte()


def _drawn(scenes: list[Scene], num_frames: int, starts: list[int], device: str) -> Clip:
    """Rendered on `device`, then kept on the host."""
    clip = render(scenes, num_frames, start=starts, device=device)
    labels = {key: value.cpu() for key, value in clip.labels.items()}
    return Clip(clip.pixels.cpu(), clip.mask.cpu(), clip.position.cpu(), clip.extent.cpu(), labels)


def fours(first: int, count: int, vae: nn.Module | None = None, device: str = "cpu") -> tuple[Fours]:
    """Groups number `first` on; through `vae`, if there is one, as stills."""
    scenes = [one for seed in range(first, first + count) for one in four(seed)]
    dice = random.Random(first)
    clip = _drawn(scenes, 1, [dice.randrange(LONGEST) for _ in scenes], device)
    pixels = clip.pixels[:, 0] if vae is None else recoded(vae, clip.pixels)[:, 0]
    labels = torch.stack([clip.labels[key] for key in LABELS], dim=1)
    groups = Fours(
        pixels.unflatten(0, (count, 4)),
        cells(clip.mask[:, 0]).unflatten(0, (count, 4)),
        labels.unflatten(0, (count, 4)),
        torch.tensor([hidden_of(one) for one in scenes]).unflatten(0, (count, 4)),
        torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).expand(count, 4, 2).contiguous(),
    )
    return (groups,)


def clips(first: int, count: int, vae: nn.Module | None = None, device: str = "cpu") -> tuple[Moves, Fours]:
    """Clips of 45 frames number `first` on: their motion, and four pictures of each (one subject, one place)."""
    scenes = [scene(seed) for seed in range(first, first + count)]
    dice = random.Random(first)
    starts = [dice.randrange(LONGEST) for _ in scenes]
    clip = _drawn(scenes, SPAN, starts, device)
    pixels = clip.pixels if vae is None else recoded(vae, clip.pixels)
    pairs = ((pairs_of(pixels) + 1) * 127.5).round().byte()
    moves = Moves(pairs, clip.labels["motion"], _course(scenes, starts, clip, pairs.shape[1]))
    picks = torch.tensor([dice.sample(range(SPAN), 4) for _ in scenes])
    rows = torch.arange(count)[:, None]
    labels = torch.stack([clip.labels[key] for key in LABELS], dim=1)
    seen = Fours(
        pixels[rows, picks],
        cells(clip.mask[rows, picks].flatten(0, 1)).unflatten(0, (count, 4)),
        labels[:, None].expand(count, 4, 3).contiguous(),
        torch.tensor([hidden_of(one) for one in scenes])[:, None].expand(count, 4, HIDDEN).contiguous(),
        torch.zeros(count, 4, 2, dtype=torch.long),
    )
    return moves, seen


def _course(scenes: list[Scene], starts: list[int], clip: Clip, pairs: int) -> Tensor:
    """[B,15,4]: x, y and edge of the subject's cell at a pair's first frame; the ground's speed in widths a second."""
    picks = torch.linspace(0, SPAN - 2, pairs).round().long()
    seconds = (np.array(starts, dtype=np.float64)[:, None] + np.arange(SPAN)) / 8
    scroll = torch.from_numpy(paths(scenes, seconds).scroll).float()
    speed = 8 * (scroll[:, picks + 1] - scroll[:, picks])
    return torch.cat([clip.position[:, picks], clip.extent[:, picks, None], speed[..., None]], dim=2)


@torch.no_grad()
def recoded(vae: nn.Module, pixels: Tensor, batch: int = 8) -> Tensor:
    """Clips uint8 [B,F,3,64,64] through the autoencoder, on its device and back."""
    out, device = [], next(vae.parameters()).device
    for part in pixels.split(batch * (45 // pixels.shape[1])):
        with torch.autocast(device.type, torch.bfloat16):
            shown, _ = fold.decode(vae, fold.encode(vae, part.to(device).float() / 127.5 - 1)[0])
        out.append(((shown.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu())
    return torch.cat(out)


class Fresh:
    """A store that grows to `limit` rows and is then drawn anew, oldest first, for a fixed share of the wall time."""

    def __init__(self, make: Callable[[int, int], tuple], base: int, start: int, limit: int) -> None:
        self.make, self.next, self.filled, self.at = make, base, 0, 0
        first = self._more()
        self.rows = [row.new_empty(limit, *row.shape[1:]) for row in first]
        self._put(first)
        while self.filled < start:
            self.renew()

    def _more(self) -> list[Tensor]:
        self.next += CHUNK
        return [getattr(part, f.name) for part in self.make(self.next - CHUNK, CHUNK) for f in fields(part)]

    def _put(self, new: list[Tensor]) -> None:
        at = torch.arange(self.at, self.at + CHUNK) % len(self.rows[0])
        for row, value in zip(self.rows, new, strict=True):
            row[at] = value
        self.filled = min(max(self.filled, self.at + CHUNK), len(self.rows[0]))
        self.at = (self.at + CHUNK) % len(self.rows[0])

    def renew(self) -> None:
        """Draw a few more."""
        self._put(self._more())

    def draw(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Random rows of every field, in the order in which `make` gives them."""
        picks = torch.randint(0, self.filled, (count,), generator=generator)
        return [row[picks] for row in self.rows]
