"""Turns: where a run takes another direction. Other noise, another prompt, from a latent on.

A turn at latent E is made in the first state that has released E latents, so everything before E stays, bit for bit.
What is in flight then changes with it:
- noise   each row in flight is noised again to its own level from its newest estimate, with other draws
          (`Rollout.fork` with a mix), and every row to come draws other noise. Rows that are nearly done change
          little, which is what joins the new stretch to the old.
- prompt  the windows that commit rows from E on read the new prompt from then on. Rows that were begun under the old
          one finish under the new one; the first row that is begun under it is `ruled_from`.
Generic over methods and searches: both are done through the Rollout protocol and a walk over the state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from longtake.core.noise import fold
from longtake.core.rollout import Mix, Timeline
from longtake.core.rows import Row
from longtake.core.schedule import NoiseSchedule
from longtake.core.tree import walk


@dataclass(frozen=True)
class Turn:
    """A change of direction at a latent. `key` 0 keeps the noise; `prompt` None keeps the prompts."""

    latent: int
    key: int = 0
    prompt: str | None = None


def key_of(seed: int) -> int:
    """The key of a turn that another seed makes; never 0."""
    return fold(0, "turn", seed) or 1


def directed(timeline: Timeline, turns: Sequence[Turn]) -> Timeline:
    """The prompts after these turns: each replaces all that was planned from its latent on."""
    for turn in turns:
        if turn.prompt is not None:
            kept = [entry for entry in timeline.entries if entry[0] < turn.latent]
            cuts = tuple(cut for cut in timeline.cuts if cut < turn.latent)
            timeline = replace(timeline, entries=(*kept, (turn.latent, turn.prompt)), cuts=cuts)
    return timeline


def shifted(timeline: Timeline, offset: int) -> Timeline:
    """The same prompts where latent `offset` counts as 0. A cross-fade that is under way there is over."""
    if offset == 0:
        return timeline
    now = [prompt for start, prompt in timeline.entries if start <= offset][-1]
    later = [(start - offset, prompt) for start, prompt in timeline.entries if start > offset]
    cuts = tuple(cut - offset for cut in timeline.cuts if cut > offset)
    pictures = tuple((place - offset, latent) for place, latent in timeline.pictures if place >= offset)
    return replace(timeline, entries=((0, now), *later), cuts=cuts, pictures=pictures)


def turned(rollout: Any, state: Any, turn: Turn, timeline: Timeline) -> Any:
    """The state after a turn. `timeline` counts as the state does and has the turn's prompt in it."""
    known = next((item for item in walk(state) if isinstance(item, Timeline)), timeline)
    if getattr(known, "pictures", ()):  # given latents stay where they are
        timeline = replace(timeline, pictures=known.pictures)
    state = retimed(state, timeline)
    return rollout.fork(state, turn.key, renoised(leaf(rollout).schedule), "flight") if turn.key else state


def renoised(schedule: NoiseSchedule) -> Mix:
    """A row's newest estimate with fresh noise at the row's own level; of a row that is still noise, other noise."""

    def mix(row: Row, noise: Tensor) -> Tensor:
        noise = noise.to(row.x)
        if row.level == schedule.num_steps:
            return noise
        if not row.memory.x0s:
            return row.x
        return schedule.alphas[row.level] * row.memory.x0s[0].to(row.x) + schedule.sigmas[row.level] * noise

    return mix


def ruled_from(rollout: Any, state: Any) -> int:
    """The first latent that a prompt given now rules from its first step on; at most `in_flight` ahead."""
    fresh = rollout.fresh(state)
    return fresh.start if fresh else state.emitted + rollout.in_flight


def leaf(rollout: Any) -> Any:
    """The method inside any searches."""
    while hasattr(rollout, "inner"):
        rollout = rollout.inner
    return rollout


def retimed(state: Any, timeline: Timeline) -> Any:
    """The same state under other prompts, wherever it keeps them; what is shared stays shared."""
    return _swapped(state, timeline, {})


def _swapped(value: Any, timeline: Timeline, memo: dict[int, Any]) -> Any:
    if isinstance(value, Timeline):
        return timeline
    if id(value) not in memo:
        memo[id(value)] = _rebuilt(value, timeline, memo)
    return memo[id(value)]


def _rebuilt(value: Any, timeline: Timeline, memo: dict[int, Any]) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        new = {name: _swapped(part, timeline, memo) for name, part in parts.items()}
        changed = {name: part for name, part in new.items() if part is not parts[name]}
        return replace(value, **changed) if changed else value
    if isinstance(value, tuple):
        items = [_swapped(item, timeline, memo) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return [_swapped(item, timeline, memo) for item in value]
    if isinstance(value, Mapping):
        return {key: _swapped(item, timeline, memo) for key, item in value.items()}
    return value
