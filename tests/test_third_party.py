"""What a stranger writes: the example of a search holds, and the law kit says in words what is wrong with a rollout."""

from __future__ import annotations

import re
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from longtake.core.check import check
from longtake.core.model import Denoiser
from longtake.core.schedule import NoiseSchedule, flow
from longtake.models.analytic import GaussianVideo
from longtake.rollouts.chunk import Chunk
from longtake.testing import check_rollout

EXAMPLES = Path(__file__).parent.parent / "examples"
SCHEDULE = flow(8)
MODEL = GaussianVideo(SCHEDULE, (2, 3, 3), 8)
Pairs = runpy.run_path(str(EXAMPLES / "skeleton_rollout.py"))["Pairs"]
OWN_SEARCH = runpy.run_path(str(EXAMPLES / "own_search.py"))


def test_the_example_of_an_own_search_holds(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "own_search.py"), run_name="__main__")
    assert "every law holds" in capsys.readouterr().out


class Borrowed:
    """Everything of the skeleton, however the class itself is made."""

    shape: Any
    schedule: NoiseSchedule

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(Pairs((2, 3, 3), SCHEDULE), name)


@dataclass
class Loose(Borrowed):
    shape: tuple[int, int, int]
    schedule: NoiseSchedule


@dataclass(frozen=True)
class Hidden(Borrowed):
    latent: tuple[int, int, int]
    schedule: NoiseSchedule


class Bare:
    shape = (2, 3, 3)


@pytest.mark.parametrize(
    ("rollout", "words"),
    [
        (Bare(), "lacks reach, in_flight, init, step, fresh, fork, view"),
        (Loose((2, 3, 3), SCHEDULE), "frozen dataclass"),
        (Hidden((2, 3, 3), SCHEDULE), "its shape is a field"),
        (Pairs((2, 4, 3), SCHEDULE), "makes latents of (2, 4, 3), the model reads (2, 3, 3)"),
        (Pairs((2, 3, 3), flow(10)), "share one schedule"),
    ],
)
def test_the_law_kit_says_what_is_wrong(rollout: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=f"law broken: .*{re.escape(words)}"):
        check_rollout(rollout, MODEL)


def test_a_search_of_others_is_checked_without_our_names_for_its_parts() -> None:
    @dataclass(frozen=True)
    class Nameless:
        inner: Any
        reward: Any

    level = OWN_SEARCH["Level"]()
    assert check(Nameless(Chunk((2, 3, 3), SCHEDULE, window=8), level), MODEL) == []


def test_one_candidate_of_the_example_is_no_search() -> None:
    search = OWN_SEARCH["Greedy"](Chunk((2, 3, 3), SCHEDULE, window=8), OWN_SEARCH["Level"](), num=1)
    check_rollout(search, MODEL, 6)


def test_a_frozen_denoiser_is_one() -> None:
    @dataclass(frozen=True)
    class Frozen:
        schedule: NoiseSchedule
        can: Any
        device: Any
        cost: int = 1

        def __call__(self, x: Any, levels: Any, cond: Any) -> Any:
            return MODEL(x, levels, cond)

    frozen: Denoiser = Frozen(SCHEDULE, MODEL.can, MODEL.device)
    assert isinstance(frozen, Denoiser)
    check_rollout(Pairs((2, 3, 3), SCHEDULE), frozen, 4)
