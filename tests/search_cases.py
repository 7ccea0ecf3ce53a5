"""Every search at toy size, and rewards whose best candidate is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from longtake.core.rollout import Emission, View
from longtake.core.solvers import Solver
from longtake.search.beam import beam
from longtake.search.best_of import best_of
from longtake.search.evolve import evolve
from longtake.search.k_step import k_step
from longtake.search.latsearch import LatSearch
from longtake.search.local import local
from longtake.search.lookahead import Lookahead
from longtake.search.population import Population
from longtake.search.proposals import Mixture
from tests.cases import SOLVERS, Smooth, rollouts

EVERY = tuple((name, 1.0) for name in ("gaussian", "fft", "renoise", "neighbour", "inversion"))


class Drift:
    """A reward with a memory: frames stay near the branch's own anchor, its newest finished latent before the clip.

    `follow` also counts the latents it saw, so that a branch that was followed twice or not at all scores otherwise.
    """

    needs = frozenset({"x0", "past"})

    def __init__(self) -> None:
        self.decodes = 0

    def follow(self, memory: Any, emission: Emission) -> Any:
        self.decodes += len(emission.latents)
        return emission.latents[-1], (memory[1] if memory else 0) + len(emission.latents)

    def __call__(self, views: list[View]) -> list[float]:
        return [self._one(view) for view in views]

    def _one(self, view: View) -> float:
        anchor, seen = view.memory or (torch.zeros(()), 0)
        return -sum(float((x - anchor).square().mean()) for x in view.clip) / max(len(view.clip), 1) + 1e-3 * (seen % 7)


@dataclass(frozen=True)
class Near:
    """Prefers estimates near a target that is the same everywhere: its best candidate is known beforehand."""

    target: Tensor
    needs = frozenset({"x0", "past"})

    def __call__(self, views: list[View]) -> list[float]:
        return [-float(torch.stack([(x - self.target).square().mean() for x in view.clip]).mean()) for view in views]


def every_search(solver: Solver = SOLVERS[0], one: bool = False) -> dict[str, Any]:
    """All searches; `one`: with a single candidate, which must be no search."""
    base = rollouts(solver)
    clip, queue, odd = base["chunk"], base["fifo"], base["fifo odd"]
    two, three, four = (1, 1, 1) if one else (2, 3, 4)
    return {
        "best-of chunk": best_of(clip, Smooth(), three),
        "best-of video": best_of(clip, Drift(), two, "video", length=12),
        "best-of video fifo": best_of(queue, Smooth(), two, "video", length=5),
        "best-of horizon": Lookahead(queue, Smooth(), two, 3),
        "best-of horizon chunk": best_of(clip, Drift(), two, "horizon"),
        "k-step": k_step(clip, Drift(), four, 3),
        "k-step fifo": k_step(queue, Smooth(), two, 2),
        "beam": beam(queue, Drift(), 1 if one else 2, three, max_lag=5, proposals=Mixture((("gaussian", 1.0),))),
        "beam odd": beam(odd, Smooth(), two, two, max_lag=3),
        "beam proposals": beam(queue, Smooth(), two, three, proposals=Mixture(EVERY, 3, "butterworth", .3)),
        "beam chunk": beam(clip, Drift(), two, three, proposals=Mixture(EVERY)),
        "beam preview": beam(queue, Smooth(), two, two, 3),
        "beam cumulative": beam(clip, Drift(), two, two, cumulative=True),
        "latsearch": LatSearch(clip, Drift(), four, (12, 9, 5), correlation=0.5),
        "latsearch systematic": LatSearch(clip, Smooth(), four, (12, 9), "systematic", 0.5, 0.3, jitter=0.3),
        "latsearch prune": LatSearch(clip, Smooth(), four, None, "prune", 0.5),
        "latsearch fifo": LatSearch(queue, Smooth(), three, (12, 9), correlation=0.9),
        "latsearch systematic progressive": LatSearch(
            base["progressive"], Drift(), three, (12, 8), "systematic", 0.9, 0.3, jitter=0.5
        ),
        "evolve progressive": evolve(
            base["progressive"], Smooth(), (1,) if one else (3, 2), () if one else (16, 10), 0.6
        ),
        "local zero-order rolling": local(base["rolling"], Drift(), "zero-order", two, 2),
        "best-of rolling": best_of(base["rolling"], Drift(), two),
        "evolve": evolve(clip, Drift(), (1,) if one else (4, 2, 2), () if one else (16, 12, 6)),
        "local random": local(clip, Smooth(), "random", two, 1),
        "local zero-order": local(clip, Drift(), "zero-order", three, 2),
        "local paths": local(clip, Smooth(), "paths", three, 2),
        "best-of of k-step": Population(k_step(clip, Smooth(), two, 2), Drift(), two),
        "beam in horizon": Lookahead(beam(clip, Smooth(), two, two), Smooth(), two, 2),
    }  # fmt: skip


def with_reward(search: Any, reward: Any) -> Any:
    """The search with another reward in every layer."""
    if not hasattr(search, "inner"):
        return search
    return replace(search, inner=with_reward(search.inner, reward), reward=reward)
