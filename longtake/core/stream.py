"""The engine loop: run a rollout tick by tick and hand out what it finishes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

from longtake.core.engine import Engine
from longtake.core.plan import dead_calls
from longtake.core.rollout import Emission, Rollout

S = TypeVar("S")


def stream(rollout: Rollout[S], engine: Engine, state: S, until: int | None = None) -> Iterator[tuple[S, Emission]]:
    """Yield (state, emission) after every tick, for ever or until `until` latents are out, counted from 0.

    The end never changes a value: the last emission may run past `until`, and the only calls skipped are those that
    no emitted latent reads. `info.skipped` counts them; a state after a skip is good for this `until` alone, so who
    wants to go on later keeps the one before.
    """
    current: Any = state
    dead: list[frozenset[int]] | None = None
    while not current.finished and (until is None or current.emitted < until):
        if dead is None and until is not None and until - current.emitted <= rollout.in_flight:
            dead = dead_calls(rollout, current, until)
        skip = dead.pop(0) if dead else frozenset()
        before = (engine.meter.nfe, engine.meter.frame_nfe)
        current, emission = engine.drive(rollout.step(current), skip)
        nfe, frame_nfe = engine.meter.nfe - before[0], engine.meter.frame_nfe - before[1]
        info = replace(emission.info, nfe=nfe, frame_nfe=frame_nfe, skipped=len(skip))
        yield current, replace(emission, info=info)
