"""SkyReels-V2: what its folders and live pipelines hold, defaults, and how they are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan, SkyReelsV2DiffusionForcingPipeline, SkyReelsV2Transformer3DModel
from torch import nn
from transformers import AutoTokenizer, UMT5EncoderModel

from longtake.core.model import Capabilities
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models import parts as shared
from longtake.models.adapt import adapted, check_options, waiting
from longtake.models.attention import MASKING
from longtake.models.families import LoadOptions, Model, ModelFacts, Source
from longtake.models.parts import load_module, load_part, pick
from longtake.models.schedules import SCHEDULERS, schedule_of, shift_of, solver_of
from longtake.models.skyreels import Told, forward_forcing, self_check
from longtake.models.tiling import TiledCodec
from longtake.models.wan import WanDenoiser, Wiring
from longtake.models.wan_codec import WanCodec
from longtake.models.wan_family import Variant, variant_of
from longtake.models.wan_image import ClipEye, WanPictures, load_eye
from longtake.models.wan_text import PromptEncoder

DEFAULTS: dict[str, Any] = dict(
    window=25, fps=24, steps=50, guidance=6.0, size=(960, 544), max_sequence_length=512, shift=8.0
)
"""Of the 540P checkpoints; those of 720P have 31 latents and 1280x720. Guidance and shift are 5 where a picture begins;
diffusers' examples set the shift by hand (`from_config(..., flow_shift=8.0)`)."""
LARGE: dict[str, Any] = {**DEFAULTS, "window": 31, "size": (1280, 720)}


@dataclass(frozen=True, eq=False)
class _Parts:
    transformer: nn.Module
    vae: nn.Module
    scheduler: Any
    tokenizer: Any
    encoder: nn.Module | None
    reload: Callable[[], nn.Module] | None
    eye: ClipEye | None


def facts(source: Source, options: LoadOptions) -> ModelFacts:
    """What the JSON of a SkyReels-V2 folder tells."""
    variant = _check_folder(source)
    usual = shared.usual(_defaults(source.name, variant), source)
    vae = folders.read_json(source.path("vae") / "config.json")
    factor = int(vae.get("scale_factor_spatial", 8))
    window = shared.stretched_window(int(usual["window"]), options)
    _block(folders.read_json(source.path("transformer") / "config.json"), window, options)
    return ModelFacts(
        family="skyreels",
        window=window,
        channels=int(vae.get("z_dim", 16)),
        factor=factor,
        fps=usual["fps"],
        steps=int(usual["steps"]),
        size=shared.fit_size(options.size or usual["size"], 2 * factor),
        guided=float(pick(options.guidance, usual["guidance"])) > 1,
        image_first=True,
        image_only=variant.image,
        last_image=variant.last_image,
    )


def load_family(source: Source, options: LoadOptions) -> Model:
    """A SkyReels-V2 model from a folder or a live pipeline."""
    check_options(source, options)
    parts = _from_folder(source, options) if source.pipe is None else _from_live(source.pipe, options)
    config, vae = parts.transformer.config, parts.vae.config
    variant = _variant(config, vae.z_dim, source.name)
    usual = shared.usual(_defaults(source.name, variant), source)
    if variant.clip:
        usual["max_sequence_length"] = 512  # the network counts image tokens as those before the last 512
    size = shared.fit_size(pick(options.size, usual["size"]), 2 * vae.scale_factor_spatial)
    steps, guidance = int(pick(options.num_steps, usual["steps"])), float(pick(options.guidance, usual["guidance"]))
    solver = options.solver or solver_of(parts.scheduler)
    schedule = schedule_of(parts.scheduler, steps, solver, _shift(source, options, usual, parts.scheduler))
    self_check(parts.transformer, usual["fps"])
    window = shared.stretched_window(int(usual["window"]), options)
    if not 1 <= window <= config.rope_max_seq_len:
        raise UsageError(f"{source.name}: window must be in 1..{config.rope_max_seq_len} latent frames, got {window}")
    can = Capabilities(
        window=window,
        latent_shape=(vae.z_dim, size[1] // vae.scale_factor_spatial, size[0] // vae.scale_factor_spatial),
        per_row_levels="native",
        image_first=True,
        image_only=variant.image,
        last_image=variant.last_image,
    )
    text = PromptEncoder(parts.tokenizer, parts.encoder, parts.reload, int(usual["max_sequence_length"]))
    codec = TiledCodec(WanCodec(parts.vae)) if options.extras.get("tiling") else WanCodec(parts.vae)
    told = Told(usual["fps"], window if options.extras.get("riflex") else None, _block(config, window, options))
    wiring = Wiring(
        pictures=WanPictures(codec, parts.eye, variant.two) if variant.image else None,
        forward=partial(forward_forcing, told=told),
    )
    model = Model(
        name=source.name,
        family="skyreels",
        source=source.folder,
        denoiser=WanDenoiser(parts.transformer, text, schedule, can, guidance, options.negative_prompt, wiring),
        codec=codec,
        solver=solver,
        window=window,
        fps=usual["fps"],
        steps=steps,
        guidance=guidance,
        size=size,
        negative_prompt=options.negative_prompt,
        dtype=str(parts.transformer.dtype).removeprefix("torch."),
        weights_hash=shared.weights_hash(source, _weighted(variant)),
        license=shared.license_of(source),
    )
    return adapted(model, options, (parts.transformer,), SkyReelsV2DiffusionForcingPipeline)


def _defaults(name: str, variant: Variant) -> dict[str, Any]:
    # the repositories say in their names alone which size they were trained at
    usual = LARGE if "720P" in name.upper() else DEFAULTS
    return {**usual, "guidance": 5.0, "shift": 5.0} if variant.image else usual


def _shift(source: Source, options: LoadOptions, usual: Mapping[str, Any], scheduler: Any) -> float | None:
    """The shift that is asked for; else, of a folder whose scheduler has none, that of the authors; None: its own."""
    given = pick(options.extras.get("shift"), source.settings.get("shift"))
    unset = given is None and source.pipe is None and shift_of(scheduler) == 1
    return usual["shift"] if unset else given


def _variant(config: Mapping[str, Any], channels: int, name: str) -> Variant:
    # what a configuration leaves out is the class's own default
    return variant_of({}, {"in_channels": 16, "patch_size": (1, 2, 2), **config}, channels, name)


def _block(config: Mapping[str, Any], window: int, options: LoadOptions) -> int:
    """Rows of a causal block: the option's, or else the network's own."""
    block = int(pick(options.extras.get("causal_block"), config.get("num_frame_per_block", 1)))
    if not 1 <= block <= window:
        raise UsageError(f"causal_block={block} is not possible: give 1 (all rows see each other) to {window}")
    if block > 1 and options.compile:
        raise UsageError("--compile and causal blocks do not go together: the mask comes and goes with calls")
    if block > 1 and options.attention not in (None, *MASKING):
        raise UsageError(
            f"--attention {options.attention} takes no mask, which causal blocks need; use {', '.join(MASKING)}"
        )
    return block


def _weighted(variant: Variant) -> tuple[str, ...]:
    return (*folders.WEIGHTED, *(("image_encoder",) if variant.clip else ()))


def _check_folder(source: Source) -> Variant:
    config = folders.read_json(source.path("transformer") / "config.json")
    latent = folders.read_json(source.path("vae") / "config.json").get("z_dim", 16)
    variant = _variant(config, latent, str(source.folder))
    more = ("image_encoder", "image_processor") if variant.clip else ()
    shared.check_folder(source, (*folders.PARTS, *more), _weighted(variant))
    scheduler = (source.index.get("scheduler") or [None, None])[1]
    if scheduler not in SCHEDULERS:
        raise UsageError(f"{source.folder}: scheduler {scheduler} is not supported; supported: {', '.join(SCHEDULERS)}")
    return variant


def _from_live(pipe: Any, options: LoadOptions) -> _Parts:
    shared.check_live(pipe, pipe.transformer, options)
    seen = pipe.transformer.config.image_dim is not None
    eye = ClipEye(pipe.image_encoder, pipe.image_processor) if seen else None
    return _Parts(pipe.transformer, pipe.vae, pipe.scheduler, pipe.tokenizer, pipe.text_encoder, None, eye)


def _from_folder(source: Source, options: LoadOptions) -> _Parts:
    facts(source, options)  # what JSON can refuse is refused before weights are read
    variant = _check_folder(source)
    device = shared.pick_device(options.device)
    kind, rest = shared.dtype_of(options.dtype, device), waiting(options, device)
    scheduler = SCHEDULERS[source.index["scheduler"][1]][0]
    return _Parts(
        transformer=load_module(source, "transformer", SkyReelsV2Transformer3DModel, rest, torch_dtype=kind),
        vae=load_module(source, "vae", AutoencoderKLWan, rest, torch_dtype=torch.float32),
        scheduler=load_part(scheduler, source.path("scheduler"), source.folder),
        tokenizer=load_part(AutoTokenizer, source.path("tokenizer"), source.folder),
        encoder=None,
        reload=lambda: load_module(source, "text_encoder", UMT5EncoderModel, device, dtype=kind),
        eye=load_eye(source, rest) if variant.clip else None,
    )
