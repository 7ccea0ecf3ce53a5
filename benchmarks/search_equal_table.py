"""The tables of search_equal.py: what each search finds at equal cost, and what equal quality costs it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from search_tables import FEWEST, average, difference, newest

Row = dict[str, Any]
AIM, BEST = "best-of-n 4x", "best-of-n"
MEASURED = {"subject": "subject agrees", "place": "place agrees", "flow": "motion, pixels a frame", "words": "text"}
PART = """
## What a search finds, at equal cost and at equal quality

One clip of pocket, {many} held-out captions that no other table of searches uses (12 are planned). *Score* is
consistency + text of the finished clip, through the preview decoder: what all these searches look by but for
`latsearch-latent` and `freeinit`. A clip made once scores {once:.3f}. Columns are budgets; the cost that was paid, in
clips made once, stands behind "at". In brackets: the difference to best-of-n at that very cost, on straight lines
between its own. Equal quality: the cost at which the mean score reaches that of the best of 4, on straight lines
between the logarithms of costs paid, with its 95 % bootstrap interval over captions. No score: the smallest search
costs more, or the largest less.

{found}

The same scores as differences to the clip made once:

{gains}

By what no reward looks with, at budgets of {most}x, each as its difference to the clip made once:

{measured}
"""


def by_run(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Run and budget -> caption -> row, of the captions that have all runs.

    Of each run the rows of its newest size; runs that hardly any caption has yet are left out.
    """
    sizes = {row["arm"]: row["size"] for row in rows}
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["size"] == sizes[row["arm"]]:
            found.setdefault(row["arm"], {})[row["caption"]] = row
    found = {arm: there for arm, there in found.items() if len(there) >= FEWEST}
    if not {"once", AIM} <= set(found):
        return {}
    whole = set.intersection(*(set(there) for there in found.values()))
    return {arm: {caption: row for caption, row in there.items() if caption in whole} for arm, there in found.items()}


def scores(there: dict[str, Row], name: str = "score") -> list[float]:
    """A metric of every caption, in the order of captions."""
    return [there[caption]["metrics"][name] for caption in sorted(there)]


def cost_of(found: dict[str, dict[str, Row]], arm: str) -> float:
    """Mean cost of a run, in clips made once."""
    costs = [average([float(row["nfe"]) for row in found[name].values()]) for name in (arm, "once")]
    return costs[0] / costs[1]


def best_at(found: dict[str, dict[str, Row]], cost: float, factors: Sequence[str]) -> list[float]:
    """The score of best-of-n at this cost, of every caption, on straight lines between its own costs."""
    names = ["once", *(f"{BEST} {factor}" for factor in factors if f"{BEST} {factor}" in found)]
    costs, made = [cost_of(found, name) for name in names], [scores(found[name]) for name in names]
    above = next((place for place, known in enumerate(costs) if known >= cost), len(costs) - 1)
    below = max(above - 1, 0)
    share = min((cost - costs[below]) / (costs[above] - costs[below]), 1.0) if above > below else 1.0
    return [a + share * (b - a) for a, b in zip(made[below], made[above], strict=True)]


def crossing(costs: Sequence[float], means: Sequence[float], aim: float) -> float:
    """The cost at which a line through (log cost, mean) first reaches `aim`; infinite where it never does."""
    for place in range(len(costs)):
        if means[place] >= aim:
            if place == 0:
                return costs[0]
            below, above = math.log(costs[place - 1]), math.log(costs[place])
            share = (aim - means[place - 1]) / (means[place] - means[place - 1])
            return math.exp(below + share * (above - below))
    return math.inf


def equal_quality(found: dict[str, dict[str, Row]], name: str, factors: Sequence[str]) -> str:
    """What the score of the best of 4 costs a run, with its interval over captions."""
    arms = ["once", *(f"{name} {factor}" for factor in factors if f"{name} {factor}" in found)]
    costs = [cost_of(found, arm) for arm in arms]
    data = torch.tensor([scores(found[arm]) for arm in [*arms, AIM]], dtype=torch.float64)
    picks = torch.randint(0, data.shape[1], (1000, data.shape[1]), generator=torch.Generator().manual_seed(0))
    drawn = data[:, picks].mean(2).T.tolist()
    many = sorted(crossing(costs, row[:-1], row[-1]) for row in drawn)
    mean = crossing(costs, data[:-1].mean(1).tolist(), float(data[-1].mean()))

    def told(cost: float) -> str:
        return f"{cost:.1f}" if math.isfinite(cost) else f"above {max(costs):.1f}"

    return f"{told(mean)} [{told(many[24])}, {told(many[974])}]"


def table(found: dict[str, dict[str, Row]], names: Sequence[str], factors: Sequence[str]) -> str:
    """A line a run: its score at each budget beside best-of-n, and what equal quality costs."""
    lines = ["| run | " + " | ".join(f"score, budget {factor}" for factor in factors) + " | equal quality costs |",
             "|---" * (2 + len(factors)) + "|"]  # fmt: skip
    for name in names:
        cells = []
        for factor in factors:
            arm = f"{name} {factor}"
            if arm not in found:
                cells.append("-")
                continue
            here, cost = scores(found[arm]), cost_of(found, arm)
            apart = difference([a - b for a, b in zip(here, best_at(found, cost, factors), strict=True)])
            cells.append(f"{average(here):.3f} at {cost:.1f}" + ("" if name == BEST else f" ({apart})"))
        lines.append(f"| {name} | {' | '.join(cells)} | {equal_quality(found, name, factors)} |")
    return "\n".join(lines)


def gains(found: dict[str, dict[str, Row]], names: Sequence[str], factors: Sequence[str]) -> str:
    """A line a run: its score at each budget less that of the clip made once."""
    lines = [
        "| run | " + " | ".join(f"budget {factor}" for factor in factors) + " |",
        "|---" * (1 + len(factors)) + "|",
    ]
    once = scores(found["once"])
    for name in names:
        made = [scores(found[f"{name} {factor}"]) if f"{name} {factor}" in found else None for factor in factors]
        cells = ["-" if here is None else difference([a - b for a, b in zip(here, once, strict=True)]) for here in made]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measured(found: dict[str, dict[str, Row]], names: Sequence[str], factor: str) -> str:
    """A line a run: differences to the clip made once by what no reward looks with."""
    lines = [f"| run | NFE | judged | seconds | {' | '.join(MEASURED.values())} |", "|---" * (4 + len(MEASURED)) + "|"]
    for name in names:
        if f"{name} {factor}" not in found:
            continue
        rows = found[f"{name} {factor}"]
        told = [f"{average([float(row[key]) for row in rows.values()]):.0f}" for key in ("nfe", "judged", "seconds")]
        for metric in MEASURED:
            apart = [a - b for a, b in zip(scores(rows, metric), scores(found["once"], metric), strict=True)]
            told.append(difference(apart))
        lines.append(f"| {name} | {' | '.join(told)} |")
    return "\n".join(lines)


def part(rows: Sequence[Row]) -> str:
    """The part of the page, of the rows that are there; nothing where too few captions are whole."""
    found = by_run(newest(rows)) if rows else {}
    if not found or len(found["once"]) < FEWEST:
        return ""
    costs = sorted({arm.rpartition(" ")[2] for arm in found} - {"once"}, key=lambda text: float(text[:-1]))
    names = list(dict.fromkeys(arm.rpartition(" ")[0] for arm in found if arm != "once"))
    many, most = len(found["once"]), costs[-1]
    return PART.format(
        many=many,
        once=average(scores(found["once"])),
        most=most[:-1],
        found=table(found, names, costs),
        gains=gains(found, names, costs),
        measured=measured(found, names, most),
    )
