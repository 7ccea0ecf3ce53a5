"""Everything that can be wrong with a request by itself, before a model is even looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from longtake.apps.budget import parse_budget
from longtake.apps.given import check_clip, read_picture
from longtake.apps.parameters import Parameter, choose
from longtake.apps.rewarding import parse_reward, parse_reward_sets
from longtake.apps.searches import SEARCHES, search
from longtake.apps.settings import (
    MAX_PROMPT,
    MAX_STEPS,
    OFFLOAD,
    Request,
    check_prompt,
    check_text,
    parse_fps,
    seconds_given,
)
from longtake.apps.tables import PRESETS, method, parse_sets
from longtake.core.solvers import RULES
from longtake.errors import UsageError
from longtake.output.sound import check_sound

MAX_SIDE = 16384
"""Pixels a side that the video's encoder takes."""


def screen(request: Request, begun: bool = False) -> None:
    """Everything that can be wrong with a request by itself, before a model is even looked at.

    The files of a run that has `begun` are not looked for.
    """
    if request.prompt_file is None:
        check_prompt(request.prompt)
    elif request.prompt:
        raise UsageError("the prompt and --prompt-file both say what to show; give one")
    if len(request.negative_prompt) > MAX_PROMPT:
        raise UsageError(f"the negative prompt has {len(request.negative_prompt)} characters; at most {MAX_PROMPT}")
    check_text("the negative prompt", request.negative_prompt)
    if request.solver:
        choose("solver", request.solver, RULES, "--solver")
    request = beside(request)
    row = method(request.method) if request.method else None
    if request.frames is not None and request.seconds is not None:
        raise UsageError("--frames and --seconds both say how long; give one")
    if request.frames is not None and request.frames < 1:
        raise UsageError(f"--frames {request.frames} is not possible; give 1 or more")
    if request.seconds is not None:
        seconds_given(request.seconds)
    if request.steps is not None and not 1 <= request.steps <= MAX_STEPS:
        raise UsageError(f"--steps {request.steps} is not possible; give 1 to {MAX_STEPS}")
    if request.guidance is not None and not 0 <= request.guidance <= 100:
        raise UsageError(f"--guidance {request.guidance:g} is not possible; give 0 to 100 (1 or less: no guidance)")
    if request.fps is not None:
        parse_fps(request.fps)
    _screen_size(request.size)
    choose("offload", request.offload, OFFLOAD, "--offload")
    if request.seed is not None and not 0 <= request.seed < 2**63:
        raise UsageError(f"--seed {request.seed} is not possible; give 0 to 2^63 - 1")
    if request.image and request.video:
        raise UsageError("--image and --video both say how to begin; give one")
    if request.guide_model and (request.image or request.video):
        raise UsageError("--guide-model makes the picture that a video begins with; leave out --image and --video")
    if not begun:
        _screen_files(request)
    others = search_sets(request)[2]
    if row is not None:
        parse_sets(others, row, search_parameters(request.search))
    if request.search == "none" and (request.reward or request.search_budget):
        raise UsageError("--reward and --search-budget belong to a search; add --search beam, or another")
    if request.reward:
        parse_reward(request.reward)
    if request.search_budget:
        parse_budget(request.search_budget)


def _screen_files(request: Request) -> None:
    # read here too, so that a file of another kind is told before a model is loaded
    for flag, path in (("--image", request.image), ("--video", request.video), ("--audio", request.audio),
                       ("--prompt-file", request.prompt_file), ("--last-image", request.last_image)):  # fmt: skip
        if path and not Path(path).is_file():
            raise UsageError(f"{flag} {path}: {'that is a folder' if Path(path).is_dir() else 'there is no such file'}")
    for flag, path in (("--image", request.image), ("--last-image", request.last_image)):
        if path:
            read_picture(path, flag)
    if request.video:
        check_clip(request.video)
    if request.audio:
        check_sound(request.audio)


def beside(request: Request) -> Request:
    """The request with what its preset says where nothing was typed; the search is that of the preset's method."""
    preset = PRESETS[choose("preset", request.preset, PRESETS, "--preset")] if request.preset else {}
    if request.method is not None and method(request.method).name != preset.get("method"):
        preset = {name: value for name, value in preset.items() if name != "search"}
    names = ("method", "solver", "guidance", "search")
    said = {"search": "none"} | {name: preset[name] for name in names if name in preset}
    return replace(request, **{name: value for name, value in said.items() if getattr(request, name) is None})


def _screen_size(size: str | tuple[int, int] | None) -> None:
    # what is no size at all is told once the model is known, with one that works
    sides = size.lower().split("x") if isinstance(size, str) else size if isinstance(size, (list, tuple)) else ()
    if any(int(side) > MAX_SIDE for side in sides if str(side).isdecimal()):
        raise UsageError(f"--size {size} is not possible; a video has at most {MAX_SIDE} pixels a side")


def search_parameters(name: str | None) -> list[Parameter]:
    """The parameters of a search under their whole names."""
    if name is None or name == "none":
        return []
    row = search(name)
    return [replace(parameter, name=f"{row.name}.{parameter.name}") for parameter in row.parameters]


def search_sets(request: Request) -> tuple[str, dict[str, dict[str, Any]], list[str]]:
    """(name of the search, parameters of rewards, the texts of --set that are neither's). Aliases are spelled out."""
    if request.search is None or request.search == "none":
        owner = next((text.partition(".")[0] for text in request.set if text.partition(".")[0] in SEARCHES), None)
        if owner:
            raise UsageError(f"--set {owner}. has no effect without it; add --search {owner}")
        return "none", {}, list(request.set)
    row = search(request.search)
    sets = list(request.set)
    for alias in row.aliases:
        sets = [f"{row.name}.{t.partition('.')[2]}" if t.startswith(f"{alias}.") else t for t in sets]
    rewards, others = parse_reward_sets(sets)
    owners = {name: known.name for known in SEARCHES.values() for name in (known.name, *known.aliases)}
    for text in others:
        owner = owners.get(text.partition(".")[0], row.name)
        if owner != row.name:
            raise UsageError(
                f"--set {text} has no effect: the search is {row.name}; leave it out, or use --search {owner}"
            )
    return row.name, rewards, others
