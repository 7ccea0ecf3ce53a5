"""What `--search-budget 4x` buys: the largest search that costs at most so many times the run without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from longtake.apps.searches import Search, Values, make_search
from longtake.apps.worth import gain, looks
from longtake.core.forecast import forecast
from longtake.errors import UsageError

LONGEST = 120


def parse_budget(text: str) -> float:
    """The factor of "4x": how many times the cost of the run without a search may be spent."""
    try:
        factor = float(text.strip().lower().removesuffix("x"))
    except ValueError:
        factor = math.nan
    if not (math.isfinite(factor) and factor > 1):
        raise UsageError(f"--search-budget {text} is not possible; give a factor above 1, such as 4x")
    return factor


def afford(
    row: Search, inner: Any, values: Values, factor: float, latents: int, seed: int = 0
) -> tuple[dict[str, Any], float]:
    """(parameters of the largest search that costs at most `factor` times the run without it, the factor it reaches).

    What was set stays as set; where looks may have more steps, they share the budget with the candidates as gains most
    (apps/worth). UsageError if not even the smallest search fits. Costs are forecast over `latents`, of long videos
    over the first 120: what a search costs a latent settles long before.
    """
    latents = min(latents, LONGEST)
    base, place = forecast(inner, latents).nfe, 0

    def times(size: dict[str, Any]) -> float:
        return forecast(make_search(row, inner, Blank(), size, latents), latents, seed=seed).nfe / base

    worth = looks(inner)
    rows = [[{**size, **values} for size in sizes] for sizes in row.sizes(values, list(worth))]
    best = rows[0][0], times(rows[0][0])  # the smallest, with the shortest look
    if best[1] > factor:
        raise too_dear(row, factor, best[1])
    for tried in reversed(rows):  # the longest look first
        if len(rows) > 1 and gain(tried[-1], worth) <= gain(best[0], worth):
            continue  # not even with all candidates that may be asked for

        @cache
        def costs(place: int, tried: list[dict[str, Any]] = tried) -> float:
            return times(tried[place])

        if costs(place) <= factor:
            place = _last(costs, place, len(tried), factor)  # a shorter look never buys less
            if len(rows) == 1 or gain(tried[place], worth) > gain(best[0], worth):
                best = tried[place], costs(place)
    return best


def _last(costs: Callable[[int], float], low: int, many: int, factor: float) -> int:
    # the last of `many` growing costs that is at most `factor`, the one at `low` being so: costs are nearly straight
    # lines, so it is looked for where the line meets `factor`, and in the middle now and then in case they are not
    high, step, probes = many, 1, 0
    while high - low > 1:
        probes += 1
        place = (low + high) // 2 if probes % 4 == 0 else min(low + max(step, 1), high - 1)
        slope = (costs(place) - costs(low)) / (place - low)
        low, high = (place, high) if costs(place) <= factor else (low, place)
        step = int((factor - costs(low)) / slope) if slope > 0 else high - low
    return low


def too_dear(row: Search, factor: float, least: float) -> UsageError:
    """What is said of a budget that the smallest search of a row does not keep to."""
    return UsageError(f"--search-budget {factor:g}x is too little for {row.name}: its smallest costs "
                      f"{least:.3g}x; give that or more, or --search none")  # fmt: skip


def told(row: Search, values: Values, reached: float) -> str:
    """What a budget bought, in one line."""
    parts = [f"{name} {','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in values.items()]
    return f"search {row.name}: {', '.join(parts)}; at most {reached:.2f}x the cost without it"


class Blank:
    """A reward that reads nothing and prefers nobody: what a plan is made with."""

    needs: frozenset[str] = frozenset()

    def __call__(self, views: Sequence[Any]) -> list[float]:
        """A zero for each."""
        return [0.0] * len(views)
