"""Named faults of what runs keep on disk; tests/mutations.py lists them with the others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from longtake.apps import moments
from longtake.output import checkpoint
from longtake.output.directory import RunDir
from longtake.output.job import Position
from longtake.output.snapshots import Snapshots
from longtake.output.trace import Trace
from tests.toy_run import make, toy_job

Patch = Any  # pytest.MonkeyPatch


def cache_not_saved(patch: Patch) -> None:
    """What a checkpoint holds lacks the decoder's cache."""
    save = checkpoint.save

    def without(value: Any, *rest: Any) -> None:
        save(replace(value, cache=None) if isinstance(value, Position) else value, *rest)

    patch.setattr(checkpoint, "save", without)


def wrong_parent_snapshot(patch: Patch) -> None:
    """A branch gets the books of the snapshot nearest to its moment and the state of the one before it."""
    copy = moments.copied_state

    def mixed(files: Path, name: str, target: RunDir) -> None:
        copy(files, name, target)
        position, kept = checkpoint.load(target.path), Snapshots(files)
        before = [frames for frames in kept.frames if frames < position.frames]
        checkpoint.save(replace(position, state=kept.load(before[-1]).state), target.path)

    patch.setattr(moments, "copied_state", mixed)


def line_lost(patch: Patch) -> None:
    """A resumed run cuts off one line of its trace too many."""
    begin = Trace.__init__

    def shorter(self: Trace, path: Path, size: int = 0) -> None:
        kept = path.read_bytes()[:size].splitlines(keepends=True) if size else []
        begin(self, path, sum(map(len, kept[:-1])))

    patch.setattr(Trace, "__init__", shorter)


def beside_a_whole_run(test: Callable[..., None], *rest: Any) -> None:
    """Call a test of toy runs with an empty folder and with a run of 90 frames that nothing interrupted."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder, "whole"), toy_job(90))
        Path(folder, "run").mkdir()
        test(Path(folder, "run"), Path(folder, "whole"), *rest)


def in_a_folder(test: Callable[[Path], None]) -> None:
    """Call a test with an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        test(Path(folder))
