"""Where candidates' initial noise comes from: ScalingNoise Sec. 3.4, actions A1 to A4.

gaussian    A1: fresh white noise
fft         A2, Eq. 8: the low band of the noise that the branch's last rows began with, the high band of fresh noise
inversion   A3, Eq. 9: the last finished latents taken up to pure noise by DDIM inversion through the network
renoise     the last finished latents noised, as the paper's released code does under the name of inversion
neighbour   A4: a draw at distance delta of the inversion (if that is among the proposals, else of the re-noised latent)

Candidate 0 is none of these: it always keeps its parent's own noise. Rows that enter together take their sources in
order, from the newest rows before them.

Deviations, each so that a candidate is a draw that the model was trained on: mean square 1 and, for `fft`, white.
- Eq. 8 adds a low and a high band with weights L and 1 - L, which takes variance away where they overlap; here
  L and sqrt(1 - L^2).
- inverted latents are scaled to mean square 1. They are not white, so where they may be what `fft` takes its low band
  from, the band is scaled to the power that it has in white noise.
- `renoise` keeps a share of signal (default .068, what VideoCrafter2's schedule leaves at its last level): flow models
  reach pure noise, and noising to their last level would leave nothing of the latent.
- a second `inversion` of one parent at one decision would be the first again, so it is a `neighbour`.
The paper says neither the mixture's weights (here uniform unless given), nor the cut-off, nor delta.
Cost: `inversion`, and `neighbour` beside it, `inversion_steps` window calls for each parent at a decision where one of
them is drawn and a latent is finished; all others none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from longtake.core.model import Cond
from longtake.core.noise import fold, normal
from longtake.core.rollout import Mix
from longtake.core.rows import Row
from longtake.core.schedule import NoiseSchedule
from longtake.core.step import Call, Step, nothing
from longtake.core.window import Window

NAMES = ("gaussian", "fft", "renoise", "neighbour", "inversion")
INVERTED = ("inversion", "neighbour")
SIGNAL = 0.068
"""Share of a clip that is left at the last level of Stable Diffusion's schedule, which the papers' models have."""


@dataclass(frozen=True, eq=False)
class Source:
    """What proposals of one branch draw from, oldest first: the noise of its last rows, its last finished latents,
    and those inverted to noise. Each (C, H, W); any may be empty, and the proposal is then Gaussian.
    """

    noises: tuple[Tensor, ...] = ()
    latents: tuple[Tensor, ...] = ()
    inverted: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Mixture:
    """Proposals by weight, and their parameters.

    dims, band, cutoff  the filter of `fft`: over space or over time and space; its form; its radius, 1 = Nyquist
    signal              share of the latent's amplitude that `renoise` keeps
    delta               root mean square distance of a `neighbour` from its centre
    inversion_steps     network calls of an inversion
    """

    weights: tuple[tuple[str, float], ...] = (("gaussian", 1.0), ("fft", 1.0), ("renoise", 1.0), ("neighbour", 1.0))
    dims: Literal[2, 3] = 2
    band: Literal["gaussian", "butterworth"] = "gaussian"
    cutoff: float = 0.25
    signal: float = SIGNAL
    delta: float = 0.5
    inversion_steps: int = 8

    def __post_init__(self) -> None:
        names = [name for name, _ in self.weights]
        unknown = [name for name in names if name not in NAMES]
        if unknown or len(set(names)) < len(names) or not names:
            raise ValueError(f"proposals are a sum of {', '.join(NAMES)}, each once; got {'+'.join(names) or 'none'}")
        if any(not 0 < weight < math.inf for _, weight in self.weights):
            raise ValueError("weights of proposals are above 0")
        if self.dims not in (2, 3) or self.band not in ("gaussian", "butterworth"):
            raise ValueError(f"fft takes dims 2 or 3 and band gaussian or butterworth, got {self.dims}, {self.band}")
        if not (self.cutoff > 0 and 0 <= self.signal < 1 and 0 < self.delta <= math.sqrt(2)):
            raise ValueError("cutoff is above 0, signal in 0..1, delta above 0 and at most 1.41")
        if self.inversion_steps < 1:
            raise ValueError(f"inversion_steps must be at least 1, got {self.inversion_steps}")

    def pick(self, key: int) -> str:
        """The proposal that this key draws."""
        point = np.random.Generator(np.random.Philox(key=key)).random() * sum(weight for _, weight in self.weights)
        for name, weight in self.weights:
            point -= weight
            if point < 0:
                return name
        return self.weights[-1][0]

    def sources(
        self, names: Sequence[str], latents: Sequence[Tensor], noises: Sequence[Tensor], leaf: Any, cond: Cond
    ) -> Step[Source]:
        """What the drawn proposals need of a branch; network calls only if one of them inverts.

        `leaf` is the method, for its window and schedule; `cond` the prompt of the newest latents.
        """
        listed = dict(self.weights)
        inverts = "inversion" in listed and any(name in INVERTED for name in names)
        latents = tuple(latents)[-leaf.window :]
        if not (inverts and latents):
            return (yield from nothing(Source(tuple(noises), latents)))
        inverted = yield from invert(latents, leaf.schedule, cond, self.inversion_steps)
        return Source(tuple(noises), latents, tuple(unit(x) for x in inverted))

    def mix(self, name: str, source: Source, rows: range, key: int, taken: set[str]) -> tuple[str, Mix | None]:
        """(the name of what is proposed, how it makes the rows of `rows`), for a candidate whose draws `key` keys.

        `taken` names the proposals of its siblings that give one draw only; it is added to.
        """
        if name == "inversion":
            if "inversion" in taken:
                name = "neighbour"
            taken.add("inversion")
        if name == "gaussian" or not (source.noises if name == "fft" else source.latents):
            return "gaussian", None

        def made(row: Row, fresh: Tensor) -> Tensor:
            return self._row(name, source, len(rows), row.index - rows.start, fresh, key)

        return name, made

    def _row(self, name: str, source: Source, many: int, place: int, fresh: Tensor, key: int) -> Tensor:
        if not fresh.numel():
            return fresh
        if name == "fft":
            return self._blended(source.noises, many, place, fresh, key)
        centre = source.inverted or tuple(self._renoised(x, place, key) for x in source.latents[-many:])
        if name == "renoise":
            return self._renoised(_nth(source.latents, many, place), place, key)
        before = _nth(centre, many, place).to(fresh)
        return before if name == "inversion" else near(before, fresh, self.delta)

    def _renoised(self, latent: Tensor, place: int, key: int) -> Tensor:
        eps = normal(latent.shape, fold(key, "renoise"), "init", place).to(latent)
        return self.signal * unit(latent) + math.sqrt(1 - self.signal**2) * eps

    def _blended(self, noises: Sequence[Tensor], many: int, place: int, fresh: Tensor, key: int) -> Tensor:
        even = "inversion" in dict(self.weights)
        if self.dims == 2:
            return blend(_nth(noises, many, place).to(fresh), fresh, self.band, self.cutoff, even=even)
        # over time: the last rows as they were, and as many of fresh noise, of which this row's own is one
        span = max(min(len(noises), 2 * many), many)
        old = torch.stack([_nth(noises, span, frame).to(fresh) for frame in range(span)])
        new = torch.stack([normal(fresh.shape, fold(key, "volume"), "init", frame) for frame in range(span)]).to(fresh)
        mixed = blend(old.transpose(0, 1), new.transpose(0, 1), self.band, self.cutoff, dims=3, even=even)
        return mixed[:, span - many + place]


def unit(x: Tensor) -> Tensor:
    """The latent scaled to mean square 1."""
    return x / x.square().mean().sqrt().clamp_min(1e-6)


def near(centre: Tensor, fresh: Tensor, delta: float) -> Tensor:
    """A draw at root mean square distance `delta` of `centre`, on average, and of its variance."""
    kept = 1 - delta**2 / 2
    return kept * centre + math.sqrt(1 - kept**2) * fresh


def correlated(centre: Tensor, fresh: Tensor, amount: float) -> Tensor:
    """LatSearch's particles and EvoSearch's children: sqrt(1 - b^2) of one draw and b of another."""
    return math.sqrt(1 - amount**2) * centre + amount * fresh


def blend(low: Tensor, high: Tensor, band: str, cutoff: float, dims: int = 2, even: bool = False) -> Tensor:
    """The low band of one noise and the high band of another over the last `dims` axes; white if both are.

    `even`: the low band is scaled to the power of white noise.
    """
    axes = tuple(range(-dims, 0))
    radius = torch.zeros([1] * dims)
    for axis in axes:
        shape = [1] * dims
        shape[axis] = -1
        radius = radius + (torch.fft.fftfreq(low.shape[axis]).reshape(shape) * 2 / cutoff).square()
    # both are 1 in the middle; Butterworth of order 4, as FreeInit takes it
    mask = torch.exp(-radius / 2) if band == "gaussian" else 1 / (1 + radius**4)
    mask = mask.to(low)
    slow = mask * torch.fft.fftn(low, dim=axes)
    if even:
        many = math.prod(low.shape[axis] for axis in axes)
        slow = slow * (many * mask.square().mean() / slow.abs().square().mean().clamp_min(1e-6)).sqrt()
    spectrum = slow + (1 - mask.square()).sqrt() * torch.fft.fftn(high, dim=axes)
    return torch.fft.ifftn(spectrum, dim=axes).real


def invert(latents: Sequence[Tensor], schedule: NoiseSchedule, cond: Cond, steps: int) -> Step[list[Tensor]]:
    """DDIM inversion (Eq. 9) of finished latents in one window, to the last level: `steps` calls.

    A clean latent has no noise to read, so it stands for level 1, as inverse schedulers have it; where the grid is
    coarser than the schedule, the first call is made at the first level of the grid.
    """
    top, rows = schedule.num_steps, tuple(range(-len(latents), 0))
    steps = min(steps, max(top - 1, 1))
    grid = [1 + round((top - 1) * step / steps) for step in range(steps + 1)]
    now = list(latents)
    for level, to in zip(grid, grid[1:], strict=False):
        (x0,) = yield [Call(tuple(now), (level,) * len(now), cond, Window(rows, ()))]
        alpha, sigma, alpha_to, sigma_to = (*_ends(schedule, level), *_ends(schedule, to))
        now = [alpha_to * x + sigma_to * (y - alpha * x) / sigma for y, x in zip(now, x0, strict=True)]
    return now


def _ends(schedule: NoiseSchedule, level: int) -> tuple[float, float]:
    return schedule.alphas[level], schedule.sigmas[level]


def _nth(items: Sequence[Tensor], many: int, place: int) -> Tensor:
    """Of the last `many` items the one at `place`; fewer repeat."""
    last = tuple(items)[-many:]
    return last[place % len(last)]
