"""The command `batch`: a file of jobs, one JSON object a line, made one after the other.

All lines are read and planned before the first is begun, so a mistake in the last line shows now and not at night.
`FILE.manifest.json` is written anew after every change: what became of each job. Called again, `batch` leaves out what
is done, goes on with what was begun, and tries again what failed.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import typer
from filelock import FileLock, Timeout

from longtake.apps import session as sessions
from longtake.apps import speed
from longtake.apps.generate import Console, perform
from longtake.apps.planning import dry_run, plan
from longtake.apps.progress import clock
from longtake.apps.settings import Request
from longtake.apps.stored import fits, shown, within
from longtake.errors import UsageError
from longtake.output.checkpoint import write_atomic
from longtake.output.directory import RunDir, plan_directory, probe_directory, read_json
from longtake.output.disk import DiskFullError

LARGEST = 10_000
"""Jobs in a file."""


@dataclass(frozen=True)
class Entry:
    """A job in the manifest. status: waiting, running, done, failed."""

    line: int
    job: str
    status: str = "waiting"
    run: str | None = None
    seed: int | None = None
    frames: int = 0
    nfe: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Work:
    """A job read and planned; `nfe` is what it will cost."""

    entry: Entry
    request: Request
    out: str | None
    nfe: int = 0
    key: str = ""


def run_batch(file: Path, console: Console) -> None:
    """Make every run of a file. Exit code 1 if one failed."""
    console.listen()
    jobs = read_jobs(file)
    manifest = file.with_name(file.name + ".manifest.json")
    lock = FileLock(file.with_name(f".{file.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"{file} is being made by another longtake; wait for it or stop it") from error
    try:
        entries = {work.entry.line: work.entry for work in jobs}
        known = {(entry.line, entry.job): entry for entry in _known(manifest)}
        entries = {line: known.get((line, entry.job), entry) for line, entry in entries.items()}
        waiting = [planned(replace(work, entry=entries[work.entry.line])) for work in jobs
                   if entries[work.entry.line].status != "done"]  # fmt: skip
        console.note(f"{len(jobs)} jobs, {len(jobs) - len(waiting)} done before")
        _play_all(waiting, entries, manifest, console)
    finally:
        lock.release()
    failed = [entry for entry in entries.values() if entry.status == "failed"]
    for entry in failed:
        console.warn(f"line {entry.line} failed: {entry.error}")
    if console.json:
        print(json.dumps(_content(entries), ensure_ascii=False), flush=True)
    else:
        print(manifest, flush=True)
    if failed:
        raise typer.Exit(1)


def read_jobs(file: Path) -> list[Work]:
    """The jobs of a file. UsageError, with the line, for anything that is no job."""
    if not file.is_file():
        raise UsageError(
            f"{file}: {'that is a folder' if file.is_dir() else 'there is no such file'}; give a JSONL file"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read as text; give a file with one JSON object a line") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UsageError(f'{file} has no job; a line is a job, such as {{"prompt": "a dog runs", "seconds": 10}}')
    if len(lines) > LARGEST:
        raise UsageError(f"{file} has {len(lines)} jobs; at most {LARGEST}")
    jobs = [_job(file, number, line) for number, line in lines]
    outs = [work.out for work in jobs if work.out is not None]
    for out in outs:
        if outs.count(out) > 1:
            raise UsageError(f"{file} has two jobs with out {shown(out)}; give each its own")
    return jobs


def _job(file: Path, number: int, line: str) -> Work:
    where = f"{file} line {number}"
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {shown(line.strip())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{where} is no JSON object, such as {{\"prompt\": \"a dog runs\"}}")  # fmt: skip
    values = {key.replace("-", "_"): value for key, value in content.items()}
    if isinstance(values.get("set"), dict):
        values["set"] = [f"{key}={value}" for key, value in values["set"].items()]
    if values.get("no_embed") in (True, False):
        values["embed"] = not values.pop("no_embed")
    out = values.pop("out", None)
    kinds, known = get_type_hints(Request), [field.name for field in fields(Request)]
    if "prompt" not in values and "prompt_file" not in values:
        raise UsageError(f"{where} has no prompt")
    values = {"prompt": "", **values}
    for key, value in values.items():
        if key not in known:
            raise UsageError(
                f"{where} has an unknown key {shown(key)}; known: {', '.join([*known, 'no_embed', 'out'])}"
            )
        if not _allowed(key, value, kinds):
            raise UsageError(f"{where}: {key} cannot be {shown(value)}")
        try:
            within(key, value)
        except UsageError as error:
            raise UsageError(str(error).replace("run.json", where)) from error
    if out is not None and not _below(out):
        raise UsageError(f"{where}: out is {shown(out)}; give a folder below this one")
    job = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return Work(Entry(number, job), Request(**values), out)


def _below(path: Any) -> bool:
    # A file of jobs may be another's: it names folders below the one that it is used in, and nothing else
    return isinstance(path, str) and path not in ("", ".") and "\x00" not in path and len(path) < 500 and not (
        Path(path).is_absolute() or ".." in Path(path).parts)  # fmt: skip


def _allowed(key: str, value: Any, kinds: dict[str, Any]) -> bool:
    if key in ("model", "image", "video", "audio", "prompt_file", "last_image"):
        return isinstance(value, str) and "\x00" not in value
    if isinstance(value, list):
        return key in ("set", "size", "lora") and all(isinstance(item, (str, int)) for item in value)
    return not isinstance(value, dict) and fits(value, kinds[key])


def planned(work: Work) -> Work:
    """The job with what it will cost. UsageError, with its line, if it cannot be made."""
    try:
        if work.out is not None and work.entry.run is None:
            probe_directory(plan_directory(work.out, work.request.prompt, 0))
        settings, facts, _ = plan(work.request)
        cost, _ = dry_run(settings, facts)
    except UsageError as error:
        if _begun(work.entry):  # it has all that it needs, also where a file that it began with is gone
            return work
        raise UsageError(f"line {work.entry.line}: {error}") from error
    if settings.frames is None:
        raise UsageError(f"line {work.entry.line}: an endless run would let no other have its turn; give a length")
    return replace(work, nfe=cost.nfe, key=speed.key(settings, settings.device))


def _play_all(waiting: list[Work], entries: dict[int, Entry], manifest: Path, console: Console) -> None:
    spent, made = 0.0, 0
    for place, work in enumerate(waiting):
        rate = made / spent if made else speed.recall(work.key)
        left = sum(later.nfe for later in waiting[place:])
        eta = f", all done in about {clock(left / rate)}" if rate else ""
        console.note(f"job {place + 1} of {len(waiting)} (line {work.entry.line}): {work.request.prompt}{eta}")
        began = time.monotonic()

        def book(entry: Entry) -> None:
            entries[entry.line] = entry
            write_atomic(manifest, json.dumps(_content(entries), indent=1, ensure_ascii=False) + "\n")

        _play(work, book, console)
        if entries[work.entry.line].status == "done":
            spent, made = spent + time.monotonic() - began, made + work.nfe


def _play(work: Work, book: Any, console: Console) -> None:
    entry = replace(work.entry, status="running", error=None)
    try:
        if work.out is not None and entry.run is None:  # told before it is made: a kill in between loses nothing
            entry = replace(entry, run=str(Path(work.out)))
            book(entry)
        session, folder = _opened(replace(work, entry=entry))
        settings = session.settings if session is not None else sessions.reopen(folder)[0]
        entry = replace(entry, run=str(folder.path), seed=settings.seed)
        book(entry)
        value = sessions.result(settings, folder) if session is None else perform(session, folder, console)
        entry = replace(entry, status="done", frames=value.frames, nfe=value.nfe, seconds=value.seconds)
    except (typer.Exit, DiskFullError) as full:  # no room: no other job would have any
        if isinstance(full, DiskFullError):  # before there was a run; else it was told
            console.warn(f"{full}; then go on with the same command")
        book(replace(entry, status="waiting", error="the disk is full"))
        raise typer.Exit(1) from full
    except Exception as error:
        entry = replace(entry, status="failed", error=" ".join(f"{type(error).__name__}: {error}".split())[:500])
    book(entry)


def _opened(work: Work) -> tuple[sessions.Session | None, RunDir]:
    # A run that was begun goes on; one that came to its end is not made again
    if work.entry.run is not None and _begun(work.entry):
        folder = RunDir(Path(work.entry.run))
        settings, finished = sessions.reopen(folder)
        return (None if finished else sessions.build(settings, fresh=not sessions.begun(folder))), folder
    return sessions.made(work.request, work.out)


def _begun(entry: Entry) -> bool:
    return entry.run is not None and RunDir(Path(entry.run)).manifest.is_file()


def _known(manifest: Path) -> list[Entry]:
    if not manifest.exists():
        return []
    kinds = get_type_hints(Entry)
    names = set(kinds)
    found = read_json(manifest).get("jobs")
    for one in found if isinstance(found, list) else [None]:
        if not isinstance(one, dict) or not set(one) <= names or not all(fits(one[name], kinds[name]) for name in one):
            raise UsageError(f"{manifest} was changed or is of another kind; move it away to begin anew")
        run = one.get("run")
        if run is not None and not _below(run):
            raise UsageError(f"{manifest} names a run at {shown(run)}, which is not below this folder; move it away")
    return [Entry(**one) for one in found or []]


def _content(entries: dict[int, Entry]) -> dict[str, Any]:
    count = {name: sum(entry.status == name for entry in entries.values()) for name in ("done", "failed", "waiting")}
    return {**count, "jobs": [asdict(entry) for entry in entries.values()]}
