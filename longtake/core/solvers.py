"""Solvers as pure functions on rows: each row has its own level and its own memory.

One step of every solver here is linear in five tensors of the row: its sample x, the new estimate x0, the two
estimates before, and the sample that UniPC's last predictor started from. So a solver is a rule that returns
coefficients (`Plan`), computed in float64 from levels alone and cached; `combine` applies them to all rows at once.
Memory travels with the row: no scheduler object exists, and a row may be branched, moved or saved at any moment.

Notation of Lu et al. (DPM-Solver++) and Zhao et al. (UniPC): lambda = log(alpha / sigma), h its increase in the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from longtake.core.schedule import NoiseSchedule


class Memory(NamedTuple):
    """What a row remembers of its own steps, newest first."""

    x0s: tuple[Tensor, ...] = ()  # past estimates, each (C, H, W)
    levels: tuple[int, ...] = ()  # the levels at which they were made
    start: Tensor | None = None  # the sample that the last step started from, corrected (UniPC)
    order: int = 0  # the order of that step (UniPC)


class Weights(NamedTuple):
    """Coefficients over (x, x0, the estimate before, the one before that, memory.start)."""

    x: float = 0.0
    x0: float = 0.0
    past: float = 0.0
    older: float = 0.0
    start: float = 0.0


class Plan(NamedTuple):
    """One step of one row: the next sample, the noise to add to it, and what UniPC remembers."""

    next: Weights
    std: float = 0.0
    start: Weights | None = None
    order: int = 1


@dataclass(frozen=True)
class Solver:
    """A solver by name. `eta` scales the noise of `ddim` (0: deterministic, 1: ancestral); others ignore it."""

    name: str = "euler"
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise ValueError(f"unknown solver {self.name!r}; known: {', '.join(RULES)}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be between 0 and 1, got {self.eta}")
        if self.eta and self.name != "ddim":
            raise ValueError(f"eta is a parameter of ddim, not of {self.name}; use solver ddim or leave eta at 0")

    @property
    def noise_scale(self) -> float:
        """How much of each step's freedom is drawn anew: 0 deterministic, 1 ancestral."""
        return {"ddim": self.eta, "euler_ancestral": 1.0, "dpmpp_2m_sde": 1.0, "cogvideox_dpm": 1.0}.get(self.name, 0.0)

    def plan(self, schedule: NoiseSchedule, level: int, to: int, memory: Memory) -> Plan:
        """The coefficients of the step from `level` down to `to` for a row with this memory."""
        if not 0 <= to < level <= schedule.num_steps:
            raise ValueError(f"a step goes down from a level in 1..{schedule.num_steps}, got {level} -> {to}")
        return _plan(self, schedule, level, to, memory.levels, memory.order)

    def remember(self, memory: Memory, x0: Tensor, level: int) -> Memory:
        """Memory after an estimate made at `level`; the estimate stays visible to rewards at no extra call."""
        depth = 2 if self.name == "unipc" else 1
        return Memory((x0, *memory.x0s)[:depth], (level, *memory.levels)[:depth])


@lru_cache(maxsize=1 << 16)
def _plan(solver: Solver, schedule: NoiseSchedule, level: int, to: int, past: tuple[int, ...], order: int) -> Plan:
    return RULES[solver.name](solver, schedule, level, to, past, order)


def combine(plans: Sequence[Weights], rows: Sequence[tuple[Tensor | None, ...]]) -> Tensor:
    """Apply each row's weights to its (x, x0, past, older, start): returns (N, C, H, W)."""
    reference = rows[0][1]
    assert reference is not None
    total: Tensor | None = None
    for column in range(5):
        scale = [plan[column] for plan in plans]
        if not any(scale):
            continue
        parts = [row[column] if value else None for row, value in zip(rows, scale, strict=True)]
        stacked = torch.stack([reference if part is None else part.to(reference) for part in parts])
        weights = torch.tensor(scale, dtype=torch.float64).to(stacked).reshape(-1, *[1] * reference.ndim)
        total = weights * stacked if total is None else total + weights * stacked
    return total if total is not None else torch.zeros((len(rows), *reference.shape)).to(reference)


# -- the rules ---------------------------------------------------------------------------------------------------


def _ddim(solver: Solver, s: NoiseSchedule, level: int, to: int, past: tuple[int, ...], order: int) -> Plan:
    # Song et al. Eq. 12, 16, for any (alpha, sigma); eta 0 on flow is the Euler step, eta 1 is k-diffusion's ancestral
    alpha, sigma, alpha_to, sigma_to = s.alphas[level], s.sigmas[level], s.alphas[to], s.sigmas[to]
    std = solver.noise_scale * sigma_to / sigma * math.sqrt(max(sigma**2 - (alpha / alpha_to * sigma_to) ** 2, 0.0))
    kept = math.sqrt(max(sigma_to**2 - std**2, 0.0)) / sigma
    return Plan(Weights(x=kept, x0=alpha_to - alpha * kept), std)


def _dpmpp_2m(solver: Solver, s: NoiseSchedule, level: int, to: int, past: tuple[int, ...], order: int) -> Plan:
    # DPM-Solver++ Alg. 2; first order where there is no past, and into level 0, as diffusers does for a final zero
    h = s.log_snr(to) - s.log_snr(level)
    x0, previous = _extrapolation(s, level, to, past, h)
    gain = -s.alphas[to] * math.expm1(-h)
    return Plan(Weights(x=s.sigmas[to] / s.sigmas[level], x0=gain * x0, past=gain * previous))


def _dpmpp_2m_sde(solver: Solver, s: NoiseSchedule, level: int, to: int, past: tuple[int, ...], order: int) -> Plan:
    # DPM-Solver++ App. (SDE-DPM-Solver++ 2M, midpoint)
    h = s.log_snr(to) - s.log_snr(level)
    x0, previous = _extrapolation(s, level, to, past, h)
    gain = -s.alphas[to] * math.expm1(-2 * h)
    kept = s.sigmas[to] / s.sigmas[level] * math.exp(-h)
    return Plan(Weights(x=kept, x0=gain * x0, past=gain * previous), s.sigmas[to] * math.sqrt(-math.expm1(-2 * h)))


def _extrapolation(s: NoiseSchedule, level: int, to: int, past: tuple[int, ...], h: float) -> tuple[float, float]:
    # D = (1 + 1/2r) x0 - 1/2r x0_past with r = h_past / h
    if not past or to == 0:
        return 1.0, 0.0
    tilt = 0.5 * h / (s.log_snr(level) - s.log_snr(past[0]))
    return 1 + tilt, -tilt


def _unipc(solver: Solver, s: NoiseSchedule, level: int, to: int, past: tuple[int, ...], order: int) -> Plan:
    # UniPC-bh2 of order 2, predicting x0. Correct the sample with the new estimate, then predict from there.
    corrected = _unipc_correct(s, level, past, order) if past else Weights(x=1.0)
    now = 2 if past and to > 0 else 1  # first order into level 0, as diffusers ends a grid
    x, x0, previous = _unipc_predict(s, level, to, past, now)
    next_ = Weights(*(x * weight for weight in corrected))
    next_ = next_._replace(x0=next_.x0 + x0, past=next_.past + previous)
    return Plan(next_, start=corrected, order=now)


def _unipc_predict(s: NoiseSchedule, level: int, to: int, past: tuple[int, ...], order: int) -> tuple[float, ...]:
    # UniPC Eq. 3 (UniP): weights of x, x0 and the estimate before
    h = s.log_snr(to) - s.log_snr(level)
    gain = -s.alphas[to] * math.expm1(-h)
    tilt = 0.0
    if order == 2:
        tilt = 0.5 * h / (s.log_snr(past[0]) - s.log_snr(level))  # rho = 1/2, divided by r
    return s.sigmas[to] / s.sigmas[level], gain * (1 - tilt), gain * tilt


def _unipc_correct(s: NoiseSchedule, level: int, past: tuple[int, ...], order: int) -> Weights:
    # UniPC Eq. 9 (UniC) for the step past[0] -> level, its predictor's order, the new estimate at the end point
    before = past[0]
    h = s.log_snr(level) - s.log_snr(before)
    phi = math.expm1(-h)
    gain, tilt, new = -s.alphas[level] * phi, 0.0, 0.5
    if order == 2:
        ratio = (s.log_snr(past[1]) - s.log_snr(before)) / h
        first = (-phi / h - 1) / phi
        second = 2 * ((-phi / h - 1) / -h - 0.5) / phi
        share = (first - second) / (1 - ratio)
        tilt, new = share / ratio, first - share
    return Weights(
        x0=gain * new, past=gain * (1 - new - tilt), older=gain * tilt, start=s.sigmas[level] / s.sigmas[before]
    )


RULES = {
    "euler": _ddim,
    "ddim": _ddim,
    "euler_ancestral": _ddim,
    "dpmpp_2m": _dpmpp_2m,
    "dpmpp_2m_sde": _dpmpp_2m_sde,
    "cogvideox_dpm": _dpmpp_2m_sde,  # CogVideoX's own scheduler takes these steps, on its own grid
    "unipc": _unipc,
}
