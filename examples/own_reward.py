"""Copy this file to search by a reward of your own: ten lines, and the law kit to check them.

python examples/own_reward.py                on a model whose videos are known by a formula, in seconds
python examples/own_reward.py pocket         on a model: a name or a folder, as `longtake generate --model` takes it
"""

from __future__ import annotations

import sys
from typing import Any

import torch

import longtake
from longtake.core.engine import Engine
from longtake.core.rollout import Timeline, View
from longtake.core.schedule import flow
from longtake.core.stream import stream
from longtake.models.analytic import GaussianVideo
from longtake.rollouts.chunk import Chunk
from longtake.search.k_step import k_step
from longtake.testing import check_reward


class Calm:
    """Prefers clips whose latents change little. `view.clip` is what a candidate made or is about to make."""

    needs = frozenset({"x0", "past"})

    def __call__(self, views: list[View]) -> list[float]:
        """One score a view, higher is better."""
        return [-float(torch.stack(view.clip).diff(dim=0).square().mean()) for view in views]


def change(latents: list[torch.Tensor]) -> float:
    """Mean square change between neighbouring latents."""
    return float(torch.stack(latents).diff(dim=0).square().mean())


def model_of(named: list[str]) -> tuple[Any, str]:
    """(the network that was named or the formula, a prompt for it)."""
    if named:
        return longtake.load(named[0], num_steps=16).denoiser, "a dog walks right across green hills at noon"
    return GaussianVideo(flow(16, shift=3.0), (2, 3, 3), 8), ""


if __name__ == "__main__":
    denoiser, prompt = model_of(sys.argv[1:])
    method = Chunk(denoiser.can.latent_shape, denoiser.schedule, window=denoiser.can.window)
    search = k_step(method, Calm(), candidates=8, preview_steps=2)
    clips = [tuple(torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(n))) for n in range(3)]
    check_reward(Calm(), [View((0,), (x[3],), (x[3],), (5,), ("",), x[:3], recent=2) for x in clips])
    changes = []
    for rollout in (method, search):
        engine, latents = Engine(denoiser), []
        state = engine.drive(rollout.init(0, Timeline.of(prompt)))
        for _, emission in stream(rollout, engine, state, 38):
            latents.extend(emission.latents)
        changes.append(change(latents))
        print(f"{type(rollout).__name__:<10} change {changes[-1]:.3f}, {engine.meter.nfe} NFE")
    assert changes[1] < changes[0]
    print("every law holds")
