"""ScalingNoise's reward: a clip agrees with an anchor, a finished picture before it, and with itself. Eq. 7.

    Phi = 1 / (2 (T - 1)) * sum over i = 2..T of ( <d_a, d_i> + <d_{i-1}, d_i> )

d_1..d_T are normalised features of the clip's pictures and d_a those of the anchor, so that <.,.> is a cosine.

anchor  moving  the newest finished picture of the same branch before its clip (Alg. 1 l. 15), the default
        first   the first picture of the video
        lag     the picture `lag` before the clip ("several frames prior", Sec. 3.3), or the oldest there is
parts   both    Eq. 7
        local   the second term alone (Table 4)
        anchor  <d_a, d_T>, the newest picture alone (Table 4)

Deviations. The paper's released code scores the newest picture against the last picture of whichever beam was visited
last; here the sum runs over the clip and anchors belong to branches. A first clip has no anchor: its own first picture
is it. A clip of one picture has no neighbours: its score is <d_a, d_1>, and 0 without an anchor.
A frozen video scores 1: give it a motion floor (rewards/sums).
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from longtake.core.rollout import Emission, View
from longtake.rewards.anchors import Seen, features_of, remembered
from longtake.rewards.eyes import Eyes
from longtake.rewards.features import Encoder


class Consistency:
    """Eq. 7 on a finished clip, of an unfinished one on its last `span` latents (None: all of it)."""

    def __init__(
        self,
        eyes: Eyes,
        encoder: Encoder,
        anchor: Literal["moving", "first", "lag"] = "moving",
        parts: Literal["both", "local", "anchor"] = "both",
        lag: int = 8,
        span: int | None = None,
    ) -> None:
        if anchor not in ("moving", "first", "lag") or parts not in ("both", "local", "anchor"):
            raise ValueError(f"anchor is moving, first or lag, parts both, local or anchor; got {anchor}, {parts}")
        if lag < 1 or (span is not None and span < 1):
            raise ValueError(f"lag and span are at least 1, got {lag} and {span}")
        self.eyes, self.encoder, self.anchor, self.parts, self.lag, self.span = eyes, encoder, anchor, parts, lag, span
        self.needs = eyes.needs

    @property
    def decodes(self) -> int:
        """Latents decoded so far."""
        return self.eyes.decodes

    def follow(self, memory: Any, emission: Emission) -> Seen:
        """The branch's anchors after more finished latents."""
        return remembered(self.eyes, self.encoder, self.lag, memory, emission)

    def __call__(self, views: list[View]) -> list[float]:
        """A score a view, at most 1; a branch of which nothing is to be seen yet scores 0."""
        features = features_of(self.eyes, self.encoder, views, self.span)
        return [self._score(d, self._anchor(view.memory)) for d, view in zip(features, views, strict=True)]

    def _anchor(self, memory: Seen | None) -> Tensor | None:
        if memory is None or memory.first is None:
            return None
        if self.anchor == "first":
            return memory.first
        return memory.newest[-1] if self.anchor == "moving" else memory.newest[0]

    def _score(self, d: Tensor, anchor: Tensor | None) -> float:
        if not len(d) or (len(d) == 1 and anchor is None):
            return 0.0
        anchor = d[0] if anchor is None else anchor
        if self.parts == "anchor" or len(d) == 1:
            return float(d[-1] @ anchor)
        local = float((d[1:] * d[:-1]).sum()) / (len(d) - 1)
        return local if self.parts == "local" else (local + float((d[1:] @ anchor).sum()) / (len(d) - 1)) / 2
