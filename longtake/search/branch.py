"""A branch of a search, and the book of what was judged: shared by all searches.

A branch owns everything that a reward may read of it: its newest finished latents, those finished since it forked, and
what the reward remembers of the rest (decoder cache, features of anchors). Nothing of it is shared between branches,
so that no branch is ever judged by the anchor or decoded behind the frames of another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longtake.core.noise import fold, root
from longtake.core.plan import mixes_levels, ticks_to_show
from longtake.core.rollout import Candidate, Emission, Info, Mix, Reward, Rollout, Timeline, View
from longtake.core.rows import Row
from longtake.core.solvers import Memory
from longtake.core.tree import substituted, walk


class Origin(NamedTuple):
    """How a branch came about: its parent's name, its number among siblings, its proposal, the rows it decided, and
    the first of those that began as pure noise, whose level tells how far the branch has come.
    """

    parent: int = 0
    number: int = 0
    proposal: str = "own"
    start: int = 0
    stop: int = 0
    lead: int = 0


@dataclass(frozen=True, eq=False)
class Pending:
    """An emission that not every member has agreed to. `lineage` is the name of the member that made it."""

    lineage: int
    emission: Emission


@dataclass(frozen=True, eq=False)
class Member:
    """One branch.

    past     its newest finished latents, (C, H, W) each
    recent   its emissions since it forked: a reward judges them
    pending  its emissions that are not released
    memory   what the reward's `follow` made of everything before `recent`
    noises   the initial noise of its newest rows, where proposals read it
    total    sum of its scores, or of its weights
    age      ticks since it forked
    """

    state: Any
    name: int
    score: float = 0.0
    past: tuple[Tensor, ...] = ()
    pending: tuple[Pending, ...] = ()
    recent: tuple[Emission, ...] = ()
    memory: Any = None
    noises: tuple[Tensor, ...] = ()
    total: float = 0.0
    age: int = 0
    origin: Origin = field(default_factory=Origin)


def first(reward: Reward, state: Any, context: Sequence[Tensor], keep: int, name: int) -> Member:
    """The branch that a run begins with, behind `context`. `name`: see `begun`."""
    emissions = (Emission(-len(context), tuple(context)),) if context else ()
    member = Member(state, name, past=tuple(context[max(len(context) - keep, 0) :]), recent=emissions)
    return settled(reward, member)[0]


def begun(inner: Rollout[Any], seed: int) -> int:
    """The name of the branch that a search around `inner` begins with. What a search draws is keyed by it or by names
    that are made of it, so that it depends on the seed, and on how deep the search is nested.
    """
    return fold(root(seed), "search", depth(inner))


def moved(member: Member, state: Any, emission: Emission, keep: int) -> Member:
    """The branch after a tick of its rollout; it keeps what is finished since it forked, and `keep` latents before."""
    member = replace(member, state=state, age=member.age + 1)
    if not emission.latents:
        return member
    recent = (*member.recent, replace(emission, info=Info()))
    past = (*member.past, *emission.latents)[-keep - _many(recent) :]
    return replace(member, past=past, recent=recent)


def settled(reward: Reward, member: Member) -> tuple[Member, Info]:
    """(the branch with what was recent remembered by the reward, what that cost)."""
    follow, memory, before = getattr(reward, "follow", None), member.memory, getattr(reward, "decodes", 0)
    if follow is not None:
        for emission in member.recent:
            memory = follow(memory, emission)
    cost = Info(decodes=getattr(reward, "decodes", 0) - before)
    return replace(member, memory=memory, recent=(), age=0), cost


def look(inner: Rollout[Any], member: Member, timeline: Timeline, view: View | None = None) -> View:
    """What a reward may read of a branch; `view` is the rollout's own of it, or of its preview, which is judged whole.

    The prompt is that of the rows that are judged: of a view without `span` those of a window at its end.
    """
    if view is None:
        view = inner.view(member.state)
    elif view.span is None:
        view = replace(view, span=len(view.x0))
    rows = [*_came_out(member), *view.index]
    rows = rows[max(len(rows) - (leaf(inner).window if view.span is None else view.span), 0) :]
    head = view.index[0] if view.index and view.span is None else rows[0] if rows else 0
    return replace(
        view,
        past=member.past,
        recent=_many(member.recent),
        guide=member.recent[0].guide if member.recent else view.guide,
        memory=member.memory,
        prompt=str(timeline.conds(head)(rows)) if rows else "",
    )


def became(inner: Rollout[Any], member: Member, timeline: Timeline, out: bool = False) -> View:
    """What a reward may read of a branch that is compared by what it became since it forked.

    Of clips that are the rows that came out; while they are unfinished, their estimates. On queues it is what the
    branch decided and the rows behind it, a window in all, or as many more as came out: the rows further behind are
    noise whose estimates say little. `out`: what came out alone, as of videos that end there.
    """
    view, emitted = inner.view(member.state), member.state.emitted
    (_, _, _, start, stop, _), window = member.origin, leaf(inner).window
    end = emitted if out else max(stop, start + window, emitted)
    places = [place for place, index in enumerate(view.index) if index < end]
    parts = {name: tuple(getattr(view, name)[place] for place in places)
             for name in ("index", "x", "x0", "level", "cond")}  # fmt: skip
    rows = [*_came_out(member), *parts["index"]]
    begin = rows[0] if rows and (out or whole(inner)) else start
    span = max(sum(index >= begin for index in rows), min(window, len(rows)))
    return look(inner, member, timeline, replace(view, **parts, span=span))


def _came_out(member: Member) -> list[int]:
    return [index for emission in member.recent for index in range(emission.start, emission.stop)]


def _many(emissions: Sequence[Emission]) -> int:
    return sum(len(emission.latents) for emission in emissions)


def judged(reward: Reward, views: list[View]) -> tuple[list[float], Info]:
    """(a score for each view, what that cost). A score that is no number is the worst."""
    before = getattr(reward, "decodes", 0)
    scores = [-math.inf if math.isnan(score) else float(score) for score in reward(views)]
    return scores, Info(decodes=getattr(reward, "decodes", 0) - before, reward_calls=len(views))


def ranked(values: Sequence[float]) -> list[int]:
    """Places from best to worst; of equals the earlier first, so that the parent's own noise wins a tie."""
    return sorted(range(len(values)), key=lambda place: -values[place])


def records(tick: int, members: Sequence[Member], scores: Sequence[float], kept: Iterable[int]) -> Info:
    """The judgement for the trace. `kept` are places, best first; none, where an earlier one stays the best."""
    order = tuple(kept)
    entries = []
    for place, (member, score) in enumerate(zip(members, scores, strict=True)):
        parent, number, proposal, start, stop, _ = member.origin
        verdict = "kept" if place in order else "dropped"
        names = f"{member.name:016x}", f"{parent:016x}"
        entries.append(Candidate(tick, *names, number, proposal, score, verdict, (start, stop)))
    return Info(scores=tuple(scores), chosen=order[0] if order else -1, ancestors=order, candidates=tuple(entries))


def gathered(*infos: Info) -> Info:
    """Several judgements as one: costs and candidates add up, scores are the last that there were."""
    told = [info for info in infos if info.scores]
    return replace(
        told[-1] if told else Info(),
        decodes=sum(info.decodes for info in infos),
        reward_calls=sum(info.reward_calls for info in infos),
        candidates=tuple(candidate for info in infos for candidate in info.candidates),
        ess=tuple(value for info in infos for value in info.ess),
    )


def joined(start: int, emissions: Sequence[Emission], book: Info) -> tuple[Emission, Info]:
    """(released emissions as one, the book for the next). What was judged is told with the next latents that come out.

    A guide survives only where one emission is released, as chunks do.
    """
    latents = tuple(latent for emission in emissions for latent in emission.latents)
    guide = emissions[0].guide if len(emissions) == 1 else ()
    if not latents:
        return Emission(start), book
    info = replace(book, children=tuple(emission.info for emission in emissions))
    return Emission(start, latents, info, guide), Info()


def leaf(rollout: Any) -> Any:
    """The method below all searches."""
    while hasattr(rollout, "inner"):
        rollout = rollout.inner
    return rollout


def depth(rollout: Any) -> int:
    """How many searches wrap the method."""
    return 1 + depth(rollout.inner) if hasattr(rollout, "inner") else 0


def fork_key(inner: Any, tick: int, number: int) -> int:
    """What candidate `number` of a decision forks with; 0 is its parent itself.

    The tick is in it, else relatives that fork at different ages would draw alike; and so is how deep the search
    is nested, else its candidates would be those of the search that it wraps.
    """
    level = depth(inner)
    return fold(tick, "candidate", number, *((level,) if level else ())) if number else 0


def lead_of(inner: Rollout[Any], state: Any) -> int:
    """The first fresh row of pure noise. A queue that was filled from a clip has fresh rows at all levels."""
    fresh, top = inner.fresh(state), leaf(inner).schedule.num_steps
    rows = [item.index for item in walk(state) if isinstance(item, Row) and item.index in fresh and item.level == top]
    return min(rows, default=fresh.start)


def level_of(inner: Rollout[Any], state: Any, index: int) -> int:
    """The level of a row: the top while it has not been read, 0 when it has come out."""
    if state.emitted > index:
        return 0
    view = inner.view(state)
    top: int = leaf(inner).schedule.num_steps
    return dict(zip(view.index, view.level, strict=True)).get(index, top)


def whole(inner: Rollout[Any]) -> bool:
    """Whether what is decided together comes out together, as clips do, and not bit by bit, as from queues."""
    method = leaf(inner)
    following, crossing = ticks_to_show(method)
    return following == crossing and not mixes_levels(method, clean=False)


def altered(inner: Rollout[Any], state: Any, key: int, mix: Mix | None, start: int) -> Any:
    """The state with other noise to come, and `mix`, in the rows in flight from `start` on; those before it stay."""

    def made(row: Row, fresh: Tensor) -> Tensor:
        return mix(row, fresh) if mix is not None and row.index >= start else row.x

    forked = inner.fork(state, key, made if mix is not None else None, "flight")
    kept = {id(item.x): item for item in walk(state) if isinstance(item, Row) and item.index < start}
    rows = [item for item in walk(forked) if isinstance(item, Row) and item.index < start and id(item.x) in kept]
    return substituted(forked, {id(row): kept[id(row.x)] for row in rows}) if rows else forked


def undecided(inner: Rollout[Any], state: Any) -> tuple[Tensor, ...]:
    """The noise of the fresh rows, in order; of the first branch if the state holds several."""
    fresh, found = inner.fresh(state), {}
    for item in walk(state):
        if isinstance(item, Row) and not item.seen and item.index in fresh:
            found.setdefault(item.index, item.x)
    return tuple(found[index] for index in sorted(found))


def shared(states: Sequence[Any]) -> list[Any]:
    """The same states with equal rows made one object, so that relatives ask for equal windows once."""
    known: dict[tuple[int, int, int], list[Row]] = {}
    rows = [item for item in walk(tuple(states)) if isinstance(item, Row)]
    memo: dict[int, Any] = {}
    for row in rows:
        group = known.setdefault((row.index, row.level, row.path), [])
        twin = next((other for other in group if _equal(row, other)), None)
        memo[id(row)] = twin if twin is not None else row
        if twin is None:
            group.append(row)
    return [substituted(state, memo) for state in states]


def _equal(left: Row, right: Row) -> bool:
    mine, yours = left.memory, right.memory
    if left.seen != right.seen or mine.levels != yours.levels or mine.order != yours.order:
        return False
    pairs = zip((left.x, *_tensors(mine)), (right.x, *_tensors(yours)), strict=True)
    return (mine.start is None) == (yours.start is None) and all(torch.equal(a, b) for a, b in pairs)


def _tensors(memory: Memory) -> tuple[Tensor, ...]:
    return memory.x0s if memory.start is None else (*memory.x0s, memory.start)
