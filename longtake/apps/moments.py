"""A run as its files tell it, and its moments: what is seen when, and the way back to an earlier state."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from longtake.apps import session as sessions
from longtake.apps.lookup import look_up
from longtake.apps.planning import context_latents, cycle_of
from longtake.apps.settings import Request, Settings
from longtake.apps.stored import sets_of
from longtake.apps.tables import Facts
from longtake.core.engine import Engine
from longtake.core.plan import Ghost, emptied
from longtake.core.rollout import Timeline
from longtake.core.tree import walk
from longtake.errors import UsageError
from longtake.output import checkpoint
from longtake.output.directory import RunDir, typed
from longtake.output.job import Job, Position
from longtake.output.resuming import trusted
from longtake.output.run import Runner
from longtake.output.snapshots import Snapshots
from longtake.output.takes import copied_state, copied_until, linked_snapshots
from longtake.output.trace import read_trace
from longtake.output.turns import directed, ruled_from, shifted

FAR = 1000
"""Latents after which a method is known to repeat itself."""


@dataclass(frozen=True)
class Story:
    """A run that exists, as its files tell it. `frames` and `latents` are those of its film so far."""

    folder: RunDir
    settings: Settings
    facts: Facts
    frames: int
    latents: int
    finished: bool

    def second(self, latent: int) -> float:
        """The moment of the film at which a latent is first seen."""
        lines = [line for line in read_trace(self.folder.trace) if line["latents"][0] <= latent]
        at, frame = (lines[-1]["latents"][0], lines[-1]["frames"][0]) if lines else (0, 0)
        new = self.facts.first_is_image and not (self.settings.image or self.settings.video)
        lead = self.facts.compression - 1 if new and at == 0 and latent > 0 else 0  # the first latent is one frame
        return (frame + (latent - at) * self.facts.compression - lead) / float(self.settings.rate)


def story(path: Path) -> Story:
    """A run by its folder. UsageError if there is none, or nothing of it is made yet."""
    folder = RunDir(path)
    settings, finished = sessions.reopen(folder)
    sessions.audible(settings, folder)
    request = Request(settings.prompt, settings.model, size=(settings.width, settings.height),
                      guidance=settings.guidance, set=sets_of(settings))  # fmt: skip
    facts = look_up(request)
    end, lines = folder.finished, read_trace(folder.trace)
    if not lines:
        folder.refuse_if_busy()  # its first frame is being made: to resume it would be refused
        raise UsageError(f"{path} has no frame yet; begin with: longtake resume {typed(path)}")
    latents, frames = lines[-1]["latents"][1], lines[-1]["frames"][1]
    if end is not None:
        latents, frames = min(end["latents"], latents), min(end["frames"], frames)
    elif settings.frames is not None:
        frames = min(frames, settings.frames)
    return Story(folder, settings, facts, frames, latents, finished)


def branching(told: Story, moment: str) -> tuple[int, int]:
    """(latents, frames) that stay when a run is left at a moment: what was released together stays together."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(s|f)?", moment.strip())
    if not match:
        raise UsageError(f"--from {moment} is no moment; give seconds, such as 12s, or frames, such as 96f")
    number = float(match.group(1))
    frame = number if match.group(2) == "f" else number * float(told.settings.rate)
    if frame >= told.frames:
        length = told.frames / float(told.settings.rate)
        raise UsageError(f"--from {moment} is not before the end; the video has {length:.1f} s ({told.frames} frames)")
    kept = [line for line in read_trace(told.folder.trace) if line["frames"][1] <= frame + 1e-6]
    return (kept[-1]["latents"][1], kept[-1]["frames"][1]) if kept else (0, 0)


def acting(told: Story, latent: int) -> int:
    """The latent from which a turn at `latent` acts: what was released together with it is made already."""
    lines = read_trace(told.folder.trace)
    return min(stop for stop in [lines[0]["latents"][0], *(line["latents"][1] for line in lines)] if stop >= latent)


def first_frame(told: Story, latent: int) -> int:
    """The frame of the film at which a latent is first seen."""
    return round(told.second(latent) * float(told.settings.rate))


def seen(told: Story, rollout: Any, latent: int, until: int | None = None) -> str:
    """From which second a prompt given at a latent is seen: where it begins to act, and where it rules."""
    acts = acting(told, latent)
    rules = acts + under_way(rollout, latent)
    at = f"the new prompt is seen from {told.second(acts):.1f} s on"
    if rules == acts:
        return at
    if until is not None and rules >= until:
        return (f"{at}, on latents that were begun under the old one, and alone from {told.second(rules):.1f} s on, "
                f"which is behind the end")  # fmt: skip
    return f"{at}; what was begun under the old one has left by {told.second(rules):.1f} s"


def under_way(rollout: Any, latent: int) -> int:
    """How many latents are begun already when a turn at `latent` is made, from a run without a network."""
    cycle = cycle_of(rollout)
    skipped = max((latent - FAR) // cycle, 0) * cycle
    ghost, engine = emptied(rollout), Engine(Ghost(), batch=1 << 20)
    state = engine.drive(ghost.init(0, Timeline.of("")))
    while state.emitted < latent - skipped and not state.finished:
        state, _ = engine.drive(ghost.step(state))
    return ruled_from(ghost, state) - state.emitted


def brought(job: Job, source: RunDir, made: RunDir, latent: int, comment: str | None) -> Position:
    """Make `made` a copy of a run as it was in its first state that had released `latent`; that position.

    From the nearest earlier state that there is, the rest is made again and has to come to the same frames.
    """
    endless = replace(job, num_frames=None, num_latents=None, expected_nfe=None)
    copied_until(source, made, latent, job.form.segment)
    found = nearest(endless, source, latent)
    copied_state(*found, made)
    linked_snapshots(source, made, checkpoint.load(*found).frames)
    runner = Runner(endless, made, comment)
    assert runner.position is not None
    with closing(runner.run()) as progress:  # type: ignore[type-var]
        while runner.position.released < latent:
            next(progress)
    return runner.position


def nearest(job: Job, source: RunDir, latent: int) -> tuple[Path, str]:
    """(folder, name) of the latest checkpoint from which the first state with `latent` released can be reached."""
    device = job.engine.denoiser.device
    snapshots = Snapshots(source.snapshots)
    found: list[tuple[int, Path, str]] = []
    for frames in reversed(snapshots.frames):
        position = trusted(snapshots.load(frames, device), f"{source.snapshots}/{frames}")
        if position.released <= latent and position.turns <= len(job.turns):
            found.append((position.released, source.snapshots, snapshots.name(frames)))
            break
    for name in ("state", "open"):
        if checkpoint.exists(source.path, name):
            position = trusted(checkpoint.load(source.path, name, device), f"{source.path}/{name}.json")
            # a state in the middle of a clip is not the first after the clip before
            first = position.released < latent or (position.held is not None and position.latents < latent)
            if first and position.pruned_for is None and position.turns <= len(job.turns):
                found.append((position.released, source.path, name))
    if not found:
        raise UsageError(f"{source.path} has no earlier state to go back to; its snapshots are gone")
    _, folder, name = max(found, key=lambda item: item[0])
    return folder, name


def endings(job: Job, position: Position) -> tuple[tuple[int, Tensor], ...] | None:
    """(latent of the run, its content) of the picture that a run ends on, from its state: it stays at its place, also
    where the run was made longer since. None where the method had none in its state: then it goes to the end."""
    known = next((item for item in walk(position.state) if isinstance(item, Timeline)), job.timeline)
    if not known.pictures and not job.timeline.pictures:
        return None
    return tuple((place + position.offset, latent) for place, latent in known.pictures)


def restarted(session: sessions.Session, position: Position, key: int) -> Position:
    """A position from which this session's method begins anew, behind the latents that another had released."""
    job, meter = session.job, session.job.engine.meter
    count = context_latents(session.settings, job.engine.denoiser.can)
    timeline = shifted(directed(job.timeline, job.turns), position.released)
    before = meter.nfe, meter.frame_nfe
    context = position.past[max(len(position.past) - count, 0) :]
    state = job.engine.drive(job.rollout.init(key, timeline, context))
    nfe, frame_nfe = meter.nfe - before[0], meter.frame_nfe - before[1]
    return replace(
        position, state=state, offset=position.released, turns=len(job.turns), pruned_for=None, nfe=position.nfe + nfe,
        frame_nfe=position.frame_nfe + frame_nfe, owed_nfe=nfe, owed_frame_nfe=frame_nfe,
    )  # fmt: skip
