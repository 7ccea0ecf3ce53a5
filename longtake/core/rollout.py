"""The protocol of long-video methods, and the values they exchange. A search is a rollout that wraps one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from longtake.core.model import Cond
from longtake.core.rows import Row, clean_row, noise_row
from longtake.core.step import Step
from longtake.core.timeline import Timeline as Timeline

S = TypeVar("S")

Mix = Callable[[Row, Tensor], Tensor]
"""How a proposal makes the new x of a row from the row and fresh unit noise (C, H, W)."""


@dataclass(frozen=True)
class Candidate:
    """One branch that a search judged. Plain numbers and words, for the trace.

    tick      of the search, at which it was judged
    name      of the branch, and of the one that it forked from (hexadecimal)
    number    among its siblings; 0 keeps its parent's own noise
    proposal  where its noise came from
    verdict   "kept" or "dropped"
    rows      [first, stop) of the latents whose noise was decided
    """

    tick: int
    name: str
    parent: str
    number: int
    proposal: str
    score: float
    verdict: str
    rows: tuple[int, int]


@dataclass(frozen=True)
class Info:
    """What an emission cost and how it was chosen. Diagnostics only: no later step reads it.

    decodes       latents decoded by rewards since the last emission
    reward_calls  views scored since the last emission
    candidates    all that was judged since the last emission
    ess           effective number of particles at each resampling since then
    """

    nfe: int = 0
    frame_nfe: int = 0
    skipped: int = 0
    scores: tuple[float, ...] = ()
    chosen: int = 0
    ancestors: tuple[int, ...] = ()
    children: tuple[Info, ...] = ()
    decodes: int = 0
    reward_calls: int = 0
    candidates: tuple[Candidate, ...] = ()
    ess: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Emission:
    """Finished latents, final once released. `start` counts those emitted before, also when this one is empty.

    `guide`: latents to decode first from an empty decoder cache, their frames dropped (joins through pixels only).
    """

    start: int
    latents: tuple[Tensor, ...] = ()  # each (C, H, W)
    info: Info = field(default_factory=Info)
    guide: tuple[Tensor, ...] = ()

    @property
    def stop(self) -> int:
        """The number of latents emitted after this emission."""
        return self.start + len(self.latents)


@dataclass(frozen=True, eq=False)
class View:
    """What a reward may read of a branch: rows in flight that a network has seen, and the last finished latents.

    `x0` comes from the rows' memory and costs no network call. N rows, P past latents; either may be 0.

    recent  how many of `past` were finished since the candidates forked: they are judged, the rest is what came before
    guide   latents to decode before the recent ones from an empty cache (`Emission.guide`)
    memory  what the reward's `follow` made of the branch's latents before the recent ones: decoder cache, anchors
    prompt  of the clip that is judged
    span    how many latents at the end of the clip are judged; None: of what is unfinished as many as a reward reads
    """

    index: tuple[int, ...]
    x: tuple[Float[Tensor, "C H W"], ...]
    x0: tuple[Float[Tensor, "C H W"], ...]
    level: tuple[int, ...]
    cond: tuple[Cond, ...]
    past: tuple[Float[Tensor, "C H W"], ...] = ()
    recent: int = 0
    guide: tuple[Float[Tensor, "C H W"], ...] = ()
    memory: Any = None
    prompt: str = ""
    span: int | None = None

    @property
    def clip(self) -> tuple[Tensor, ...]:
        """The latents to judge, in order: those finished since the fork, then the estimates of those in flight."""
        return (*self.past[max(len(self.past) - self.recent, 0) :], *self.x0)

    @property
    def before(self) -> tuple[Tensor, ...]:
        """The finished latents that the clip follows."""
        return self.past[: max(len(self.past) - self.recent, 0)]

    def judged(self, most: int | None = None) -> tuple[Tensor, ...]:
        """The end of the clip that is judged: `span` latents of it, or where the search names none at most `most`."""
        many = most if self.span is None else self.span
        return self.clip if many is None else self.clip[max(len(self.clip) - many, 0) :]


def entering(timeline: Timeline, shape: Sequence[int], level: int, index: int, path: int) -> Row:
    """The row that enters at a place: pure noise, or the clean latent that is given for it, which nothing moves."""
    given = timeline.picture(index)
    return noise_row(shape, level, index, path) if given is None else clean_row(given, index, path)


def view_of(rows: Sequence[Row], timeline: Timeline) -> View:
    """The view of the rows that have been seen and are not finished. Unseen rows are noise: no reward reads them."""
    shown = [row for row in rows if row.seen and row.level > 0 and row.memory.x0s]
    return View(
        tuple(row.index for row in shown),
        tuple(row.x for row in shown),
        tuple(row.memory.x0s[0] for row in shown),
        tuple(row.level for row in shown),
        tuple(timeline.at(row.index) for row in shown),
    )


@runtime_checkable
class Rollout(Protocol[S]):
    """A long-video method. States are frozen values with `emitted`, the number of latents released so far, and
    `finished`, true only for a method that cannot go on. A tick is the smallest resumable unit.

    `shape` is (C, H, W) of a latent; `in_flight` bounds the rows alive at once; `reach` is how many latents before
    row j can change when row j's prompt changes.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def reach(self) -> int: ...

    @property
    def in_flight(self) -> int: ...

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[S]:
        """The first state. `context` are clean latents (C, H, W) of a picture or clip to continue, oldest first."""
        ...

    def step(self, state: S) -> Step[tuple[S, Emission]]:
        """One tick. The emission may be empty. Must not depend on how many frames are wanted."""
        ...

    def fresh(self, state: S) -> range:
        """Indices of rows whose initial noise is in the state and undecided; empty: nothing to decide here."""
        ...

    def fork(self, state: S, key: int, mix: Mix | None = None, which: str = "fresh") -> S:
        """Key 0 is the state itself; any other gives other noise to those rows and to all rows to come.

        `which="flight"` takes every row in flight: it changes the noise still to be drawn and, with `mix`, the rows.
        """
        ...

    def view(self, state: S) -> View:
        """What a reward may read of this state."""
        ...


@runtime_checkable
class Previewable(Protocol):
    """A rollout that can finish its undecided rows on a coarse grid of levels, from the same noise."""

    def preview(self, state: Any, steps: int) -> Step[View]:
        """The newest window, finished in `steps` network calls; rows of the view are at level 0."""
        ...


@runtime_checkable
class Reward(Protocol):
    """Scores branches, higher is better; all candidates come in one list.

    `needs` is a subset of {"x", "x0", "picture", "pixels", "past"}. Two members are optional.
    `follow(memory, emission)` returns what to remember of a branch after more of its latents are finished (None at
    first): a value that a checkpoint can hold; it comes back as `View.memory`, one for each branch.
    `decodes` is the number of latents decoded so far.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    def __call__(self, views: list[View]) -> list[float]: ...
