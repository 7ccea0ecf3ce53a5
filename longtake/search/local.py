"""Search near one noise: the three algorithms of Ma et al. 2025, "Inference-time scaling for diffusion models beyond
scaling denoising steps", on the clips of a long video.

random      independent draws, the best is kept; rounds * candidates of them
zero-order  `candidates` in the neighbourhood of the best so far (at first the run's own noise), for `rounds` rounds
paths       `candidates` paths; at `rounds` levels the best is taken and its noise partly replaced for all others

Symbols: lambda -> distance (share of the noise that a neighbour replaces). Deviations: `paths` replaces noise at its
level, where the paper noises the estimate a little further up and denoises it again; the share is the same.
Cost in window calls a clip, exactly: rounds * candidates * S; (1 + rounds * (candidates - 1)) * S, since the best so
far is not made again; candidates * (S - l) + l with l the last level at which paths are compared.
"""

from __future__ import annotations

from typing import Any, Literal

from longtake.core.rollout import Reward
from longtake.search.branch import leaf
from longtake.search.generations import Generations
from longtake.search.latsearch import LatSearch
from longtake.search.population import Population

DISTANCE = {"zero-order": 0.3, "paths": 0.5}


def local(
    inner: Any,
    reward: Reward,
    mode: Literal["random", "zero-order", "paths"] = "random",
    candidates: int = 4,
    rounds: int = 2,
    distance: float | None = None,
) -> Population | Generations | LatSearch:
    """The search by `mode`. `distance` in 0..1, default: .3 for zero-order, .5 for paths."""
    if candidates < 1 or rounds < 1:
        raise ValueError(f"local.candidates and local.rounds are at least 1, got {candidates} and {rounds}")
    if mode == "random":
        return Population(inner, reward, candidates * rounds, when="done")
    if mode not in DISTANCE:
        raise ValueError(f"local.mode is random, zero-order or paths, got {mode!r}")
    share, steps = DISTANCE[mode] if distance is None else distance, leaf(inner).schedule.num_steps
    if mode == "zero-order":
        sizes = (candidates, *(candidates - 1,) * (rounds - 1)) if candidates > 1 else (1,)
        return Generations(inner, reward, sizes, (steps,) * len(sizes), share, share, parents="best")
    # evenly from 3/4 of the steps down to 1/4, where the layout is long decided
    places = [round(steps * (0.75 - 0.5 * place / max(rounds - 1, 1))) for place in range(rounds)]
    marks = tuple(sorted({max(1, min(place, steps - 1)) for place in places}, reverse=True))
    if len(marks) < rounds > 2:
        raise ValueError(
            f"local.rounds={rounds} with mode=paths compares at as many levels, and between a quarter and three "
            f"quarters of {steps} steps there are {len(set(range(marks[-1], marks[0] + 1)))}; give that or less"
        )
    return LatSearch(inner, reward, candidates, marks, "greedy", correlation=1.0, jitter=share)
