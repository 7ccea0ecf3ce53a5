"""The law kits catch what they are there for: each fault breaks the law that is named beside it, and no other."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.core.rollout import View
from longtake.core.rows import Queue
from longtake.core.schedule import flow
from longtake.models.analytic import GaussianVideo
from longtake.testing import check_denoiser, check_rollout
from longtake.testing.laws import check_reward

SHAPE, SCHEDULE = (2, 3, 3), flow(8)
MODEL = GaussianVideo(SCHEDULE, SHAPE, 8)
Pairs: Any = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "skeleton_rollout.py"))["Pairs"]


@dataclass(frozen=True)
class Unkeyed(Pairs):
    """Draws from torch's own generator."""

    def init(self, *given: Any) -> Any:
        state = yield from Pairs.init(self, *given)
        rows = tuple(replace(row, x=torch.randn(row.x.shape)) for row in state.queue.rows)
        return replace(state, queue=Queue(rows))


@dataclass(frozen=True)
class Deaf(Pairs):
    """Forks to the same noise."""

    @staticmethod
    def fork(state: Any, key: int, mix: Any = None, which: str = "fresh") -> Any:
        return state


@dataclass(frozen=True)
class Copying(Pairs):
    """Key 0 is another state, if with the same values."""

    @staticmethod
    def fork(state: Any, key: int, mix: Any = None, which: str = "fresh") -> Any:
        return Pairs.fork(state, key, mix, which) if key else replace(state)


@dataclass(frozen=True)
class Open(Pairs):
    """Shows rewards what no network has read."""

    @staticmethod
    def view(state: Any) -> View:
        if not state.tick:
            return Pairs.view(state)
        rows = [row for row in state.queue.rows if row.level > 0]
        x = tuple(row.x for row in rows)
        return View(tuple(row.index for row in rows), x, x, tuple(row.level for row in rows), ("",) * len(rows))


@dataclass(frozen=True)
class Miscounting(Pairs):
    """Numbers its emissions one too high."""

    def step(self, state: Any) -> Any:
        following, emission = yield from Pairs.step(self, state)
        return following, replace(emission, start=emission.start + 1)


@dataclass(frozen=True)
class Optimistic(Pairs):
    """Claims that a change of prompt reaches nobody before it."""

    @property
    def reach(self) -> int:
        return 0


@dataclass(frozen=True)
class Moody(Pairs):
    """Steps twice where the picture is bright: its cost depends on data, which a dry run cannot know."""

    def step(self, state: Any) -> Any:
        rows = state.queue.rows
        if rows and rows[0].x.numel() and float(rows[0].x.mean()) > 0:
            yield from Pairs.step(self, state)
        return (yield from Pairs.step(self, state))


@dataclass(frozen=True)
class Forgetful(Pairs):
    """Keeps what it knows of a run in places that a checkpoint does not hold: in the objects themselves."""

    def step(self, state: Any) -> Any:
        following, emission = yield from Pairs.step(self, state)
        if not hasattr(state, "_known"):
            emission = replace(emission, latents=tuple(latent + state.tick for latent in emission.latents))
        object.__setattr__(following, "_known", True)
        return following, emission


ROLLOUTS: list[tuple[type, str]] = [
    (Unkeyed, "a run repeats itself"),
    (Deaf, "forks differ"),
    (Copying, "key 0 forks to the state itself"),
    (Open, "a view shows nothing unseen"),
    (Miscounting, "how many latents came before"),
    (Optimistic, "a change of prompt at latent"),
    (Moody, "a dry run counts what a run costs"),
    (Forgetful, "save and load after every tick"),
]


@pytest.mark.parametrize(("kind", "law"), ROLLOUTS, ids=[kind.__name__ for kind, _ in ROLLOUTS])
def test_a_faulty_rollout_is_told_its_law(kind: type, law: str) -> None:
    check_rollout(Pairs(SHAPE, SCHEDULE), MODEL, other="a cat")
    with pytest.raises(AssertionError, match=f"law broken: .*{re.escape(law)}"):
        check_rollout(kind(SHAPE, SCHEDULE), MODEL, other="a cat")


def test_a_denoiser_that_hears_no_prompt_is_told() -> None:
    deaf = GaussianVideo(SCHEDULE, SHAPE, 8, mean_scale=0.0)
    check_rollout(Pairs(SHAPE, SCHEDULE), deaf)
    with pytest.raises(AssertionError, match="a change of prompt changes something"):
        check_rollout(Pairs(SHAPE, SCHEDULE), deaf, other="a cat")


@dataclass(frozen=True)
class Denoiser:
    """The oracle, spoilt by a function of (x, levels, x0)."""

    spoil: Callable[[Tensor, Tensor, Tensor], Tensor]
    schedule: Any = SCHEDULE
    can: Any = MODEL.can
    device: Any = MODEL.device
    cost: int = 1

    def __call__(self, x: Tensor, levels: Tensor, cond: Sequence[Any]) -> Tensor:
        return self.spoil(x, levels, MODEL(x, levels, cond))


def _one_level(x: Tensor, levels: Tensor, x0: Tensor) -> Tensor:
    # every row is treated as the noisiest, but clean rows come back
    flat = MODEL(x, levels.amax(1, keepdim=True).expand_as(levels), [""] * len(x))
    return torch.where((levels == 0)[..., None, None, None], x, flat)


DENOISERS: list[tuple[str, Callable[[Tensor, Tensor, Tensor], Tensor], str]] = [
    ("noise", lambda x, levels, x0: x - x0, "a row at level 0 is returned as it is"),
    ("batch", lambda x, levels, x0: x0 - x0.mean(0) * (len(x) > 1), "a batch equals its parts"),
    ("dice", lambda x, levels, x0: x0 + 1e-6 * torch.randn(x0.shape), "the same input gives the same bits"),
    ("shape", lambda x, levels, x0: x0[:, :1], "x0 has the shape of x"),
    ("nan", lambda x, levels, x0: x0 / 0 * 0, "x0 is finite"),
    ("level", _one_level, "a row's level matters to the others"),
]


@pytest.mark.parametrize(("spoil", "law"), [row[1:] for row in DENOISERS], ids=[row[0] for row in DENOISERS])
def test_a_faulty_denoiser_is_told_its_law(spoil: Any, law: str) -> None:
    check_denoiser(Denoiser(lambda x, levels, x0: x0))
    with pytest.raises(AssertionError, match=f"law broken: {re.escape(law)}"):
        check_denoiser(Denoiser(spoil))


@dataclass(frozen=True)
class Reward:
    """A reward by a function of all views."""

    score: Callable[[list[View]], list[float]]
    needs: frozenset[str] = frozenset({"x0"})

    def __call__(self, views: list[View]) -> list[float]:
        return self.score(views)


def _means(views: list[View]) -> list[float]:
    return [float(view.x0[0].mean()) for view in views]


REWARDS: list[tuple[str, Reward, str]] = [
    ("one", Reward(lambda views: [0.0]), "one score a view"),
    ("nan", Reward(lambda views: [float("nan") for _ in views]), "scores are finite"),
    ("rank", Reward(lambda views: [m - max(_means(views)) for m in _means(views)]), "does not depend on the other"),
    ("order", Reward(lambda views: [m + i * (len(views) > 1) * 1e-3 for i, m in enumerate(_means(views))]),
     "does not depend on the other"),
    ("needs", Reward(_means, frozenset({"future"})), "needs are known"),
]  # fmt: skip


@pytest.mark.parametrize(("reward", "law"), [row[1:] for row in REWARDS], ids=[row[0] for row in REWARDS])
def test_a_faulty_reward_is_told_its_law(reward: Reward, law: str) -> None:
    latents = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    views = [View((0,), (x,), (x,), (5,), ("",)) for x in latents]
    check_reward(Reward(_means), views)
    with pytest.raises(AssertionError, match=f"law broken: .*{re.escape(law)}"):
        check_reward(reward, views)
