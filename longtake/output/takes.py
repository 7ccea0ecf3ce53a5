"""Takes: other ways to go on from a moment of a run, each a run of its own under `takes/<n>/`.

A take begins as a copy of what came before its moment: the film's whole segments, the trace, the state. It is made in
a folder whose name begins with a dot and gets its number by one rename, so a kill leaves no half of a take.

Using a take changes the places of its files and the run's. The run's own become a take first (by hard links, or
copies where there are none), then a journal says what is to be moved, then every file takes its place by a rename. A
kill in between is made good by whoever opens the run next (`settle`), and at no moment is there no film.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longtake.errors import UsageError
from longtake.output.checkpoint import sync, write_atomic
from longtake.output.directory import RunDir, read_json
from longtake.output.disk import DiskFullError, room
from longtake.output.snapshots import Snapshots
from longtake.output.trace import parsed

JOURNAL = "using.json"
LINKED = ("video.mp4", "trace.jsonl", "audio.m4a", "run.json", "FINISHED", "latest.webp")
STATES = ("state.json", "state.safetensors", "open.json", "open.safetensors")


def takes_of(folder: RunDir) -> list[int]:
    """The numbers of a run's takes."""
    if not folder.takes.is_dir():
        return []
    return sorted(int(path.name) for path in folder.takes.iterdir() if path.name.isdecimal() and path.is_dir())


def take(folder: RunDir, number: int) -> RunDir:
    """A take by its number. UsageError lists those that there are."""
    known = takes_of(folder)
    if number not in known:
        listed = f"there are {', '.join(map(str, known))}" if known else "it has none yet: --num makes some"
        raise UsageError(f"{folder.path} has no take {number}; {listed}")
    return RunDir(folder.takes / str(number))


@contextmanager
def making(folder: RunDir, first: bool = True) -> Iterator[RunDir]:
    """A folder to make a take in, gone afterwards unless it was `placed`. The `first` clears what kills have left."""
    folder.takes.mkdir(exist_ok=True)
    for stale in folder.takes.glob(".making-*") if first else ():
        shutil.rmtree(stale, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.takes))
    path.chmod(0o755)
    try:
        yield RunDir(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if not any(folder.takes.iterdir()):
            folder.takes.rmdir()


def placed(made: RunDir, folder: RunDir) -> RunDir:
    """The made folder as the next take."""
    number = max(takes_of(folder), default=0) + 1
    while True:
        target = folder.takes / str(number)
        if not target.exists():
            os.rename(made.path, target)
            sync(folder.takes)
            return RunDir(target)
        number += 1


def copied_until(source: RunDir, target: RunDir, latent: int, segment: int) -> None:
    """Film and trace of a run up to the emission that ends at `latent`, and its sound. `segment` in frames."""
    raw = source.trace.read_bytes().splitlines(keepends=True) if source.trace.exists() else []
    lines = [(line, read) for line in raw for read in parsed(line) if read["latents"][1] <= latent]
    kept = [line for line, _ in lines]
    frames = max((read["frames"][1] for _, read in lines), default=0)
    with room(target.trace, sum(map(len, kept))):
        target.trace.write_bytes(b"".join(kept))
    stop = _end_of_segments(source.video, frames // segment)
    with room(target.video, stop), open(source.video, "rb") as film, open(target.video, "wb") as copy:
        while stop > 0 and (part := film.read(min(stop, 1 << 20))):
            copy.write(part)
            stop -= len(part)
    if source.sound.exists():
        with room(target.sound, source.sound.stat().st_size):
            shutil.copyfile(source.sound, target.sound)


def copied_state(files: Path, name: str, target: RunDir) -> None:
    """A checkpoint as the state of another folder."""
    for ending in ("safetensors", "json"):
        source = files / f"{name}.{ending}"
        with room(target.path / f"state.{ending}", source.stat().st_size):
            shutil.copyfile(source, target.path / f"state.{ending}")


def linked_snapshots(source: RunDir, target: RunDir, frames: int) -> None:
    """Give another folder the snapshots of a run up to `frames`; nobody writes to them again, so both share them."""
    for number in Snapshots(source.snapshots).frames:
        if number <= frames:
            for ending in ("safetensors", "json"):
                name = f"{Snapshots(source.snapshots).name(number)}.{ending}"
                _linked(source.snapshots / name, target.snapshots / name)


def copied(made: RunDir, target: RunDir) -> None:
    """Everything of a made folder, once more."""
    need = sum(path.stat().st_size for path in made.path.rglob("*") if path.is_file())
    with room(target.path / "copy", need):
        shutil.copytree(made.path, target.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock"))


def use(folder: RunDir, number: int) -> int:
    """Put a take in the run's place; the number of the take that the run's own files have become.

    Both have to be locked by the caller.
    """
    settle(folder)
    chosen = take(folder, number)
    if not chosen.manifest.is_file() or not chosen.video.is_file():
        raise UsageError(f"{chosen.path} is no whole take; make it again")
    come, own, kept = _files(chosen), _files(folder), max(takes_of(folder)) + 1
    drop = [name for name in own if name not in come]
    journal = {"take": number, "kept": kept, "keep": own, "move": come, "drop": drop}
    write_atomic(folder.path / JOURNAL, json.dumps(journal))
    try:
        settle(folder)
    except DiskFullError:  # only keeping needs room, and nothing has moved before all is kept
        shutil.rmtree(folder.takes / str(kept))
        (folder.path / JOURNAL).unlink()
        raise
    return kept


def settle(folder: RunDir) -> None:
    """Finish a change of places that was cut off. Nothing to do otherwise."""
    journal = folder.path / JOURNAL
    if not journal.exists():
        return
    plan = read_json(journal)
    keep, move, drop = (_names(plan.get(name)) for name in ("keep", "move", "drop"))
    number, kept = plan.get("take"), plan.get("kept")
    if not (_number(number) and _number(kept)) or keep is None or move is None or drop is None:
        raise UsageError(f"{journal} is damaged; remove it if the run's files are as they should be")
    chosen, old = folder.takes / str(number), folder.takes / str(kept)
    for name in keep:
        _linked(folder.path / name, old / name)
    for name in move:
        if (chosen / name).exists():
            (folder.path / name).parent.mkdir(exist_ok=True)
            os.replace(chosen / name, folder.path / name)
    for name in drop:
        (folder.path / name).unlink(missing_ok=True)
    for inner in takes_of(RunDir(chosen)):  # takes of the take are the run's from now on
        placed(RunDir(chosen / "takes" / str(inner)), folder)
    shutil.rmtree(chosen, ignore_errors=True)
    sync(folder.path)
    journal.unlink()


def _files(folder: RunDir) -> list[str]:
    # What makes a run, by names relative to its folder; locks, temporary files and takes stay where they are
    names = [name for name in (*LINKED, *STATES) if (folder.path / name).is_file()]
    inner = sorted(folder.snapshots.glob("*")) if folder.snapshots.is_dir() else []
    return names + [f"snapshots/{path.name}" for path in inner if path.suffix in (".json", ".safetensors")]


def _names(value: object) -> list[str] | None:
    # A journal may name files of a run and nothing else; None if it names anything else
    if not isinstance(value, list):
        return None
    names = [name for name in value if isinstance(name, str) and (name in LINKED + STATES or _is_snapshot(name))]
    return names if len(names) == len(value) else None


def _is_snapshot(name: str) -> bool:
    stem, _, ending = name.removeprefix("snapshots/").rpartition(".")
    return name.startswith("snapshots/") and stem.isdecimal() and ending in ("json", "safetensors")


def _linked(source: Path, target: Path) -> None:
    # Once all are linked they move; until then those that are linked already stay as they are
    if target.exists() or not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        fresh = target.with_name(target.name + ".new")
        with room(target, source.stat().st_size):
            shutil.copyfile(source, fresh)
        os.replace(fresh, target)


def _number(value: object) -> bool:
    return type(value) is int and 0 < value < 10**9


def _end_of_segments(film: Path, count: int) -> int:
    # The place in the file behind its head and `count` fragments, read box by box
    place, seen = 0, 0
    with open(film, "rb") as file:
        while header := file.read(8):
            if len(header) < 8:
                return place
            length, name = int.from_bytes(header[:4], "big"), header[4:]
            if length < 8 or (name == b"moof" and seen == count) or name == b"free":
                return place
            seen += name == b"mdat"
            place += length
            file.seek(place)
            if seen == count and name == b"mdat":
                return place
    return place
