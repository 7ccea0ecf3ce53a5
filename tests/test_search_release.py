"""When latents come out of a beam: as soon as its branches agree on them, and at the latest when `max_lag` wait."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from longtake.core.engine import Engine
from longtake.core.noise import fold
from longtake.core.rollout import Timeline, View
from longtake.core.stream import stream
from longtake.search.beam import beam
from longtake.search.best_of import best_of
from longtake.search.proposals import Mixture
from tests.cases import Smooth, equal, oracle, rollouts, run

GAUSSIAN = Mixture((("gaussian", 1.0),))


class Loyal:
    """Every branch's own noise wins, the run's before the other's: two lineages live on for as long as they may."""

    needs = frozenset({"x0"})

    def __call__(self, views: list[View]) -> list[float]:
        return [2.0 - place if place % 2 == 0 else -1.0 for place in range(len(views))]


def bare(inner: Any, ticks: int, start: Any = None) -> tuple[list[Any], list[torch.Tensor], list[int]]:
    """The method alone: its states, its latents, and how many are out after each tick."""
    engine = Engine(oracle(inner), 8)
    states = [engine.drive(inner.init(7, Timeline.of("a"))) if start is None else start]
    latents, out = [], []
    for _ in range(ticks):
        state, emission = engine.drive(inner.step(states[-1]))
        states.append(state)
        latents.extend(emission.latents)
        out.append(state.emitted)
    return states, latents, out


def expected(inner: Any, ticks: int, most: int) -> list[int]:
    """How many latents should be out after each tick: two lineages run by hand, one with its own noise throughout.

    The other forks from it at the first decision, and again after each time that it had to go.
    """
    states, latents, out = bare(inner, ticks)
    told, begun, differ = [], None, len(latents)
    for tick in range(ticks):
        if begun is None and inner.fresh(states[tick]):
            begun = tick
            other = inner.fork(states[tick], fold(tick, "candidate", 1))
            theirs = bare(inner, ticks - tick, other)[1]
            mine = latents[states[tick].emitted :]
            same = [torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)]
            differ = states[tick].emitted + (same.index(False) if False in same else len(same))
        if out[tick] - differ > most:  # the other lineage has to go, and all of this one's comes out
            begun, differ = None, len(latents)
        told.append(min(out[tick], differ))
    return told


@pytest.mark.parametrize(("name", "most"), [("fifo", 1), ("fifo", 5), ("chunk", 8), ("progressive", 3)])
def test_latents_come_out_when_beams_agree_and_at_the_latest_after_max_lag(name: str, most: int):
    inner, ticks = rollouts()[name], 44
    search = beam(inner, Loyal(), 2, 2, proposals=GAUSSIAN, max_lag=most)
    engine, told, latents = Engine(oracle(search), 8), [], []
    state = engine.drive(search.init(7, Timeline.of("a")))
    for tick, (now, emission) in enumerate(stream(search, engine, state), 1):
        latents.extend(emission.latents)
        told.append(now.emitted)
        if tick == ticks:
            break
    whole, out = bare(inner, ticks)[1:]
    assert told == expected(inner, ticks, most)
    assert equal(latents, whole[: len(latents)])  # the best lineage is the run's own
    late = [done - many for done, many in zip(out, told, strict=True)]
    assert max(late) == most or (name == "chunk" and 0 < max(late) <= most)  # clips come out six latents at a time
    if name == "fifo":  # heads that were made before the branches parted do not wait
        assert any(after == before == 0 for before, after in pairwise(late[20:]))


def test_what_candidates_share_does_not_wait_until_the_best_is_known():
    """Best of two on a queue compares what was decided when it is out; what came before is out already."""
    inner = rollouts()["fifo"]
    search = best_of(inner, Smooth(), 2)
    engine, waits = Engine(oracle(search), 8), []
    state = engine.drive(search.init(7, Timeline.of("a")))
    for tick, (now, _) in enumerate(stream(search, engine, state), 1):
        waits.append(now.members[0].state.emitted - now.emitted)
        if tick == 40:
            break
    crossing = 16
    assert max(waits[:crossing]) == 0  # nothing is out before what was decided first
    assert 0 in waits[crossing + 1 : 2 * crossing - 1]  # branches of the second decision agree on what they began with
    got = run(search, 12)[0]
    assert equal(got, run(search, 30)[0][:12])
