"""What can be known of a model before its weights are loaded."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longtake.apps.parameters import choose
from longtake.apps.settings import Request
from longtake.apps.tables import Facts, options_of
from longtake.errors import UsageError

SAID = ("per_row_levels", "image_first", "image_only", "last_image", "clean_rows", "first_is_image", "latent_group",
        "latents_at_once", "frames_behind")  # fmt: skip
"""What a loaded model says of itself in the same words as `Facts`."""


def look_up(request: Request) -> Facts:
    """What can be known of the model of a request before its weights are loaded. UsageError if it cannot work.

    A hub id that is not in the cache is asked for its JSON, never for its weights.
    """
    from longtake.models import families, parts  # imports diffusers, which takes seconds

    options = families.LoadOptions(
        size=request.size,
        guidance=request.guidance,
        negative_prompt=request.negative_prompt,
        dtype=request.dtype,
        lora=tuple(str(item) for item in request.lora),
        offload=request.offload,
        compile=request.compile,
        attention=request.attention,
        extras=options_of(request.set),
    )
    if not isinstance(request.model, (str, Path)):
        return _facts_of(families.load_family(parts.source_of(request.model), options))
    named, names = str(request.model), parts.known()
    if named not in names and "/" not in named and os.sep not in named and not Path(named).exists():
        choose("model", named, names, "--model")
    source = parts.source_of(request.model, weights=False)
    found = families.facts(source, options)
    here = named not in names and Path(named).expanduser().is_dir()
    return Facts(
        name=source.name,
        source=str(source.folder.absolute()) if here and source.folder is not None else named,
        vocabulary=source.settings.get("vocabulary"),
        folder=source.folder,
        **asdict(found),
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
        guided=model.denoiser.cost > 1,
        compression=can.temporal_compression,
        **{name: getattr(can, name) for name in SAID},
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
