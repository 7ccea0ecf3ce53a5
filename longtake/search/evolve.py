"""EvoSearch: evolution along the denoising of a clip. He et al. 2025, "Scaling image and video generation via
test-time evolutionary search".

Generations start ever closer to the finished clip: the first at pure noise, later ones from their parents as they were
at a level in between. Symbols: mutation rate beta (mu in the code) -> mutation, K start levels -> levels.

Deviations. Below pure noise the code adds fresh noise to the parent's state, which leaves more noise than its level
says; here part of the state's own noise is replaced (search/latsearch, jitter), so that a child is at its level. Each
generation starts at its own level; the released code restarts all of them at the first. Parents: the `elite` best of
all that were scored have a child each, the others win a tournament of two (the code: over a random 90 %).
Cost: the sum of population[g] * levels[g] window calls a clip, exactly.
"""

from __future__ import annotations

from typing import Any

from longtake.core.rollout import Reward
from longtake.search.generations import Generations


def evolve(
    inner: Any,
    reward: Reward,
    population: tuple[int, ...] = (6, 3, 3),
    levels: tuple[int, ...] = (),
    mutation: float = 0.2,
    elite: int = 2,
) -> Generations:
    """The search. `levels` default: evenly from the steps down to half of them."""
    return Generations(inner, reward, population, levels, mutation, elite=elite)
