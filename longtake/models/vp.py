"""Variance-preserving noise schedules from a diffusers scheduler's configuration, which is read and never stepped.

x_t = sqrt(a_t) s(t) x0 + sqrt(1 - a_t) eps, where a_t is the product of 1 - beta (Ho et al. 2020) and s(t) a scale on
the data that VideoCrafter2 was trained with (1 elsewhere). Computed in float64.

Level 0 is clean whatever the configuration says of its last step: a sampler that stops at the first training time
leaves noise of 0.03 standard deviations in the picture, and its last evaluation changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from longtake.core.schedule import NoiseSchedule
from longtake.errors import UsageError

SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
)
"""The classes whose configuration has betas and a spacing as read here."""

USUAL: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "timestep_spacing": "leading", "steps_offset": 0, "prediction_type": "epsilon",
}  # fmt: skip
"""What diffusers' DDIM takes for keys that a configuration leaves out."""


def check_config(config: Mapping[str, Any]) -> None:
    """UsageError unless this configures a scheduler that is read here, for a network that predicts noise."""
    kind, predicts = config.get("_class_name", SCHEDULERS[0]), config.get("prediction_type", "epsilon")
    if kind not in SCHEDULERS:
        raise UsageError(f"scheduler {kind} is not supported here; supported: {', '.join(SCHEDULERS)}")
    if predicts != "epsilon":
        raise UsageError(f"the scheduler predicts {predicts!r}; this family predicts epsilon")
    if config.get("clip_sample") or config.get("thresholding"):
        raise UsageError("the scheduler clips its estimates (clip_sample, thresholding), which latents do not stand")


def signal(config: Mapping[str, Any]) -> np.ndarray:
    """a_t for every training time t, float64."""
    set_to = {**USUAL, **config}
    start, end, many = (set_to[key] for key in ("beta_start", "beta_end", "num_train_timesteps"))
    kind = set_to["beta_schedule"]
    if kind == "linear":
        betas = np.linspace(start, end, many)
    elif kind == "scaled_linear":
        betas = np.linspace(math.sqrt(start), math.sqrt(end), many) ** 2
    else:
        raise UsageError(f"the scheduler's beta_schedule {kind!r} is not supported; linear and scaled_linear are")
    if set_to.get("rescale_betas_zero_snr") or set_to.get("trained_betas") is not None:
        raise UsageError("the scheduler rescales its betas or brings its own (trained_betas), which is not supported")
    return np.cumprod(1 - betas)


def times(config: Mapping[str, Any], num_steps: int) -> list[int]:
    """The training times of a grid of `num_steps` steps, least noisy first, spaced as the configuration says."""
    set_to = {**USUAL, **config}
    many, spacing = set_to["num_train_timesteps"], set_to["timestep_spacing"]
    if not 1 <= num_steps <= many:
        raise UsageError(f"steps must be in 1..{many} (the training times), got {num_steps}")
    if spacing == "linspace":
        grid = np.linspace(0, many - 1, num_steps).round()
    elif spacing == "leading":
        grid = np.arange(num_steps) * (many // num_steps) + set_to["steps_offset"]
    elif spacing == "trailing":
        grid = np.round(np.arange(many, 0, -many / num_steps))[::-1] - 1
    else:
        raise UsageError(f"the scheduler's timestep_spacing {spacing!r} is none of linspace, leading and trailing")
    if grid[-1] >= many:
        raise UsageError(f"{num_steps} steps from offset {set_to['steps_offset']} leave the {many} training times")
    return [int(time) for time in grid]


def vp_schedule(
    config: Mapping[str, Any], num_steps: int, scale: Callable[[int], float] = lambda time: 1.0
) -> NoiseSchedule:
    """The grid as a schedule by integer level; `scale` is s(t). UsageError for what cannot be read."""
    grid, kept = times(config, num_steps), signal(config)
    alphas = (1.0, *(math.sqrt(kept[time]) * scale(time) for time in grid))
    sigmas = (0.0, *(math.sqrt(1 - kept[time]) for time in grid))
    return NoiseSchedule(alphas, sigmas, (0.0, *map(float, grid)))


def videocrafter_scale(time: int) -> float:
    """VideoCrafter2's scale on the data: from 1 at time 0 straight to 0.7 at time 399, and 0.7 from there."""
    return 1 - 0.3 * min(time, 399) / 399
