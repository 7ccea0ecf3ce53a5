"""Pictures and clips for Open-Sora-Plan's image-to-video network, which reads them beside the noise.

Its condition is a video in which given frames stand in place and all others are black, encoded, and a mask of what is
to be made (1) in four channels a latent, one a frame. Here the given frames are the leading rows of a window that are
at level 0: their frames are decoded, completed with black and encoded; so the condition follows from the rows alone and
a resumed run needs no picture. It is made once for the same rows.

The network was trained with every latent at one noise level, the given ones too. So given rows are shown to it noised
to the level of the first row that is not given, with noise that depends on their place in the window alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from longtake.core.schedule import NoiseSchedule
from longtake.models.opensora_rows import Inputs, as_noisy, leading
from longtake.models.opensoraplan_codec import PlanCodec
from longtake.models.parts import Remembered

MASK_CHANNELS = 4


@dataclass(frozen=True, eq=False)
class GivenFrames:
    """The image-to-video network as an `opensora_rows.Network`."""

    run: Callable[..., Tensor]
    codec: PlanCodec
    schedule: NoiseSchedule
    _known: dict[int, Remembered] = field(default_factory=dict)

    def __call__(self, inputs: Inputs) -> Tensor:
        counts = [leading(levels) for levels in inputs.levels.tolist()]
        shown = [self._noised(*row) for row in zip(inputs.x, inputs.times, inputs.levels.tolist(), counts, strict=True)]
        given = torch.stack([self._condition(x, count) for x, count in zip(inputs.x, counts, strict=True)])
        x, times = (torch.stack(part) for part in zip(*shown, strict=True))
        inputs = replace(inputs, x=x, times=times)
        return self.run(inputs.x, inputs.times, inputs.text, inputs.mask, given)

    def _noised(
        self,
        x: Float[Tensor, "F C H W"],
        times: Tensor,
        levels: list[int],
        count: int,
    ) -> tuple[Tensor, Tensor]:
        if not 0 < count < len(levels):
            return x, times
        level = levels[count]
        return torch.cat([as_noisy(x[:count], level, self.schedule), x[count:]]), torch.cat(
            [times[count].expand(count), times[count:]]
        )

    def _condition(self, x: Float[Tensor, "F C H W"], count: int) -> Float[Tensor, "F G H W"]:
        rows = len(x)
        if rows not in self._known:
            self._known[rows] = Remembered(lambda known: self._video_latents(known, rows))
        mask = torch.ones(rows, MASK_CHANNELS, *x.shape[2:], device=x.device)
        mask[:count] = 0
        return torch.cat([self._known[rows](x[:count]).to(x), mask.to(x)], dim=1)

    def _video_latents(self, known: Float[Tensor, "K C H W"], rows: int) -> Float[Tensor, "F C H W"]:
        height, width = (side * self.codec.factor for side in known.shape[2:])
        black = torch.full((4 * rows - 3, 3, height, width), -1.0, device=self.codec.device)
        if len(known):
            black[: 4 * len(known) - 3] = self.codec.pixels(known)
        return self.codec.latents(black)
