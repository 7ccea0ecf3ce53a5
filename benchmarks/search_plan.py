"""What a search benchmark will cost, before it is paid: the forecast of every arm times what a call takes here.

Three things are timed on the machine: a network evaluation, a latent decoded, a candidate judged (a window of latents
seen by the preview decoder and the reward's encoder). A forecast is a bound where the cost depends on scores, so what
is printed is what it may come to at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from longtake.core.engine import Engine
from longtake.core.plan import Ghost, emptied, lag
from longtake.core.rollout import Timeline, View
from longtake.core.stream import stream


@dataclass(frozen=True)
class Speed:
    """Seconds of a network evaluation (of a guidance pair: half of it), of a latent decoded, of a candidate judged."""

    evaluation: float
    decode: float
    judge: float


@dataclass(frozen=True)
class Cost:
    """One arm: network evaluations and candidates judged of one film, its latents, films to make."""

    arm: str
    nfe: int
    judged: int
    latents: int
    films: int

    def seconds(self, speed: Speed) -> float:
        """Of all its films, measuring not counted."""
        one = self.nfe * speed.evaluation + self.latents * speed.decode + self.judged * speed.judge
        return one * self.films


def cost_of(arm: str, rollout: Any, network: int, latents: int, films: int) -> Cost:
    """The forecast of an arm, run here to count who is judged as well; `network` evaluations a window call."""
    ghost, engine = emptied(rollout), Engine(Ghost(network), 1 << 20)
    state, judged = engine.drive(ghost.init(0, Timeline.of(""))), 0
    for _, emission in stream(ghost, engine, state, latents + lag(rollout)):
        judged += emission.info.reward_calls
    return Cost(arm, engine.meter.nfe, judged, latents, films)


def measured(model: Any, reward: Any, times: int = 3) -> Speed:
    """The best of a few of each on this machine."""
    can = model.denoiser.can
    x = torch.randn(1, can.window, *can.latent_shape)
    levels = torch.full((1, can.window), model.denoiser.schedule.num_steps // 2)
    clip = tuple(x[0])
    view = View((), (), (), (), (), clip, len(clip), prompt="")

    def call() -> Any:
        return model.denoiser(x.to(model.denoiser.device), levels, [""])

    model.prepare([""])
    return Speed(
        _best(call, times) / model.denoiser.cost,
        _best(lambda: model.codec.decode(x[0, :2]), times) / 2,
        _best(lambda: reward([view, view]), times) / 2,
    )


@torch.inference_mode()
def _best(action: Callable[[], Any], times: int) -> float:
    action()  # whatever is made at a first call
    found = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        found.append(time.perf_counter() - began)
    return min(found)


def told(costs: list[Cost], speed: Speed) -> str:
    """A line an arm, and the sum."""
    lines = [
        f"a network evaluation {1000 * speed.evaluation:.0f} ms, a latent decoded {1000 * speed.decode:.0f} ms, "
        f"a candidate judged {1000 * speed.judge:.0f} ms",
        "arm | films | NFE a film | judged a film | minutes a film | minutes",
    ]
    for cost in costs:
        minutes = cost.seconds(speed) / 60
        one = minutes / max(cost.films, 1)
        lines.append(f"{cost.arm} | {cost.films} | {cost.nfe} | {cost.judged} | {one:.2f} | {minutes:.1f}")
    total = sum(cost.seconds(speed) for cost in costs) / 60
    lines.append(f"{sum(cost.films for cost in costs)} films, at most {total:.0f} minutes")
    return "\n".join(lines)
