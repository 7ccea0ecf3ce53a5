"""Prompts over time as people write them, read into scenes: when each begins, and whether with a hard cut.

    a dog runs | a dog sleeps                 equal parts of the video
    a dog runs[5s] | a dog sleeps[10s#]       so long each; # begins with a hard cut, the others may fade (--set fade=)
    {"0s": "a dog runs", "5s": "..."}         a JSON file: when each begins, in seconds (s) or frames (f)
    0s: a dog runs                            lines of a file: when each begins
    [5s-15s] a dog sleeps

A file may also hold one prompt on its only line.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from longtake.errors import UsageError

MAX_SCENES = 1000
MAX_BYTES = 1 << 20
TIME = r"(\d{1,7}(?:\.\d{1,6})?)\s*(s|f|ms|m)?"
LENGTH = re.compile(rf"^(?P<text>.*?)\s*\[\s*(?:{TIME})?\s*(?P<cut>#?)\s*\]\s*$", re.DOTALL)
LINE = re.compile(rf"^\[?\s*{TIME}(?:\s*-\s*{TIME})?\s*(?P<cut>#?)\s*(?:\]\s*:?|:)\s*(?P<text>.+)$")
HOW = 'write {"0s": "...", "5s": "..."}, "0s: ..." on every line, or "... | ..."'


@dataclass(frozen=True)
class Scene:
    """A prompt and the frame at which it begins; None: where the parts before it end, all of equal length."""

    prompt: str
    frame: int | None
    cut: bool = False


def is_story(text: str) -> bool:
    """Whether a prompt holds several, or says how long it lasts."""
    return "|" in text or LENGTH.match(text) is not None


def read_story(path: Path, rate: Fraction, frames: int | None) -> list[Scene]:
    """The scenes of a prompt file. UsageError, one line, for anything that is not one."""
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= MAX_BYTES else ""
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"--prompt-file {path} cannot be read as text; {HOW}") from error
    if size > MAX_BYTES or "\x00" in text:
        raise UsageError(f"--prompt-file {path} is no file of prompts; {HOW}")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("//")]
    if not lines:
        raise UsageError(f"--prompt-file {path} is empty; {HOW}")
    if text.lstrip().startswith("{"):
        return _ordered(_from_json(text, rate, path), frames)
    if len(lines) == 1 and not LINE.match(lines[0]):
        return parse_story(lines[0], rate, frames)
    return _ordered([_from_line(line, rate, path) for line in lines], frames)


def parse_story(text: str, rate: Fraction, frames: int | None) -> list[Scene]:
    """The scenes of `a | b | c` and `p[5s] | q[10s#]`; `frames` is the length of the video, None if endless."""
    scenes: list[Scene] = []
    begin: Fraction | None = Fraction(0)
    parts = [part.strip() for part in text.split("|")]
    lengths = []
    for part in parts:
        found = LENGTH.match(part)
        prompt, cut = (found["text"].strip(), found["cut"] == "#") if found else (part, False)
        if not prompt:
            raise UsageError(f"{_shown(text)} has an empty part; write a prompt on both sides of every |")
        length = _time(found[2], found[3], rate) if found and found[2] else None
        if length is not None and length <= 0:
            raise UsageError(f"{_shown(part)} lasts no time; give a length above 0, such as [5s]")
        lengths.append(length)
        scenes.append(Scene(prompt, None, cut))
    told = [length for length in lengths if length is not None]
    if not told and len(parts) > 1 and frames is None:
        raise UsageError("an endless video has no equal parts; say how long each lasts: a dog runs[5s] | a dog sleeps")
    if told and any(length is None for length in lengths[:-1]):
        raise UsageError("say of every part but the last how long it lasts: a dog runs[5s] | a dog sleeps")
    placed = []
    for number, (scene, length) in enumerate(zip(scenes, lengths, strict=True)):
        start = begin if told else Fraction((frames or 0) * number, len(parts))
        assert start is not None
        placed.append(Scene(scene.prompt, round(start), scene.cut))
        begin = None if length is None else start + length
    return _ordered(placed, frames)


def seconds_of(text: str, rate: Fraction) -> Fraction | None:
    """How long a story says that it lasts, if every part of it does."""
    found = [LENGTH.match(part.strip()) for part in text.split("|")]
    if not all(match and match[2] for match in found):
        return None
    return sum((_time(match[2], match[3], rate) for match in found if match), Fraction(0)) / rate


def written(scenes: list[Scene], rate: Fraction) -> str:
    """The scenes as one line that `parse_story` reads; the last lasts to the end."""
    parts = []
    for number, scene in enumerate(scenes):
        following = scenes[number + 1].frame if number + 1 < len(scenes) else None
        length = f"{(following or 0) - (scene.frame or 0)}f" if following is not None else ""
        mark = "#" if scene.cut else ""
        parts.append(scene.prompt + (f"[{length}{mark}]" if length or mark else ""))
    return " | ".join(parts)


def _from_json(text: str, rate: Fraction, path: Path) -> list[Scene]:
    try:
        content: Any = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--prompt-file {path} is no JSON: {str(error)[:80]}; {HOW}") from error
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise UsageError(f"--prompt-file {path} maps no times to prompts; {HOW}")
    scenes = []
    for key, prompt in content.items():
        found = re.fullmatch(rf"\s*{TIME}\s*(#?)\s*", key)
        if not found:
            raise UsageError(f"--prompt-file {path}: {_shown(key)} is no time; write it like 12s, 1.5s or 96f")
        scenes.append(Scene(prompt.strip(), round(_time(found[1], found[2], rate)), found[3] == "#"))
    return scenes


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # of a key that stands there twice JSON would keep the last alone, and a prompt would be lost
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UsageError(f"two prompts begin at {_shown(key)}; give each its own time")
        found[key] = value
    return found


def _from_line(line: str, rate: Fraction, path: Path) -> Scene:
    found = LINE.match(line)
    if not found:
        raise UsageError(f"--prompt-file {path}: {_shown(line)} does not begin with a time; {HOW}")
    start = _time(found[1], found[2], rate)
    if found[3] and _time(found[3], found[4], rate) <= start:
        raise UsageError(f"--prompt-file {path}: {_shown(line)} ends before it begins; write it like [0s-5s] ...")
    return Scene(found["text"].strip(), round(start), found["cut"] == "#")


def _time(number: str, unit: str | None, rate: Fraction) -> Fraction:
    """Frames."""
    value = Fraction(number)
    return {"f": value, "ms": value * rate / 1000, "m": value * rate * 60}.get(unit or "s", value * rate)


def _ordered(scenes: list[Scene], frames: int | None) -> list[Scene]:
    ordered = sorted(scenes, key=lambda scene: scene.frame or 0)
    starts = [scene.frame or 0 for scene in ordered]
    if len(ordered) > MAX_SCENES:
        raise UsageError(f"{len(ordered)} prompts are too many; at most {MAX_SCENES}")
    if starts[0] != 0:
        raise UsageError(f"no prompt begins at 0s (the first begins at frame {starts[0]}); add one")
    double = next((b for a, b in zip(starts, starts[1:], strict=False) if a == b), None)
    if double is not None:
        raise UsageError(f"two prompts begin at frame {double}; give each its own time, or a longer video")
    if any(not scene.prompt for scene in ordered):
        raise UsageError("a prompt is empty; say what to show at every time")
    if frames is not None and starts[-1] >= frames:
        raise UsageError(
            f"the prompt {_shown(ordered[-1].prompt)} begins at frame {starts[-1]}, after the end of the video "
            f"({frames} frames); make it longer with --seconds"
        )
    return ordered


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
