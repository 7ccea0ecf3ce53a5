"""What `--search-budget 4x` buys: the largest search that costs at most so many times the run without it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from longtake.apps.searches import Search, Values, make_search
from longtake.core.forecast import forecast
from longtake.errors import UsageError
from longtake.search.branch import leaf


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

    Costs are forecast over `latents`. What was set stays as set; UsageError if not even the smallest search fits.
    """
    base, steps = forecast(inner, latents).nfe, leaf(inner).schedule.num_steps
    best: tuple[dict[str, Any], float] | None = None
    least = math.inf
    for size in row.sizes(values, steps):
        tried = {**size, **values}
        reached = forecast(make_search(row, inner, Blank(), tried, latents), latents).nfe / base
        least = min(least, reached)
        if reached > factor:
            break
        if best is None or reached > best[1]:
            best = tried, reached
    if best is None:
        raise UsageError(f"--search-budget {factor:g}x is too little for {row.name}: its smallest costs {least:.2g}x; "
                         f"give that or more, or --search none")  # fmt: skip
    return best


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
