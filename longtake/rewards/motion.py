"""How much a clip moves: the mean absolute change from one picture to the next, of full scale.

    1 / (T - 1) * sum over i = 2..T of mean | v_i - v_{i-1} | / 255

v_1 follows the branch's last finished picture, which counts as v_0 where there is one. Without eyes it reads latents:
the root mean square change, over the root mean square of the clip. The two are different scales: a floor for one
says nothing of the other.

As a reward alone it likes flicker; it is meant as a term of a sum, or as a floor: consistency rewards are highest for
a video in which nothing moves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longtake.core.rollout import Emission, View
from longtake.rewards.anchors import Seen, remembered
from longtake.rewards.eyes import Eyes


class Motion:
    """Change between neighbours over a finished clip, or the last `span` latents of an unfinished one (None: all).
    `eyes` None: of latents.
    """

    def __init__(self, eyes: Eyes | None = None, span: int | None = None) -> None:
        self.eyes, self.span = eyes, span
        self.needs = eyes.needs if eyes is not None else frozenset({"x0", "past"})

    @property
    def decodes(self) -> int:
        """Latents decoded so far."""
        return self.eyes.decodes if self.eyes is not None else 0

    def follow(self, memory: Any, emission: Emission) -> Seen | None:
        """The branch's last picture after more finished latents."""
        return None if self.eyes is None else remembered(self.eyes, None, 0, memory, emission)

    def __call__(self, views: list[View]) -> list[float]:
        """A score a view, at least 0; 0 where fewer than two pictures are to be seen."""
        return [value or 0.0 for value in self.measured(views)]

    def measured(self, views: list[View]) -> list[float | None]:
        """The same, with None where fewer than two pictures are to be seen."""
        if self.eyes is None:
            return [self._latents(view) for view in views]
        clips = self.eyes.look(views, self.span)
        return [self._pictures(clip, view) for clip, view in zip(clips, views, strict=True)]

    def _pictures(self, clip: Tensor, view: View) -> float | None:
        whole = len(view.judged(self.span)) == len(view.clip)
        if whole and view.memory is not None and view.memory.picture is not None and len(clip):
            clip = torch.cat([view.memory.picture[None].to(clip), clip])
        if len(clip) < 2:
            return None
        return float((clip[1:].float() - clip[:-1].float()).abs().mean()) / 255

    def _latents(self, view: View) -> float | None:
        clip = view.judged(self.span)
        if len(clip) == len(view.clip):
            clip = (*view.before[-1:], *clip)
        if len(clip) < 2:
            return None
        x = torch.stack(clip).float()
        size = float(x.square().mean().sqrt())
        return float((x[1:] - x[:-1]).square().mean().sqrt()) / size if size else 0.0
