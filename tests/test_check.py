"""Pairs that cannot work or cannot help are refused before any weights run, with what to do instead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from longtake.core.check import BLIND, check
from longtake.core.model import Capabilities
from longtake.core.schedule import flow, flow_dpm, flow_unipc, vp
from longtake.core.solvers import Solver
from longtake.models.analytic import GaussianVideo
from longtake.search.lookahead import Lookahead
from longtake.search.population import Population
from tests.cases import Smooth, oracle, rollouts, run, searches


class Past(Smooth):
    """Reads finished latents alone."""

    needs = frozenset({"past"})

    def __call__(self, views: Any) -> list[float]:
        return [self._one(list(view.past)) for view in views]


class OneLevel(GaussianVideo):
    """A model without levels per row."""

    @property
    def can(self) -> Capabilities:
        return replace(super().can, per_row_levels="no")


@pytest.mark.parametrize("name", [*rollouts(), *searches()])
def test_what_works_passes(name: str):
    rollout = {**rollouts(), **searches()}[name]
    assert set(check(rollout, oracle(rollout))) <= {BLIND}


ONE_LEVEL = {"plain", "chunk disjoint", "replace", "miga stage 2", "windows", "freenoise"}
BEHIND_CLEAN_ROWS = {"chunk", "chunk matched", "chunk led"}


@pytest.mark.parametrize("clean_rows", [True, False])
def test_methods_that_mix_levels_need_a_model_that_can(clean_rows: bool):
    """Rows at level 0 in front are no mixture for a model that can be shown them."""

    class Model(OneLevel):
        @property
        def can(self) -> Capabilities:
            return replace(super().can, clean_rows=clean_rows)

    for name, rollout in rollouts().items():
        fits = oracle(rollout)
        model = Model(fits.schedule, fits.shape, fits.window)
        if name in ONE_LEVEL or (clean_rows and name in BEHIND_CLEAN_ROWS):
            check(rollout, model)
        else:
            with pytest.raises(ValueError, match="one noise level per latent frame"):
                check(rollout, model)


def test_shapes_and_schedules_must_be_the_models():
    rollout = rollouts()["fifo"]
    with pytest.raises(ValueError, match="use the model's"):
        check(replace(rollout, shape=(1, 3, 3)), oracle(rollout))
    with pytest.raises(ValueError, match="one schedule"):
        check(replace(rollout, schedule=flow(16, 5.0)), oracle(rollout))


def test_a_horizon_shorter_than_the_queue_is_refused():
    queue, clips = rollouts()["fifo"], rollouts()["chunk"]
    for useless in (
        Population(queue, Past(), num=2, when="tick"),
        Population(queue, Past(), num=2, when="emission"),
        Population(clips, Past(), num=2, when="tick"),
        Lookahead(queue, Past(), num=2, look=15),
        Lookahead(queue, Past(), num=2),
    ):
        with pytest.raises(ValueError, match="needs 16 ticks to finish"):
            check(useless, oracle(queue))
    for useful in (
        Population(clips, Past(), num=2, when="emission"),
        Lookahead(queue, Past(), num=2, look=16),
        Lookahead(clips, Past(), num=2),
    ):
        assert check(useful, oracle(queue)) == []


def test_the_refusal_is_right():
    """A short look gains exactly nothing: every candidate has the same score at the time it is chosen.

    (A longer one that is still too short sees only the faint trace that a row leaves on those before it.)
    """
    seen: list[tuple[float, ...]] = []

    class Spy(Past):
        def __call__(self, views: Any) -> list[float]:
            scores = super().__call__(views)
            seen.append(tuple(scores))
            return scores

    run(Lookahead(rollouts()["fifo"], Spy(), num=3, look=3), 12)
    assert seen and all(len(set(scores)) == 1 for scores in seen)
    seen.clear()
    run(Lookahead(rollouts()["fifo"], Spy(), num=3, look=16), 6)
    assert any(len(set(scores)) > 1 for scores in seen)


def test_a_noisy_solver_under_a_search_of_the_tail_is_warned_of():
    rollout = rollouts(Solver("ddim", 1.0))["fifo"]
    (warning,) = check(Population(rollout, Smooth(), num=2, when="tick", preview=2), oracle(rollout))
    assert "eta at most 0.5" in warning
    calm = rollouts(Solver("ddim", 0.5))["fifo"]
    assert check(Population(calm, Smooth(), num=2, when="tick", preview=2), oracle(calm)) == []


def test_a_look_of_one_step_is_warned_of_where_the_last_level_keeps_no_signal():
    """The other side: there the oracle's estimate of a row that is alone is the same whatever its noise."""
    queue = rollouts()["fifo"]
    assert not queue.schedule.alphas[-1]
    assert check(Population(queue, Smooth(), num=2, when="tick"), oracle(queue)) == [BLIND]
    for grid in (flow_unipc(16, 3.0), flow_dpm(16)):  # as pocket's and Wan's own: they end a hair below pure noise
        near = replace(queue, schedule=grid)
        assert grid.alphas[-1] > 0
        assert check(Population(near, Smooth(), num=2, when="tick"), oracle(near)) == [BLIND]
    for calm in (
        queue,
        Population(queue, Smooth(), num=1, when="tick"),  # it looks at nothing
        Population(queue, Smooth(), num=2, when="tick", preview=3),
        Population(queue, Smooth(), num=2, when="emission"),
        Lookahead(queue, Smooth(), num=2),
    ):
        assert check(calm, oracle(queue)) == []
    flows, kept = oracle(queue), replace(queue, schedule=vp(16), solver=Solver("ddim"))
    assert kept.schedule.alphas[-1] > 0
    assert check(Population(kept, Smooth(), num=2, when="tick"), oracle(kept)) == []

    def spread(rollout: Any, model: Any) -> float:
        x = torch.randn(8, 1, *rollout.shape, generator=torch.Generator().manual_seed(0))
        last = torch.full((8, 1), rollout.schedule.num_steps)
        return float(model(x, last, ["a"] * 8).std(0).max())

    assert spread(queue, flows) == 0 < spread(kept, oracle(kept))
