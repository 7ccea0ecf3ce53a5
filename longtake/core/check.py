"""Refuse pairs that cannot work or cannot help, before any weights run, and say what to do instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from longtake.core.model import Denoiser


def check(rollout: Any, denoiser: Denoiser) -> list[str]:
    """Raise ValueError for a pair that cannot work; return warnings, one line each, for pairs that may disappoint."""
    layers = list(_layers(rollout))
    leaf = layers[-1]
    _fits(leaf, denoiser)
    warnings: list[str] = []
    for search in layers[:-1]:
        _decides(search, leaf)
        noise = leaf.solver.noise_scale
        if getattr(search, "when", None) == "tick" and noise > 0.5:
            warnings.append(
                f"{leaf.solver.name} with noise scale {noise:g} draws most of a row anew after the search has looked "
                f"at it; use a deterministic solver, or eta at most 0.5"
            )
    return warnings


def _layers(rollout: Any) -> Iterator[Any]:
    while hasattr(rollout, "inner"):
        yield rollout
        rollout = rollout.inner
    yield rollout


def _fits(leaf: Any, denoiser: Denoiser) -> None:
    name, can = type(leaf).__name__.lower(), denoiser.can
    if tuple(leaf.shape) != tuple(can.latent_shape):
        raise ValueError(f"{name} makes latents of {leaf.shape}, the model reads {can.latent_shape}; use the model's")
    if leaf.schedule != denoiser.schedule:
        raise ValueError(f"{name} and the model must share one schedule; build {name} with schedule=denoiser.schedule")
    if mixed_levels(leaf) and can.per_row_levels == "no":
        raise ValueError(f"{name} needs one noise level per latent frame, which this model lacks; use --method plain")


def mixed_levels(leaf: Any) -> bool:
    """Whether one window of this method can hold rows of different levels."""
    line = leaf.line
    return line.history > 0 or (line.period is not None and line.period < line.schedule.num_steps)


def _decides(search: Any, leaf: Any) -> None:
    # SPINE.md (d) 15: noise enters at the tail and shows in finished latents only after it has crossed the queue
    if search.reward.needs and search.reward.needs <= {"past", "pixels"} and search.num > 1:
        look, crossing = getattr(search, "look", None), -(-leaf.schedule.num_steps // 1)
        one_level = leaf.line.period is None or leaf.line.period >= crossing
        if isinstance(look, int) and look < crossing:
            raise ValueError(
                f"this reward reads finished latents and a candidate needs {crossing} ticks to finish, but the search "
                f"looks {look} ahead; use look={crossing}, or a reward that reads rows in flight (x0)"
            )
        if look is None and search.when == "tick" and not one_level:
            raise ValueError(
                f"this reward reads finished latents, {crossing} ticks behind the noise that is chosen; use a reward "
                f"that reads rows in flight (x0)"
            )
