"""Chunk by chunk: each clip continues from the end of the one before, the simplest way to a long video.

Two joins. `latent`: the last `overlap` latents stay in the window at level 0 and are read as they are (the models'
own image-to-video training; nothing passes through pixels). `pixel`: the last picture is decoded and encoded again as
the first image of the next clip, as image-to-video pipelines chain (k-step paper, Sec. 3.1); the guide's own frame,
which both clips hold, is dropped from the second. Users trace colour drift to that round trip, so `latent` is the
default.

`lead="first"` puts the video's own first latent at position 0 of every later window, in the place of the oldest guide:
see rollouts/leading. On pocket this keeps place and colours (benchmarks/position0.py). Off by default, since it also
holds on to what should change.

`color_match="adain"` brings every clip after the first to the first one's mean and spread of each latent channel, which
stops slow drifts of colour, and real changes of light with them; it is off by default.

Symbols of the k-step paper: chunk length -> window, steps -> schedule.num_steps.
Deviation: the paper's models take one guide picture; here `overlap` latents may guide, and `pixel` always one.
Cost: S window calls a chunk; the first chunk has f latents (less those of a given context), later ones f - overlap.
Exactly S * (1 + ceil((N - f) / (f - overlap))) for N >= f latents without context. Rows held: f.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from longtake.core.model import Codec
from longtake.core.rollout import Emission, Timeline, View
from longtake.core.rows import clean_row
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.core.step import Step
from longtake.core.window import Grid
from longtake.rollouts import diagonal
from longtake.rollouts.diagonal import Diagonal, LineState
from longtake.rollouts.leading import LedState, begun, led, noted, unled


@dataclass(frozen=True, eq=False)
class ChunkState(LedState):
    """With what later clips are held to besides: the first clip's mean and spread by channel."""

    colours: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Chunk:
    """Clips of `window` latents, each behind `overlap` clean latents of the last. Join "pixel" needs the `codec`."""

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver = Solver()
    window: int = 12
    overlap: int = 2
    join: Literal["latent", "pixel"] = "latent"
    codec: Codec | None = None
    color_match: Literal["none", "adain"] = "none"
    lead: Literal["last", "first"] = "last"

    def __post_init__(self) -> None:
        if self.lead not in ("last", "first"):
            raise ValueError(f"chunk.lead must be last or first, got {self.lead!r}")
        if self.lead == "first" and (self.overlap < 2 or self.join == "pixel"):
            raise ValueError(
                f"chunk.lead=first exchanges one of at least 2 guiding latents, with chunk.join=latent; "
                f"got {self.overlap}, {self.join}"
            )
        if self.color_match not in ("none", "adain"):
            raise ValueError(f"chunk.color_match must be none or adain, got {self.color_match!r}")
        if not 0 <= self.overlap < self.window:
            raise ValueError(f"chunk.overlap must be in 0..{self.window - 1} (below the window), got {self.overlap}")
        if self.join not in ("latent", "pixel"):
            raise ValueError(f"chunk.join must be latent or pixel, got {self.join!r}")
        if self.join == "pixel" and (self.overlap != 1 or self.codec is None):
            raise ValueError(
                f"chunk.join=pixel needs a codec and chunk.overlap=1, one guide picture; got {self.overlap}"
            )

    @property
    def line(self) -> Diagonal:
        """The diagonal machine: a whole clip's rows share a level, and the next enter when they are done."""
        grid, period = Grid(self.window, self.window), self.schedule.num_steps
        group = self.window - self.overlap
        return Diagonal(self.shape, self.schedule, self.solver, grid, group, period, self.overlap, fill=True)

    @property
    def cycle(self) -> int:
        """Rows after which the pattern repeats."""
        return self.window - self.overlap

    @property
    def in_flight(self) -> int:
        """One window."""
        return self.window

    @property
    def reach(self) -> int:
        """Latents before row j in the same chunk."""
        return self.line.reach

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[LineState]:
        """The first clip as pure noise, behind the last `overlap` latents of `context`."""
        state = yield from self.line.init(seed, timeline, context)
        kept = context if self.lead == "first" else ()
        return begun(state, ChunkState, kept) if self.lead == "first" or self.color_match == "adain" else state

    def step(self, state: LineState) -> Step[tuple[LineState, Emission]]:
        """All rows of the clip one level down; at the end of a clip, the join."""
        following, emission = yield from self._stepped(state)
        if emission.latents and self.color_match == "adain":
            following, emission = _matched(following, emission)
        if emission.latents and self.join == "pixel":
            return self._through_pixels(state, following, emission)
        return following, emission

    def preview(self, state: LineState, steps: int) -> Step[View]:
        """The undecided rows finished in `steps` calls, for a search to look at."""
        view = yield from self.line.preview(led(state) if self.lead == "first" else state, steps)
        guide = tuple(row.x for row in state.queue.rows if row.index < state.head) if self.join == "pixel" else ()
        return replace(view, guide=guide)

    def _stepped(self, state: LineState) -> Step[tuple[LineState, Emission]]:
        if self.lead == "last":
            return (yield from self.line.step(state))
        following, emission = yield from self.line.step(led(state))
        return noted(unled(state, following), emission), emission

    fresh = staticmethod(diagonal.fresh)
    fork = staticmethod(diagonal.fork)
    view = staticmethod(diagonal.view)

    def _through_pixels(self, state: LineState, following: LineState, emission: Emission) -> tuple[LineState, Emission]:
        # k-step paper Sec. 3.1: the last picture of a clip becomes the first of the next
        assert self.codec is not None
        guide = tuple(row.x for row in state.queue.rows if row.index < state.head)
        frames, _ = self.codec.decode(torch.stack([*guide, *emission.latents]))
        picture = self.codec.encode(frames[-1:])[0].to(emission.latents[-1])
        row = clean_row(picture, following.head - 1, following.path)
        # an image-first latent belongs to the next clip alone, so what its window reads is the picture, not the latent
        return replace(following, queue=following.queue.replaced([row])), replace(emission, guide=guide)


def _matched(following: LineState, emission: Emission) -> tuple[LineState, Emission]:
    """AdaIN (Huang & Belongie 2017, Eq. 8) over a clip: later clips get the statistics of the first, by channel."""
    clip = torch.stack(emission.latents)
    mean = clip.mean(dim=(0, 2, 3), keepdim=True)[0]
    std = (clip - mean).square().mean(dim=(0, 2, 3), keepdim=True)[0].sqrt()
    known = getattr(following, "colours", None)
    if known is None:
        return replace(following, colours=(mean, std)), emission
    given = following.timeline.picture
    latents = tuple(
        x if given(emission.start + place) is not None else (x - mean) / std.clamp_min(1e-6) * known[1] + known[0]
        for place, x in enumerate(emission.latents)
    )
    last = emission.start + len(latents)
    held = [row for row in following.queue.rows if emission.start <= row.index < last]
    queue = following.queue.replaced(replace(row, x=latents[row.index - emission.start]) for row in held)
    return replace(following, queue=queue), replace(emission, latents=latents)
