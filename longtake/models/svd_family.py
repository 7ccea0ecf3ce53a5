"""Stable Video Diffusion: what its folders and live pipelines hold, their defaults, and how they are put together."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    CogVideoXPipeline,
    EulerDiscreteScheduler,
    UNetSpatioTemporalConditionModel,
)
from torch import nn
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN as CLIP_MEAN
from transformers.image_utils import OPENAI_CLIP_STD as CLIP_STD

from longtake.core.model import Capabilities
from longtake.core.schedule import NoiseSchedule, from_grid
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models import parts as shared
from longtake.models.adapt import adapted, check_options, waiting
from longtake.models.families import LoadOptions, Model, ModelFacts, Source
from longtake.models.longer import mix_of
from longtake.models.parts import pick
from longtake.models.svd import Colours, Guide, Micro, SVDDenoiser
from longtake.models.svd_codec import CONTEXT, SVDCodec
from longtake.models.svd_unet import self_check

PARTS = ("unet", "vae", "image_encoder", "feature_extractor", "scheduler")
WEIGHTED = PARTS[:3]
USUAL: dict[str, Any] = dict(
    fps=7, steps=25, guidance=3.0, min_guidance=1.0, size=(1024, 576), motion_bucket=127, picture_noise=0.02,
    decode_context=CONTEXT, solver="euler",
)  # fmt: skip
"""The stock pipeline's; the window is that of the network's configuration (14, or 25 for XT)."""
CLEAN_SIGMA = 0.002
"""The sigma whose time a clean row is told: the smallest of training."""
LATE = 0.25 * math.log(0.696)
"""FreePCA's bound in this network's unit: the noise that VideoCrafter2 has at training time 250."""


@dataclass(frozen=True, eq=False)
class _Parts:
    unet: nn.Module
    vae: nn.Module
    encoder: nn.Module
    colours: Colours
    scheduler: Any


def facts(source: Source, options: LoadOptions) -> ModelFacts:
    """What the JSON of a folder tells."""
    shared.check_folder(source, PARTS, WEIGHTED)
    unet, vae = (folders.read_json(source.path(part) / "config.json") for part in ("unet", "vae"))
    check_scheduler(folders.read_json(source.path("scheduler") / "scheduler_config.json"))
    usual = shared.usual({"window": unet.get("num_frames", 25), **USUAL}, source)
    factor = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
    _check_options(options)
    return ModelFacts(
        family="svd",
        window=mix_of(options.extras, int(usual["window"]), LATE)[1],
        channels=int(vae.get("latent_channels", 4)),
        factor=factor,
        fps=usual["fps"],
        steps=int(usual["steps"]),
        size=shared.fit_size(pick(options.size, usual["size"]), factor),
        guided=float(pick(options.guidance, usual["guidance"])) > 1,
        per_row_levels="hook",
        image_first=True,
        image_only=True,
        compression=1,
        first_is_image=False,
    )


def load_family(source: Source, options: LoadOptions) -> Model:
    """An SVD model from a folder or a live `StableVideoDiffusionPipeline`."""
    check_options(source, options)
    parts = _from_folder(source, options) if source.pipe is None else _from_live(source.pipe, options)
    usual = shared.usual({"window": parts.unet.config.num_frames, **USUAL}, source)
    _check_options(options)
    check_scheduler(parts.scheduler.config)
    self_check(parts.unet)
    mix, window = mix_of(options.extras, int(usual["window"]), LATE)
    codec = SVDCodec(parts.vae, int(usual["decode_context"]), bool(options.extras.get("tiling")))
    size = shared.fit_size(pick(options.size, usual["size"]), codec.factor)
    steps = int(pick(options.num_steps, usual["steps"]))
    guidance = float(pick(options.guidance, usual["guidance"]))
    micro = Micro(float(usual["fps"]), int(usual["motion_bucket"]), float(usual["picture_noise"]))
    can = Capabilities(
        window,
        (int(parts.vae.config.latent_channels), size[1] // codec.factor, size[0] // codec.factor),
        "hook",
        image_first=True,
        image_only=True,
        exact_streaming=False,
        temporal_compression=1,
        first_is_image=False,
    )
    guide = Guide(codec, parts.encoder, parts.colours, micro.noise)
    ramp = min(float(usual["min_guidance"]), guidance), guidance
    denoiser = SVDDenoiser(parts.unet, guide, schedule_of(parts.scheduler, steps), can, ramp, micro, mix)
    model = Model(
        name=source.name,
        family="svd",
        source=source.folder,
        denoiser=denoiser,
        codec=codec,
        solver=options.solver or usual["solver"],
        window=can.window,
        fps=usual["fps"],
        steps=steps,
        guidance=guidance,
        size=size,
        negative_prompt=options.negative_prompt,
        dtype=str(parts.unet.conv_in.weight.dtype).removeprefix("torch."),
        weights_hash=shared.weights_hash(source, WEIGHTED),
        license=shared.license_of(source),
        notes=("this model reads no prompt: the picture alone decides",),
    )
    return adapted(model, options, (parts.unet,), CogVideoXPipeline)


def _check_options(options: LoadOptions) -> None:
    if options.compile:
        raise UsageError("svd is not compiled: the hooks by which rows get levels of their own come and go with calls")


def check_scheduler(config: Any) -> None:
    """UsageError unless the configuration is that of EDM's sigmas as SVD was trained with them."""
    wanted = {"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction", "timestep_type": "continuous"}
    for key, value in wanted.items():
        found = config.get(key, value if key == "_class_name" else None)
        if found != value:
            raise UsageError(f"the scheduler's {key} is {found!r}; Stable Video Diffusion needs {value!r}")


def schedule_of(scheduler: EulerDiscreteScheduler, num_steps: int) -> NoiseSchedule:
    """The sigmas that diffusers would sample on, by integer level; the scheduler itself is left as it is."""
    if num_steps < 1:
        raise UsageError(f"steps must be at least 1, got {num_steps}")
    with torch.device("cpu"):
        grid = copy.deepcopy(scheduler)
        grid.set_timesteps(num_steps)
    *sigmas, last = grid.sigmas.tolist()
    if last != 0:
        raise UsageError(f"the pipeline's scheduler ends at sigma {last:.4g}; set final_sigmas_type to 'zero'")
    schedule = from_grid(sigmas, grid.timesteps.tolist(), flow=False)
    return replace(schedule, times=(0.25 * math.log(CLEAN_SIGMA), *schedule.times[1:]))


def _from_live(pipe: Any, options: LoadOptions) -> _Parts:
    shared.check_live(pipe, pipe.unet, options)
    if pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast:
        raise UsageError(
            "the pipeline's vae is float16, in which its encoder overflows; call pipe.vae.to(torch.float32)"
        )
    colours = pipe.feature_extractor.image_mean, pipe.feature_extractor.image_std
    return _Parts(pipe.unet, pipe.vae, pipe.image_encoder, colours, pipe.scheduler)


def _from_folder(source: Source, options: LoadOptions) -> _Parts:
    shared.check_folder(source, PARTS, WEIGHTED)
    device = shared.pick_device(options.device)
    kind, rest = shared.dtype_of(options.dtype, device), waiting(options, device)
    load = shared.load_module
    pictures = folders.read_json(source.path("feature_extractor") / "preprocessor_config.json")
    return _Parts(
        unet=load(source, "unet", UNetSpatioTemporalConditionModel, rest, torch_dtype=kind),
        vae=load(source, "vae", AutoencoderKLTemporalDecoder, rest, torch_dtype=torch.float32),
        encoder=load(source, "image_encoder", CLIPVisionModelWithProjection, rest, dtype=kind),
        colours=(pictures.get("image_mean", CLIP_MEAN), pictures.get("image_std", CLIP_STD)),
        scheduler=shared.load_part(EulerDiscreteScheduler, source.path("scheduler"), source.folder),
    )
