"""Rollouts and oracles that the laws run on: one row here, and every generic law covers a new method."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.rollout import Timeline, View
from longtake.core.schedule import NoiseSchedule, flow, flow_unipc
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.models.analytic import GaussianVideo
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.freenoise import FreeNoise
from longtake.rollouts.miga import Miga
from longtake.rollouts.plain import Plain
from longtake.rollouts.progressive import Progressive
from longtake.rollouts.replace import Replace
from longtake.rollouts.rolling import Rolling
from longtake.rollouts.windows import Windows
from longtake.search.lookahead import Lookahead
from longtake.search.population import Population

SHAPE = (2, 3, 3)
LENGTH = 21  # of the methods that make a fixed length
WINDOW = 8  # below every queue here, so that windows couple rows and partitions matter
SOLVERS = [
    Solver("euler"), Solver("ddim", 1.0), Solver("ddim", 0.5), Solver("euler_ancestral"),
    Solver("dpmpp_2m"), Solver("dpmpp_2m_sde"), Solver("unipc"),
]  # fmt: skip


def grid(solver: Solver = SOLVERS[0], steps: int = 16) -> NoiseSchedule:
    """The flow grid that a solver is used with."""
    return flow_unipc(steps, 3.0) if solver.name == "unipc" else flow(steps, 3.0)


def rollouts(solver: Solver = SOLVERS[0]) -> dict[str, Any]:
    """Every rollout at toy size, several settings each."""
    s = grid(solver)
    odd = grid(solver, 14)
    return {
        "plain": Plain(SHAPE, s, solver, WINDOW),
        "chunk": Chunk(SHAPE, s, solver, WINDOW, overlap=2),
        "chunk disjoint": Chunk(SHAPE, s, solver, WINDOW, overlap=0),
        "chunk led": Chunk(SHAPE, s, solver, WINDOW, overlap=3, lead="first"),
        "chunk matched": Chunk(SHAPE, s, solver, WINDOW, overlap=2, color_match="adain"),
        "fifo": Fifo(SHAPE, s, solver, WINDOW),
        "fifo replicate": Fifo(SHAPE, s, solver, WINDOW, start="replicate"),
        "fifo disjoint": Fifo(SHAPE, s, solver, WINDOW, lookahead=False),
        "fifo after": Fifo(SHAPE, s, solver, WINDOW, side="after"),
        "fifo stride": Fifo(SHAPE, s, solver, WINDOW, stride=3, history=5),
        "fifo odd": Fifo(SHAPE, odd, solver, 7),
        "progressive": Progressive(SHAPE, s, solver, 8),
        "progressive chunked": Progressive(SHAPE, s, solver, 6, chunk=3, prefix=3),
        "progressive wide": Progressive(SHAPE, grid(solver, 4), solver, 8, prefix=2),
        "progressive led": Progressive(SHAPE, s, solver, 4, chunk=2, prefix=3, lead="first"),
        "replace": Replace(SHAPE, s, solver, WINDOW, overlap=3),
        "rolling": Rolling(SHAPE, s, solver, WINDOW, block=2, delay=3, overlap=2),
        "miga": Miga(SHAPE, s, solver, WINDOW, zigzag=3, handover=4, anchors=2),
        "miga before": Miga(SHAPE, s, solver, WINDOW, zigzag=2, handover=3, anchors=2, side="before"),
        "miga all": Miga(SHAPE, s, solver, WINDOW, zigzag=4, handover=3, anchors=3, stride=3, rotate=True, refine=2),
        "miga stage 2": Miga(SHAPE, s, solver, WINDOW, zigzag=2, handover=16, anchors=0),
        "miga batch": Miga(SHAPE, s, solver, WINDOW, 3, 4, 2, stage2="batch", end=LENGTH),
        "windows": Windows(SHAPE, s, solver, WINDOW, LENGTH, overlap=3),
        "freenoise": FreeNoise(SHAPE, s, solver, WINDOW, LENGTH),
    }


FIXED = {"plain": WINDOW, "miga batch": LENGTH, "windows": LENGTH, "freenoise": LENGTH}
"""Methods that make so many latents and no more."""


class Smooth:
    """A reward for tests: neighbouring estimates agree. Reads x0 of rows in flight and finished latents."""

    needs = frozenset({"x0", "past"})

    def __call__(self, views: list[View]) -> list[float]:
        return [self._one([*view.past, *view.x0]) for view in views]

    def _one(self, latents: list[Tensor]) -> float:
        if len(latents) < 2:
            return 0.0
        return -float(torch.stack([(b - a).square().mean() for a, b in zip(latents, latents[1:], strict=False)]).mean())


def searches(solver: Solver = SOLVERS[0]) -> dict[str, Any]:
    """The two mechanisms on chunks and queues, and nestings of them."""
    base = rollouts(solver)
    beam = Population(base["fifo"], Smooth(), num=2, width=2, when="tick", max_lag=6)
    return {
        "best of chunk": Population(base["chunk"], Smooth(), num=3),
        "beam fifo": beam,
        "beam of beam": Population(beam, Smooth(), num=2, width=1, when="tick"),
        "horizon fifo": Lookahead(base["fifo"], Smooth(), num=2, look=3),
        "lookahead chunk": Lookahead(base["chunk"], Smooth(), num=2),
        "lookahead of population": Lookahead(Population(base["chunk"], Smooth(), num=2), Smooth(), num=2, look=2),
    }


def oracle(rollout: Any, rho: float = 0.9, cost: int = 1, mean_scale: float = 1.0) -> GaussianVideo:
    """The Gaussian video that fits a rollout."""
    leaf = rollout
    while hasattr(leaf, "inner"):
        leaf = leaf.inner
    return GaussianVideo(leaf.schedule, SHAPE, leaf.window, rho, mean_scale, cost)


def run(
    rollout: Any,
    until: int,
    seed: int = 7,
    prompts: Any = "a",
    context: list[Tensor] | None = None,
    **oracle_options: Any,
) -> tuple[list[Tensor], Engine]:
    """All latents up to `until`, and the engine that made them."""
    engine = Engine(oracle(rollout, **oracle_options), batch=4)
    state = engine.drive(rollout.init(seed, Timeline.of(prompts), context or []))
    latents: list[Tensor] = []
    for _, emission in stream(rollout, engine, state, until):
        assert emission.start == len(latents)
        latents.extend(emission.latents)
    return latents[:until], engine


def wanted(name: str, many: int = 30) -> int:
    """A length that a case can make."""
    return FIXED.get(name, many)


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    """Bit for bit."""
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
