"""Latents that are given in the middle of a video (a picture that it passes, or ends on), by every way to make one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.noise import normal
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.rewards.latent import LatentCosine
from longtake.rollouts.miga import Miga
from longtake.search.freeinit import FreeInit
from longtake.search.reflect import Reflect
from tests.cases import FIXED, SHAPE, SOLVERS, WINDOW, equal, grid, oracle, rollouts

S16 = grid()
PICTURE = 3 * normal(SHAPE, 9, "picture")


class Reads(Engine):
    """An engine that holds what it is asked: given places are read clean and as they were given."""

    def __init__(self, denoiser: Any, places: tuple[int, ...]) -> None:
        super().__init__(denoiser, 4)
        self.places, self.seen = places, 0

    def answer(self, calls: Any, dead: Any = ()) -> list[Tensor]:
        for call in calls:
            for index, level, x in zip(call.window.read, call.levels, call.x, strict=True):
                if index in self.places:
                    assert level == 0 and torch.equal(x, PICTURE.to(x)), (index, level)
                    self.seen += 1
        return super().answer(calls, dead)


def film(rollout: Any, many: int, *places: int, strict: bool = True) -> list[Tensor]:
    """A film with the picture at these places."""
    timeline = Timeline(((0, "a"),), pictures=tuple((place, PICTURE) for place in places))
    state = Engine(oracle(rollout), 4).drive(rollout.init(7, timeline))  # a base clip has the same places
    engine = Reads(oracle(rollout), places if strict else ())
    got = [x for _, emission in stream(rollout, engine, state, many) for x in emission.latents][:many]
    assert len(got) == many and all(torch.equal(got[place], PICTURE) for place in places), places
    assert engine.seen or not strict
    return got


@pytest.mark.parametrize("name", rollouts())
def test_a_video_passes_a_picture_and_goes_on(name: str):
    """At every place of the cycle: it comes out as given, is read clean wherever it is read, and more follows it."""
    rollout = rollouts()[name]
    many = FIXED.get(name, 24)
    # `replace` holds the last latents noised, and `lead` exchanges one, a picture among them
    strict = name not in ("replace", "chunk led", "progressive led")
    for place in {min(p, many - 1) for p in (0, 5, 8, 9, 10, 11, 12)}:
        assert all(x.isfinite().all() for x in film(rollout, many, place, strict=strict))


FRONTS = [
    dict(zigzag=3, handover=4, anchors=2),
    dict(zigzag=3, handover=4, anchors=0),
    dict(zigzag=2, handover=3, anchors=2, side="before"),
    dict(zigzag=4, handover=5, anchors=3, stride=3, rotate=True),
]


@pytest.mark.parametrize("options", FRONTS, ids=str)
def test_the_wavefront_is_the_batch_form_past_a_picture(options: dict[str, Any]):
    """Bit for bit, whatever part of its cell in the grid the picture is, and for two of them."""
    rollout = Miga(SHAPE, S16, SOLVERS[0], WINDOW, **options)
    many = 17
    end = many + rollout.in_flight
    batch = Miga(SHAPE, S16, SOLVERS[0], WINDOW, **options, stage2="batch", end=end)
    for places in ((8,), (0, 5, 12, 13)):
        assert equal(film(rollout, many, *places), film(batch, end, *places)[:many]), places


@pytest.mark.parametrize("name", ["fifo", "miga", "progressive", "progressive chunked"])
def test_regrowing_keeps_what_is_given(name: str):
    """A row that nothing may move among those grown again: the others get new noise, the order of rows stays."""
    rollout = rollouts()[name]
    engine = Engine(oracle(rollout), 4)
    kept = 0
    for place in (9, 10, 11, 12):
        state = engine.drive(rollout.init(7, Timeline(((0, "a"),), pictures=((place, PICTURE),))))
        for _ in range(40):
            state, _ = engine.drive(rollout.step(state))
            flying = [row.index for row in state.queue.rows if row.level]
            if place in range(state.queue.start, state.queue.stop) and flying and flying[0] < place:
                break
        grown = engine.drive(rollout.regrow(state, flying[0], 5, 2))
        for before, after in zip(state.queue.rows, grown.queue.rows, strict=True):
            assert (before.index, before.level) == (after.index, after.level)
            assert torch.equal(before.x, after.x) == (before.index == place or before.index < flying[0])
        kept += place in [row.index for row in grown.queue.rows]
        if place == 10 and name == "fifo":
            judge = LatentCosine(eval=2, ref=3)
            searched = Reflect(rollout, judge, -math.inf, 2, eval=2, ref=3, guide=3, judge=0.25)
            assert len(film(searched, 20, place)) == 20
    assert kept


@pytest.mark.parametrize("name", ["plain", "chunk", "chunk disjoint", "replace", "windows", "freenoise"])
def test_freeinit_refines_what_is_around_a_picture(name: str):
    inner = rollouts(Solver("unipc"))[name]
    many = FIXED.get(name, 20)
    for place in (many - 1, many - 3, 0):
        once, got = (film(r, many, place, strict=name != "replace") for r in (inner, FreeInit(inner, 2)))
        assert sum(not torch.equal(a, b) for a, b in zip(once, got, strict=True)) >= many - 3
