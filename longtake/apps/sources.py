"""Videos that a user names: files, run directories, or folders of either; with the prompt that each was made from."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from longtake.errors import UsageError
from longtake.metrics.official import told

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v")


@dataclass(frozen=True)
class Source:
    """One video: its file, the prompts it shows in order, its seed if known, and whether its run has ended."""

    video: Path
    prompts: tuple[str, ...]
    seed: int | None = None
    finished: bool = True

    @property
    def prompt(self) -> str:
        """All that it shows, as one text."""
        return told(self.prompts)

    @property
    def name(self) -> str:
        """What people would call it: the run's folder, else the file."""
        return self.video.parent.name if self.video.name == "video.mp4" else self.video.stem


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """Every video that `paths` name, in their order, a folder's by name. UsageError if there is none in one of them."""
    found = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"there is no {path}; give videos, run directories, or folders of them")
        some = _below(path)
        if not some:
            raise UsageError(f"{path} holds no video; give videos, run directories, or folders of them")
        found += some
    return found


def fps_of(source: Source) -> Fraction:
    """Frames a second, as the file says."""
    from longtake.output.video import probe

    return probe(source.video).fps


def _below(path: Path) -> list[Source]:
    if path.is_file():
        return [_file(path)]
    if (path / "run.json").is_file():
        return [_run(path)]
    found = []
    for inner in sorted(path.iterdir()):
        if inner.is_dir() and (inner / "run.json").is_file():
            found.append(_run(inner))
        elif inner.is_file() and inner.suffix.lower() in VIDEOS:
            found.append(_file(inner))
    return found


def _run(folder: Path) -> Source:
    from longtake.output.directory import RunDir

    run = RunDir(folder)
    settings = run.settings()
    if not run.video.is_file():
        raise UsageError(f"{folder} has no video yet; wait for it or give another run")
    return Source(run.video, _prompts(settings), settings.get("seed"), run.finished is not None)


def _file(path: Path) -> Source:
    from longtake.output.video import probe

    comment = probe(path).comment
    try:
        settings = json.loads(comment or "")
    except ValueError:
        settings = None
    if isinstance(settings, dict):
        settings = settings.get("longtake", settings)  # as the engine writes it into a film
    if isinstance(settings, dict) and settings.get("prompt"):
        return Source(path, _prompts(settings), settings.get("seed"))
    return Source(path, (re.sub(r"-\d+$", "", path.stem),))


def _prompts(settings: dict[str, Any]) -> tuple[str, ...]:
    """The prompts of a run in order of time: its own or its story's, then those that it was extended with."""
    scenes = [scene.get("prompt") for scene in settings.get("prompts") or ()] or [settings["prompt"]]
    later = [turn.get("prompt") for turn in settings.get("turns") or ()]
    return tuple(str(text) for text in [*scenes, *later] if text)
