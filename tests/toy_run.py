"""A run small enough to be killed often: the Gaussian oracle, FIFO, and a toy codec whose cache matters."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.rollout import Timeline
from longtake.core.schedule import flow
from longtake.core.solvers import Solver
from longtake.models.analytic import GaussianVideo
from longtake.output.directory import RunDir
from longtake.output.job import Job
from longtake.output.run import Runner
from longtake.output.video import Format
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.plain import Plain

SHAPE = (3, 4, 6)
FORM = Format(48, 32, Fraction(12))


class ToyCache(NamedTuple):
    """The last latent decoded."""

    last: Tensor


class ToyCodec:
    """4 frames a latent, 1 for the first; each frame fades from the latent before, so a lost cache shows."""

    def decode(self, z: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        frames = []
        for latent in z:
            before = latent if cache is None else cache.last
            count = 1 if cache is None else 4
            frames += [before + (latent - before) * (step + 1) / count for step in range(count)]
            cache = ToyCache(latent.clone())
        pixels = (torch.stack(frames) * 40 + 128).clamp(0, 255).to(torch.uint8)
        return pixels.repeat_interleave(8, 2).repeat_interleave(8, 3).permute(0, 2, 3, 1).contiguous(), cache

    def encode(self, frames: Tensor) -> Tensor:
        return (frames[:1, ::8, ::8].permute(0, 3, 1, 2).float() - 128) / 40


def toy_job(frames: int | None, plain: bool = False, **changes: Any) -> Job:
    """A job of this many frames; FIFO with 8 steps and window 4, or one clip of 4 latents."""
    schedule = flow(8, 3.0)
    rollout = (Plain if plain else Fifo)(SHAPE, schedule, Solver("euler"), 4)
    engine = Engine(GaussianVideo(schedule, SHAPE, 4), batch=4)
    latents = None if frames is None else engine.denoiser.can.num_latents(frames)
    job = Job(rollout, engine, ToyCodec(), Timeline.of("a"), 7, FORM, frames, latents)
    return replace(job, **changes)


def make(folder: Path, job: Job, **options: Any) -> Runner:
    """Run a job to its end in `folder`."""
    folder.mkdir(exist_ok=True)
    runner = Runner(job, RunDir(folder), **options)
    for _ in runner.run():
        pass
    return runner
