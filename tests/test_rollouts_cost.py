"""What plans promise, held to what a run does: MIGA's exact cost, the first latent, how far a prompt reaches back."""

from __future__ import annotations

from typing import Any

import pytest

from longtake.core import plan
from longtake.core.engine import Engine
from longtake.core.forecast import forecast
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.rollouts.miga import Miga
from tests import reference
from tests.cases import FIXED, SHAPE, WINDOW, grid, oracle, rollouts, run, wanted

S16 = grid()
MIGAS = [
    # zigzag, handover, anchors, stride, window, side, rotate, refine
    (3, 4, 2, 4, 8, "after", False, 0),
    (2, 0, 0, 4, 8, "after", True, 0),
    (4, 4, 0, 4, 8, "after", False, 2),
    (2, 4, 2, 6, 8, "after", True, 0),
    (1, 8, 1, 4, 8, "after", False, 1),
    (3, 4, 0, 3, 8, "after", True, 3),
    (5, 2, 3, 3, 7, "after", False, 0),
    (2, 16, 0, 4, 8, "after", False, 0),
    (3, 5, 4, 4, 8, "before", True, 2),
    (8, 2, 1, 7, 8, "before", False, 0),
    (3, 4, 2, 2, 6, "before", False, 2),
    (4, 0, 2, 4, 8, "before", False, 2),
]


@pytest.mark.parametrize("sizes", MIGAS, ids=str)
@pytest.mark.parametrize("num", [1, 13, 24])
def test_miga_counts_as_stated(sizes: Any, num: int):
    """Warm-up and exact ending included: the network's count, and the header's sum, which knows no queue."""
    z, h, m, s, f, side, rotate, refine = sizes
    _, engine = run(Miga(SHAPE, S16, Solver(), f, z, h, m, s, side, rotate, refine=refine), num)
    assert engine.meter.nfe == reference.miga_nfe(num, 16, f, z, h, m, s, side, rotate, refine)


def test_miga_costs_no_more_than_stated_where_guides_are_many():
    rollout = Miga(SHAPE, S16, Solver(), WINDOW, 1, 6, 4, 2)
    assert run(rollout, 13)[1].meter.nfe <= reference.miga_nfe(13, 16, WINDOW, 1, 6, 4, 2, "after", False, 0)


@pytest.mark.parametrize("name", rollouts())
def test_the_first_latent_comes_when_the_plan_says(name: str):
    """NFE and ticks of the first emission: of the run itself, and of the plan, which has no network."""
    rollout, many = rollouts()[name], min(wanted(name), 16)
    engine = Engine(oracle(rollout), 4)
    state = engine.drive(rollout.init(7, Timeline.of("a")))
    ticks = 0
    for _, emission in stream(rollout, engine, state, many):
        ticks += 1
        if emission.latents:
            break
    told = forecast(rollout, many)
    assert (told.first_nfe, told.first_tick) == (engine.meter.nfe, ticks)


def check_reach(rollout: Any) -> None:
    """The new prompt's mean is no number, and what reads a latent of that kind is of that kind, however faintly."""
    start, felt = 2 * rollout.in_flight + 2, []
    for change in range(start, start + min(getattr(rollout, "cycle", 1), 12)):
        made, _ = run(rollout, change + 1, prompts={0: "", change: "b"}, mean_scale=float("nan"))
        felt.append(change - next((i for i, x in enumerate(made) if x.isnan().any()), change))
    assert max(felt) == plan.reach.__wrapped__(rollout)  # not what was known of an equal one


@pytest.mark.parametrize("name", [name for name in rollouts() if name not in FIXED])
def test_nothing_before_the_stated_reach_can_know_of_a_new_prompt(name: str):
    check_reach(rollouts()[name])


def test_the_reach_counts_levels_that_are_passed_twice():
    check_reach(Miga(SHAPE, grid(steps=6), Solver(), WINDOW, 2, 2, 0, 4, refine=2))
