"""From settings to a film: look a model up, load it, build the job, run it. Shared by the command line and Python."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longtake.apps.building import Materials
from longtake.apps.composing import length_of, method_of, reward_of, searched, timeline_of
from longtake.apps.guiding import make_guide
from longtake.apps.kinds import of_kind
from longtake.apps.pictures import ENDING, context_of, ending_of, kept_ending
from longtake.apps.planning import cost, dry_rollout, plan
from longtake.apps.settings import Request, Settings
from longtake.apps.stories import embedded, note_environment, same_weights, turn_prompts, turns_of
from longtake.core.check import check
from longtake.core.engine import Engine, cost_of
from longtake.core.model import Capabilities
from longtake.core.solvers import Solver
from longtake.errors import UsageError
from longtake.output import checkpoint
from longtake.output.directory import RunDir, cleared, make_directory, plan_directory, probe_directory
from longtake.output.job import Job, Progress, film
from longtake.output.run import Runner
from longtake.output.sound import check_sound, store_sound
from longtake.output.takes import JOURNAL, settle
from longtake.output.video import Format

log = logging.getLogger("longtake")
AT_ONCE = 200_000
"""Places of latents (rows times height times width) that an accelerator is given at once. A window of Wan at 832x480
has 131,040, which keep any card busy; eight of them, twice for guidance, do not fit 24 GB."""


@dataclass(frozen=True)
class Result:
    """What `generate` and `resume` print under --format json. seconds is wall time."""

    run: str
    video: str
    frames: int
    fps: float
    width: int
    height: int
    latent_frames: int
    nfe: int
    seconds: float
    seed: int
    model: str
    method: str
    search: str


@dataclass(frozen=True, eq=False)
class Session:
    """Settings with the model loaded and the job built. `comment` goes into the video's metadata."""

    settings: Settings
    job: Job
    model: Any
    notes: list[str]

    @property
    def comment(self) -> str | None:
        """The settings as JSON, without the paths of this machine; None if they are not wanted in the video."""
        return embedded(self.settings) if self.settings.embed else None


def start(request: Request, check: Callable[[Settings], None] = lambda settings: None) -> Session:
    """A new run, ready to go: everything checked, by `check` too, and then the model loaded."""
    settings, _, notes = plan(request)
    check(settings)
    make_guide(settings)  # before the model is there: the two need not fit into memory together
    live = None if isinstance(request.model, (str, Path)) else request.model
    session = build(settings, live, fresh=True)
    return replace(session, notes=[*notes, *(line for line in session.notes if line not in notes)])


def build(settings: Settings, live: Any = None, fresh: bool = False) -> Session:
    """Load the model and make the job. `fresh`: a new run, so that its picture or clip is read.

    A run that was begun on a CPU goes on with as many threads: sums over threads differ in the last bits.
    """
    from longtake.models.load import LOADING, load

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model = load(
        live if live is not None else settings.model,
        (settings.width, settings.height),
        settings.steps,
        settings.guidance,
        settings.solver,
        settings.negative_prompt,
        settings.device,
        settings.dtype,
        settings.lora,
        settings.offload,
        settings.compile,
        settings.options,
        settings.attention,
    )
    device = model.denoiser.device
    with LOADING:  # a reward's networks too
        rollout, notes = _rollout(settings, model)
    notes = [f"device {device}, {model.dtype}", *model.notes, *notes]
    batch = settings.batch or (windows_at_once(model.denoiser.can) if device.type == "cuda" else 1)
    same_weights(settings, model.weights_hash)
    settings = replace(
        settings,
        solver=model.solver,
        guidance=model.guidance,
        device=str(device),
        dtype=model.dtype,
        batch=batch,
        model_name=model.name,
        family=model.family,
        license=model.license,
        model_hash=model.weights_hash,
        threads=torch.get_num_threads() if device.type == "cpu" else None,
    )
    prompts = timeline_of(settings, model.denoiser.can).prompts
    model.prepare([*prompts, *turn_prompts(settings)], release=live is None)
    if fresh:
        make_guide(settings)
    context = context_of(settings, model) if fresh else ()
    return Session(settings, _job(settings, model, rollout, context), model, notes)


def windows_at_once(can: Capabilities) -> int:
    """Windows that an accelerator is given at once, if `--set batch=` does not say."""
    places = can.window * math.prod(can.latent_shape[1:])
    return max(1, min(8, AT_ONCE // places))


def _rollout(settings: Settings, model: Any) -> tuple[Any, list[str]]:
    """(method and search of a loaded model, lines to say). UsageError for pairs that cannot work."""
    can, latents = model.denoiser.can, length_of(settings, model.denoiser.can)
    materials = Materials(
        can.latent_shape, model.denoiser.schedule, Solver(model.solver), can.window, model.codec, latents,
        settings.ending == "shrink", None if settings.search == "freeinit" else model.begin,
        can.latents_at_once,
    )  # fmt: skip
    inner, notes = method_of(settings, materials), []
    reward: Any = None
    if settings.search != "none":
        reward, _, notes = reward_of(settings, model)
    rollout = searched(settings, inner, reward, latents)
    try:
        return rollout, [*notes, *check(rollout, model.denoiser)]
    except ValueError as error:
        raise UsageError(str(error)) from error


def _job(settings: Settings, model: Any, rollout: Any, context: tuple[Tensor, ...]) -> Job:
    can, expected = model.denoiser.can, None
    latents = length_of(settings, can)
    engine = Engine(model.denoiser, settings.batch or 1)
    if latents is not None:
        paper = dry_rollout(settings, can)
        expected = cost(paper, latents, len(context), partial(cost_of, model.denoiser), settings.seed).nfe
    form = Format(settings.width, settings.height, settings.rate)
    timeline = replace(timeline_of(settings, can), pictures=ending_of(settings, model, latents))
    return Job(rollout, engine, model.codec, timeline, settings.seed, form, settings.frames, latents, context,
               bool(settings.image), expected, turns_of(settings))  # fmt: skip


def begin(session: Session, out: str | Path | None, root: str | Path = "runs") -> RunDir:
    """Make the run directory and write run.json."""
    path = plan_directory(out, session.settings.prompt, session.settings.seed, root)
    folder = make_directory(path, fixed=out is not None)
    with folder.locked():
        cleared(folder)
        if session.settings.audio:
            store_sound(session.settings.audio, folder.sound)
        kept_ending(session.settings, folder.path)
        folder.describe(session.settings.to_json())
    return folder


def made(request: Request, out: str | Path | None) -> tuple[Session, RunDir]:
    """A new run, ready to go, in its folder, which is tried before the model is loaded."""
    session = start(request, lambda it: probe_directory(plan_directory(out, it.prompt, it.seed)))
    return session, begin(session, out)


@contextlib.contextmanager
def running(session: Session, folder: RunDir) -> Iterator[tuple[Runner, Iterator[Progress]]]:
    """A runner in its locked folder and its progress; left early, it saves everything and can be resumed."""
    with folder.locked():
        audible(session.settings, folder)
        runner = Runner(session.job, folder, session.comment)
        if runner.position is not None:
            note_environment(session.settings, folder, runner.position.frames)
        with contextlib.closing(runner.run()) as progress:  # type: ignore[type-var]
            yield runner, progress


def result(settings: Settings, folder: RunDir, runner: Runner | None = None) -> Result:
    """The result of a run that has ended or was interrupted."""
    at: dict[str, Any] = folder.finished or {}
    if not at and runner is not None and runner.position is not None:
        at = {name: getattr(runner.position, name) for name in ("frames", "latents", "nfe", "seconds")}
    return Result(
        run=str(folder.path),
        video=str(folder.video),
        frames=at.get("frames", 0),
        fps=float(settings.rate),
        width=settings.width,
        height=settings.height,
        latent_frames=at.get("latents", 0),
        nfe=at.get("nfe", 0),
        seconds=round(at.get("seconds", 0.0), 3),
        seed=settings.seed,
        model=settings.model_name or settings.model,
        method=settings.method,
        search=settings.search,
    )


def reopen(folder: RunDir) -> tuple[Settings, bool]:
    """(settings of a run, whether it is finished). UsageError if it is no run."""
    if (folder.path / JOURNAL).exists():
        with folder.locked():
            settle(folder)
    settings = Settings.from_json(folder.settings())
    if settings.last_image and (folder.path / ENDING).is_file():
        settings = replace(settings, last_image=str(folder.path / ENDING))
    return settings, folder.finished is not None


def audible(settings: Settings, folder: RunDir) -> None:
    """UsageError if a run has sound and its track is gone or damaged: the film would go on without it."""
    if settings.audio:
        try:
            check_sound(folder.sound)
        except UsageError as error:
            raise UsageError(f"{folder.sound} is gone or damaged, and this run has sound; put it back") from error


def begun(folder: RunDir) -> bool:
    """Whether a run has a checkpoint; from then on its picture or clip is not needed."""
    return checkpoint.exists(folder.path)


def generate(prompt: str, out: str | Path | None = None, **options: Any) -> Result:
    """Make a video in a run directory; options as in `Request`. What the command `longtake generate` does, silently."""
    request = Request(prompt, **of_kind(prompt, options))
    plan_directory(out, prompt, 0)  # a folder that is taken shows before the model is loaded
    session, folder = made(request, out)
    for note in session.notes:
        log.info("%s", note)
    with running(session, folder) as (runner, progress):
        for _ in progress:
            pass
    return result(session.settings, folder, runner)


def stream(prompt: str, **options: Any) -> Iterator[Tensor]:
    """Frames as they come, each (T, H, W, 3) uint8; nothing is written. Without a length it is endless.

    The model is loaded here and now; frames are made as they are asked for.
    """
    if options.get("frames") is None and options.get("seconds") is None:
        options["seconds"] = "inf"
    session = start(Request(prompt, **of_kind(prompt, options)))
    for note in session.notes:
        log.info("%s", note)
    return film(session.job)


def as_json(value: Any) -> str:
    """A dataclass as one line of JSON."""
    return json.dumps(asdict(value), ensure_ascii=False)
