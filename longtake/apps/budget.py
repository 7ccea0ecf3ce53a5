"""What `--search-budget 4x` buys: the largest search that costs at most so many times the run without it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from longtake.apps.searches import Search, Values, make_search
from longtake.core.forecast import forecast
from longtake.errors import UsageError
from longtake.search.branch import leaf

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


def afford(row: Search, inner: Any, values: Values, factor: float, latents: int) -> tuple[dict[str, Any], float]:
    """(parameters of the largest search that costs at most `factor` times the run without it, the factor it reaches).

    What was set stays as set; UsageError if not even the smallest search fits. Costs are forecast over `latents`, of
    long videos over the first 120: what a search costs a latent settles long before.
    """
    latents = min(latents, LONGEST)
    base = forecast(inner, latents).nfe
    tried = [{**size, **values} for size in row.sizes(values, leaf(inner).schedule.num_steps)]
    known: dict[int, float] = {}

    def costs(place: int) -> float:
        if place not in known:
            search = make_search(row, inner, Blank(), tried[place], latents)
            known[place] = forecast(search, latents).nfe / base
        return known[place]

    if costs(0) > factor:
        raise UsageError(f"--search-budget {factor:g}x is too little for {row.name}: its smallest costs "
                         f"{costs(0):.3g}x; give that or more, or --search none")  # fmt: skip
    reach = 1  # sizes grow: double until one is too dear, then halve
    while reach < len(tried) and costs(reach) <= factor:
        reach = 2 * reach + 1
    low, high = reach // 2 if reach > 1 else 0, min(reach, len(tried))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if costs(middle) <= factor else (low, middle)
    return tried[low], costs(low)


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
