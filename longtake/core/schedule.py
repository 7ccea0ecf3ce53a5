"""Noise schedules by integer level: 0 is clean, S is pure noise, and x = alphas[k] * x0 + sigmas[k] * eps.

Tuples of floats rather than tensors: a schedule is a value that hashes, compares and goes into JSON (docs/adr/001).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class NoiseSchedule:
    """Signal and noise by level, and `times`, what the network is told at that level. Each has S + 1 entries."""

    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    times: tuple[float, ...]
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        if not len(self.alphas) == len(self.sigmas) == len(self.times) >= 2:
            raise ValueError(
                f"a schedule needs alphas, sigmas and times of one length >= 2, got "
                f"{len(self.alphas)}, {len(self.sigmas)}, {len(self.times)}"
            )
        if self.sigmas[0] != 0 or self.alphas[0] <= 0:
            raise ValueError("level 0 of a schedule must be clean: sigmas[0] = 0 and alphas[0] > 0")
        ratios = [-self.log_snr(level) for level in range(len(self.sigmas))]
        if any(later <= earlier for earlier, later in zip(ratios, ratios[1:], strict=False)):
            raise ValueError("noise must grow with the level: sigma / alpha has to increase strictly")
        object.__setattr__(self, "_hash", hash((self.alphas, self.sigmas, self.times)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def num_steps(self) -> int:
        """S, the number of denoising steps from pure noise to clean."""
        return len(self.sigmas) - 1

    def log_snr(self, level: int) -> float:
        """lambda = log(alpha / sigma), infinite at both ends of a grid that reaches them."""
        alpha, sigma = self.alphas[level], self.sigmas[level]
        if sigma == 0:
            return math.inf
        return math.log(alpha / sigma) if alpha > 0 else -math.inf


def from_grid(sigmas: Sequence[float], times: Sequence[float], flow: bool = True) -> NoiseSchedule:
    """A schedule from a sampler's grid, noisiest first as samplers keep it, the final zero left out.

    `flow` says x = (1 - sigma) * x0 + sigma * eps; otherwise sigma is the ratio noise / signal of a
    variance-preserving process (k-diffusion's convention).
    """
    up = [0.0, *(float(sigma) for sigma in reversed(list(sigmas)))]
    if flow:
        alphas, noise = [1 - sigma for sigma in up], up
    else:
        alphas = [1 / math.sqrt(1 + sigma * sigma) for sigma in up]
        noise = [sigma * alpha for sigma, alpha in zip(up, alphas, strict=True)]
    return NoiseSchedule(tuple(alphas), tuple(noise), (0.0, *(float(time) for time in reversed(list(times)))))


def flow(num_steps: int, shift: float = 1.0, num_train: int = 1000) -> NoiseSchedule:
    """Flow matching on the grid of diffusers' FlowMatchEulerDiscreteScheduler, from sigma 1 down.

    Its smallest sigma is shifted twice (once when the scheduler is made, once when steps are set): kept for parity.
    """
    low = _shifted(1 / num_train, shift)
    ramp = [1 + (low - 1) * step / max(num_steps - 1, 1) for step in range(num_steps)]
    sigmas = [_shifted(sigma, shift) for sigma in ramp]
    return from_grid(sigmas, [sigma * num_train for sigma in sigmas])


def flow_unipc(num_steps: int, shift: float = 1.0, num_train: int = 1000) -> NoiseSchedule:
    """Flow matching on the grid of diffusers' UniPC: from just below sigma 1 towards 1 / num_train, integer times."""
    ramp = [1 + (1 / num_train - 1) * step / num_steps for step in range(num_steps)]
    sigmas = [min(_shifted(sigma, shift), 1 - 1e-6) for sigma in ramp]
    return from_grid(sigmas, [float(int(sigma * num_train)) for sigma in sigmas])


def flow_dpm(num_steps: int, shift: float = 1.0, num_train: int = 1000) -> NoiseSchedule:
    """Flow matching on the grid of diffusers' DPM-Solver++: from 1 - 1 / num_train towards 0, integer times."""
    top = 1 - 1 / num_train
    sigmas = [_shifted(top * (num_steps - step) / num_steps, shift) for step in range(num_steps)]
    return from_grid(sigmas, [float(int(sigma * num_train)) for sigma in sigmas])


def vp(num_steps: int, beta_start: float = 0.00085, beta_end: float = 0.012, num_train: int = 1000) -> NoiseSchedule:
    """Variance preserving with scaled-linear betas; times evenly spaced over the training range, both ends included.

    FIFO's grid for VideoCrafter2: round(linspace(0, 999, S)), and below it a level that is really clean, where the
    reference stops at the first training time.
    """
    ramp = [math.sqrt(beta_start) + (math.sqrt(beta_end) - math.sqrt(beta_start)) * i / (num_train - 1)
            for i in range(num_train)]  # fmt: skip
    signal, total = [], 1.0
    for root_beta in ramp:
        total *= 1 - root_beta**2
        signal.append(total)
    times = [round((num_train - 1) * step / max(num_steps - 1, 1)) for step in range(num_steps)]
    if len(set(times)) < num_steps:
        raise ValueError(f"num_steps {num_steps} exceeds the {num_train} training times; use fewer steps")
    alphas = (1.0, *(math.sqrt(signal[time]) for time in times))
    return NoiseSchedule(alphas, (0.0, *(math.sqrt(1 - signal[time]) for time in times)), (0.0, *map(float, times)))


def _shifted(sigma: float, shift: float) -> float:
    # Stable Diffusion 3, Eq. 23: more of the grid at high noise
    return shift * sigma / (1 + (shift - 1) * sigma)
