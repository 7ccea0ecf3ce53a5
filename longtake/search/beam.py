"""ScalingNoise: beam search over the noise that enters a video, judged long before it is finished.

Yang et al. 2025, Algorithm 1 with the reward of Eq. 7 (rewards/consistency) and the proposals of Sec. 3.4
(search/proposals). Symbols: k of Algorithm 1 -> width, n -> candidates (each beam's), tau_t -> preview_steps.

preview_steps 1 is the paper's one-step evaluation (Eq. 6): the estimate that a tick makes anyway. More finish the
newest window on a coarse grid, only to be looked at.

Where a schedule leaves no signal at its last level, as flow matching does, an exact estimate of the newest row would
say nothing of its noise: what one step tells there is what the network leaks, and how its neighbours took it. The
paper's model keeps 7 % of the signal. On such models 2 preview steps or more are the honest look.

Deviations from the paper's released code, which differs from the paper
- the best of all candidates survive with the queue that they were made on; the code grafts the tail of one beam onto
  the queue of another in a fifth of its steps
- each branch has its own anchor; the code's is the last frame of whichever beam was visited last
- candidates differ in the searched row alone, since the noise of every other row is keyed
- latents come out as soon as all beams agree on them, at the latest when `max_lag` wait: then those that share the
  ancestor of the best stay.
  The code writes frames of a beam that may die.
- eta is 0 unless set: with ancestral noise hardly anything of the searched noise is left in the latent it becomes.

Cost on a queue of w windows a tick (FIFO with lookahead: twice the partitions): at most
width * (w - 1 + candidates) window calls a tick, since what candidates share is computed once; equal with width 1.
On chunks at most width * (candidates + S - 1) a chunk; equal with width 1. `preview_steps` m > 1: at most
width * (candidates * m + w) a decision.
"""

from __future__ import annotations

from typing import Any

from longtake.core.rollout import Reward
from longtake.search.branch import leaf
from longtake.search.population import Population
from longtake.search.proposals import Mixture

WIDTH, CANDIDATES = 2, 5
"""The smaller of the paper's two widths, and its candidates on FIFO."""


def beam(
    inner: Any,
    reward: Reward,
    width: int = WIDTH,
    candidates: int = CANDIDATES,
    preview_steps: int = 1,
    proposals: Mixture | None = None,
    **more: Any,
) -> Population:
    """The search. `proposals` default: the uniform mixture without inversion; `more`: cumulative, max_lag."""
    steps = leaf(inner).schedule.num_steps
    if not 1 <= preview_steps <= steps:
        raise ValueError(f"beam.preview_steps must be in 1..{steps} (the steps), got {preview_steps}")
    if candidates == 1 and width > 1:
        raise ValueError(
            f"beam.width={width} keeps as many branches, and with beam.candidates=1 there is never a second one; give "
            f"beam.candidates=2 or more, or beam.width=1"
        )
    return Population(
        inner,
        reward,
        candidates,
        width,
        "tick",
        proposals=proposals or Mixture(),
        preview=0 if preview_steps == 1 else preview_steps,
        **more,
    )
