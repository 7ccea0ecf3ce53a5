"""The k-step search: judge noises by videos of few steps, make only the best with all of them.

"Autoregressive long video generation with k-step search" (Algorithm 1). Symbols: m -> candidates, k -> preview_steps,
s -> schedule.num_steps, f -> the reward, g -> the clean latents in front of a clip.

Deviations. The short schedule is a sub-grid of the long one, so that both begin at the same noise level with the same
noise; the paper draws a schedule of k steps anew. Candidate 0 is the run's own noise. Decisions are the method's: a
clip where it makes clips, the whole video where it makes one of fixed length, and on queues whatever enters at once,
judged by the newest window, each row of it finished from its own level.
Cost: candidates * preview_steps + S window calls a chunk, exactly; one candidate costs S. On queues the same calls a
decision and a tick of the method; on methods of fixed length the windows of a sweep times as many.
"""

from __future__ import annotations

from typing import Any

from longtake.core.rollout import Reward
from longtake.search.branch import leaf
from longtake.search.lookahead import Lookahead

CANDIDATES = 10
"""m: the paper's example; of its main results it does not say."""


def k_step(inner: Any, reward: Reward, candidates: int = CANDIDATES, preview_steps: int | None = None) -> Lookahead:
    """The search. `preview_steps` default: the paper's 8 of 50, in proportion to the steps."""
    if preview_steps is None:
        preview_steps = max(1, round(leaf(inner).schedule.num_steps * 8 / 50))
    steps = leaf(inner).schedule.num_steps
    if not 1 <= preview_steps <= steps:
        raise ValueError(f"k-step.preview_steps must be in 1..{steps} (the steps), got {preview_steps}")
    return Lookahead(inner, reward, candidates, preview=preview_steps)
