"""Directing a run that exists: make it longer, under another prompt, or go back to a moment and take another way."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longtake.apps import session as sessions
from longtake.apps.generate import Console, play
from longtake.apps.lookup import advise
from longtake.apps.moments import Story, acting, branching, brought, endings, first_frame, restarted, seen, story
from longtake.apps.overriding import over
from longtake.apps.session import Session
from longtake.apps.settings import MAX_HOURS, Request, Settings, check_prompt
from longtake.apps.stored import reward_sets, sets_of
from longtake.apps.stories import film_fits
from longtake.apps.tables import method
from longtake.errors import UsageError
from longtake.output import checkpoint
from longtake.output.directory import RunDir, typed
from longtake.output.resuming import resumable
from longtake.output.snapshots import Snapshots
from longtake.output.takes import making, placed
from longtake.output.turns import key_of

# -- extend ----------------------------------------------------------------------------------------------------------


def run_extend(path: Path, frames: int, prompt: str | None, console: Console) -> None:
    """Make a run longer by so many frames, from there on under another prompt if one is given."""
    console.listen()
    told = story(path)
    film_fits(told.settings, told.folder)
    settings = longer(told, frames)
    told.folder.refuse_if_busy()
    if prompt is not None:
        turn, words = prompted(told, prompt)
        settings = replace(settings, turns=[*settings.turns, {"latent": told.latents, "key": 0, **turn}])
        for line in words:
            console.note(line)
    session = sessions.build(settings)
    latents = session.job.num_latents
    if prompt is not None:
        begins = first_frame(told, acting(told, told.latents))
        if settings.frames is not None and settings.frames <= begins:
            least = frames + begins + 1 - settings.frames
            raise UsageError(f"--frames {frames} ends before the new prompt can be seen; give {least} or more")
        console.note(seen(told, session.job.rollout, told.latents, latents))
    with told.folder.locked():
        resumable(session.job, told.folder)  # what is refused stays as it is
        # in this order: a kill in between leaves the run as it was, to be finished anew from its last state
        told.folder.end.unlink(missing_ok=True)
        told.folder.amend(frames=settings.frames, turns=settings.turns)
    if settings.last_image:
        console.note(f"the video passes the picture it ended on, at {told.second(told.latents - 1):.1f} s, and goes on")
    for line in session.notes:
        console.note(line)
    play(session, told.folder, console)


def longer(told: Story, frames: int) -> Settings:
    """The settings of the run with `frames` more. UsageError if it cannot be."""
    settings = told.settings
    if frames < 1:
        raise UsageError(f"--frames {frames} is not possible; give 1 or more, the frames to add")
    total = (told.frames if settings.frames is None else settings.frames) + frames
    if total > MAX_HOURS * 3600 * settings.rate:
        raise UsageError(f"{total} frames are more than {MAX_HOURS} hours; give less")
    row = method(settings.method)
    onward = f"go on from its end with: longtake generate ... --video {typed(told.folder.video)} --method chunk"
    context = row.context(told.facts.window, settings.parameters) if settings.video else 0
    if not row.streams and (row.fixed or total > told.facts.clip_frames(context)):
        raise UsageError(f"{row.name} makes a video of a length that it has to know, and no longer one later; {onward}")
    if settings.ending == "shrink":
        raise UsageError(f"this run let its queue run empty (ending=shrink) and cannot be made longer; {onward}")
    return replace(settings, frames=total)


def prompted(told: Story, prompt: str) -> tuple[dict[str, Any], list[str]]:
    """(what a turn keeps of a new prompt, lines to say). UsageError for a prompt that does not work."""
    check_prompt(prompt)
    if told.facts.vocabulary != "world":
        return {"prompt": prompt}, []
    read_as, words = advise(prompt)
    return {"prompt": prompt, "read_as": read_as}, words


# -- reroll ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What a new branch does otherwise; None: as the run did."""

    seed: int | None = None
    prompt: str | None = None
    method: str | None = None
    search: str | None = None

    @property
    def restarts(self) -> bool:
        """Whether another method or search begins anew behind the latents before the moment."""
        return self.method is not None or self.search is not None


def run_reroll(path: Path, moment: str, change: Change, console: Console) -> None:
    """Make another branch of a run from a moment on, as a take of it. The run itself stays as it is."""
    console.listen()
    told = story(path)
    film_fits(told.settings, told.folder)
    if change.seed is not None and not 0 <= change.seed < 2**63:
        raise UsageError(f"--seed {change.seed} is not possible; give 0 to 2^63 - 1")
    latent, frame = branching(told, moment)
    if change == Change() or (change.restarts and change.seed is None):
        change = replace(change, seed=secrets.randbelow(2**31))
        console.note(f"seed {change.seed}")
    settings = branched(told, latent, frame, change, console)
    told.folder.refuse_if_busy()
    console.note(f"everything before {frame / float(told.settings.rate):.1f} s stays, frame for frame")
    if change.restarts:
        session, made = _restarted(told, settings, latent, change)
    else:
        session = sessions.build(settings)
        with told.folder.locked(), making(told.folder) as room:
            kept = len(settings.turns) - 1
            brought(replace(session.job, turns=session.job.turns[:kept]), told.folder, room, latent, session.comment)
            room.describe(session.settings.to_json())
            made = placed(room, told.folder)
    if change.prompt is not None:
        console.note(seen(told, session.job.rollout, latent, session.job.num_latents))
    for line in session.notes:
        console.note(line)
    console.note(
        f"take {made.path.name}; put it in the run's place with: longtake takes {typed(path)} --use {made.path.name}"
    )
    play(session, made, console)


def branched(told: Story, latent: int, frame: int, change: Change, console: Console) -> Settings:
    """The settings of the new branch."""
    settings = told.settings
    turn: dict[str, Any] = {"latent": latent, "key": 0}
    if change.seed is not None and not change.restarts:
        turn |= {"seed": change.seed, "key": key_of(change.seed)}
    if change.prompt is not None:
        new, words = prompted(told, change.prompt)
        turn |= new
        for line in words:
            console.note(line)
    if change.restarts:
        settings = redecided(told, change)
    branch = {"latent": latent, "from_frame": frame, "seed": change.seed}
    kept = [one for one in told.settings.turns if one["latent"] <= latent]
    total = told.settings.frames if told.settings.frames is not None else told.frames
    return replace(settings, frames=total, turns=[*kept, turn], branch=branch)


def redecided(told: Story, change: Change) -> Settings:
    """The settings of a run under another method or search, its model and its look as they are."""
    from longtake.apps.planning import plan

    old, name = told.settings, change.method or told.settings.method
    if not method(name).streams:
        raise UsageError(f"{name} makes a video of known length and cannot go on from a moment; use chunk or fifo")
    request = Request(
        old.prompt, old.model, old.method, frames=old.frames or told.frames, steps=old.steps, guidance=old.guidance,
        size=(old.width, old.height), fps=old.fps, seed=old.seed, image=old.image, video=old.video,
        last_image=old.last_image, solver=old.solver, negative_prompt=old.negative_prompt,
        set=[*sets_of(old), *reward_sets(old)], device=old.device, dtype=old.dtype, search=old.search,
        reward=old.reward, lora=old.lora, offload=old.offload, compile=old.compile, attention=old.attention,
    )  # fmt: skip
    new, _, _ = plan(over(request, {"method": change.method, "search": change.search}), begun=True)
    keep = ("image", "last_image", "video", "audio", "guide_model", "embed", "batch", "threads", "read_as", "prompts",
            "model_hash", "frames")  # fmt: skip
    return replace(new, **{name: getattr(old, name) for name in keep})


def _restarted(told: Story, settings: Settings, latent: int, change: Change) -> tuple[Session, RunDir]:
    # The way to the moment with the run's own method, then the new one behind the latents before it
    before = sessions.build(replace(told.settings, turns=settings.turns[:-1]))
    with told.folder.locked(), making(told.folder) as room:
        position = brought(before.job, told.folder, room, latent, before.comment)
        found = endings(before.job, position)
        del before
        session = sessions.build(settings)
        if found is not None:
            timeline = replace(session.job.timeline, pictures=found)
            session = replace(session, job=replace(session.job, timeline=timeline))
        key = key_of(change.seed or 0)
        position = restarted(session, position, key)
        shutil.rmtree(room.snapshots, ignore_errors=True)  # they are of the other method
        Snapshots(room.snapshots).keep(position)
        checkpoint.save(position, room.path)
        room.describe(session.settings.to_json())
        return session, placed(room, told.folder)
