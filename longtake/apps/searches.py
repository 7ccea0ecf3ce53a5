"""The table of searches: names and parameters. A new search is one file and one row here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from longtake.apps.parameters import Parameter, choose
from longtake.apps.sizes import Sizes, Values, beams, counts, k_steps, populations
from longtake.apps.terms import Numbers, Sum
from longtake.core.check import searchable
from longtake.core.rollout import Reward
from longtake.errors import UsageError
from longtake.rewards.latent import LatentCosine
from longtake.rewards.sums import Floored, Weighted
from longtake.search.beam import WIDTH, beam
from longtake.search.best_of import best_of
from longtake.search.evolve import evolve
from longtake.search.freeinit import FreeInit
from longtake.search.k_step import k_step
from longtake.search.latsearch import LatSearch
from longtake.search.local import local
from longtake.search.proposals import NAMES, Mixture
from longtake.search.reflect import fitted

Make = Callable[[Any, Reward, Values, int | None], Any]
"""(method, reward, parameters, latents of the video or None if endless) -> the search."""


@dataclass(frozen=True)
class Search:
    """A row of the table.

    make    builds the search
    sizes   (parameters, steps of looks) -> rows of parameters of growing cost, of which a budget picks the last it
            can pay; of several rows, whose looks differ, what gains most (apps/worth)
    queues  whether it works on methods whose rows differ in level
    reward  the reward that it takes if none is given; None: the best at hand; "": it needs none
    unfinished  whether it judges clips that are halfway
    """

    name: str
    help: str
    paper: str
    make: Make
    sizes: Callable[[Values, Sequence[int]], Sizes]
    parameters: tuple[Parameter, ...] = ()
    aliases: tuple[str, ...] = ()
    queues: bool = True
    reward: str | None = None
    unfinished: bool = False


MOST = 256
"""Candidates, branches or rounds at most: all are alive together, and what they will cost is found by moving them."""


@dataclass(frozen=True)
class Count(Parameter):
    """A whole number up to MOST."""

    @property
    def allowed(self) -> str:
        """What may be typed."""
        return f"a whole number in {self.low or 0:g}..{MOST}"

    def parse(self, owner: str, text: str) -> int:
        """The number. UsageError says what is allowed."""
        value = self._value(text.strip().lower())
        if value is None or not (self.low or 0) <= value <= MOST:
            raise UsageError(f"{owner}{self.name}={text} is not possible: it takes {self.allowed}")
        return value


@dataclass(frozen=True)
class Counts(Numbers):
    """Whole numbers up to MOST."""

    @property
    def allowed(self) -> str:
        """What may be typed."""
        return f"whole numbers in {self.low or 0:g}..{MOST} with commas between"

    def parse(self, owner: str, text: str) -> tuple[int, ...]:
        """The numbers. UsageError says what is allowed."""
        values = super().parse(owner, text)
        if max(values) > MOST:
            raise UsageError(f"{owner}{self.name}={text} is not possible: it takes {self.allowed}")
        return values


def _best_of(inner: Any, reward: Reward, values: Values, length: int | None) -> Any:
    return best_of(inner, reward, length=length, **values)


def _latsearch(inner: Any, reward: Reward, values: Values, length: int | None) -> Any:
    named = {"num" if name == "particles" else name: value for name, value in values.items()}
    return LatSearch(inner, reward, **named)


def _beam(inner: Any, reward: Reward, values: Values, length: int | None) -> Any:
    if values.get("width", WIDTH) == 1:
        for name in ("max_lag", "cumulative"):
            if values.get(name):
                raise ValueError(f"beam.{name} has no effect on one branch; give beam.width=2 or more, or leave it out")
    rest = {name: value for name, value in values.items() if name != "proposals"}
    mixture = Mixture(values["proposals"]) if "proposals" in values else None
    return beam(inner, reward, proposals=mixture, **rest)


def _evolve(inner: Any, reward: Reward, values: Values, length: int | None) -> Any:
    if len(values.get("population", (0, 0))) == 1:
        for name in ("mutation", "elite"):
            if name in values:
                raise ValueError(
                    f"evolve.{name} has no effect on one generation; give evolve.population=4,2 or the like, or leave "
                    f"it out"
                )
    return evolve(inner, reward, **values)


def _reflect(inner: Any, reward: Reward, values: Values, length: int | None) -> Any:
    if not values.get("threshold", 0) < math.inf:
        raise ValueError(
            f"reflect.threshold={values['threshold']} is a fall that no score ever takes; give a number such as .01, "
            f"or --search none"
        )
    made = fitted(inner, reward, **values)
    return replace(made, reward=_segmented(reward, made.eval, made.ref))


def _segmented(reward: Any, eval: int, ref: int) -> Any:
    # a latent cosine judges what the search judges, in a sum and above a floor too
    if isinstance(reward, Weighted):
        return Weighted([(weight, _segmented(term, eval, ref)) for weight, term in reward.terms])
    if isinstance(reward, Floored):
        return Floored(_segmented(reward.reward, eval, ref), reward.motion, reward.floor)
    return replace(reward, eval=eval, ref=ref) if isinstance(reward, LatentCosine) and not reward.eval else reward


SEARCHES: dict[str, Search] = {
    row.name: row
    for row in (
        Search(
            "best-of-n",
            "make every candidate in full and keep the best",
            "",
            _best_of,
            counts("candidates"),
            (
                Count("candidates", int, "how many, 1: no search", 1),
                Parameter(
                    "scope", ("chunk", "video", "horizon"), "what is compared: clips, whole videos, a look ahead"
                ),
                Parameter("horizon", int, "ticks that a look ahead goes, with scope=horizon", 1),
            ),
            ("brute-force",),
        ),
        Search(
            "k-step",
            "judge candidates by videos of few steps, make the best with all",
            "Chunk-wise generation with k-step search, 2024",
            lambda inner, reward, values, length: k_step(inner, reward, **values),
            k_steps,
            (
                Count("candidates", int, "noises that are tried (m)", 1),
                Parameter("preview_steps", int, "steps of a look (k)", 1),
            ),
        ),
        Search(
            "beam",
            "several branches live on, ranked by what their newest noise will become",
            "ScalingNoise, Yang et al. 2025",
            _beam,
            beams,
            (
                Count("width", int, "branches that live on", 1),
                Count("candidates", int, "noises that each tries", 1),
                Parameter("preview_steps", int, "steps of a look; 1: the estimate that a tick makes anyway", 1),
                Sum("proposals", NAMES, "where noise comes from"),
                Parameter("cumulative", bool, "rank by the sum of a branch's scores"),
                Parameter("max_lag", int, "finished latents that may wait for branches to agree", 1),
            ),
            ("scalingnoise",),
        ),
        Search(
            "latsearch",
            "particles of a clip, thinned out while they are denoised",
            "LatSearch, Zhao et al. 2026",
            _latsearch,
            counts("particles"),
            (
                Count("particles", int, "how many begin", 1),
                Numbers("levels", int, "noise levels left at which they are scored", 1),
                Parameter("mode", ("unique", "systematic", "prune"), "how they are resampled"),
                Parameter("correlation", float, "share of a particle's noise that is its own, up to 1", 0),
                Parameter("temperature", float, "of the weights, in standard deviations of the scores", 0),
                Parameter(
                    "jitter", float, "share of a copy's noise that is replaced, up to 1, with mode=systematic", 0
                ),
            ),
            ("rgrp",),
            queues=False,
            unfinished=True,
        ),
        Search(
            "evolve",
            "generations of clips that begin ever later, from changed copies of good ones",
            "EvoSearch, He et al. 2025",
            _evolve,
            populations,
            (
                Counts("population", int, "members of each generation", 1),
                Numbers("levels", int, "noise level at which each begins, the first the steps", 1),
                Parameter("mutation", float, "share of the noise that a child replaces, up to 1", 0),
                Parameter("elite", int, "best ones that have a child for sure", 0),
            ),
            ("evosearch",),
            queues=False,
        ),
        Search(
            "local",
            "search near one noise",
            "Ma et al. 2025",
            lambda inner, reward, values, length: local(inner, reward, **values),
            counts("candidates"),
            (
                Parameter(
                    "mode", ("random", "zero-order", "paths"), "independent, around the best so far, along the way"
                ),
                Count("candidates", int, "noises a round", 1),
                Count("rounds", int, "how often", 1),
            ),
            queues=False,
        ),
        Search(
            "reflect",
            "look at the young end of the queue and grow it again where it breaks",
            "MIGA Alg. 6, Feng et al. 2026",
            _reflect,
            counts("tries", 16),
            (
                Parameter("threshold", float, "fall of the score from one tick to the next that is an anomaly"),
                Count("tries", int, "regrowths of which the best is taken", 1),
                Parameter("max_corrections", int, "anomalies of a run that are looked into", 0),
                Parameter("eval", int, "latents that are judged", 1),
                Parameter("ref", int, "latents in front that they are held against", 1),
                Parameter("guide", int, "latents in front that guide a regrowth", 0),
                Parameter("judge", float, "share of the steps that the judged latents have behind them", 0),
            ),
            reward="latent-cosine",
        ),
        Search(
            "freeinit",
            "make each clip again from noise that keeps its slow part",
            "Wu et al. 2024",
            lambda inner, reward, values, length: FreeInit(inner, **values),
            counts("iterations", 16),
            (
                Count("iterations", int, "rounds, 1: once as without it", 1),
                Parameter("cutoff", float, "how much counts as slow, a share of the highest frequency", 0),
            ),
            queues=False,
            reward="",
        ),
    )
}


def search(name: str) -> Search:
    """The row of a search by name or alias. UsageError lists the known ones."""
    aliases = {alias: row.name for row in SEARCHES.values() for alias in row.aliases}
    return SEARCHES[choose("search", aliases.get(name, name), SEARCHES, "--search")]


def make_search(row: Search, inner: Any, reward: Reward, values: Values, length: int | None = None) -> Any:
    """The search around a method. UsageError for parameters, and for methods, that cannot work."""
    try:
        made = row.make(inner, reward, values, length)
        searchable(made)
        return made
    except ValueError as error:
        raise UsageError(str(error)) from error
