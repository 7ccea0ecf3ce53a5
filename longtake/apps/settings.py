"""What a user asks for (`Request`) and what a run is (`Settings`): every value decided, nothing loaded yet."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from longtake.apps.parameters import choose
from longtake.apps.tables import PRESETS, Facts, Method, method, options_of, parse_sets
from longtake.core.solvers import RULES
from longtake.errors import UsageError
from longtake.output.sound import check_sound

MAX_PROMPT = 2000
MAX_HOURS = 24
MAX_STEPS = 1000
DEFAULT_SECONDS = 10.0
OFFLOAD = ("none", "model", "group")


@dataclass(frozen=True)
class Request:
    """The settings of `generate` as given; None means the default. `model` may be a live pipeline in Python."""

    prompt: str
    model: Any = "pocket"
    method: str | None = None
    solver: str | None = None
    preset: str | None = None
    frames: int | None = None
    seconds: float | str | None = None
    steps: int | None = None
    guidance: float | None = None
    size: str | tuple[int, int] | None = None
    fps: float | str | None = None
    seed: int | None = None
    image: str | Path | None = None
    video: str | Path | None = None
    negative_prompt: str = ""
    set: Sequence[str] = ()
    device: str = "auto"
    dtype: str | None = None
    audio: str | Path | None = None
    embed: bool = True
    lora: Sequence[str] = ()
    offload: str = "none"
    compile: bool = False


@dataclass(frozen=True)
class Settings:
    """A run, decided: what run.json holds and what a resumed run is built from again.

    frames is None for an endless run; fps a fraction as text; parameters those of the method that were set.
    What is None until the model is loaded is filled in then.
    """

    prompt: str
    negative_prompt: str
    model: str
    method: str
    parameters: dict[str, Any]
    preset: str | None
    solver: str | None
    steps: int
    guidance: float | None
    width: int
    height: int
    fps: str
    frames: int | None
    seed: int
    image: str | None
    video: str | None
    device: str
    dtype: str | None
    batch: int | None
    search: str = "none"
    read_as: str | None = None  # the prompt in the model's own words, where it knows few
    model_name: str | None = None
    family: str | None = None
    license: str | None = None
    model_hash: str | None = None
    threads: int | None = None
    audio: str | None = None
    embed: bool = True  # the settings stand in the video's metadata
    turns: list[dict[str, Any]] = field(default_factory=list)  # changes of direction, see apps/directing
    branch: dict[str, Any] | None = None  # of a take: where it left its run
    lora: list[str] = field(default_factory=list)
    offload: str = "none"
    compile: bool = False
    options: dict[str, Any] = field(default_factory=dict)  # of the model, as `--set riflex=` gave them

    @property
    def rate(self) -> Fraction:
        """Frames a second."""
        return Fraction(self.fps)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Settings:
        """From run.json; what an older longtake did not know gets its default. UsageError if something is amiss."""
        from longtake.apps.stored import checked

        return checked(cls, content)


def screen(request: Request) -> None:
    """Everything that can be wrong with a request by itself, before a model is even looked at."""
    check_prompt(request.prompt)
    if len(request.negative_prompt) > MAX_PROMPT:
        raise UsageError(f"the negative prompt has {len(request.negative_prompt)} characters; at most {MAX_PROMPT}")
    row = method(request.method) if request.method else None
    if request.solver:
        choose("solver", request.solver, RULES, "--solver")
    if request.preset:
        choose("preset", request.preset, PRESETS, "--preset")
    if request.frames is not None and request.seconds is not None:
        raise UsageError("--frames and --seconds both say how long; give one")
    if request.frames is not None and request.frames < 1:
        raise UsageError(f"--frames {request.frames} is not possible; give 1 or more")
    if request.seconds is not None:
        _seconds(request.seconds)
    if request.steps is not None and not 1 <= request.steps <= MAX_STEPS:
        raise UsageError(f"--steps {request.steps} is not possible; give 1 to {MAX_STEPS}")
    if request.guidance is not None and not 0 <= request.guidance <= 100:
        raise UsageError(f"--guidance {request.guidance:g} is not possible; give 0 to 100 (1 or less: no guidance)")
    if request.fps is not None:
        parse_fps(request.fps)
    choose("offload", request.offload, OFFLOAD, "--offload")
    if request.seed is not None and not 0 <= request.seed < 2**63:
        raise UsageError(f"--seed {request.seed} is not possible; give 0 to 2^63 - 1")
    if request.image and request.video:
        raise UsageError("--image and --video both say how to begin; give one")
    for flag, path in (("--image", request.image), ("--video", request.video), ("--audio", request.audio)):
        if path and not Path(path).is_file():
            raise UsageError(f"{flag} {path}: there is no such file")
    if request.audio:
        check_sound(request.audio)
    if row is not None:
        parse_sets(request.set, row)


def check_prompt(prompt: str) -> None:
    """UsageError for a prompt that is empty or too long."""
    if not prompt.strip():
        raise UsageError(
            'the prompt is empty; say what to show, such as: longtake generate "a dog walks over green hills"'
        )
    if len(prompt) > MAX_PROMPT:
        raise UsageError(f"the prompt has {len(prompt)} characters; at most {MAX_PROMPT} are read, shorten it")


def parse_fps(fps: float | str) -> Fraction:
    """Frames a second from 24, 23.976 or 24000/1001."""
    try:
        rate = Fraction(str(fps)).limit_denominator(1001)
        film = Fraction(round(rate * 1001 / 1000) * 1000, 1001)  # 23.976 and 29.97 mean 24000/1001 and 30000/1001
        rate = film if abs(film - rate) < Fraction(1, 10000) else rate
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 240:
        raise UsageError(f"--fps {fps} is not possible; give a number above 0, at most 240")
    return rate


def decide(request: Request, facts: Facts) -> tuple[Settings, list[str]]:
    """All settings of a run, and one line for each that the user should know was chosen."""
    notes: list[str] = []
    row = method(request.method) if request.method else _default_method(facts, notes)
    if row.needs_rows and facts.per_row_levels == "no" and not (row.one_level and facts.clean_rows):
        raise UsageError(
            f"{row.name} needs one noise level per latent frame, which {facts.name} lacks; use --method plain"
        )
    values, general = parse_sets(request.set, row)
    if row.name == "chunk" and facts.image_only and "join" not in values:
        values = {**values, "join": "pixel"}
        notes.append(f"chunk.join=pixel: {facts.name} continues from a picture")
    preset = PRESETS[request.preset] if request.preset else {}
    steps = request.steps
    if preset and steps is None:
        if "partitions" not in values:
            values = {**preset.get("methods", {}).get(row.name, {}), **values}
        steps = None if row.name == "fifo" else preset["steps"]
    steps = row.steps(facts.window, facts.steps, steps, values)
    if steps > MAX_STEPS:
        raise UsageError(f"{steps} steps are not possible; at most {MAX_STEPS}")
    rate = parse_fps(request.fps if request.fps is not None else facts.fps)
    seed = request.seed
    if seed is None:
        seed = secrets.randbelow(2**31)
        notes.append(f"seed {seed}")
    settings = Settings(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        model=facts.source,
        method=row.name,
        parameters=values,
        preset=request.preset,
        solver=request.solver or ("ddim" if values.get("eta") else None),
        steps=steps,
        guidance=request.guidance,
        width=facts.size[0],
        height=facts.size[1],
        fps=str(rate),
        frames=_num_frames(request, row, facts, rate, notes),
        seed=seed,
        image=str(Path(request.image).absolute()) if request.image else None,
        video=str(Path(request.video).absolute()) if request.video else None,
        device=request.device,
        dtype=request.dtype,
        batch=general.get("batch"),
        audio=str(Path(request.audio).absolute()) if request.audio else None,
        embed=request.embed,
        lora=[str(item) for item in request.lora],
        offload=request.offload,
        compile=request.compile,
        options=options_of(request.set),
    )
    return settings, notes


def _default_method(facts: Facts, notes: list[str]) -> Method:
    name = "chunk" if facts.per_row_levels == "no" else "fifo"
    notes.append(f"method {name} (the default; see: longtake methods)")
    return method(name)


def _num_frames(request: Request, row: Method, facts: Facts, rate: Fraction, notes: list[str]) -> int | None:
    longest = facts.clip_frames(row.context(facts.window, {}) if request.video else 0)
    if request.frames is not None:
        frames: int | None = request.frames
    elif request.seconds is not None:
        seconds = _seconds(request.seconds)
        frames = None if math.isinf(seconds) else round(Fraction(str(seconds)) * rate)
    elif row.streams:
        frames = round(Fraction(DEFAULT_SECONDS) * rate)
    else:
        frames = longest
        notes.append(f"{frames} frames, a whole clip of {facts.name}")
    if frames is None and not row.streams:
        raise UsageError(f"{row.name} makes one clip and cannot go on for ever; use --method fifo")
    if frames is not None and not row.streams and frames > longest:
        raise UsageError(f"{row.name} makes one clip, at most {longest} frames with {facts.name}, not {frames}; "
                         "use --method fifo or ask for fewer")  # fmt: skip
    if frames is not None and frames < 1:
        raise UsageError(f"--seconds {request.seconds} at {float(rate):g} fps is less than one frame; give more")
    if frames is not None and frames > MAX_HOURS * 3600 * rate:
        raise UsageError(
            f"{frames} frames are more than {MAX_HOURS} hours; give less, or --seconds inf for an endless run"
        )
    return frames


def _seconds(given: float | str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds) or seconds <= 0:
        raise UsageError(f"--seconds {given} is not possible; give a number above 0, or inf for an endless run")
    return seconds
