"""FreeInit: make a clip, keep the slow part of it as noise, and make it again.

Wu et al. 2024, "FreeInit: Bridging Initialization Gap in Video Diffusion Models", Sec. 4.2. The finished clip is
noised again, every time with the noise of the first round; its low frequencies in space and time, with fresh high ones,
are the noise of the next. It wraps any rollout whose clips come out whole: plain, chunk, replace, windows, freenoise.
Symbols: T iterations -> iterations, d_s = d_t -> cutoff (a share of the highest frequency), n = 4 of the Butterworth
filter.

Deviation: the paper's model keeps .068 of the clip at its last level. Where a schedule keeps less there (flow matching
and zero terminal SNR keep nothing, UniPC's grids of flow models a millionth) the round would know nothing of the one
before, so the clip is mixed in at that share. All clips of a chain are refined one after the other; the paper has one.
Latents that are given (a picture to end on) have no noise: the filter runs over the others.
Cost: iterations times the inner rollout, exactly. One iteration is the inner rollout, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longtake.core.noise import fold
from longtake.core.rollout import Emission, Info, Mix, Timeline, View
from longtake.core.rows import Row
from longtake.core.schedule import NoiseSchedule
from longtake.core.step import Step
from longtake.search import branch
from longtake.search.proposals import SIGNAL


@dataclass(frozen=True, eq=False)
class FreeInitState:
    """The inner state, and the state in which the clip's noise was still undecided."""

    state: Any
    start: Any
    rounds: int = 0

    @property
    def emitted(self) -> int:
        """Latents of finished rounds."""
        return self.start.emitted if self.start is not None else self.state.emitted

    @property
    def finished(self) -> bool:
        """True when the inner rollout is, in its last round."""
        return self.start is None and self.state.finished


@dataclass(frozen=True)
class FreeInit:
    """Each clip of `inner` made `iterations` times, its low frequencies below `cutoff` kept."""

    inner: Any
    iterations: int = 3
    cutoff: float = 0.25
    clips = True

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"freeinit.iterations must be at least 1, got {self.iterations}")
        if not 0 < self.cutoff <= 1:
            raise ValueError(f"freeinit.cutoff must be above 0 and at most 1, got {self.cutoff}")

    @property
    def num(self) -> int:
        """Rounds."""
        return self.iterations

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a latent."""
        return self.inner.shape

    @property
    def in_flight(self) -> int:
        """Rows of the inner rollout."""
        return self.inner.in_flight

    @property
    def reach(self) -> int:
        """Latents before row j in the same clip."""
        return self.in_flight

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[FreeInitState]:
        """The inner rollout's first state."""
        state = yield from self.inner.init(seed, timeline, context)
        return FreeInitState(state, state)

    def step(self, state: FreeInitState) -> Step[tuple[FreeInitState, Emission]]:
        """A tick of the inner rollout; a clip that comes out is noised and made again, or released."""
        inner, emission = yield from self.inner.step(state.state)
        if not emission.latents:
            return replace(state, state=inner), Emission(state.emitted, info=Info(children=(emission.info,)))
        if state.rounds + 1 < self.iterations:
            again = self._again(state, emission)
            return FreeInitState(again, state.start, state.rounds + 1), Emission(state.emitted)
        start = inner if self.inner.fresh(inner) else None
        return FreeInitState(inner, start), replace(emission, info=Info(children=(emission.info,)))

    def fresh(self, state: FreeInitState) -> range:
        """The inner rollout's undecided rows; later rounds are decided by the first."""
        return self.inner.fresh(state.state) if state.rounds == 0 else range(0)

    def fork(self, state: FreeInitState, key: int, mix: Mix | None = None, which: str = "fresh") -> FreeInitState:
        """Other noise in the inner state, in all rounds."""
        if key == 0:
            return state
        begun = state.state is state.start
        forked = self.inner.fork(state.state, key, mix, which)
        if state.start is None or begun:
            return replace(state, state=forked, start=None if state.start is None else forked)
        return replace(state, state=forked, start=self.inner.fork(state.start, key, None, which))

    def view(self, state: FreeInitState) -> View:
        """The inner rollout's view."""
        return self.inner.view(state.state)

    def _again(self, state: FreeInitState, emission: Emission) -> Any:
        old: dict[int, Tensor] = {}
        drawn: dict[int, Tensor] = {}

        def note(row: Row, noise: Tensor) -> Tensor:
            old[row.index], drawn[row.index] = row.x, noise
            return noise

        key = fold(state.rounds, "freeinit", branch.depth(self.inner))
        forked = self.inner.fork(state.start, key, note)
        rows = sorted(old)  # those of the clip that are not given
        if not rows:
            return forked
        if rows[0] < emission.start or rows[-1] >= emission.stop:
            raise ValueError(
                "freeinit needs a method whose clips come out whole; use plain, chunk, windows or freenoise"
            )
        clip = torch.stack([emission.latents[index - emission.start] for index in rows])
        first, fresh = (torch.stack([part[index] for index in rows]) for part in (old, drawn))
        alpha, sigma = kept(branch.leaf(self.inner).schedule)
        noised = alpha * clip.to(first) + sigma * first
        mixed = low_pass_mix(noised, fresh.to(first), self.cutoff)
        return self.inner.fork(state.start, key, lambda row, _: mixed[rows.index(row.index)].clone())


def kept(schedule: NoiseSchedule) -> tuple[float, float]:
    """(alpha, sigma) that a clip is noised to: those of the last level, with at least the paper's share of signal."""
    alpha, sigma = schedule.alphas[-1], schedule.sigmas[-1]
    return (alpha, sigma) if alpha >= SIGNAL else (SIGNAL, math.sqrt(1 - SIGNAL**2))


def low_pass_mix(
    slow: Float[Tensor, "F C H W"], fast: Float[Tensor, "F C H W"], cutoff: float, order: int = 4
) -> Float[Tensor, "F C H W"]:
    """The low frequencies of `slow` and the rest of `fast`, in time and space, by a Butterworth filter (Sec. 4.2)."""
    if not slow.numel():
        return fast
    f, _, h, w = slow.shape
    grids = torch.meshgrid(*(torch.fft.fftfreq(size).to(slow) * 2 for size in (f, h, w)), indexing="ij")
    distance = torch.stack([grid.square() for grid in grids]).sum(0)  # squared, in units of the highest frequency
    mask = (1 / (1 + (distance / cutoff**2) ** order))[:, None]
    axes = (0, 2, 3)
    low, high = torch.fft.fftn(slow, dim=axes) * mask, torch.fft.fftn(fast, dim=axes) * (1 - mask)
    return torch.fft.ifftn(low + high, dim=axes).real.to(slow)
