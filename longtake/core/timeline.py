"""Prompts over time, by latent frame: which prompt a row has, and which one a window is told.

A window commits rows of several places and a network reads one prompt, so a rule decides (`Timeline.rule`). Prompts
may cross-fade: over `fade` rows their embeddings are mixed, so that a story turns instead of jumping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

from torch import Tensor

from longtake.core.model import Blend, Cond

Rule = Literal["majority", "start", "queue_switch"]
STEPS = 16
"""A cross-fade moves in this many steps, so that a denoiser's cache of embeddings stays small."""


@dataclass(frozen=True)
class Timeline:
    """Prompts over time: (index of the first latent frame, prompt), sorted, the first at 0.

    fade  rows over which a prompt gives way to the next, from the next one's start on; 0: at once
    cuts  starts that never fade
    pictures  (index, clean latent (C, H, W)): rows that are given, such as the picture that a video ends on
    rule  the prompt of a window: of most rows that it commits, ties to the earlier; of the first of
          them (MIGA Eq. A3 says of the window, which is the same where a window commits after what it reads); or of the
          queue's head, so that all rows in flight switch at once (FIFO-Diffusion's released code)
    """

    entries: tuple[tuple[int, str], ...]
    fade: int = 0
    cuts: tuple[int, ...] = ()
    rule: Rule = "majority"
    pictures: tuple[tuple[int, Tensor], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.entries]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"a timeline starts at latent 0 and its starts increase, got {starts}")
        if self.fade < 0:
            raise ValueError(f"fade is a number of rows from 0 up, got {self.fade}")
        if self.rule not in ("majority", "start", "queue_switch"):
            raise ValueError(f"prompt_rule is majority, start or queue_switch, got {self.rule!r}")

    @classmethod
    def of(cls, prompt: str | Mapping[int, str]) -> Timeline:
        """A timeline from one prompt, or from prompts by latent index."""
        return cls(((0, prompt),)) if isinstance(prompt, str) else cls(tuple(sorted(prompt.items())))

    def until(self, stop: int) -> Timeline:
        """The same as it is known before the row at `stop` enters: the last prompt that began stays for ever."""
        return replace(self, entries=tuple(entry for entry in self.entries if entry[0] < stop))

    def at(self, index: int) -> Cond:
        """The prompt of the latent frame at `index`; context rows before 0 share the first."""
        return self.entries[0][1] if len(self.entries) == 1 else self._blend(self._place(index))

    def cond(self, indices: Iterable[int]) -> Cond:
        """The prompt of a window that commits these rows."""
        if len(self.entries) == 1:
            return self.at(0)
        rows = sorted(indices)
        if self.rule == "start":
            return self.at(rows[0])
        scenes = [list(group) for _, group in groupby(rows, self._scene)]
        largest = max(scenes, key=len)  # the first of equals
        return self._blend(sum(map(self._place, largest)) / len(largest))

    def conds(self, head: int) -> Callable[[Sequence[int]], Cond]:
        """`cond` for a sweep over a queue whose first unfinished row is `head`."""
        return (lambda _: self.at(head)) if self.rule == "queue_switch" else self.cond

    def picture(self, index: int) -> Tensor | None:
        """The latent that is given for a place."""
        return next((latent for place, latent in self.pictures if place == index), None)

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every prompt, once."""
        return tuple(dict.fromkeys(prompt for _, prompt in self.entries))

    def _number(self, index: int) -> int:
        return max(number for number, (start, _) in enumerate(self.entries) if start <= max(index, 0))

    def _hard(self, number: int) -> bool:
        return self.fade == 0 or self.entries[number][0] in self.cuts

    def _scene(self, index: int) -> int:
        """The entry at which the last cut before this row lies."""
        return max(n for n in range(self._number(index) + 1) if n == 0 or self._hard(n))

    def _place(self, index: int) -> float:
        """The row's place among the entries: whole numbers are entries, fractions lie between two."""
        number = self._number(index)
        if number == 0 or self._hard(number):
            return number
        return number - 1 + min(1.0, (index - self.entries[number][0] + 1) / (self.fade + 1))

    def _blend(self, place: float) -> Cond:
        number = int(place)
        share = round((place - number) * STEPS) / STEPS
        if share == 0:
            return self.entries[number][1]
        if share == 1:
            return self.entries[number + 1][1]
        return Blend(self.entries[number][1], self.entries[number + 1][1], share)
