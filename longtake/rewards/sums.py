"""Rewards put together: weighted sums, and a floor under motion for any of them.

A consistency reward is highest for a frozen video, so a search by it alone finds stillness. Under a floor a candidate
that moves less than `floor` loses `PENALTY` times the missing share, which is more than cosines can make up for; above
the floor motion is not rewarded, so that no flicker is bred either. If all candidates are below, the liveliest lose
least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from longtake.core.rollout import Emission, Reward, View
from longtake.rewards.motion import Motion

PENALTY = 10.0


class Weighted:
    """A sum of rewards times their weights. Each term remembers its own; eyes that terms share decode once."""

    def __init__(self, terms: Sequence[tuple[float, Reward]]) -> None:
        if not terms:
            raise ValueError("a sum of rewards needs a term")
        self.terms = tuple(terms)
        self.needs = frozenset[str]().union(*(reward.needs for _, reward in self.terms))

    @property
    def decodes(self) -> int:
        """Latents decoded so far; of eyes that several terms share, once."""
        return decodes_of([reward for _, reward in self.terms])

    def follow(self, memory: Any, emission: Emission) -> tuple[Any, ...]:
        """Each term's memory after more finished latents."""
        return tuple(_followed(reward, old, emission) for (_, reward), old in self._paired(memory))

    def __call__(self, views: list[View]) -> list[float]:
        """The weighted sum for each view."""
        totals = [0.0] * len(views)
        for place, (weight, reward) in enumerate(self.terms):
            scores = reward(_parts(views, place))
            totals = [total + weight * score for total, score in zip(totals, scores, strict=True)]
        return totals

    def _paired(self, memory: Any) -> list[tuple[tuple[float, Reward], Any]]:
        return list(zip(self.terms, memory or (None,) * len(self.terms), strict=True))


class Floored:
    """A reward with a floor under motion, measured by `motion`. What cannot be measured yet loses nothing."""

    def __init__(self, reward: Reward, motion: Motion, floor: float) -> None:
        if not 0 < floor < math.inf:
            raise ValueError(f"motion.floor must be a number above 0, such as .01; got {floor}")
        self.reward, self.motion, self.floor = reward, motion, floor
        self.needs = reward.needs | motion.needs

    @property
    def decodes(self) -> int:
        """Latents decoded so far; of eyes that both share, once."""
        return decodes_of([self.reward, self.motion])

    def follow(self, memory: Any, emission: Emission) -> tuple[Any, Any]:
        """The memories of the reward and of the measure of motion."""
        one, other = memory or (None, None)
        return _followed(self.reward, one, emission), _followed(self.motion, other, emission)

    def __call__(self, views: list[View]) -> list[float]:
        """The reward, less the penalty of clips that move too little."""
        scores, moves = self.reward(_parts(views, 0)), self.motion.measured(_parts(views, 1))
        missing = [0.0 if move is None else max(0.0, 1 - move / self.floor) for move in moves]
        return [score - PENALTY * share for score, share in zip(scores, missing, strict=True)]


def decodes_of(rewards: Sequence[Any]) -> int:
    """Latents decoded by these rewards; what they share is counted once."""
    return sum(source.decodes for source in {id(eyes): eyes for r in rewards for eyes in _sources(r)}.values())


def _sources(reward: Any) -> list[Any]:
    if isinstance(reward, Weighted):
        return [eyes for _, term in reward.terms for eyes in _sources(term)]
    if isinstance(reward, Floored):
        return [*_sources(reward.reward), *_sources(reward.motion)]
    eyes = getattr(reward, "eyes", None)
    return [eyes] if eyes is not None else [reward] if hasattr(reward, "decodes") else []


def _followed(reward: Any, memory: Any, emission: Emission) -> Any:
    follow = getattr(reward, "follow", None)
    return None if follow is None else follow(memory, emission)


def _parts(views: Sequence[View], place: int) -> list[View]:
    return [replace(view, memory=None if view.memory is None else view.memory[place]) for view in views]
