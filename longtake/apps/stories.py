"""What a run's files tell of it: settings in the video, turns in run.json, and where bit-exactness ended."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from longtake.apps.lookup import look_up
from longtake.apps.overriding import over
from longtake.apps.settings import Request, Settings
from longtake.apps.stored import checked, reward_sets, sets_of, shown, within
from longtake.errors import UsageError
from longtake.output.directory import RunDir, versions
from longtake.output.trace import candidates_of
from longtake.output.turns import Turn
from longtake.output.video import probe
from longtake.search.reflect import rates

log = logging.getLogger("longtake")

HIDDEN = ("image", "last_image", "video", "audio", "device", "branch", "threads", "batch", "embed", "lora", "offload",
          "compile", "attention", "guide_model")  # fmt: skip
"""Settings that are of a machine, not of a video."""

FILES = ("image", "last_image", "video", "audio", "lora", "guide_model")
"""Of these a video tells that there was one, not where it lies."""

OF_A_MODEL = ("size", "fps", "steps", "guidance", "solver", "dtype")
"""Settings that suit one model and hardly another."""

BARE: dict[str, Any] = {"image": None, "video": None, "device": "auto", "batch": None}
"""What is not told in a video."""

EXACT = ("python", "torch", "diffusers", "transformers", "numpy", "longtake")
"""Versions that a latent's last bits can depend on."""


def embedded(settings: Settings) -> str:
    """The settings as the JSON that stands in a video, without the paths of this machine."""
    content = {key: value for key, value in settings.to_json().items() if key not in HIDDEN}
    if is_path(settings.model):
        content["model"] = None  # it has no name that others know
    content["files"] = [name for name in FILES if getattr(settings, name)]
    return json.dumps({"longtake": content}, ensure_ascii=False)


def is_path(model: str) -> bool:
    """Whether a model is named by a place on this machine, not by a name or a hub id."""
    return model.startswith((".", "/", "~", "live:", "\\")) or re.match(r"[A-Za-z]:", model) is not None


def requested(given: dict[str, Any], source: Path | None = None) -> tuple[Request, list[str]]:
    """(the request that was typed, None: not given, lines to say). `source`: a video whose settings fill the gaps."""
    if source is not None:
        request, notes = restored(source, given)
        return over(request, given), notes
    if given["prompt"] is None and given.get("prompt_file") is None:
        raise UsageError(
            'missing the prompt; say what to show, such as: longtake generate "a dog walks over green hills"'
        )
    typed: dict[str, Any] = {"prompt": ""} | {name: value for name, value in given.items() if value is not None}
    return Request(**typed), []


def restored(path: Path | str, given: dict[str, Any]) -> tuple[Request, list[str]]:
    """(the request that a video was made by, lines to say), from the settings in its metadata.

    UsageError if it has none. Files that the video began with are not in it; they have to be given again.
    """
    content = _told(path)
    seed = content.get("seed") if given.get("seed") is None else given["seed"]
    notes = [f"settings from {path}, seed {seed}"]
    files = content.get("files")
    lacking = [name for name in FILES if isinstance(files, list) and name in files and not given.get(name)]
    for flag in (f"--{name.replace('_', '-')}" for name in lacking):
        notes.append(f"it was made with {flag}, which is not in it and is left out; to make it again add {flag}")
    if content.get("turns"):
        notes.append(f"the video had {len(content['turns'])} changes of direction, which are not made again")
    names = ("model", "method", "solver", "guidance", "seed", "fps", "dtype", "frames", "steps", "search", "reward")
    told: dict[str, Any] = {name: content[name] for name in names if content.get(name) is not None}
    if content.get("frames") is None:
        told["seconds"] = "inf"
    try:
        settings = checked(Settings, {**BARE, **content, "model": str(content.get("model"))})
        told["size"] = settings.width, settings.height
        if _of_another_kind(given.get("model"), settings):
            told = _moved(told, settings)
            settings = replace(settings, options={})
            notes.append(f"--model {given['model']} is another: {', '.join(OF_A_MODEL)} are its own unless given")
        request = Request(prompt=settings.prompt, negative_prompt=settings.negative_prompt,
                          set=tuple([*sets_of(settings), *reward_sets(settings)]), **told)  # fmt: skip
    except UsageError as error:
        raise UsageError(str(error).replace("run.json", f"the metadata of {path}")) from error
    if given.get("model") is None and ("model" not in told or is_path(str(request.model))):
        raise UsageError(f"{path} does not say where its model is ({shown(content.get('model_name'))}); add --model")
    return request, notes


def _of_another_kind(model: Any, settings: Settings) -> bool:
    """Whether a model that is typed is not that of the video: by its name, and by what its own videos are like."""
    if model is None:
        return False
    facts, name = look_up(Request("", model)), settings.model_name or settings.model
    alike = facts.family == settings.family and facts.size == (settings.width, settings.height)
    return Path(facts.name).name != Path(name).name and not (alike and facts.fps == settings.rate)


def _moved(told: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """What was restored, without what is of a model: as long in seconds, however many frames that is there."""
    left = {name: value for name, value in told.items() if name not in (*OF_A_MODEL, "frames")}
    return left if settings.frames is None else {**left, "seconds": float(settings.frames / settings.rate)}


def turns_of(settings: Settings) -> tuple[Turn, ...]:
    """The turns of a run as its runner wants them. UsageError for a turn that cannot be."""
    try:
        turns = [
            Turn(turn["latent"], turn["key"], turn.get("read_as") or turn.get("prompt")) for turn in settings.turns
        ]
    except KeyError as error:
        raise UsageError(f"run.json has a turn without {error}; it was changed") from error
    kinds = all(type(turn.latent) is type(turn.key) is int and isinstance(turn.prompt, str | None) for turn in turns)
    if not kinds or any(after.latent < turn.latent for turn, after in zip(turns, turns[1:], strict=False)):
        raise UsageError("run.json has turns that are out of order or of another kind; it was changed")
    return tuple(turns)


def turn_prompts(settings: Settings) -> list[str]:
    """The prompts that turns bring."""
    return [turn.prompt for turn in turns_of(settings) if turn.prompt is not None]


def same_weights(settings: Settings, weights_hash: str) -> None:
    """UsageError unless the weights are those that the run began with, if it has begun."""
    if settings.model_hash not in (None, weights_hash):
        raise UsageError(
            f"the weights of {settings.model} are not those that the run began with ({weights_hash[:12]} instead "
            f"of {str(settings.model_hash)[:12]}); put those back, or go on with others from the film: "
            f"longtake generate ... --video video.mp4 --model {settings.model}"
        )


def note_environment(settings: Settings, folder: RunDir, frame: int) -> None:
    """Say, and note in run.json, if a run goes on where its bits may differ: another device, other versions."""
    begun = folder.settings()
    now = versions()
    known = begun.get("versions")
    reasons = [f"{name} {known.get(name)} -> {now.get(name)}" for name in EXACT if known.get(name) != now.get(name)] \
        if isinstance(known, dict) else ["the versions that it began with are not known"]  # fmt: skip
    device = begun.get("device")
    if device not in (None, "auto", settings.device):
        reasons.append(f"device {device} -> {settings.device}")
    if settings.device == "cpu" and begun.get("threads") not in (None, torch.get_num_threads()):
        reasons.append(f"threads {begun.get('threads')} -> {torch.get_num_threads()}")
    if reasons:
        folder.remark(frame, reasons)
        log.warning("not bit-exact from frame %d on, perhaps: %s", frame, ", ".join(reasons))


def film_fits(settings: Settings, folder: RunDir) -> None:
    """UsageError if run.json tells another size than its film has: said before a model of that size is made.

    A film that is not there or cannot be read is left to who needs it.
    """
    try:
        film = probe(folder.video)
    except UsageError:
        return
    # odd sizes are padded to even ones
    if (film.width, film.height) != (settings.width + settings.width % 2, settings.height + settings.height % 2):
        raise UsageError(
            f"{folder.manifest} says {settings.width}x{settings.height}, but {folder.video.name} is "
            f"{film.width}x{film.height}; one of them was changed: put the size of the film back"
        )


def corrections(settings: Settings, lines: list[dict[str, Any]]) -> dict[str, float] | None:
    """How often reflection looked, tried and corrected, and MIGA's R_corr and R_succ; None under another search."""
    if settings.search != "reflect":
        return None
    known = [{"candidates": [one for one in candidates_of(line) if _is_look(one)]} for line in lines]
    return {name: round(value, 6) for name, value in rates(known).items()}


def told_corrections(found: dict[str, float]) -> str:
    """The same as a line of text."""
    return (f"reflection looked {found['looked']} times, tried {found['tried']}, corrected {found['corrected']}: "
            f"R_corr {found['R_corr']:.3f}, R_succ {found['R_succ']:.3f}")  # fmt: skip


def _is_look(one: dict[str, Any]) -> bool:
    return isinstance(one.get("proposal"), str) and type(one.get("number")) is int


def _told(path: Path | str) -> dict[str, Any]:
    comment = probe(path).comment
    try:
        content = json.loads(comment or "")["longtake"]
        if not isinstance(content, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} has no settings of longtake in it; give the prompt and the flags instead") from error
    try:
        within("settings", content)
        for name, value in content.items():
            within(name, value)
    except UsageError as error:
        raise UsageError(str(error).replace("run.json", str(path))) from error
    return content
