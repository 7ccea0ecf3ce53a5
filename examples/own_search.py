"""Copy this file to add a search: a rollout that wraps one, asks a reward and keeps the best; the law kit checks it.

python examples/own_search.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from longtake.core.check import check
from longtake.core.engine import Engine
from longtake.core.rollout import Emission, Mix, Reward, Rollout, Timeline, View
from longtake.core.schedule import flow
from longtake.core.step import Step, all_of
from longtake.core.stream import stream
from longtake.models.analytic import GaussianVideo
from longtake.rollouts.chunk import Chunk
from longtake.testing import check_rollout


@dataclass(frozen=True)
class Greedy:
    """Where noise is undecided, `num` candidates go `look` ticks ahead in lockstep; from the best one the run goes on.

    Cost of a tick with a decision: at most num * look + 1 ticks of `inner`, less what the candidates share.
    """

    inner: Rollout[Any]
    reward: Reward
    num: int = 4
    look: int = 4

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a latent."""
        return self.inner.shape

    @property
    def reach(self) -> int:
        """Latents before row j that a change at row j can touch, if the search decides the same."""
        return self.inner.reach

    @property
    def in_flight(self) -> int:
        """Rows alive at once, of one candidate."""
        return self.inner.in_flight

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[Any]:
        """As the method begins."""
        return self.inner.init(seed, timeline, context)

    def step(self, state: Any) -> Step[tuple[Any, Emission]]:
        """One tick of the best candidate; candidate 0 is the state itself, so that one candidate is no search."""
        if self.num == 1 or not self.inner.fresh(state):
            return (yield from self.inner.step(state))
        forks = [self.inner.fork(state, key) for key in range(self.num)]
        views = yield from all_of([(self._ahead, (fork,)) for fork in forks])
        scores = self.reward(views)
        best = max(range(self.num), key=scores.__getitem__)
        following, emission = yield from self.inner.step(forks[best])
        return following, replace(emission, info=replace(emission.info, scores=tuple(scores), chosen=best))

    def _ahead(self, state: Any) -> Step[View]:
        # a step is a generator, so looking ahead is a loop; what is found is thrown away but for its view
        for _ in range(self.look):
            state, _ = yield from self.inner.step(state)
        return self.inner.view(state)

    def fresh(self, state: Any) -> range:
        """So that searches can wrap this one."""
        return self.inner.fresh(state)

    def fork(self, state: Any, key: int, mix: Mix | None = None, which: str = "fresh") -> Any:
        """Other noise, as the method draws it."""
        return self.inner.fork(state, key, mix, which)

    def view(self, state: Any) -> View:
        """What a reward may read."""
        return self.inner.view(state)


class Level:
    """Prefers rows in flight that change little from one to the next."""

    needs = frozenset({"x0"})

    def __call__(self, views: list[View]) -> list[float]:
        """One score a view, higher is better; a single row has nothing to differ from."""
        return [-float(torch.stack(view.x0).diff(dim=0).square().sum()) if view.x0 else 0.0 for view in views]


if __name__ == "__main__":
    schedule = flow(16, shift=3.0)
    method = Chunk((2, 3, 3), schedule, window=8)
    search, model = Greedy(method, Level()), GaussianVideo(schedule, (2, 3, 3), 8)
    print(*check(search, model), sep="\n", end="")
    check_rollout(search, model)
    changes = []
    for rollout in (method, search):
        engine, latents = Engine(model), []
        state = engine.drive(rollout.init(0, Timeline.of("")))
        for _, emission in stream(rollout, engine, state, 38):
            latents.extend(emission.latents)
        changes.append(float(torch.stack(latents).diff(dim=0).square().mean()))
        print(f"{type(rollout).__name__:<8} change {changes[-1]:.3f}, {engine.meter.nfe} NFE")
    assert changes[1] < changes[0]
    print("every law holds")
