"""What a search may gain, to choose between more candidates and a better look at each of them.

The best of n candidates, judged by looks whose scores correlate by r with the final ones, lies r times as far above
the mean as the best of n judged in full: r grows with the steps of a look, n falls with them, and a budget pays for
their product. r is measured on pocket (benchmarks/search_previews.py and search_queue_previews.py, their two rewards
together; a test holds the numbers to the rows); other models are taken to be alike. On queues a look ranks less well:
the rows that enter after the one that is looked at change it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from statistics import NormalDist
from typing import Any

from longtake.core.rollout import Rollout
from longtake.search.branch import leaf, whole

CLIPS = {1: 0.03, 2: 0.14, 3: 0.41, 4: 0.56, 6: 0.76, 8: 0.84, 12: 0.93, 16: 0.97}
"""Steps of a look -> rank correlation of scores seen by it with those of finished clips."""
QUEUES = {1: 0.01, 2: 0.13, 4: 0.39, 8: 0.52, 12: 0.57}
"""The same of the row that enters a queue; less than .01 is taken as that, so that what was asked for is spent."""


def looks(inner: Rollout[Any]) -> dict[int, float]:
    """Steps of looks worth weighing in searches of a method, with what they are worth: those below its own number of
    steps, as many as which would be best-of-n, made twice.
    """
    known = CLIPS if whole(leaf(inner)) else QUEUES
    return {look: worth for look, worth in known.items() if look < leaf(inner).schedule.num_steps} or {1: known[1]}


@cache
def best_of(many: int) -> float:
    """How far the best of many normal numbers lies above the mean, in standard deviations."""
    normal, step = NormalDist(), 0.05
    grid = [step * place for place in range(-160, 161)]
    return step * sum(x * many * normal.pdf(x) * normal.cdf(x) ** (many - 1) for x in grid)


def gain(values: Mapping[str, Any], worth: Mapping[int, float]) -> float:
    """Expected rise of the kept candidate's final score, in standard deviations of candidates; `worth` of `looks`."""
    many = values.get("width", 1) * values.get("candidates", 1)
    return worth.get(values.get("preview_steps", 0), 1.0) * best_of(many)
