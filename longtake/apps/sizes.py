"""Sizes of a search, of growing cost, from which a budget picks the last that it can pay (apps/budget)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Values = Mapping[str, Any]
"""Parameters of one search that were set, by their short names."""
Sizes = Sequence[Sequence[dict[str, Any]]]
"""Rows of parameters, each of growing cost."""


def counts(name: str, most: int = 64) -> Callable[[Values, Sequence[int]], Sizes]:
    """One row: this many of `name`, from 2 up."""
    return lambda values, looks: [[{name: number} for number in range(2, most + 1)]]


def _looked(row: Sequence[dict[str, Any]], values: Values, looks: Sequence[int]) -> Sizes:
    # the row once for every number of steps that a look may have
    many = [values["preview_steps"]] if "preview_steps" in values else looks
    return [[{**size, "preview_steps": look} for size in row] for look in many]


def k_steps(values: Values, looks: Sequence[int]) -> Sizes:
    """Candidates, in a row for every number of steps that a look may have."""
    return _looked([{"candidates": number} for number in range(2, 65)], values, looks)


def beams(values: Values, looks: Sequence[int]) -> Sizes:
    """Branches and candidates, in a row for every number of steps that a look may have."""
    if "width" in values or "candidates" in values:
        name = "candidates" if "width" in values else "width"
        return _looked([{name: number} for number in range(2, 65)], values, looks)
    # candidates of one branch gain as much as as many of several, which may hold latents back and cost more
    least = 2 if values.get("cumulative") or values.get("max_lag") else 1  # one branch has no use for these
    pairs = [*((least, number) for number in range(2, 65)), *((number, 64) for number in range(least + 1, 9))]
    return _looked([{"width": width, "candidates": many} for width, many in pairs], values, looks)


def populations(values: Values, looks: Sequence[int]) -> Sizes:
    """Generations, the later ones half as large as the first, some of them one larger."""
    levels = values.get("levels") or (4, 3, 2)  # as those of the default
    later = range(len(levels) - 1)
    found = [
        (many, *(many // 2 + (place < larger) for place in later))
        for many in range(2, 65)
        for larger in range(len(levels))
    ]
    found.sort(key=lambda sizes: sum(size * level for size, level in zip(sizes, levels, strict=True)))
    return [[{"population": sizes} for sizes in found]]
