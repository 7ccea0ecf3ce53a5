"""The protocol of long-video methods, and the values they exchange. A search is a rollout that wraps one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from longtake.core.model import Cond
from longtake.core.rows import Row
from longtake.core.step import Step

S = TypeVar("S")

Mix = Callable[[Row, Tensor], Tensor]
"""How a proposal makes the new x of a row from the row and fresh unit noise (C, H, W)."""


@dataclass(frozen=True)
class Timeline:
    """Prompts over time: (index of the first latent frame, prompt), sorted, the first at 0."""

    entries: tuple[tuple[int, str], ...]

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.entries]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"a timeline starts at latent 0 and its starts increase, got {starts}")

    @classmethod
    def of(cls, prompt: str | Mapping[int, str]) -> Timeline:
        """A timeline from one prompt, or from prompts by latent index."""
        return cls(((0, prompt),)) if isinstance(prompt, str) else cls(tuple(sorted(prompt.items())))

    def at(self, index: int) -> Cond:
        """The prompt of the latent frame at `index`; context rows before 0 share the first."""
        return max((entry for entry in self.entries if entry[0] <= max(index, 0)), key=lambda entry: entry[0])[1]

    def cond(self, indices: Iterable[int]) -> Cond:
        """The prompt of a window: the majority of the rows it commits, ties to the earlier."""
        return Counter(self.at(index) for index in sorted(indices)).most_common(1)[0][0]


@dataclass(frozen=True)
class Info:
    """What an emission cost and how it was chosen. Diagnostics only: no later step reads it."""

    nfe: int = 0
    frame_nfe: int = 0
    skipped: int = 0
    scores: tuple[float, ...] = ()
    chosen: int = 0
    ancestors: tuple[int, ...] = ()
    children: tuple[Info, ...] = ()


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
    """

    index: tuple[int, ...]
    x: tuple[Float[Tensor, "C H W"], ...]
    x0: tuple[Float[Tensor, "C H W"], ...]
    level: tuple[int, ...]
    cond: tuple[Cond, ...]
    past: tuple[Float[Tensor, "C H W"], ...] = ()


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
    row j can change when row j's prompt or noise changes.
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
class Reward(Protocol):
    """Scores branches, higher is better; all candidates come in one list.

    `needs` is a subset of {"x", "x0", "picture", "pixels", "past"}.
    """

    needs: frozenset[str]

    def __call__(self, views: list[View]) -> list[float]: ...
