"""The reward of the k-step search: the picture that agrees least with the guide. Its Eq. 4.

    min over i of cos( f(g), f(v_i) )

g is the picture that the clip continues (the branch's last finished one; for a first clip without one, the clip's own
first picture), f an image encoder. The paper says CLIP and not which one, so the encoder's name is part of a result.
A frozen video scores 1: give it a motion floor (rewards/sums).
"""

from __future__ import annotations

from typing import Any

from longtake.core.rollout import Emission, View
from longtake.rewards.anchors import Seen, features_of, remembered
from longtake.rewards.eyes import Eyes
from longtake.rewards.features import Encoder


class ClipMin:
    """Eq. 4 on a finished clip, of an unfinished one on its last `span` latents (None: all of it)."""

    def __init__(self, eyes: Eyes, encoder: Encoder, span: int | None = None) -> None:
        self.eyes, self.encoder, self.span, self.needs = eyes, encoder, span, eyes.needs

    @property
    def decodes(self) -> int:
        """Latents decoded so far."""
        return self.eyes.decodes

    def follow(self, memory: Any, emission: Emission) -> Seen:
        """The branch's guide after more finished latents."""
        return remembered(self.eyes, self.encoder, 1, memory, emission)

    def __call__(self, views: list[View]) -> list[float]:
        """The least cosine of each clip; 0 where there is nothing to compare yet."""
        scores = []
        for d, view in zip(features_of(self.eyes, self.encoder, views, self.span), views, strict=True):
            guide = view.memory.newest[-1] if view.memory is not None and view.memory.newest else None
            nothing = not len(d) or (len(d) == 1 and guide is None)
            scores.append(0.0 if nothing else float((d @ (d[0] if guide is None else guide)).min()))
        return scores
