"""The story of a run of pocket's world: its prompts over time as events, watched by pocket's judge.

Events are what the trace tells: frames whose latents have the same prompt, one after the other. What they ask for is
what the prompt names of subject, place, motion and time of day; the set `measure` of the judge says what is seen. A
prompt without a known subject cannot be scored, nor can a story of one event: `events` gives none then.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longtake.metrics import judge as judging
from longtake.metrics import world
from longtake.metrics.measure import portions
from longtake.metrics.story import Event, by_event, score, watch
from longtake.world.captions import parse

ASKED = ("subject", "place", "motion", "time")
SHORTEST = 8
"""Frames below which an event shows no motion to judge."""


def events(lines: Sequence[dict[str, Any]], num_frames: int) -> list[Event]:
    """The events of a trace, none if it tells no story that can be scored."""
    found: list[Event] = []
    said: str | None = None
    for line in lines:
        start, stop = line["frames"][0], min(line["frames"][1], num_frames)
        if stop <= start:
            continue
        if line.get("prompt") == said and found:
            found[-1] = Event(found[-1].start, stop, found[-1].asked)
            continue
        said = line.get("prompt")
        words = parse(said or "")
        asked = {key: value for key in ASKED if (value := getattr(words, key)) is not None}
        if "subject" not in asked:
            return []
        found.append(Event(start, stop, asked))
    short = any(event.stop - event.start < SHORTEST for event in found)
    return [] if len(found) < 2 or short else found


def entries(path: Path, told: Sequence[Event]) -> dict[str, dict[str, Any]]:
    """`story_fidelity`, `story_coverage` and `story_coherence` of a video; n counts the clips looked at.

    The first also has `events`: what each event, a segment of the video, has of all three.
    """
    judge = judging.load()
    clip = min(judging.SPAN, *(event.stop - event.start for event in told))
    seen = watch(portions(path), told, lambda frames: world.read(judge, frames), clip)
    count = sum(map(len, seen))
    found: dict[str, dict[str, Any]] = {
        f"story_{name}": {"value": value, "encoder": judging.label("measure"), "n": count}
        for name, value in score(told, seen).items()
    }
    found["story_fidelity"]["events"] = by_event(told, seen)
    return found
