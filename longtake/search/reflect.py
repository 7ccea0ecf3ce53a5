"""MIGA's self-reflection: look at the young end of the queue before every tick and grow it again where it breaks.

Feng et al. 2026, "MIGA", Alg. 6, Eq. 5-7. When the score of a short segment falls by more than a threshold from one
tick to the next, everything behind it is grown again `tries` times from other noise, guided by the rows in front, and
the best is kept if it is better than what was there. It needs a method that can regrow (`regrow`): fifo, progressive,
miga.
Symbols: delta_adju -> threshold, n_samp -> tries, f_eval -> eval, f_ref -> ref, f_guid -> guide, f_judg -> the first
row that has `1 - judge` of its steps still ahead (the released code: about a fifth of them done, hence judge = .2).

Deviations: Alg. 6 as printed scores slices of the wrong queue, never steps the last rows and mixes f_guid with
f_judg; here each copy's own segment is held against the same references, copies are grown to the levels that the
rows had, rows in front stay frozen. As in the paper, the score is held against that of the tick before, which judged
the rows in front of these; where a queue is not looked at in every tick, against the last look. At most
`max_corrections` anomalies of a run are looked into. It works while the queue fills, in stage 1, and on any queue that
is long enough to hold the rows that are compared (`looks`); rows that MIGA's stage 2 has begun are not judged, since
its windows still read what they were.

Every look stands among the trace's candidates, alone or with the regrowths that it led to; `rates` counts them.

Cost: the inner rollout, and `tries` regrowths a trigger. One takes the sweeps that the rows behind the judged place
took: the sum over i = 1..n of ceil(i z / s) windows for n groups of z rows and stride s, less where windows fall
together because few rows stand in front. MIGA Eq. A4 counts one window a sweep, n, which is right only while z n <= s.
With nothing triggered it is the inner rollout, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.noise import fold
from longtake.core.plan import Ghost, emptied
from longtake.core.rollout import Emission, Info, Mix, Reward, Timeline, View
from longtake.core.step import Step, all_of
from longtake.search import branch
from longtake.search.branch import Member, Origin


@dataclass(frozen=True, eq=False)
class ReflectState:
    """The inner state, the score of the last look, and how often the segment was looked at, tried and corrected."""

    state: Any
    tick: int = 0
    last: float | None = None
    looked: int = 0
    tried: int = 0
    corrected: int = 0
    book: Info = field(default_factory=Info)

    @property
    def emitted(self) -> int:
        """The inner rollout's: no emission waits here."""
        return self.state.emitted

    @property
    def finished(self) -> bool:
        """True when the inner rollout is."""
        return self.state.finished

    @property
    def correction_rate(self) -> float:
        """R_corr of MIGA Sec. 4.3: corrected steps of all that were looked at."""
        return self.corrected / max(self.looked, 1)

    @property
    def success_rate(self) -> float:
        """R_succ of MIGA Sec. 4.3: corrected steps of those that were tried."""
        return self.corrected / max(self.tried, 1)


@dataclass(frozen=True)
class Reflect:
    """Self-reflection around a method that can regrow. Rows are counted in latents."""

    inner: Any
    reward: Reward
    threshold: float = 0.01
    tries: int = 3
    max_corrections: int = 64
    eval: int = 4
    ref: int = 8
    guide: int = 12
    judge: float = 0.2

    def __post_init__(self) -> None:
        for name in ("tries", "eval", "ref"):
            if getattr(self, name) < 1:
                raise ValueError(f"reflect.{name} must be at least 1, got {getattr(self, name)}")
        if self.guide < 0 or self.max_corrections < 0:
            raise ValueError("reflect.guide and reflect.max_corrections must be at least 0")
        if not 0 <= self.judge < 1:
            raise ValueError(f"reflect.judge is a share of the steps, at least 0 and below 1; got {self.judge:g}")
        if not hasattr(self.inner, "regrow"):
            name = type(self.inner).__name__.lower()
            raise ValueError(f"{name} cannot regrow a part of its queue; use reflect with fifo, progressive or miga")
        steps, handover = branch.leaf(self.inner).schedule.num_steps, getattr(branch.leaf(self.inner), "handover", 0)
        if handover >= steps * (1 - self.judge):
            most = math.ceil(steps * (1 - self.judge)) - 1
            raise ValueError(
                f"reflect judges rows at levels from {most + 1} up, in stage 1, and miga.handover={handover} leaves "
                f"those to stage 2; use --set miga.handover={most} or less"
            )

    @property
    def num(self) -> int:
        """Candidates of a decision."""
        return self.tries + 1

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
        """The score may read any row in flight."""
        return self.in_flight

    @property
    def worst(self) -> Reflect:
        """Every look is a trigger: the bound of what it may cost."""
        return replace(self, threshold=-math.inf)

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[ReflectState]:
        """The inner rollout's first state."""
        return ReflectState((yield from self.inner.init(seed, timeline, context)))

    def step(self, state: ReflectState) -> Step[tuple[ReflectState, Emission]]:
        """Alg. 6, then the tick itself."""
        state = yield from self._reflected(state)
        inner, emission = yield from self.inner.step(state.state)
        told, book = branch.joined(emission.start, [emission], state.book)
        return replace(state, state=inner, tick=state.tick + 1, book=book), told

    def fresh(self, state: ReflectState) -> range:
        """The inner rollout's undecided rows."""
        return self.inner.fresh(state.state)

    def fork(self, state: ReflectState, key: int, mix: Mix | None = None, which: str = "fresh") -> ReflectState:
        """Other noise in the inner state."""
        return state if key == 0 else replace(state, state=self.inner.fork(state.state, key, mix, which))

    def view(self, state: ReflectState) -> View:
        """The inner rollout's view."""
        return self.inner.view(state.state)

    def _reflected(self, state: ReflectState) -> Step[ReflectState]:
        first = self._judged_row(state.state)
        if first is None:
            return state
        [score], cost = branch.judged(self.reward, [self._segment(state.state, first)])
        state = replace(state, looked=state.looked + 1, book=branch.gathered(state.book, cost))
        # Alg. 6, l. 9: only a fall from one tick to the next is an anomaly
        if state.last is None or not state.last - score > self.threshold or state.tried >= self.max_corrections:
            seen = branch.records(state.tick, [self._member(state.state, 0, state.tick, first)], [score], [0])
            seen = Info(candidates=seen.candidates)  # nothing was chosen
            return replace(state, last=score, book=branch.gathered(state.book, seen))
        keys = [branch.fork_key(self.inner, state.tick, number) for number in range(1, self.num)]
        grown = yield from all_of([(self.inner.regrow, (state.state, first, key, self.guide)) for key in keys])
        scores, paid = branch.judged(self.reward, [self._segment(copy, first) for copy in grown])
        scores = [score, *scores]
        best = branch.ranked(scores)[0]  # of equals the first, which is what was there
        members = [self._member(copy, number, state.tick, first) for number, copy in enumerate([state.state, *grown])]
        told = branch.records(state.tick, members, scores, [best])
        return replace(
            state,
            state=members[best].state,
            last=scores[best],
            tried=state.tried + 1,
            corrected=state.corrected + (best > 0),
            book=branch.gathered(state.book, paid, told),
        )

    def _judged_row(self, state: Any) -> int | None:
        # f_judg: the oldest row with so many steps still ahead, if the rows to compare are there
        view, steps = self.inner.view(state), branch.leaf(self.inner).schedule.num_steps
        young = [
            index for index, level in zip(view.index, view.level, strict=True) if level >= steps * (1 - self.judge)
        ]
        if not young or len(view.index) < self.eval + 1:
            return None
        first, present = young[0], set(view.index)
        needed = range(first - self.ref, first + self.eval)
        return first if all(index in present for index in needed) else None

    def _segment(self, state: Any, first: int) -> View:
        """The view of the reference rows and of the segment that is judged, alone."""
        view = self.inner.view(state)
        chosen = [place for place, index in enumerate(view.index) if first - self.ref <= index < first + self.eval]

        def only(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[place] for place in chosen)

        told = [str(cond) for cond in only(view.cond)[-self.eval :]]  # the prompt of most of what is judged
        prompt = max(told, key=told.count, default="")
        parts = only(view.index), only(view.x), only(view.x0), only(view.level), only(view.cond)
        return View(*parts, prompt=prompt, span=len(chosen))

    def _member(self, state: Any, number: int, tick: int, first: int) -> Member:
        stop = max(self.inner.view(state).index, default=first) + 1
        origin = Origin(0, number, "regrown" if number else "own", first, stop)
        return Member(state, fold(0, tick, number), origin=origin)


def rates(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """How often a run was looked at, tried and corrected, and R_corr and R_succ of MIGA Sec. 4.3, from its trace.

    What was looked at after the last latents came out is not in it.
    """
    looks: dict[int, list[Mapping[str, Any]]] = {}
    for candidate in (one for line in lines for one in line.get("candidates", ())):
        if candidate["proposal"] in ("own", "regrown"):
            looks.setdefault(candidate["tick"], []).append(candidate)
    tried = [looked for looked in looks.values() if len(looked) > 1]
    corrected = sum(one["verdict"] == "kept" and one["number"] > 0 for looked in tried for one in looked)
    found = {"looked": len(looks), "tried": len(tried), "corrected": corrected}
    return found | {"R_corr": corrected / max(len(looks), 1), "R_succ": corrected / max(len(tried), 1)}


SIZES = ((4, 8), (3, 6), (2, 4), (1, 2))
"""(eval, ref) that are tried where none are given: MIGA Fig. 3's, and what fits into shorter queues."""


def looks(rollout: Reflect) -> bool:
    """Whether the queue is ever long enough for the rows to compare: the inner rollout run without a network."""
    ghost, engine = emptied(rollout.inner), Engine(Ghost(), batch=1 << 20)
    state = engine.drive(ghost.init(0, Timeline.of("")))
    while not state.finished and state.emitted < rollout.in_flight:
        if rollout._judged_row(state) is not None:
            return True
        state, _ = engine.drive(ghost.step(state))
    return False


def fitted(inner: Any, reward: Reward, **values: Any) -> Reflect:
    """Reflection with `eval` and `ref` that fit into the queue where neither is given. ValueError if none do."""
    given = "eval" in values or "ref" in values
    tried = [values] if given else [{**values, "eval": many, "ref": before} for many, before in SIZES]
    for one in tried:
        made = Reflect(inner, reward, **one)
        if looks(made):
            return made
    name = type(inner).__name__.lower()
    raise ValueError(
        f"reflect would never look: at no tick does the queue of {name} hold the latents to judge "
        f"(eval {made.eval} from {made.judge:g} of the steps on) and {made.ref} before them; "
        f"give smaller reflect.eval and reflect.ref, or use miga or fifo"
    )
