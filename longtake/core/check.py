"""Refuse pairs that cannot work or cannot help, before any weights run, and say what to do instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from longtake.core.model import Denoiser
from longtake.core.plan import mixes_levels, ticks_to_show


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
    if can.per_row_levels == "no" and mixes_levels(leaf, clean=not can.clean_rows):
        raise ValueError(f"{name} needs one noise level per latent frame, which this model lacks; use --method plain")


def _decides(search: Any, leaf: Any) -> None:
    # SPINE.md (d) 15: noise enters at the tail and shows in finished latents only when it has crossed the queue
    needs = search.reward.needs
    if search.num == 1 or not needs or not needs <= {"past", "pixels"}:
        return
    following, crossing = ticks_to_show(leaf)
    ahead = _ticks_ahead(search, following)
    if ahead < crossing:
        remedy = f"look={crossing}" if hasattr(search, "look") else 'when="emission" on a method that finishes clips'
        raise ValueError(
            f"this reward reads finished latents, and a candidate's noise needs {crossing} ticks to finish, but the "
            f"search scores it after {ahead}; use {remedy}, or a reward that reads rows in flight (x0)"
        )


def _ticks_ahead(search: Any, following: int) -> int:
    """Ticks between a candidate's fork and its score; `following`: to the next emission."""
    look = getattr(search, "look", "emission" if getattr(search, "when", None) == "emission" else 1)
    return following if look == "emission" else int(look)
