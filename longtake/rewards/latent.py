"""MIGA's latent cosine: consistency read off the latents themselves, with no encoder and no decoding.

Feng et al. 2026, "MIGA", Eq. 5-7: the channels of each latent are averaged to one map, maps are normalised, and the
score is the mean cosine between the latents judged and the ones before them.
Symbols: f_eval -> eval, f_ref -> ref, q_eval, q_ref -> the latents judged and before.

Deviation: the paper reads the noisy latents, arguing that their score follows that of the clean ones (Fig. 3 c-d). Here
the network's own estimates x0 are read by default, which cost nothing either; `read="x"` is the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from longtake.core.rollout import View


def latent_cosine(judged: Sequence[Float[Tensor, "C H W"]], before: Sequence[Float[Tensor, "C H W"]]) -> float:
    """Eq. 5-7: mean cosine between the channel means of the latents judged and those before them; -1..1."""
    maps = [F.normalize(torch.stack(list(part)).float().mean(1).flatten(1), dim=1) for part in (judged, before)]
    return float((maps[0] @ maps[1].T).mean())


@dataclass(frozen=True)
class LatentCosine:
    """Scores a branch by the cosine of its newest latents to the ones before.

    eval  latents that are judged, the last ones; 0: all that the candidates decided
    ref   latents before them that they are held against; of a first clip its own first ones
    read  "x0", the estimates, or "x", the noisy latents
    """

    eval: int = 0
    ref: int = 8
    read: Literal["x0", "x"] = "x0"

    def __post_init__(self) -> None:
        if self.eval < 0 or self.ref < 1:
            raise ValueError(
                f"latent-cosine needs eval of at least 0 and ref of at least 1, got {self.eval}, {self.ref}"
            )
        if self.read not in ("x0", "x"):
            raise ValueError(f"latent-cosine.read must be x0 or x, got {self.read!r}")

    @property
    def needs(self) -> frozenset[str]:
        """Rows in flight, and finished latents."""
        return frozenset({self.read, "past"})

    def __call__(self, views: list[View]) -> list[float]:
        """One score a view; 0 where there is nothing to compare."""
        return [self._one(view) for view in views]

    def _one(self, view: View) -> float:
        done = len(view.past) - view.recent
        clip = [*view.past[max(done, 0) :], *(view.x0 if self.read == "x0" else view.x)]
        line = [*view.past[: max(done, 0)], *clip]
        many = min(self.eval or len(view.judged()), len(clip), len(line) - 1)
        if many < 1:
            return 0.0
        return latent_cosine(line[len(line) - many :], line[max(len(line) - many - self.ref, 0) : len(line) - many])
