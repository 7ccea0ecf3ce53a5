"""trace.jsonl: what every non-empty emission was, cost and looked like, one JSON line each.

latents     [start, stop) of the emission
frames      [start, stop) of the pixel frames that it decoded to; on a run's last line they may pass the end asked for
nfe, frame_nfe   cost since the emission before; the lines add up to the run's cost
seconds     wall time since the emission before
prompt      at the first of its latents
changes     prompts that begin at a later one: latent, frame, prompt. Only where there are any
scores, chosen   of the candidates, if there was a search
candidates  every branch that a search judged since the emission before (core.rollout.Candidate); decodes and
            reward_calls: what that took; ess: of particles. Only under a search
turn        how many turns of the run had been made, where there were any
sha256      of the raw frames, uint8 height x width x 3, one after the other
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from longtake.core.rollout import Info, Timeline
from longtake.errors import UsageError
from longtake.output.disk import room


class Trace:
    """Appends lines to a trace cut back to `size` bytes, and remembers the hashes of the lines cut away.

    Only lines behind the checkpoint are cut, so what is remembered is what one checkpoint interval made.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        """`size` in bytes is what a checkpoint recorded; it belongs there anew after every line."""
        self.path, self.size = path, size
        path.touch()
        if path.stat().st_size < size:
            raise UsageError(
                f"{path} has {path.stat().st_size} bytes, fewer than the {size} of its checkpoint; "
                "it was cut off or changed, so the run cannot be resumed"
            )
        with open(path, "r+b") as file:
            file.seek(size)
            self.expected = {tuple(line["frames"]): line["sha256"] for line in parsed(file.read())}
            file.truncate(size)

    def add(self, line: dict[str, Any]) -> bool:
        """Append a line. False if an earlier attempt at the same frames had another hash."""
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        with room(self.path, len(data)):
            try:
                with open(self.path, "ab") as file:
                    file.write(data)
            except OSError:
                os.truncate(self.path, self.size)
                raise
        self.size += len(data)
        return self.expected.pop(tuple(line["frames"]), line["sha256"]) == line["sha256"]

    def sync(self) -> None:
        """Force the lines to disk."""
        with open(self.path, "ab") as file:
            os.fsync(file.fileno())


def prompts(timeline: Timeline, start: int, places: Sequence[int]) -> dict[str, Any]:
    """The prompt of an emission from latent `start` on, and those that begin inside it, for its line of the trace.

    `places` are the frames at which its latents begin, and the end of the last.
    """
    inside = [(at, prompt) for at, prompt in timeline.entries if start < at < start + len(places) - 1]
    found = [{"latent": at, "frame": places[at - start], "prompt": prompt} for at, prompt in inside]
    return {"prompt": str(timeline.at(start)), **({"changes": found} if found else {})}


def judgements(info: Info, offset: int = 0) -> dict[str, Any]:
    """What a search decided, for a line of the trace; scores that are no finite numbers are null.

    `offset` is the latent of the run that the search counts as 0.
    """
    said: dict[str, Any] = {"scores": plain(info.scores), "chosen": info.chosen}
    if info.candidates:
        moved = [replace(one, rows=(one.rows[0] + offset, one.rows[1] + offset)) for one in info.candidates]
        said["candidates"] = [plain(asdict(candidate)) for candidate in moved]
        said |= {"decodes": info.decodes, "reward_calls": info.reward_calls}
    if info.ess:
        said["ess"] = plain(info.ess)
    return said


def plain(value: Any) -> Any:
    """The value in JSON's own kinds."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_trace(path: Path) -> list[dict[str, Any]]:
    """All lines of a trace but one that a kill cut off. UsageError for a line that is none: it was changed."""
    found = []
    for number, raw in enumerate(path.read_bytes().split(b"\n")[:-1] if path.exists() else [], 1):
        lines = parsed(raw + b"\n")
        if not lines:
            raise UsageError(f"{path} was changed: line {number} is no line of a trace")
        found += lines
    return found


def parsed(data: bytes) -> list[dict[str, Any]]:
    """The whole lines in a piece of a trace; what is none is left out."""
    # A line cut off by a kill has no newline and does not count
    lines = []
    for raw in data.split(b"\n")[:-1]:
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            continue
        lines += [line] if isinstance(line, dict) and all(fits(line.get(name)) for name, fits in KINDS.items()) else []
    return lines


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _span(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_count, value)) and value[0] <= value[1]


def _seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 2**53


KINDS: dict[str, Callable[[Any], bool]] = {
    "latents": _span, "frames": _span, "nfe": _count, "seconds": _seconds, "prompt": lambda v: isinstance(v, str),
    "sha256": lambda v: isinstance(v, str),
}  # fmt: skip
"""What every line has, and of which kind; what a search adds is looked at by who reads it."""


def candidates_of(line: dict[str, Any]) -> list[dict[str, Any]]:
    """What a search judged for a line of the trace."""
    found = line.get("candidates", [])
    return [one for one in found if _is_candidate(one)] if isinstance(found, list) else []


def _is_candidate(one: Any) -> bool:
    if not isinstance(one, dict) or not all(isinstance(one.get(name), str) for name in ("name", "parent", "verdict")):
        return False
    rows = one.get("rows") or [0, 0]
    pair = isinstance(rows, list) and len(rows) == 2 and all(type(row) is int for row in rows)
    return type(one.get("tick")) is int and pair and (one.get("score") is None or is_score(one["score"]))


def is_score(value: Any) -> bool:
    """Whether this is a number that a reward may have given."""
    return type(value) in (int, float) and abs(value) < 1e300
