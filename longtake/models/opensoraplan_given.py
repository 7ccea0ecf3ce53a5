"""Pictures and clips for Open-Sora-Plan's image-to-video network, which reads them beside the noise.

Its condition is a video in which given frames stand in place and all others are black, encoded, and a mask of what is
to be made (1) in four channels a latent, one a frame. Here the given frames are those of the rows of a window that are
at level 0: they are decoded, completed with black and encoded; so the condition follows from the rows alone and a
resumed run needs no picture. It is made once for the same rows. A row that is given further back, such as the picture
that a video ends on, is decoded as a still: what lies before it is not known yet.

A picture set with `end_with` stands at the end of every window besides, as the release's script takes a first and a
last one: from the last frame that a film shows to that of the window, since decoding runs two frames behind.

The network was trained with every latent at one noise level, the given ones too. So given rows are shown to it noised
to the level of the first row that is not given, with noise that depends on their place in the window alone.

Cost: one encoding of a window's pixels for each new set of given rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from longtake.core.schedule import NoiseSchedule
from longtake.models.opensora_codec import fitted, from_bytes
from longtake.models.opensora_rows import Inputs, RowDenoiser, as_noisy, leading
from longtake.models.opensoraplan_codec import PlanCodec
from longtake.models.parts import Remembered


class GivenFrames:
    """The image-to-video network as an `opensora_rows.Network`."""

    def __init__(self, run: Callable[..., Tensor], codec: PlanCodec, schedule: NoiseSchedule) -> None:
        self.run, self.codec, self.schedule = run, codec, schedule
        self.last: Tensor | None = None
        self.frames: int | None = None
        self._told = Remembered(self._tell)

    def end_with(self, picture: Image.Image | None, size: tuple[int, int], frames: int | None = None) -> None:
        """The picture at the end of every window; None takes it away. `size` is (width, height).

        frames: pixel frames of a window up to the picture, which stands in all that follow; None: all of them.
        """
        self.last, self.frames = None, frames
        if picture is not None:
            self.last = from_bytes(fitted(picture, size), self.codec.factor, self.codec.vae)[0]
        self._told = Remembered(self._tell)

    def __call__(self, inputs: Inputs) -> Tensor:
        """The prediction, with given rows noised and their condition beside them."""
        levels = inputs.levels.tolist()
        rows = zip(inputs.x, inputs.times, levels, strict=True)
        x, times = (torch.stack(part) for part in zip(*(self._noised(*row) for row in rows), strict=True))
        given = torch.stack([self._condition(*row).to(x) for row in zip(inputs.x, levels, strict=True)])
        inputs = replace(inputs, x=x, times=times)
        return self.run(inputs.x, inputs.times, inputs.text, inputs.mask, given)

    def _condition(self, x: Float[Tensor, "F C H W"], levels: list[int]) -> Float[Tensor, "F G H W"]:
        count = leading(levels)
        later = tuple(place for place in range(count, len(levels)) if not levels[place])
        return self._told(x[[*range(count), *later]], len(x), later)

    def _noised(self, x: Float[Tensor, "F C H W"], times: Tensor, levels: list[int]) -> tuple[Tensor, Tensor]:
        known = torch.tensor([not level for level in levels], device=x.device)
        if known.all() or not known.any():
            return x, times
        first = levels.index(next(level for level in levels if level))
        noisy = as_noisy(x, levels[first], self.schedule)
        return torch.where(known[:, None, None, None], noisy, x), torch.where(known, times[first], times)

    @torch.no_grad()
    def _tell(self, known: Float[Tensor, "K C H W"], rows: int, later: tuple[int, ...]) -> Float[Tensor, "F G H W"]:
        # latents of the given frames among black ones, then the mask
        height, width = (side * self.codec.factor for side in known.shape[2:])
        video = torch.full((4 * rows - 3, 3, height, width), -1.0, device=self.codec.device)
        unmade = torch.ones(4 * rows - 3, device=self.codec.device)
        count = len(known) - len(later)
        start = max(4 * count - 3, 0)
        if start:
            video[:start], unmade[:start] = self.codec.pixels(known[:count]), 0
        for place, latent in zip(later, known[count:], strict=True):
            frames = slice(4 * place - 3, 4 * place + 1)
            video[frames], unmade[frames] = self.codec.pixels(latent.expand(2, *latent.shape))[1:], 0
        if self.last is not None and start < len(video):
            end = max(min(self.frames or len(video), len(video)) - 1, start)
            video[end:], unmade[end:] = self.last.to(video), 0
        # the first frame's mask stands for four, as its latent has no others
        masks = torch.cat([unmade[:1].repeat(3), unmade]).reshape(rows, 4, 1, 1).expand(-1, -1, *known.shape[2:])
        return torch.cat([self.codec.latents(video), masks], dim=1)


class GivenDenoiser(RowDenoiser):
    """The image-to-video network bound to a schedule; can be told what picture its windows end with."""

    def end_with(self, picture: Image.Image | None, size: tuple[int, int], frames: int | None = None) -> None:
        """See `GivenFrames.end_with`."""
        self.network.end_with(picture, size, frames)  # type: ignore[attr-defined]
