"""Previews of every method: with all steps they are the clip, with one they are the tick's own estimate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from longtake.core.engine import Engine
from longtake.core.forecast import forecast
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.search.k_step import k_step
from tests.cases import SHAPE, equal, grid, oracle, rollouts, run, wanted
from tests.search_cases import Drift

ONE_LEVEL = ("plain", "chunk", "chunk disjoint", "chunk led", "chunk matched", "replace", "windows", "freenoise")


def later(rollout: Any, engine: Engine, ticks: int) -> Any:
    """A state after so many ticks or some more, where something is undecided."""
    state = engine.drive(rollout.init(7, Timeline.of("a")))
    for number, (now, _) in enumerate(stream(rollout, engine, state)):
        state = now
        if number >= ticks and rollout.fresh(state):
            return state
    raise AssertionError("nothing is undecided there")


@pytest.mark.parametrize("name", ONE_LEVEL)
def test_a_preview_of_all_steps_is_the_clip(name: str):
    """Rows at one level: the coarse grid of all steps is the grid itself, so the sampler is the other side."""
    rollout = rollouts()[name]
    engine = Engine(oracle(rollout), 4)
    for ticks in (0,) if name in ("plain", "windows", "freenoise") else (0, 9):
        state = later(rollout, engine, ticks) if ticks else engine.drive(rollout.init(7, Timeline.of("a")))
        seen = engine.drive(rollout.preview(state, rollout.schedule.num_steps))
        assert set(rollout.fresh(state)) <= set(seen.index) and set(seen.level) == {0}
        want: list[torch.Tensor] = []
        for _, emission in stream(rollout, engine, state, rollout.fresh(state).stop):
            want.extend(emission.latents)
        if name == "chunk matched" and ticks:  # colours are matched when a clip is whole, and a look is not kept
            continue
        # replacement draws the held rows anew at every level by the same key, so it agrees to the bit as well
        assert equal(list(seen.x), want[: len(seen.x)]), name


@pytest.mark.parametrize("name", [name for name in rollouts() if name not in ONE_LEVEL])
def test_a_preview_of_one_step_is_the_estimate_of_the_next_tick(name: str):
    """On queues: of the rows that the newest window writes, the estimates that the tick itself makes (Eq. 6)."""
    rollout = rollouts()[name]
    engine = Engine(oracle(rollout), 4)
    state = later(rollout, engine, 0 if name == "miga batch" else 17)
    seen = engine.drive(rollout.preview(state, 1))
    assert set(rollout.fresh(state)) <= set(seen.index)
    following, _ = engine.drive(rollout.step(state))
    after = rollout.view(following)
    told = dict(zip(after.index, after.x0, strict=True))
    rows = [index for index in rollout.fresh(state) if index in told]
    assert rows or name == "miga stage 2"  # there rows wait until their window is whole
    looked = dict(zip(seen.index, seen.x0, strict=True))
    for index in rows:
        assert torch.allclose(looked[index], told[index], atol=1e-5), (name, index)


@pytest.mark.parametrize("name", list(rollouts()))
def test_k_step_works_on_every_method_and_costs_what_it_says(name: str):
    inner = rollouts()[name]
    many = wanted(name, 5)
    _, bare = run(inner, many)
    for candidates, steps in ((3, 2), (2, 4)):
        search = k_step(inner, Drift(), candidates, steps)
        engine = Engine(oracle(inner), 8)
        state, looks, decisions = engine.drive(search.init(7, Timeline.of("a"))), 0, 0
        sweeps = len(inner.machine.windows(state.member.state.queue)) if hasattr(inner, "machine") else 1
        for now, _ in stream(search, engine, state, many):
            decisions += bool(inner.fresh(state.member.state)) and not state.member.state.finished
            state = now
        looks = decisions * candidates * steps * sweeps
        # a search decides by what is in flight, so no call of its method is skipped at the end
        own, whole = inner.init(7, Timeline.of("a")), Engine(oracle(inner), 8)
        other = whole.drive(own)
        while other.emitted < many and not other.finished:
            other, _ = whole.drive(inner.step(other))
        assert engine.meter.nfe == whole.meter.nfe + looks and bare.meter.nfe <= whole.meter.nfe
        plan = forecast(search, many)
        assert plan.exact and plan.nfe == engine.meter.nfe


def test_a_preview_draws_no_noise_and_leaves_the_state_as_it_is():
    for name, rollout in rollouts(Solver("euler_ancestral")).items():
        engine = Engine(oracle(rollout), 4)
        state = engine.drive(rollout.init(7, Timeline.of("a")))
        rows = [row.x.clone() for row in state.queue.rows]
        one, two = (engine.drive(rollout.preview(state, 3)) for _ in range(2))
        other = replace(rollout, solver=Solver("euler"))
        assert equal(list(one.x), list(two.x)), name
        assert equal(list(one.x), list(engine.drive(other.preview(state, 3)).x)), name
        assert equal(rows, [row.x for row in state.queue.rows]), name


def test_replacement_is_previewed_at_one_level():
    """Held rows are noised to the level of the others at every coarse step: the network never sees two levels."""
    from longtake.rollouts.replace import Replace

    seen: list[set[int]] = []

    class Levels(type(oracle(rollouts()["replace"]))):  # type: ignore[misc]
        def __call__(self, x: Any, levels: Any, cond: Any) -> Any:
            seen.extend(set(row) for row in levels.tolist())
            return super().__call__(x, levels, cond)

    rollout = Replace(SHAPE, grid(), Solver(), 8, overlap=3)
    engine = Engine(Levels(rollout.schedule, SHAPE, 8, 0.9), 1)
    state = later(rollout, engine, 6)
    seen.clear()
    engine.drive(rollout.preview(state, 4))
    assert [max(levels) for levels in seen] == [16, 12, 8, 4] and all(len(levels) == 1 for levels in seen)
