"""What can be known of a model before its weights are loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from longtake.apps.parameters import choose
from longtake.apps.settings import Request
from longtake.apps.tables import Facts
from longtake.errors import UsageError


def look_up(request: Request) -> Facts:
    """What can be known of the model of a request before its weights are loaded. UsageError if it cannot work."""
    from longtake.models import folder as folders
    from longtake.models import load as models  # imports diffusers, which takes seconds

    if not isinstance(request.model, (str, Path)):
        return _facts_of(models.load(request.model, request.size, guidance=request.guidance))
    source = str(request.model)
    if source not in models.NAMES and "/" not in source and os.sep not in source and not Path(source).exists():
        choose("model", source, models.NAMES, "--model")
    path = folders.resolve(source, models.NAMES)
    index = folders.check(path, models.FAMILIES)
    expands, own = bool(index.get("expand_timesteps")), folders.settings(path)
    usual = {**models.DEFAULTS[expands], **own}
    vae = folders.read_json(path / "vae" / "config.json")
    factor = int(vae.get("scale_factor_spatial", 8))
    guidance = request.guidance if request.guidance is not None else usual["guidance"]
    return Facts(
        name=source if source in models.NAMES else path.name,
        source=str(path.absolute()) if Path(source).expanduser().is_dir() and source not in models.NAMES else source,
        family=models.FAMILIES[index["_class_name"]],
        window=int(usual["window"]),
        channels=int(vae.get("z_dim", 16)),
        factor=factor,
        fps=usual["fps"],
        steps=int(usual["steps"]),
        size=models.fit_size(request.size or usual["size"], 2 * factor),
        vocabulary=own.get("vocabulary"),
        per_row_levels="native",
        image_first=expands,
        guided=float(guidance) > 1,
    )


def _facts_of(model: Any) -> Facts:
    can = model.denoiser.can
    return Facts(
        name=model.name,
        source=f"live:{model.name}",
        family=model.family,
        window=can.window,
        channels=can.latent_shape[0],
        factor=model.size[0] // can.latent_shape[2],
        fps=model.fps,
        steps=model.steps,
        size=model.size,
        vocabulary=None,
        per_row_levels=can.per_row_levels,
        image_first=can.image_first,
        guided=model.denoiser.cost > 1,
        compression=can.temporal_compression,
    )


def advise(prompt: str) -> tuple[str, list[str]]:
    """(the prompt in words that pocket knows, lines on those that it does not). UsageError if no subject is known."""
    from longtake.world.captions import EXAMPLES, advise

    advice = advise(prompt)
    if not advice.has_subject:
        examples = " | ".join(f'"{example}"' for example in EXAMPLES)
        raise UsageError(f"this model knows no subject in {prompt[:80]!r}; prompts that work: {examples}")
    if not advice.unknown:
        return advice.prompt, []
    words = ", ".join(f"{word} (read as {near})" if near else f"{word} (left out)" for word, near in advice.unknown)
    return advice.prompt, [f"words this model does not know: {words}"]
