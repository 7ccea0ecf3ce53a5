"""Wan 2.1 and 2.2: what their folders and live pipelines hold, their defaults, and how they are put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn
from transformers import AutoTokenizer, UMT5EncoderModel

from longtake.core.model import Capabilities
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models import parts as shared
from longtake.models.families import LoadOptions, Model, ModelFacts, Source
from longtake.models.parts import load_module, load_part, pick
from longtake.models.schedules import SCHEDULERS, schedule_of, solver_of
from longtake.models.wan import WanDenoiser, self_check
from longtake.models.wan_codec import WanCodec
from longtake.models.wan_text import PromptEncoder

DEFAULTS: dict[bool, dict[str, Any]] = {
    # as the stock pipelines and model cards have them; keyed by expand_timesteps, which tells Wan 2.2 TI2V
    False: dict(window=21, fps=16, steps=50, guidance=5.0, size=(832, 480), max_sequence_length=512),
    True: dict(window=31, fps=24, steps=50, guidance=5.0, size=(1280, 704), max_sequence_length=512),
}


@dataclass(frozen=True, eq=False)
class _Parts:
    transformer: nn.Module
    vae: nn.Module
    scheduler: Any
    tokenizer: Any
    encoder: nn.Module | None
    reload: Callable[[], nn.Module] | None


def facts(source: Source, options: LoadOptions) -> ModelFacts:
    """What the JSON of a Wan folder tells."""
    _check_folder(source)
    expands = bool(source.index.get("expand_timesteps"))
    usual = shared.usual(DEFAULTS[expands], source)
    vae = folders.read_json(source.path("vae") / "config.json")
    factor = int(vae.get("scale_factor_spatial", 8))
    return ModelFacts(
        family="wan",
        window=int(usual["window"]),
        channels=int(vae.get("z_dim", 16)),
        factor=factor,
        fps=usual["fps"],
        steps=int(usual["steps"]),
        size=shared.fit_size(options.size or usual["size"], 2 * factor),
        guided=float(pick(options.guidance, usual["guidance"])) > 1,
        image_first=expands,
    )


def load_family(source: Source, options: LoadOptions) -> Model:
    """A Wan model from a folder or a live pipeline."""
    parts = _from_folder(source, options) if source.pipe is None else _from_live(source.pipe, options)
    expands = bool(source.index.get("expand_timesteps"))
    _refuse_unsupported(source.name, parts)
    usual = shared.usual(DEFAULTS[expands], source)
    size = shared.fit_size(pick(options.size, usual["size"]), 2 * parts.vae.config.scale_factor_spatial)
    steps = int(pick(options.num_steps, usual["steps"]))
    guidance = float(pick(options.guidance, usual["guidance"]))
    solver = options.solver or solver_of(parts.scheduler)
    schedule = schedule_of(parts.scheduler, steps, solver)
    self_check(parts.transformer)
    text = PromptEncoder(parts.tokenizer, parts.encoder, parts.reload, int(usual["max_sequence_length"]))
    can = _capabilities(source.name, parts, int(usual["window"]), size, expands)
    return Model(
        name=source.name,
        family="wan",
        source=source.folder,
        denoiser=WanDenoiser(parts.transformer, text, schedule, can, guidance, options.negative_prompt),
        codec=WanCodec(parts.vae),
        solver=solver,
        window=can.window,
        fps=usual["fps"],
        steps=steps,
        guidance=guidance,
        size=size,
        negative_prompt=options.negative_prompt,
        dtype=str(parts.transformer.dtype).removeprefix("torch."),
        weights_hash=shared.weights_hash(source, folders.WEIGHTED),
        license=shared.license_of(source),
    )


def _capabilities(name: str, parts: _Parts, window: int, size: tuple[int, int], expands: bool) -> Capabilities:
    longest = parts.transformer.config.rope_max_seq_len
    if not 1 <= window <= longest:
        raise UsageError(f"{name}: window must be in 1..{longest} latent frames, got {window}")
    config = parts.vae.config
    width, height = (side // config.scale_factor_spatial for side in size)
    return Capabilities(
        window=window,
        latent_shape=(config.z_dim, height, width),
        per_row_levels="native",
        image_first=expands,
        exact_streaming=True,
        temporal_compression=config.scale_factor_temporal,
        first_is_image=True,
    )


def _refuse_unsupported(name: str, parts: _Parts) -> None:
    config, channels = parts.transformer.config, parts.vae.config.z_dim
    if config.in_channels != channels or config.image_dim is not None:
        raise UsageError(
            f"{name} is an image-to-video model ({config.in_channels} channels in, {channels} in its latents), "
            f"not supported yet; use a text-to-video model or Wan 2.2 TI2V"
        )
    patch_in_time, *_ = config.patch_size
    if patch_in_time != 1 or parts.vae.config.scale_factor_temporal != 4:
        raise UsageError(f"{name}: only patches of one latent frame and 4x compression in time are supported")


def _from_live(pipe: Any, options: LoadOptions) -> _Parts:
    if pipe.transformer is None or pipe.transformer_2 is not None or pipe.config.boundary_ratio is not None:
        raise UsageError("this pipeline has two experts (Wan 2.2 A14B), not supported yet; use Wan 2.1 or TI2V-5B")
    shared.check_live(pipe, pipe.transformer, options)
    return _Parts(pipe.transformer, pipe.vae, pipe.scheduler, pipe.tokenizer, pipe.text_encoder, None)


def _check_folder(source: Source) -> None:
    index = source.index
    if index.get("boundary_ratio") is not None or (index.get("transformer_2") or [None])[0] is not None:
        raise UsageError(
            f"{source.folder} has two experts (Wan 2.2 A14B), not supported yet; use Wan 2.1 or Wan 2.2 TI2V-5B"
        )
    shared.check_folder(source, folders.PARTS, folders.WEIGHTED)
    scheduler = (index.get("scheduler") or [None, None])[1]
    if scheduler not in SCHEDULERS:
        raise UsageError(f"{source.folder}: scheduler {scheduler} is not supported; supported: {', '.join(SCHEDULERS)}")


def _from_folder(source: Source, options: LoadOptions) -> _Parts:
    _check_folder(source)
    device = shared.pick_device(options.device)
    kind = shared.dtype_of(options.dtype, device)
    scheduler = SCHEDULERS[source.index["scheduler"][1]][0]
    return _Parts(
        transformer=load_module(source, "transformer", WanTransformer3DModel, device, torch_dtype=kind),
        # the autoencoder stays in float32, as Wan's model cards ask
        vae=load_module(source, "vae", AutoencoderKLWan, device, torch_dtype=torch.float32),
        scheduler=load_part(scheduler, source.path("scheduler"), source.folder),
        tokenizer=load_part(AutoTokenizer, source.path("tokenizer"), source.folder),
        encoder=None,
        reload=lambda: load_module(source, "text_encoder", UMT5EncoderModel, device, dtype=kind),
    )
