"""CogVideoX 1.0 and 1.5, text and image to video: folders and live pipelines, defaults, schedule, assembly."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from torch import Tensor, nn
from transformers import AutoTokenizer, T5EncoderModel

from longtake.core.model import Capabilities
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import RULES
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models import parts as shared
from longtake.models.adapt import adapted, check_options, waiting
from longtake.models.cogvideox import EVIDENCE, CogVideoXDenoiser, Picture
from longtake.models.cogvideox_codec import CogVideoXCodec, TiledCogVideoXCodec
from longtake.models.cogvideox_rows import disagreement
from longtake.models.families import LoadOptions, Model, ModelFacts, Source
from longtake.models.parts import load_module, load_part, pick
from longtake.models.prompts import Encode, PromptCache

SCHEDULERS = {
    "CogVideoXDDIMScheduler": (CogVideoXDDIMScheduler, "ddim"),
    "CogVideoXDPMScheduler": (CogVideoXDPMScheduler, "cogvideox_dpm"),
}
"""The scheduler classes that are read, and the solver that each stands for."""

DEFAULTS: dict[str, Any] = dict(window=13, fps=8, steps=50, guidance=6.0, size=(720, 480), max_sequence_length=226)
"""As the stock pipelines have them; 1.5 differs in these, and has two windows: 22 is even, as its tokens ask for, and
from a picture 21 and the row in front of them make 22."""
NEWER: dict[str, Any] = dict(DEFAULTS, window=22, fps=16, size=(1360, 768))


@dataclass(frozen=True, eq=False)
class _Parts:
    transformer: nn.Module
    vae: nn.Module
    scheduler: Any
    tokenizer: Any
    encoder: nn.Module | None
    reload: Callable[[], nn.Module] | None


def schedule_of(scheduler: Any, num_steps: int) -> NoiseSchedule:
    """The grid of `num_steps` steps of a CogVideoX scheduler, which is left as it is.

    The stock schedulers step to training time t - 1000 // S and are then asked at the next time of their grid; the two
    are one where S divides 1000. Here a step always goes to the next time of the grid.
    """
    config = scheduler.config
    if config.prediction_type != "v_prediction":
        raise UsageError(f"the scheduler predicts {config.prediction_type!r}; CogVideoX needs 'v_prediction'")
    if not config.set_alpha_to_one:
        raise UsageError("the scheduler does not end clean; set set_alpha_to_one to true")
    if not 1 <= num_steps <= config.num_train_timesteps:
        raise UsageError(f"steps must be in 1..{config.num_train_timesteps}, got {num_steps}")
    grid = copy.deepcopy(scheduler)
    with torch.device("cpu"):
        grid.set_timesteps(num_steps)
    times = [int(time) for time in grid.timesteps.tolist()][::-1]
    kept = [float(grid.alphas_cumprod[time]) for time in times]
    return NoiseSchedule(
        (1.0, *(math.sqrt(value) for value in kept)),
        (0.0, *(math.sqrt(1 - value) for value in kept)),
        (0.0, *map(float, times)),
    )


def t5_encode(tokenizer: Any, max_length: int) -> Encode:
    """T5 as CogVideoX uses it: all tokens, padding included, with no mask."""

    def encode(encoder: nn.Module, prompt: str) -> Tensor:
        tokens = tokenizer(prompt, padding="max_length", max_length=max_length, truncation=True,
                           add_special_tokens=True, return_tensors="pt")  # fmt: skip
        return encoder(tokens.input_ids.to(next(encoder.parameters()).device))[0][0]

    return encode


def facts(source: Source, options: LoadOptions) -> ModelFacts:
    """What the JSON of a CogVideoX folder tells."""
    _check_folder(source)
    config = folders.read_json(source.path("transformer") / "config.json")
    vae = folders.read_json(source.path("vae") / "config.json")
    channels, factor = _layout(vae)
    image = _takes_pictures(source.name, config, channels)
    usual = shared.usual(_defaults(config, image, factor), source)
    window, size = _fitted(usual, options, config, factor)
    return ModelFacts(
        family="cogvideox",
        window=window,
        channels=channels,
        factor=factor,
        fps=usual["fps"],
        steps=int(usual["steps"]),
        size=size,
        guided=float(pick(options.guidance, usual["guidance"])) > 1,
        per_row_levels=_rows(options, config),
        image_first=image,
        image_only=image,
        clean_rows=True,
        latents_at_once=2,
    )


def load_family(source: Source, options: LoadOptions) -> Model:
    """A CogVideoX model from a folder or a live pipeline."""
    check_options(source, options)
    parts = _from_folder(source, options) if source.pipe is None else _from_live(source.pipe, options)
    config, vae = parts.transformer.config, parts.vae.config
    channels, factor = _layout(vae)
    image = _takes_pictures(source.name, config, channels)
    usual = shared.usual(_defaults(config, image, factor), source)
    window, size = _fitted(usual, options, config, factor)
    steps, guidance = int(pick(options.num_steps, usual["steps"])), float(pick(options.guidance, usual["guidance"]))
    solver = _solver(options, parts.scheduler)
    can = Capabilities(
        window=window,
        latent_shape=(channels, size[1] // factor, size[0] // factor),
        per_row_levels=_rows(options, config),  # type: ignore[arg-type]
        image_first=image,
        image_only=image,
        exact_streaming=False,
        clean_rows=True,
        latents_at_once=2,
    )
    if can.per_row_levels != "no":
        _check_hooks(parts.transformer, int(usual["max_sequence_length"]))
    # some checkpoints were trained with the factor forgotten on the picture's side
    picture = Picture(1 / vae.scaling_factor**2 if vae.invert_scale_latents else 1.0) if image else None
    encode = t5_encode(parts.tokenizer, int(usual["max_sequence_length"]))
    denoiser = CogVideoXDenoiser(
        parts.transformer, PromptCache(encode, parts.encoder, parts.reload), schedule_of(parts.scheduler, steps), can,
        (guidance, options.negative_prompt), picture, window if options.extras.get("riflex") else None,
    )  # fmt: skip
    model = Model(
        name=source.name,
        family="cogvideox",
        source=source.folder,
        denoiser=denoiser,
        codec=(TiledCogVideoXCodec if options.extras.get("tiling") else CogVideoXCodec)(parts.vae),
        solver=solver,
        window=window,
        fps=usual["fps"],
        steps=steps,
        guidance=guidance,
        size=size,
        negative_prompt=options.negative_prompt,
        dtype=str(parts.transformer.dtype).removeprefix("torch."),
        weights_hash=shared.weights_hash(source, folders.WEIGHTED),
        license=shared.license_of(source),
        notes=() if can.per_row_levels == "no" else (EVIDENCE,),
    )
    return adapted(model, options, (parts.transformer,), CogVideoXPipeline)


def _solver(options: LoadOptions, scheduler: Any) -> str:
    solver = options.solver or SCHEDULERS[type(scheduler).__name__][1]
    if solver not in RULES:
        raise UsageError(f"unknown solver {solver!r}; known: {', '.join(RULES)}")
    return solver


def _rows(options: LoadOptions, config: Mapping[str, Any]) -> str:
    if not options.extras.get("allow_unsound"):
        return "no"
    if config.get("patch_size_t") is not None:
        raise UsageError(
            "CogVideoX 1.5 reads two latents in one token, which has one time, so rows have no levels of their own; "
            "leave out allow_unsound and use --method chunk"
        )
    return "hook"


def _defaults(config: Mapping[str, Any], image: bool, factor: int) -> dict[str, Any]:
    if config.get("patch_size_t") is None:
        learned = config.get("use_learned_positional_embeddings")
        return {**DEFAULTS, "size": _longest(config, factor)} if learned else DEFAULTS
    tokens = int(config.get("max_text_seq_length", NEWER["max_sequence_length"]))
    width, height = (min(side, longest) for side, longest in zip(NEWER["size"], _longest(config, factor), strict=True))
    window = 21 if image else NEWER["window"]
    return {**NEWER, "window": window, "size": (width, height), "max_sequence_length": tokens}


def _longest(config: Mapping[str, Any], factor: int) -> tuple[int, int]:
    """The picture, (width, height), of all positions: the only one that learned ones know, the largest of 1.5's."""
    return config.get("sample_width", 90) * factor, config.get("sample_height", 60) * factor


def _layout(vae: Mapping[str, Any]) -> tuple[int, int]:
    """(channels of a latent, pixels of its side)."""
    return int(vae.get("latent_channels", 16)), 2 ** (len(vae.get("block_out_channels", (128, 256, 256, 512))) - 1)


def _takes_pictures(name: str, config: Mapping[str, Any], channels: int) -> bool:
    inside = config.get("in_channels", 16)
    if config.get("patch_size_t") not in (None, 2):
        raise UsageError(
            f"{name} has patches of {config['patch_size_t']} latents; CogVideoX 1.0 has one, 1.5 has two of them"
        )
    if inside not in (channels, 2 * channels):
        raise UsageError(
            f"{name} takes {inside} channels; text-to-video takes {channels}, image-to-video {2 * channels}"
        )
    return inside != channels


def _fitted(
    usual: Mapping[str, Any], options: LoadOptions, config: Mapping[str, Any], factor: int
) -> tuple[int, tuple[int, int]]:
    """(window, size) under the options; a network with learned positions knows one size, and no longer window."""
    window = shared.stretched_window(int(usual["window"]), options)
    size = shared.fit_size(pick(options.size, usual["size"]), config.get("patch_size", 2) * factor)
    if options.extras.get("riflex") and not config.get("use_rotary_positional_embeddings"):
        raise UsageError("riflex slows rotary positions, which this model does not have; leave it out")
    if config.get("use_learned_positional_embeddings"):
        own = _longest(config, factor)
        if size != own:
            raise UsageError(f"this model knows one size, {own[0]}x{own[1]}, not {size[0]}x{size[1]}; leave --size out")
    longest = _longest(config, factor)
    if config.get("patch_size_t") is not None and (size[0] > longest[0] or size[1] > longest[1]):
        raise UsageError(
            f"size {size[0]}x{size[1]} is beyond this model's positions; the nearest that works is "
            f"{min(size[0], longest[0])}x{min(size[1], longest[1])}"
        )
    if window < 1:
        raise UsageError(f"window must be at least 1 latent frame, got {window}")
    return window, size


def _check_hooks(transformer: nn.Module, length: int) -> None:
    try:
        error = disagreement(transformer, length)
    except (RuntimeError, TypeError, ValueError, AttributeError) as problem:
        raise UsageError(f"levels by row do not work with this diffusers: {problem}") from problem
    if not error <= (1e-4 if transformer.dtype == torch.float32 else 3e-2):
        raise UsageError(f"levels by row do not work with this diffusers: off by {error:.1e}; install diffusers 0.42")


def _check_folder(source: Source) -> None:
    shared.check_folder(source, folders.PARTS, folders.WEIGHTED)
    scheduler = (source.index.get("scheduler") or [None, None])[1]
    if scheduler not in SCHEDULERS:
        raise UsageError(f"{source.folder}: scheduler {scheduler} is not supported; supported: {', '.join(SCHEDULERS)}")


def _from_live(pipe: Any, options: LoadOptions) -> _Parts:
    shared.check_live(pipe, pipe.transformer, options)
    if type(pipe.scheduler).__name__ not in SCHEDULERS:
        raise UsageError(
            f"scheduler {type(pipe.scheduler).__name__} is not supported; supported: {', '.join(SCHEDULERS)}"
        )
    return _Parts(pipe.transformer, pipe.vae, pipe.scheduler, pipe.tokenizer, pipe.text_encoder, None)


def _from_folder(source: Source, options: LoadOptions) -> _Parts:
    _check_folder(source)
    device = shared.pick_device(options.device)
    kind, rest = shared.dtype_of(options.dtype, device), waiting(options, device)
    scheduler = SCHEDULERS[source.index["scheduler"][1]][0]
    return _Parts(
        transformer=load_module(source, "transformer", CogVideoXTransformer3DModel, rest, torch_dtype=kind),
        vae=load_module(source, "vae", AutoencoderKLCogVideoX, rest, torch_dtype=kind),
        scheduler=load_part(scheduler, source.path("scheduler"), source.folder),
        tokenizer=load_part(AutoTokenizer, source.path("tokenizer"), source.folder),
        encoder=None,
        reload=lambda: load_module(source, "text_encoder", T5EncoderModel, device, dtype=kind),
    )
