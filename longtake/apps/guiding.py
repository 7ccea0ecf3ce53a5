"""`--guide-model`: the picture that a video begins with is made first, by another model, and kept in the cache."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from longtake.apps.facts import Facts
from longtake.apps.settings import Request, Settings
from longtake.errors import UsageError
from longtake.rewards.features import cache_folder


def guided(request: Request, settings: Settings, facts: Facts) -> tuple[Settings, list[str]]:
    """The settings with the place of the picture as their image, and a line that says so. Nothing is made yet."""
    if request.guide_model is None:
        return settings, []
    if not facts.image_first:
        raise UsageError(f"{facts.name} cannot begin with a picture, so --guide-model has no use; leave it out")
    _check_place(str(settings.guide_model))
    path = str(_place(settings))
    return replace(settings, image=path), [f"the first picture comes from {settings.guide_model}"]


def make_guide(settings: Settings) -> None:
    """Make the picture unless it is there."""
    if settings.guide_model is None or settings.image is None or Path(settings.image).exists():
        return
    from longtake.models.guide import make_picture

    size = settings.width, settings.height
    picture = make_picture(
        settings.guide_model, settings.prompt, size, settings.seed, settings.negative_prompt, settings.device
    )
    path = Path(settings.image)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new.png")
    picture.save(fresh)
    fresh.replace(path)


def _check_place(model: str) -> None:
    # a folder that is no pipeline is told before anything is loaded; a hub id is asked when the picture is made
    folder = Path(model).expanduser()
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise UsageError(f"--guide-model {model} has no model_index.json; give a text-to-image pipeline of diffusers")
    if not folder.is_dir() and (model.startswith((".", "/", "~")) or model.count("/") != 1):
        raise UsageError(f"--guide-model {model}: there is no such folder; give a folder or a hub id (owner/name)")


def _place(settings: Settings) -> Path:
    named = (settings.guide_model, settings.prompt, settings.negative_prompt, settings.width, settings.height,
             settings.seed)  # fmt: skip
    return cache_folder() / "guides" / f"{sha256(json.dumps(named).encode()).hexdigest()[:24]}.png"
