"""How well a video tells a story of several events: fidelity, coverage and coherence.

The three questions are NarrLV's (Feng et al. 2025), asked of a classifier that names what a clip shows instead of a
language model of 72 billion parameters that answers questions; so the numbers are not NarrLV's.

An event asks for attributes, such as {"subject": "dog", "motion": "right"}, in its own segment of the video, which is
cut into clips; the classifier names the attributes of each clip.

    fidelity    the mean over events, over what each asks for, of the share of its clips that show it
    coverage    the share of events with a clip that shows all they ask for
    coherence   the mean over neighbouring events of: 1 if both are covered and everything both ask for alike is seen in
                the last clip of the first and in the first clip of the second, the same in both; None of one event

An event that changes nothing (the same attributes as the one before) counts as any other. Coherence asks for what is
*seen* to stay, right or wrong: a cat throughout a dog's story costs fidelity, a dog that turns into a cat coherence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from longtake.errors import UsageError
from longtake.metrics.vbench import average

Seen = Mapping[str, str]
Classifier = Callable[[UInt8[Tensor, "T H W 3"]], Seen]


@dataclass(frozen=True)
class Event:
    """Frames [start, stop) that should show `asked`, attribute by attribute."""

    start: int
    stop: int
    asked: Mapping[str, str]


def score(events: Sequence[Event], seen: Sequence[Sequence[Seen]]) -> dict[str, float | None]:
    """{"fidelity", "coverage", "coherence"} from what the clips of every event show, in order.

    UsageError if an event asks for nothing or has no clip.
    """
    if not events or len(events) != len(seen):
        raise UsageError(f"a story needs events and clips of each, got {len(events)} events and clips of {len(seen)}")
    for number, (event, clips) in enumerate(zip(events, seen, strict=True), 1):
        if not event.asked:
            raise UsageError(f"event {number} of the story asks for nothing; name a subject, a place or a motion")
        if not clips:
            raise UsageError(f"event {number} of the story is too short for a clip")
    hits = [
        [{key: clip.get(key) == want for key, want in e.asked.items()} for clip in c]
        for e, c in zip(events, seen, strict=True)
    ]
    fidelity = average([sum(clip[key] for clip in clips) / len(clips) for clips in hits for key in clips[0]])
    covered = [any(all(clip.values()) for clip in clips) for clips in hits]
    joins = [
        covered[i] and covered[i + 1] and _stays(events[i].asked, events[i + 1].asked, seen[i][-1], seen[i + 1][0])
        for i in range(len(events) - 1)
    ]
    return {"fidelity": fidelity, "coverage": average(covered), "coherence": average(joins)}


def by_event(events: Sequence[Event], seen: Sequence[Sequence[Seen]]) -> list[dict[str, float]]:
    """Each event of a story that can be scored: {"start", "stop", "fidelity", "covered"}, and "coherence" with the one
    before it, but for the first.
    """
    told: list[dict[str, float]] = []
    for number, event in enumerate(events):
        alone = score([event], [seen[number]])
        row = {"start": event.start, "stop": event.stop, "fidelity": alone["fidelity"], "covered": alone["coverage"]}
        if number:
            row["coherence"] = score(events[number - 1 : number + 1], seen[number - 1 : number + 1])["coherence"]
        told.append({name: value for name, value in row.items() if value is not None})
    return told


def watch(
    frames: Iterable[UInt8[Tensor, "T H W 3"]], events: Sequence[Event], classify: Classifier, clip: int
) -> list[list[Seen]]:
    """What a stream of frames shows, event by event, in clips of `clip` frames, in memory of one clip.

    The rest of an event behind its last whole clip is not looked at, unless it is all there is.
    """
    seen: list[list[Seen]] = [[] for _ in events]
    held: list[Tensor] = []
    number, at = 0, 0
    for portion in frames:
        for frame in portion:
            while number < len(events) and at >= events[number].stop:
                number, held = number + 1, []
            if number < len(events) and at >= events[number].start:
                held.append(frame)
                last = at + 1 == events[number].stop and not seen[number]
                if len(held) == clip or (last and len(held) > 1):
                    seen[number].append(classify(torch.stack(held)))
                    held = []
            at += 1
    return seen


def _stays(before: Mapping[str, str], after: Mapping[str, str], last: Seen, first: Seen) -> bool:
    kept = [key for key, want in before.items() if after.get(key) == want]
    return all(key in last and last[key] == first.get(key) for key in kept)
