"""Takes: several ways to go on from the end of a run, told apart by eye or by score, and one put in the run's place."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from longtake.apps import session as sessions
from longtake.apps.directing import longer
from longtake.apps.generate import Console, perform
from longtake.apps.moments import Story, acting, brought, first_frame, story
from longtake.apps.scores import judge
from longtake.apps.session import Session
from longtake.apps.settings import Settings
from longtake.apps.stories import film_fits, turns_of
from longtake.core.noise import fold
from longtake.errors import UsageError
from longtake.output.directory import RunDir, read_json, typed
from longtake.output.takes import copied, making, placed, take, takes_of, use
from longtake.output.turns import key_of

MOST = 100


@dataclass(frozen=True)
class Take:
    """A take as it is listed. `start` is the second at which it leaves the run; seed None: the run's own noise."""

    take: int
    run: str
    video: str
    start: float
    frames: int
    seed: int | None
    prompt: str
    method: str
    search: str
    score: float | None
    finished: bool


def run_takes(path: Path, num: int | None, seconds: float | None, chosen: str | None, console: Console) -> None:
    """List, make or use takes."""
    console.listen()
    if chosen is not None and (num is not None or seconds is not None):
        raise UsageError("--use chooses a take, --num and --seconds make some; give one or the other")
    if (num is None) != (seconds is None):
        raise UsageError("takes need both --num and --seconds: how many, and how long a stretch")
    folder = RunDir(path)
    film_fits(sessions.reopen(folder)[0], folder)
    if chosen is not None:
        _use(folder, chosen, console)
    elif num is not None and seconds is not None:
        _make(story(path), num, seconds, console)
    listed(folder, console)


def listed(folder: RunDir, console: Console) -> None:
    """Print the takes of a run."""
    rows = [told(folder, number) for number in takes_of(folder)]
    if console.json:
        print(json.dumps([asdict(row) for row in rows], ensure_ascii=False), flush=True)
        return
    for row in rows:
        seed = "the run's own noise" if row.seed is None else f"seed {row.seed}"
        score = "" if row.score is None else f", score {row.score:.4g}"
        state = "" if row.finished else f", not finished: longtake resume {typed(row.run)}"
        print(f"{row.take:>3}  from {row.start:.1f} s, {row.frames} frames, {seed}, {row.method}{score}{state}")
        print(f"     {row.prompt}  {row.video}", flush=True)
    if not rows:
        console.note(
            f"{folder.path} has no takes; make some with: longtake takes {typed(folder.path)} --num 3 --seconds 4"
        )


def told(folder: RunDir, number: int) -> Take:
    """A take by its files."""
    at = take(folder, number)
    settings, finished = sessions.reopen(at)
    branch, end = settings.branch or {}, at.finished or {}
    prompts = [settings.prompt, *(turn["prompt"] for turn in settings.turns if turn.get("prompt"))]
    content = read_json(at.manifest)
    score = content.get("score")
    return Take(
        number,
        str(at.path),
        str(at.video),
        round(branch.get("from_frame", 0) / float(settings.rate), 3),
        end.get("frames", 0),
        branch.get("seed"),
        prompts[-1],
        settings.method,
        settings.search,
        score if isinstance(score, (int, float)) and math.isfinite(score) else None,
        finished,
    )


def _make(run: Story, num: int, seconds: float, console: Console) -> None:
    # All takes share the way to the end of the run: it is gone once, then each is copied from there
    if not 1 <= num <= MOST:
        raise UsageError(f"--num {num} is not possible; give 1 to {MOST}")
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"--seconds {seconds:g} is not possible; give a number above 0")
    more = round(seconds * float(run.settings.rate))
    if more < 1:
        least = math.ceil(100 / run.settings.rate) / 100
        raise UsageError(f"--seconds {seconds:g} is less than a frame; give {least:g} or more")
    base = longer(run, more)
    if run.settings.frames is None or not run.finished:
        base = replace(base, frames=run.frames + more)
    run.folder.refuse_if_busy()
    session = sessions.build(base)
    begins, rate = first_frame(run, acting(run, run.latents)), float(base.rate)
    if base.frames is not None and base.frames <= begins:
        least = math.ceil(10 * (seconds + (begins + 1 - base.frames) / rate)) / 10
        raise UsageError(f"--seconds {seconds:g} ends before takes can differ; give {least:g} or more")
    for line in session.notes:
        console.note(line)
    console.note(f"{num} takes from {run.frames / float(base.rate):.1f} s on")
    with run.folder.locked(), making(run.folder) as room:
        brought(session.job, run.folder, room, run.latents, session.comment)
        made = []
        for number in range(num):
            settings = _candidate(session, run, number)
            with making(run.folder, first=False) as copy:
                copied(room, copy)
                copy.describe({**settings.to_json(), "score": None})  # owed from now on, whoever finishes it
                made.append((placed(copy, run.folder), settings))
    for at, settings in made:
        one = replace(session, settings=settings, job=replace(session.job, turns=turns_of(settings)))
        perform(one, at, console)
        judge(one, at)


def _candidate(session: Session, run: Story, number: int) -> Settings:
    # Number 0 keeps the run's own noise: it is what `extend` would make
    seed = fold(session.settings.seed, "take", run.latents, number) % 2**31 if number else None
    turn = {"latent": run.latents, "key": 0 if seed is None else key_of(seed), "seed": seed}
    branch = {"latent": run.latents, "from_frame": run.frames, "seed": seed}
    return replace(session.settings, turns=[*session.settings.turns, turn], branch=branch)


def _use(folder: RunDir, chosen: str, console: Console) -> None:
    rows = [told(folder, number) for number in takes_of(folder)]
    if chosen == "best":
        scored = [row for row in rows if row.score is not None]
        if not scored:
            such = f", such as --use {rows[0].take}" if rows else "; it has none yet: --num makes some"
            raise UsageError(f"no take of {folder.path} has a score; look at them and give a number{such}")
        number = max(scored, key=lambda row: row.score or 0.0).take
    elif chosen.isdecimal():
        number = int(chosen)
    else:
        raise UsageError(f"--use {chosen} is no take; give a number or best")
    with folder.locked(), take(folder, number).locked():
        kept = use(folder, number)
    console.note(f"take {number} is the run now; what was there is take {kept}")
