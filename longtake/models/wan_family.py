"""Wan 2.1 and 2.2: what their folders and live pipelines hold, their defaults, and how they are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from torch import nn
from transformers import AutoTokenizer, UMT5EncoderModel

from longtake.core.model import Capabilities
from longtake.core.schedule import NoiseSchedule
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models import parts as shared
from longtake.models.adapt import adapted, check_options, waiting
from longtake.models.families import LoadOptions, Model, ModelFacts, Source
from longtake.models.parts import load_module, load_part, pick
from longtake.models.schedules import SCHEDULERS, schedule_of, solver_of
from longtake.models.tiling import TiledCodec
from longtake.models.wan import Low, WanDenoiser, Wiring, forward_rows, self_check
from longtake.models.wan_codec import WanCodec
from longtake.models.wan_image import ClipEye, WanPictures, load_eye
from longtake.models.wan_text import PromptEncoder

EXPERTS = ("transformer", "transformer_2")
SHARED = ("vae", "text_encoder", "tokenizer", "scheduler")
CLIP = ("image_encoder", "image_processor")
USUAL = dict(window=21, fps=16, steps=50, guidance=5.0, size=(832, 480), max_sequence_length=512)
TI2V = dict(USUAL, window=31, fps=24, size=(1280, 704))
A14B = dict(USUAL, steps=40, guidance=4.0, guidance_2=3.0)
A14B_IMAGE = dict(A14B, guidance=3.5, guidance_2=3.5)
"""As the stock pipelines and the model cards have them."""


@dataclass(frozen=True)
class Variant:
    """Which Wan it is: `expands` for 2.2 TI2V, `experts` for two networks, `image` for 36 channels in.

    clip: CLIP sees the picture (2.1); two: a first and a last one.
    """

    expands: bool = False
    experts: bool = False
    image: bool = False
    clip: bool = False
    two: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        """Window, fps, steps, guidance, size, tokens."""
        if self.experts:
            return A14B_IMAGE if self.image else A14B
        return TI2V if self.expands else USUAL

    @property
    def last_image(self) -> bool:
        """Whether a picture may end a clip: by channels alone, or with CLIP tokens made for two."""
        return self.image and (self.two or not self.clip)


@dataclass(frozen=True, eq=False)
class _Parts:
    transformer: nn.Module
    low: nn.Module | None
    vae: nn.Module
    scheduler: Any
    tokenizer: Any
    encoder: nn.Module | None
    reload: Callable[[], nn.Module] | None
    eye: ClipEye | None


def variant_of(index: Mapping[str, Any], transformer: Mapping[str, Any], channels: int, name: str) -> Variant:
    """The variant, from the pipeline's index, the transformer's configuration and the latent's channels."""
    if transformer["in_channels"] not in (channels, 2 * channels + 4):
        raise UsageError(
            f"{name} takes {transformer['in_channels']} channels, where its latents have {channels}; supported are "
            f"text-to-video ({channels}) and image-to-video ({2 * channels + 4})"
        )
    if next(iter(transformer["patch_size"])) != 1:
        raise UsageError(f"{name}: only patches of one latent frame are supported")
    clip = transformer.get("image_dim") is not None
    return Variant(
        expands=bool(index.get("expand_timesteps")),
        experts=index.get("boundary_ratio") is not None,
        image=transformer["in_channels"] != channels,
        clip=clip,
        two=clip and transformer.get("pos_embed_seq_len") is not None,
    )


def facts(source: Source, options: LoadOptions) -> ModelFacts:
    """What the JSON of a Wan folder tells."""
    variant = _check_folder(source)
    usual = shared.usual(variant.defaults, source)
    vae = folders.read_json(source.path("vae") / "config.json")
    factor = int(vae.get("scale_factor_spatial", 8))
    return ModelFacts(
        family="wan",
        window=shared.stretched_window(int(usual["window"]), options),
        channels=int(vae.get("z_dim", 16)),
        factor=factor,
        fps=usual["fps"],
        steps=int(usual["steps"]),
        size=shared.fit_size(options.size or usual["size"], 2 * factor),
        guided=float(pick(options.guidance, usual["guidance"])) > 1,
        experts=2 if variant.experts else 1,
        image_first=variant.expands or variant.image,
        image_only=variant.image,
        last_image=variant.last_image,
    )


def load_family(source: Source, options: LoadOptions) -> Model:
    """A Wan model from a folder or a live pipeline."""
    check_options(source, options)
    parts = _from_folder(source, options) if source.pipe is None else _from_live(source, options)
    variant = variant_of(source.index, parts.transformer.config, parts.vae.config.z_dim, source.name)
    usual = shared.usual(variant.defaults, source)
    if variant.clip:
        usual["max_sequence_length"] = 512  # the network counts image tokens as those before the last 512
    size = shared.fit_size(pick(options.size, usual["size"]), 2 * parts.vae.config.scale_factor_spatial)
    steps = int(pick(options.num_steps, usual["steps"]))
    guidance = float(pick(options.guidance, usual["guidance"]))
    solver = options.solver or solver_of(parts.scheduler)
    schedule = schedule_of(parts.scheduler, steps, solver, pick(options.extras.get("shift"), usual.get("shift")))
    for network in (parts.transformer, parts.low):
        if network is not None:
            self_check(network)
    text = PromptEncoder(parts.tokenizer, parts.encoder, parts.reload, int(usual["max_sequence_length"]))
    can = _capabilities(source.name, parts, shared.stretched_window(int(usual["window"]), options), size, variant)
    codec = TiledCodec(WanCodec(parts.vae)) if options.extras.get("tiling") else WanCodec(parts.vae)
    wiring = Wiring(
        low=_low(parts, source, schedule, options, usual),
        pictures=WanPictures(codec, parts.eye, variant.two) if variant.image else None,
        forward=partial(forward_rows, riflex=can.window) if options.extras.get("riflex") else None,
    )
    model = Model(
        name=source.name,
        family="wan",
        source=source.folder,
        denoiser=WanDenoiser(parts.transformer, text, schedule, can, guidance, options.negative_prompt, wiring),
        codec=codec,
        solver=solver,
        window=can.window,
        fps=usual["fps"],
        steps=steps,
        guidance=guidance,
        size=size,
        negative_prompt=options.negative_prompt,
        dtype=str(parts.transformer.dtype).removeprefix("torch."),
        weights_hash=shared.weights_hash(source, _weighted(variant)),
        license=shared.license_of(source),
    )
    return adapted(model, options, (parts.transformer, parts.low), WanPipeline)


def _low(
    parts: _Parts, source: Source, schedule: NoiseSchedule, options: LoadOptions, usual: Mapping[str, Any]
) -> Low | None:
    if parts.low is None:
        return None
    # stock: times at or above the boundary go to the first expert
    boundary = float(source.index["boundary_ratio"]) * parts.scheduler.config.num_train_timesteps
    top = max(level for level, time in enumerate(schedule.times) if level == 0 or time < boundary)
    guidance = usual["guidance_2"] if options.guidance is None else options.guidance
    return Low(parts.low, top, float(guidance))


def _capabilities(name: str, parts: _Parts, window: int, size: tuple[int, int], variant: Variant) -> Capabilities:
    longest = parts.transformer.config.rope_max_seq_len
    if not 1 <= window <= longest:
        raise UsageError(f"{name}: window must be in 1..{longest} latent frames, got {window}")
    config = parts.vae.config
    if config.scale_factor_temporal != 4:
        raise UsageError(f"{name}: only 4x compression in time is supported")
    width, height = (side // config.scale_factor_spatial for side in size)
    return Capabilities(
        window=window,
        latent_shape=(config.z_dim, height, width),
        per_row_levels="native",
        image_first=variant.expands or variant.image,
        exact_streaming=True,
        temporal_compression=config.scale_factor_temporal,
        first_is_image=True,
        image_only=variant.image,
        last_image=variant.last_image,
    )


def _weighted(variant: Variant) -> tuple[str, ...]:
    return (
        "transformer", "vae", "text_encoder",
        *(("transformer_2",) if variant.experts else ()), *(("image_encoder",) if variant.clip else ()),
    )  # fmt: skip


def _check_folder(source: Source) -> Variant:
    index = source.index
    channels = folders.read_json(source.path("vae") / "config.json").get("z_dim", 16)
    two = (index.get("transformer_2") or [None])[0] is not None
    if two != (index.get("boundary_ratio") is not None):
        raise UsageError(f"{source.folder} has two experts or a boundary_ratio, not both; download the model again")
    # what a configuration leaves out is the class's own default
    config = {"in_channels": 16, "patch_size": (1, 2, 2), **folders.read_json(source.path(EXPERTS[0]) / "config.json")}
    variant = variant_of(index, config, channels, str(source.folder))
    more = ("image_processor",) if variant.clip else ()
    shared.check_folder(source, (*_weighted(variant), "tokenizer", "scheduler", *more), _weighted(variant))
    scheduler = (index.get("scheduler") or [None, None])[1]
    if scheduler not in SCHEDULERS:
        raise UsageError(f"{source.folder}: scheduler {scheduler} is not supported; supported: {', '.join(SCHEDULERS)}")
    return variant


def _from_live(source: Source, options: LoadOptions) -> _Parts:
    pipe = source.pipe
    low = pipe.transformer_2
    if pipe.transformer is None or (low is None) != (pipe.config.boundary_ratio is None):
        raise UsageError("this pipeline lacks an expert: it needs a transformer, and with boundary_ratio transformer_2")
    shared.check_live(pipe, pipe.transformer, options)
    eye = None
    if pipe.transformer.config.image_dim is not None:
        eye = ClipEye(pipe.image_encoder, pipe.image_processor)
    return _Parts(pipe.transformer, low, pipe.vae, pipe.scheduler, pipe.tokenizer, pipe.text_encoder, None, eye)


def _from_folder(source: Source, options: LoadOptions) -> _Parts:
    variant = _check_folder(source)
    device = shared.pick_device(options.device)
    kind, rest = shared.dtype_of(options.dtype, device), waiting(options, device)
    scheduler = SCHEDULERS[source.index["scheduler"][1]][0]

    def network(name: str) -> nn.Module:
        return load_module(source, name, WanTransformer3DModel, rest, torch_dtype=kind)

    return _Parts(
        transformer=network(EXPERTS[0]),
        low=network(EXPERTS[1]) if variant.experts else None,
        # the autoencoder stays in float32, as Wan's model cards ask
        vae=load_module(source, "vae", AutoencoderKLWan, rest, torch_dtype=torch.float32),
        scheduler=load_part(scheduler, source.path("scheduler"), source.folder),
        tokenizer=load_part(AutoTokenizer, source.path("tokenizer"), source.folder),
        encoder=None,
        reload=lambda: load_module(source, "text_encoder", UMT5EncoderModel, device, dtype=kind),
        eye=load_eye(source, rest) if variant.clip else None,
    )
