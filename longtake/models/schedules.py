"""Noise schedules read off diffusers' flow-matching schedulers. They are asked for their grid and never stepped."""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from longtake.core.schedule import NoiseSchedule, from_grid
from longtake.core.solvers import RULES
from longtake.errors import UsageError

SCHEDULERS = {
    "FlowMatchEulerDiscreteScheduler": (FlowMatchEulerDiscreteScheduler, "euler"),
    "UniPCMultistepScheduler": (UniPCMultistepScheduler, "unipc"),
    "DPMSolverMultistepScheduler": (DPMSolverMultistepScheduler, "dpmpp_2m"),
}
"""The scheduler classes that we read, and the solver that each stands for."""

GRIDS = {"unipc": UniPCMultistepScheduler, "dpmpp_2m": DPMSolverMultistepScheduler,
         "dpmpp_2m_sde": DPMSolverMultistepScheduler, "cogvideox_dpm": DPMSolverMultistepScheduler}  # fmt: skip
"""Whose grid a solver runs on; Euler's otherwise."""


def solver_of(scheduler: Any) -> str:
    """The name of the solver that a diffusers scheduler stands for; UsageError if it is not one we read."""
    name = type(scheduler).__name__
    if name not in SCHEDULERS:
        raise UsageError(f"scheduler {name} is not supported; supported: {', '.join(SCHEDULERS)}")
    if getattr(scheduler.config, "algorithm_type", None) == "sde-dpmsolver++":
        return "dpmpp_2m_sde"
    return SCHEDULERS[name][1]


def schedule_of(scheduler: Any, num_steps: int, solver: str | None = None, shift: float | None = None) -> NoiseSchedule:
    """The grid of `num_steps` steps that diffusers would sample on; the scheduler itself is left as it is.

    Another `solver` than the scheduler's own gets the grid of that solver's own scheduler, with the same shift.
    `shift`: another one than the scheduler's, as stock pipelines get it by `from_config(..., flow_shift=)`.
    Raises UsageError for schedulers that are not flow matching, or whose grid needs more than a number of steps.
    """
    own = solver_of(scheduler)
    solver, scheduler = solver or own, _shifted(scheduler, shift)
    if solver not in RULES:
        raise UsageError(f"unknown solver {solver!r}; known: {', '.join(RULES)}")
    if num_steps < 1:
        raise UsageError(f"steps must be at least 1, got {num_steps}")
    config = scheduler.config
    if getattr(config, "prediction_type", "flow_prediction") != "flow_prediction":
        raise UsageError(f"the pipeline's scheduler predicts {config.prediction_type!r}; Wan needs 'flow_prediction'")
    if getattr(config, "use_dynamic_shifting", False):
        raise UsageError("the pipeline's scheduler shifts by resolution (use_dynamic_shifting); set a fixed shift")
    kind = GRIDS.get(solver, FlowMatchEulerDiscreteScheduler)
    with torch.device("cpu"):
        grid = copy.deepcopy(scheduler) if type(scheduler).__name__ == kind.__name__ else _make(kind, config)
        grid.set_timesteps(num_steps)
    *sigmas, last = grid.sigmas.tolist()
    if last != 0:
        raise UsageError(f"the pipeline's scheduler ends at sigma {last:.4g}; set final_sigmas_type to 'zero'")
    return from_grid(sigmas, grid.timesteps.tolist())


def shift_of(scheduler: Any) -> float:
    """How far a scheduler shifts its grid to high noise; 1: not at all."""
    return float(getattr(scheduler.config, "flow_shift", getattr(scheduler.config, "shift", 1.0)))


def _shifted(scheduler: Any, shift: float | None) -> Any:
    # the same scheduler with another shift; the one that is given stays as it is
    if shift is None:
        return scheduler
    if not shift > 0:
        raise UsageError(f"shift must be above 0, got {shift}")
    key = "flow_shift" if hasattr(scheduler.config, "flow_shift") else "shift"
    with torch.device("cpu"):
        return type(scheduler).from_config(scheduler.config, **{key: float(shift)})


def _make(kind: type, config: Any) -> Any:
    shift = getattr(config, "flow_shift", getattr(config, "shift", 1.0))
    num_train = config.num_train_timesteps
    if kind is FlowMatchEulerDiscreteScheduler:
        return kind(num_train_timesteps=num_train, shift=shift)
    return kind(
        num_train_timesteps=num_train, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
