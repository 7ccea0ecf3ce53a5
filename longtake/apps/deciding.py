"""All settings of a run from what was asked for and what is known of the model."""

from __future__ import annotations

import math
import secrets
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from longtake.apps.prompts import Scene, is_story, parse_story, read_story, seconds_of, written
from longtake.apps.screening import search_parameters, search_sets
from longtake.apps.searches import search
from longtake.apps.settings import (
    DEFAULT_SECONDS,
    MAX_HOURS,
    MAX_STEPS,
    Request,
    Settings,
    check_prompt,
    parse_fps,
    seconds_given,
)
from longtake.apps.tables import PRESETS, Facts, Method, method, options_of, parse_sets
from longtake.errors import UsageError
from longtake.models.families import FAMILIES


def decide(request: Request, facts: Facts) -> tuple[Settings, list[str]]:
    """All settings of a run, the preset beside it (`screening.beside`), and a line for each that was chosen."""
    notes: list[str] = []
    preset = PRESETS[request.preset] if request.preset else {}
    row = _method(request, facts, notes)
    search_name, reward_values, others = search_sets(request)
    values, general = parse_sets(others, row, search_parameters(request.search))
    if general.get("ending") == "shrink" and not row.shrinks:
        raise UsageError(f"--set ending=shrink is for queues that run empty (fifo, progressive), not for {row.name}")
    values, steps = _steps(request, row, preset, facts, values)
    if row.name == "chunk":
        values = _joined(values, facts, notes)
    rate = parse_fps(request.fps if request.fps is not None else facts.fps)
    seed = request.seed
    if seed is None:
        seed = secrets.randbelow(2**31)
        notes.append(f"seed {seed}")
    story, frames = _story(request, row, facts, rate, notes)
    # as they are, of the same name
    same = ("negative_prompt", "preset", "guidance", "device", "dtype", "embed", "offload", "compile", "reward",
            "attention")  # fmt: skip
    guide = request.guide_model
    rest: dict[str, Any] = {name: getattr(request, name) for name in same}
    rest |= {name: _absolute(getattr(request, name)) for name in ("image", "video", "audio", "last_image")}
    rest |= {name: general[name] for name in ("fade", "prompt_rule", "ending") if name in general}
    settings = Settings(
        prompt=written(story, rate) if request.prompt_file else request.prompt,
        model=facts.source,
        guide_model=_absolute(guide) if guide and Path(guide).is_dir() else guide and str(guide),
        method=row.name,
        parameters=values,
        solver=request.solver or ("ddim" if values.get("eta") else None),
        steps=steps,
        width=facts.size[0],
        height=facts.size[1],
        fps=str(rate),
        frames=frames,
        seed=seed,
        lora=[str(item) for item in request.lora],
        options=options_of(request.set),
        prompts=[asdict(scene) for scene in story],
        search=search_name,
        search_parameters=_usual_search(request, search_name, preset)
        | {k.partition(".")[2]: v for k, v in general.items() if k.startswith(f"{search_name}.")},
        reward_parameters=reward_values,
        batch=general.get("batch"),
        **rest,
    )
    return settings, notes


def _joined(values: dict[str, Any], facts: Facts, notes: list[str]) -> dict[str, Any]:
    """How clips hang together unless that was said: as the model's authors chain them, else through a picture."""
    if facts.chunk_overlap:
        pixel = values.get("join") == "pixel"
        return values if pixel or "overlap" in values else {**values, "overlap": facts.chunk_overlap}
    if facts.image_only and "join" not in values:
        notes.append(f"chunk.join=pixel: {facts.name} continues from a picture")
        return {**values, "join": "pixel"}
    return values


def _absolute(path: str | Path | None) -> str | None:
    return str(Path(path).absolute()) if path else None


def _method(request: Request, facts: Facts, notes: list[str]) -> Method:
    row = method(request.method) if request.method else _default_method(facts, request.search or "none", notes)
    if row.needs_rows and facts.per_row_levels == "no" and not (row.one_level and facts.clean_rows):
        why = FAMILIES[facts.family].alone
        raise UsageError(
            f"{row.name} needs one noise level per latent frame, which {facts.name} lacks{f' ({why})' if why else ''}; "
            f"use --method {'chunk' if facts.clean_rows else 'plain'}"
        )
    return row


def _steps(
    request: Request, row: Method, preset: dict[str, Any], facts: Facts, values: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """(parameters with those of the preset under them, the steps)."""
    values, steps = {**_usual(request, row, preset), **values}, request.steps
    if steps is None and row.name != "fifo":
        steps = preset.get("steps")
    steps = row.steps(facts.window, facts.steps, steps, values)
    if steps > MAX_STEPS:
        raise UsageError(f"{steps} steps are not possible; at most {MAX_STEPS}")
    return values, steps


def _usual(request: Request, row: Method, preset: dict[str, Any]) -> dict[str, Any]:
    """The method's parameters that the preset brings, less those that typed steps or a typed solver speak against."""
    found = dict(preset.get("methods", {}).get(row.name, {}))
    if row.name == "fifo" and request.steps is not None:
        found.pop("partitions", None)
    if request.solver not in (None, "ddim"):
        found.pop("eta", None)
    return found


def _usual_search(request: Request, name: str, preset: dict[str, Any]) -> dict[str, Any]:
    """The search's parameters that the preset brings, less its size where a budget was typed."""
    found = dict(preset.get("searches", {}).get(name, {}))
    sized = search(name).sizes({}, [1])[0][0] if found and request.search_budget else {}
    return {key: value for key, value in found.items() if key not in sized}


def _story(
    request: Request, row: Method, facts: Facts, rate: Fraction, notes: list[str]
) -> tuple[list[Scene], int | None]:
    """(scenes of a story, [] for one prompt; frames of the run). A story that says how long it is needs no length."""
    given = request.frames is not None or request.seconds is not None
    if request.prompt_file is None and not is_story(request.prompt):
        return [], _num_frames(request, row, facts, rate, notes)
    if request.prompt_file is None:
        length = None if given else seconds_of(request.prompt, rate)
        request = request if length is None else replace(request, seconds=str(float(length)))
        frames = _num_frames(request, row, facts, rate, notes)
        story = parse_story(request.prompt, rate, frames)
    else:
        frames = _num_frames(request, row, facts, rate, notes)
        story = read_story(Path(request.prompt_file), rate, frames)
    for scene in story:
        check_prompt(scene.prompt)
    return story, frames


def _default_method(facts: Facts, searched: str, notes: list[str]) -> Method:
    queues = facts.per_row_levels != "no" and (searched == "none" or search(searched).queues)
    name = "chunk" if not queues else facts.method or "fifo"
    notes.append(f"method {name} (the default; see: longtake methods)")
    return method(name)


def _num_frames(request: Request, row: Method, facts: Facts, rate: Fraction, notes: list[str]) -> int | None:
    longest = facts.clip_frames(row.context(facts.window, {}) if request.video else 0)
    if request.frames is not None:
        frames: int | None = request.frames
    elif request.seconds is not None:
        seconds = seconds_given(request.seconds)
        frames = None if math.isinf(seconds) else round(Fraction(str(seconds)) * rate)
    elif row.streams or row.fixed:
        frames = round(Fraction(DEFAULT_SECONDS) * rate)
    else:
        frames = longest
        notes.append(f"{frames} frames, a whole clip of {facts.name}")
    endless = "fifo" if facts.per_row_levels != "no" else "chunk"
    if frames is None and not row.streams:
        what = "a video of fixed length" if row.fixed else "one clip"
        raise UsageError(f"{row.name} makes {what} and cannot go on for ever; use --method {endless}")
    if frames is not None and not (row.streams or row.fixed) and frames > longest:
        raise UsageError(f"{row.name} makes one clip, at most {longest} frames with {facts.name}, not {frames}; "
                         f"use --method {endless} or ask for fewer")  # fmt: skip
    if frames is not None and frames < 1:
        raise UsageError(f"--seconds {request.seconds} at {float(rate):g} fps is less than one frame; give more")
    if frames is not None and frames > MAX_HOURS * 3600 * rate:
        raise UsageError(
            f"{frames} frames are more than {MAX_HOURS} hours; give less, or --seconds inf for an endless run"
        )
    return frames
