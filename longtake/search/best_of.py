"""Best of N: every candidate is made with all steps, and the reward sees what it became. The brute force of searches.

Scopes
- chunk    a clip's candidates are finished, scored and all but the best thrown away (the k-step paper's brute force);
           on queues the stretch from one decision until what it decided has come out is the clip, judged by a window
           of rows from the decided one on (branch.became)
- video    whole videos of `length` latents, one of which is kept; a longer run searches the next `length` again. They
           are judged by all that came out, and by nothing that is still in the queue
- horizon  each decision looks `horizon` ticks ahead and keeps only the decision (receding horizon). A horizon shorter
           than the queue is refused: what was decided would not be out of it when candidates are compared

Cost in window calls, S steps, w windows a tick
- chunk    candidates * S a chunk, exactly; on queues at most candidates times the method's own
- video    candidates times the method's own, less the windows that candidates share
- horizon  at most (candidates * horizon + 1) * w a decision
"""

from __future__ import annotations

from typing import Any, Literal

from longtake.core.plan import ticks_to_show
from longtake.core.rollout import Reward
from longtake.search.branch import leaf
from longtake.search.lookahead import Lookahead
from longtake.search.population import Population


def best_of(
    inner: Any,
    reward: Reward,
    candidates: int = 3,
    scope: Literal["chunk", "video", "horizon"] = "chunk",
    horizon: int | None = None,
    length: int | None = None,
) -> Population | Lookahead:
    """Best of `candidates`. `horizon` in ticks, default: until the decided noise is finished; `length` in latents."""
    if horizon is not None and scope != "horizon":
        raise ValueError(
            f"best-of-n.horizon={horizon} has no effect with scope={scope}; add --set best-of-n.scope=horizon, or "
            f"leave it out"
        )
    if scope == "chunk":
        return Population(inner, reward, candidates, when="done")
    if scope == "video":
        if length is None or length < 1:
            raise ValueError("best-of-n.scope=video compares finished videos, so it needs a length: give --seconds")
        return Population(inner, reward, candidates, when=length)
    if scope != "horizon":
        raise ValueError(f"best-of-n.scope is chunk, video or horizon, got {scope!r}")
    crossing = ticks_to_show(leaf(inner))[1]
    if horizon is not None and horizon < crossing:
        raise ValueError(
            f"best-of-n.horizon={horizon} is shorter than the queue: noise that enters needs {crossing} ticks to come "
            f"out, so candidates would be compared by what others decided; give {crossing} or more, or use "
            f"--search beam"
        )
    return Lookahead(inner, reward, candidates, crossing if horizon is None else horizon)
