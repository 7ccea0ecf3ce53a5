"""The commands `generate` and `resume`: settings in, progress on stderr, the result on stdout."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from longtake.apps import session as sessions
from longtake.apps import speed
from longtake.apps.planning import dry_run as forecast_run
from longtake.apps.planning import plan
from longtake.apps.progress import clock, shown
from longtake.apps.scores import judge, owed
from longtake.apps.screening import screen
from longtake.apps.search_costs import judged, told_judged
from longtake.apps.session import Session
from longtake.apps.settings import Request, Settings
from longtake.apps.stories import corrections, film_fits, told_corrections
from longtake.apps.tables import Facts
from longtake.errors import UsageError
from longtake.output.boxes import frames_in
from longtake.output.directory import RunDir, plan_directory, typed
from longtake.output.disk import DiskFullError
from longtake.output.trace import read_trace

MIN_MEASURED = 1.0  # seconds of work before a speed is worth keeping


@dataclass(frozen=True)
class Console:
    """How to talk: JSON or text on stdout, more or nothing on stderr."""

    json: bool = False
    verbose: bool = False
    quiet: bool = False

    def note(self, text: str) -> None:
        """A line on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """A line on stderr that is said even if little is."""
        print(f"longtake: {text}", file=sys.stderr, flush=True)

    def result(self, value: Any, text: str) -> None:
        """The result on stdout."""
        print(sessions.as_json(value) if self.json else text, flush=True)

    def listen(self) -> None:
        """Let the library's own log be heard on stderr."""
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log = logging.getLogger("longtake")
        log.handlers = [handler]
        log.setLevel(logging.DEBUG if self.verbose else logging.ERROR if self.quiet else logging.WARNING)
        logging.getLogger("transformers").setLevel(logging.ERROR)
        logging.getLogger("diffusers").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Plan:
    """What `--dry-run` prints. NFE until the first frame is its latency; seconds None: never measured here."""

    latent_frames: int | None
    frames: int | None
    nfe: int
    nfe_per_latent: float
    frame_nfe: int
    peak_rows: int
    first_frame_nfe: int
    estimated_seconds: float | None
    first_frame_seconds: float | None
    exact: bool
    model: str
    method: str
    steps: int
    width: int
    height: int
    fps: float
    out: str


def run_generate(request: Request, out: Path | None, dry_run: bool, console: Console) -> None:
    """Make a new run, or only its plan."""
    console.listen()
    screen(request)  # before imports that take seconds
    path = plan_directory(out, request.prompt, request.seed or 0)
    if dry_run:
        settings, facts, notes = plan(request)
        for note in notes:
            console.note(note)
        path = plan_directory(out, request.prompt, settings.seed)
        value = plan_of(settings, facts, path)
        console.result(value, plan_text(value))
        return
    session, folder = sessions.made(request, out)
    for note in session.notes:
        console.note(note)
    play(session, folder, console)


def run_resume(path: Path, console: Console) -> None:
    """Go on with the run in `path`."""
    console.listen()
    folder = RunDir(path)
    settings, finished = sessions.reopen(folder)
    film_fits(settings, folder)
    if finished and not owed(folder):
        console.note(f"{path} is finished")
        console.result(value := sessions.result(settings, folder), value.video)
        return
    folder.refuse_if_busy()
    try:
        session = sessions.build(settings, fresh=not sessions.begun(folder))
    except UsageError as error:
        if settings.device == "cpu" or "device" not in str(error):
            raise
        console.note(f"{error}; going on with --device auto, not bit for bit")
        session = sessions.build(replace(settings, device="auto"), fresh=not sessions.begun(folder))
    for note in session.notes:
        console.note(note)
    play(session, folder, console)
    judge(session, folder)


def play(session: Session, folder: RunDir, console: Console) -> None:
    """Run to the end or the interruption and print the result. KeyboardInterrupt passes through."""
    value = perform(session, folder, console)
    console.result(value, value.video)


def perform(session: Session, folder: RunDir, console: Console) -> sessions.Result:
    """`play` without the last word. A run that is interrupted, or finds the disk full, prints its result too."""
    console.note(f"writing {folder.video}")
    settings, runner, rate = session.settings, None, 0.0
    try:
        with sessions.running(session, folder) as (runner, progress):
            for item in shown(progress, console.quiet):
                rate = item.nfe_per_second
        _remember_speed(session, rate)
    except (KeyboardInterrupt, DiskFullError) as stop:
        value = sessions.result(settings, folder, runner)
        # what waited for a checkpoint that found no room is not in the film
        value = replace(value, frames=min(value.frames, frames_in(folder.video)))
        if isinstance(stop, DiskFullError):
            console.warn(f"{stop}; then go on with: longtake resume {typed(folder.path)}")
        else:
            console.note(f"interrupted after {value.frames} frames; go on with: longtake resume {typed(folder.path)}")
        console.result(value, value.video)
        if isinstance(stop, DiskFullError):
            raise typer.Exit(1) from stop
        raise
    value = sessions.result(settings, folder, runner)
    console.note(f"{value.frames} frames, {value.frames / value.fps:.1f} s, in {clock(value.seconds)}, {value.nfe} NFE")
    if settings.search != "none" and (counts := judged(read_trace(folder.trace))):
        console.note(told_judged(counts))
    if settings.search == "reflect" and (found := corrections(settings, read_trace(folder.trace))):
        console.note(told_corrections(found))
    return value


def _remember_speed(session: Session, nfe_per_second: float) -> None:
    nfe = session.job.engine.meter.nfe
    if nfe_per_second > 0 and nfe / nfe_per_second >= MIN_MEASURED:
        speed.remember(speed.key(session.settings, session.settings.device), nfe_per_second)


def plan_of(settings: Settings, facts: Facts, out: Path) -> Plan:
    """The plan of a run that has not been loaded."""
    cost, latents = forecast_run(settings, facts)
    rate = speed.recall(speed.key(settings, settings.device if settings.device != "auto" else _auto()))
    return Plan(
        latent_frames=latents,
        frames=settings.frames,
        nfe=cost.nfe,
        nfe_per_latent=round(cost.nfe_per_latent, 3),
        frame_nfe=cost.frame_nfe,
        peak_rows=cost.peak_rows,
        first_frame_nfe=cost.first_nfe,
        estimated_seconds=round(cost.nfe / rate, 1) if rate else None,
        first_frame_seconds=round(cost.first_nfe / rate, 1) if rate else None,
        exact=cost.exact and latents is not None,
        model=facts.name,
        method=settings.method,
        steps=settings.steps,
        width=settings.width,
        height=settings.height,
        fps=float(settings.rate),
        out=str(out),
    )


def _auto() -> str:
    from longtake.models.load import pick_device

    return str(pick_device("auto"))


def plan_text(value: Plan) -> str:
    """The plan as aligned lines."""
    unknown = "unknown (no run of this model measured yet)"
    endless = " of the first 1,000 latents" if value.frames is None else ""
    rows = {
        "video": f"{value.frames or 'endless'} frames, {value.width}x{value.height}, {value.fps:g} fps",
        "method": f"{value.method}, {value.steps} steps, model {value.model}",
        "latent frames": "endless" if value.latent_frames is None else str(value.latent_frames),
        "NFE": f"{'' if value.exact or value.frames is None else 'at most '}{value.nfe}{endless}",
        "NFE per latent": f"{value.nfe_per_latent:g}",
        "first frame": f"after {value.first_frame_nfe} NFE"
        + (f", {clock(value.first_frame_seconds)}" if value.first_frame_seconds is not None else ""),
        "peak rows": str(value.peak_rows),
        "time": unknown if value.estimated_seconds is None else f"about {clock(value.estimated_seconds)}{endless}",
        "folder": value.out,
    }
    return "\n".join(f"{name:<15} {text}" for name, text in rows.items())
