"""Refuse pairs that cannot work or cannot help, before any weights run, and say what to do instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from longtake.core.model import Denoiser
from longtake.core.plan import mixes_levels, ticks_to_show

BLIND = (
    "this model begins at pure noise, of which one step shows next to nothing: candidates are told apart by little but "
    "chance; use --set beam.preview_steps=4 or more, or a larger --search-budget"
)
"""What is warned of where a search looks one step ahead and the last level keeps no signal (docs/search.md)."""
LITTLE = 0.01
"""Share of signal at the last level that is next to nothing: flow matching's grids keep 0 to .0003, ScalingNoise's
model .07.
"""


def check(rollout: Any, denoiser: Denoiser) -> list[str]:
    """Raise ValueError for a pair that cannot work; return warnings, one line each, for pairs that may disappoint."""
    layers = list(_layers(rollout))
    leaf = layers[-1]
    _fits(leaf, denoiser)
    searchable(rollout)
    warnings: list[str] = []
    for search in layers[:-1]:
        noise = _noise(leaf)
        if getattr(search, "when", None) != "tick" or getattr(search, "num", 1) == 1:
            continue
        if not getattr(search, "preview", 0) and leaf.schedule.alphas[-1] < LITTLE:
            warnings.append(BLIND)
        if noise > 0.5:
            warnings.append(
                f"{leaf.solver.name} with noise scale {noise:g} draws most of a row anew after the search has looked "
                f"at it; use a deterministic solver, or eta at most 0.5"
            )
    return warnings


def searchable(rollout: Any) -> None:
    """The part of `check` that needs no model: raise ValueError for a search that cannot work on its method."""
    *searches, leaf = _layers(rollout)
    for search in searches:
        _decides(search, leaf)


def _layers(rollout: Any) -> Iterator[Any]:
    while hasattr(rollout, "inner"):
        yield rollout
        rollout = rollout.inner
    yield rollout


def matches(rollout: Any, denoiser: Denoiser) -> None:
    """Raise ValueError unless a method has the denoiser's latents and schedule."""
    *_, leaf = _layers(rollout)
    name, can = _name(leaf), denoiser.can
    if tuple(leaf.shape) != tuple(can.latent_shape):
        raise ValueError(f"{name} makes latents of {leaf.shape}, the model reads {can.latent_shape}; use the model's")
    if leaf.schedule != denoiser.schedule:
        raise ValueError(f"{name} and the model must share one schedule; build {name} with schedule=denoiser.schedule")


def _fits(leaf: Any, denoiser: Denoiser) -> None:
    matches(leaf, denoiser)
    name, can = _name(leaf), denoiser.can
    if can.per_row_levels == "no" and mixes_levels(leaf, clean=not can.clean_rows):
        raise ValueError(f"{name} needs one noise level per latent frame, which this model lacks; use --method plain")


def _decides(search: Any, leaf: Any) -> None:
    """Refuse a search whose candidates all look alike when it compares them, or that cannot be run on this method."""
    if getattr(search, "num", 0) == 1:
        return
    _copies(search, leaf)
    following, crossing = ticks_to_show(leaf)
    if getattr(search, "clips", False) and (mixes_levels(leaf, clean=False) or following != crossing):
        name = type(leaf).__name__.lower()
        raise ValueError(
            f"{_name(search)} makes whole clips again, and {name} never has one; use --method chunk, or --search beam "
            f"on {name}"
        )
    if getattr(search, "preview", 0) and not callable(getattr(search.inner, "preview", None)):
        name = type(search.inner).__name__.lower()
        raise ValueError(f"{name} cannot be previewed in a few steps; use preview_steps=1 of beam, or --method chunk")
    needs = search.reward.needs if hasattr(search, "reward") else frozenset()
    if not needs or not needs <= {"past", "pixels"}:
        return
    # noise enters at the tail and shows in finished latents only when it has crossed the queue
    ahead = _ticks_ahead(search, following, crossing)
    if ahead < crossing:
        remedy = f"look={crossing}" if hasattr(search, "look") else 'when="emission" on a method that finishes clips'
        raise ValueError(
            f"this reward reads finished latents, and a candidate's noise needs {crossing} ticks to finish, but the "
            f"search scores it after {ahead}; use {remedy}, or a reward that reads rows in flight (x0)"
        )


def _copies(search: Any, leaf: Any) -> None:
    # copies that nothing tells apart are paid for in full and end alike
    mode, noise = getattr(search, "mode", ""), _noise(leaf)
    if mode in ("systematic", "greedy") and not search.jitter and not noise:
        raise ValueError(
            f"latsearch.mode={mode} makes copies of a particle, and with {leaf.solver.name} and no jitter they stay "
            f"alike; set latsearch.jitter above 0, such as .2, or use a stochastic solver (ddim with eta)"
        )
    if hasattr(search, "mutation") and len(search.sizes) > 1 and not search.mutation:
        raise ValueError("evolve.mutation=0 makes children that are their parents; give more than 0, such as .2")


def _name(search: Any) -> str:
    return type(search).__name__.lower()


def _noise(leaf: Any) -> float:
    # a method of others may do without our solvers
    return getattr(getattr(leaf, "solver", None), "noise_scale", 0.0)


def _ticks_ahead(search: Any, following: int, crossing: int) -> int:
    """Ticks between a candidate's fork and its score; `following`: to the next emission, `crossing`: to its own."""
    if getattr(search, "preview", 0) or getattr(search, "mode", ""):
        return 0
    if hasattr(search, "sizes"):
        return crossing
    when = getattr(search, "when", None)
    look = getattr(search, "look", following if when == "emission" else 1)
    if when == "done":
        return crossing
    if isinstance(when, int):
        look = following + when - 1  # a queue emits one a tick, clips more at once and later
    return following if look == "emission" else int(look)
