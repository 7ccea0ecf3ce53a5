"""What a search's judging took, added up over a trace: branches, calls of the reward, latents decoded for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from longtake.output.trace import candidates_of, is_score


def judged(lines: Iterable[Mapping[str, Any]]) -> dict[str, int] | None:
    """Sums over a trace, None where nothing was judged. What was judged after the last latents is not in it."""
    found = {"branches": 0, "reward_calls": 0, "decodes": 0}
    for line in lines:
        found["branches"] += len(candidates_of(dict(line)))
        for name in ("reward_calls", "decodes"):
            value = line.get(name, 0)
            found[name] += value if type(value) is int and 0 <= value < 2**53 else 0
    return found if found["branches"] else None


def told_judged(found: Mapping[str, int]) -> str:
    """The same in words."""
    return (
        f"{found['branches']} branches judged: {found['reward_calls']} reward calls, "
        f"{found['decodes']} latents decoded for them"
    )


def effective(line: Mapping[str, Any]) -> dict[int, float]:
    """The effective number of particles of each tick at which a line's particles were thinned out."""
    ticks = list(dict.fromkeys(one["tick"] for one in candidates_of(dict(line))))
    told = line.get("ess")
    if not isinstance(told, list) or len(told) != len(ticks) or not all(map(is_score, told)):
        return {}
    return dict(zip(ticks, told, strict=True))
