"""SkyReels-V2, trained by diffusion forcing: one noise level a row is what it knows best.

The network is Wan's, but it takes a time a row itself (`enable_diffusion_forcing`) and can be told one of two frame
rates. So `WanDenoiser` drives it through another forward. Clean context is told time 0, as the stock pipelines do with
the latents that they continue from. The stock pipeline copies one scheduler per latent frame; here rows carry their
solver's memory.

Deviation: diffusers' pipeline (0.42) lets UniPC remember a view of the latents and then overwrites them, so that its
corrector starts from the wrong sample. Here it starts from the right one; with a copy in the stock pipeline's place, or
DPM-Solver++, which remembers no sample, both make the same latents.

The stock forward adds the embedding of the frame rate in a way that holds for one window at a time, so networks that
are told the rate (`inject_sample_info`) run window by window; the others in whole batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLWan, SkyReelsV2DiffusionForcingPipeline, SkyReelsV2Transformer3DModel
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5EncoderModel

from longtake.core.model import Capabilities
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models import parts as shared
from longtake.models.adapt import adapted, check_options, waiting
from longtake.models.families import LoadOptions, Model, ModelFacts, Source
from longtake.models.parts import load_module, load_part, pick
from longtake.models.rope import lengthened
from longtake.models.schedules import SCHEDULERS, schedule_of, solver_of
from longtake.models.tiling import TiledCodec
from longtake.models.wan import WanDenoiser, Wiring
from longtake.models.wan_codec import WanCodec
from longtake.models.wan_text import PromptEncoder

DEFAULTS: dict[str, Any] = dict(window=25, fps=24, steps=50, guidance=6.0, size=(960, 544), max_sequence_length=512)
"""Of the 540P checkpoints; those of 720P have 31 latents and 1280x720."""
LARGE: dict[str, Any] = {**DEFAULTS, "window": 31, "size": (1280, 720)}


@dataclass(frozen=True, eq=False)
class _Parts:
    transformer: nn.Module
    vae: nn.Module
    scheduler: Any
    tokenizer: Any
    encoder: nn.Module | None
    reload: Callable[[], nn.Module] | None


def forward_forcing(
    transformer: nn.Module,
    x: Float[Tensor, "B F C H W"],
    times: Float[Tensor, "B F"],
    text: Float[Tensor, "B L D"],
    fps: float = 24,
    riflex: int | None = None,
) -> Float[Tensor, "B F C H W"]:
    """The flow that the stock transformer predicts when each row has its own time.

    The network knows two frame rates, 16 and any other; `riflex` as in `wan.forward_rows`.
    """
    many = 1 if transformer.config.inject_sample_info else len(x)
    parts = []
    with lengthened(transformer.rope, riflex):
        for rows, told, words in zip(x.split(many), times.split(many), text.split(many), strict=True):
            out = transformer(
                hidden_states=rows.transpose(1, 2),
                timestep=told.to(x.device),
                encoder_hidden_states=words,
                enable_diffusion_forcing=True,
                fps=[_rate(fps)] * len(rows),
                return_dict=False,
            )[0]
            parts.append(out.transpose(1, 2))
    return torch.cat(parts)


def _rate(fps: float) -> int:
    return 0 if fps == 16 else 1


@torch.no_grad()
def self_check(transformer: nn.Module, fps: float) -> None:
    """Hold equal rows against the stock forward with one time a window; UsageError if they disagree."""
    config, device, dtype = transformer.config, transformer.patch_embedding.weight.device, transformer.dtype
    draw = torch.Generator().manual_seed(0)
    height, width = (2 * patch for patch in config.patch_size[1:])
    x = torch.randn(1, 2, config.in_channels, height, width, generator=draw).to(device, dtype)
    text = torch.randn(1, 4, config.text_dim, generator=draw).to(device, dtype)
    try:
        stock = transformer(
            x.transpose(1, 2), torch.tensor([500.0], device=device), text, fps=[_rate(fps)], return_dict=False
        )[0].transpose(1, 2)
        ours = forward_forcing(transformer, x, torch.tensor([[500.0, 500.0]]), text, fps)
        other = forward_forcing(transformer, x, torch.tensor([[500.0, 40.0]]), text, fps)
        error = float((ours.float() - stock.float()).norm() / stock.float().norm())
        moved = float((other - ours)[:, 1].abs().max())
    except (RuntimeError, TypeError, ValueError, AttributeError) as problem:
        raise UsageError(f"levels by row do not work with diffusers {diffusers.__version__}: {problem}") from problem
    if not error <= (1e-4 if dtype == torch.float32 else 3e-2) or not moved > 0:
        raise UsageError(
            f"levels by row do not work with diffusers {diffusers.__version__}: they differ from the stock forward by "
            f"{error:.1e}; install diffusers 0.42"
        )


def facts(source: Source, options: LoadOptions) -> ModelFacts:
    """What the JSON of a SkyReels-V2 folder tells."""
    _check_folder(source)
    usual = shared.usual(_defaults(source.name), source)
    vae = folders.read_json(source.path("vae") / "config.json")
    factor = int(vae.get("scale_factor_spatial", 8))
    return ModelFacts(
        family="skyreels",
        window=shared.stretched_window(int(usual["window"]), options),
        channels=int(vae.get("z_dim", 16)),
        factor=factor,
        fps=usual["fps"],
        steps=int(usual["steps"]),
        size=shared.fit_size(options.size or usual["size"], 2 * factor),
        guided=float(pick(options.guidance, usual["guidance"])) > 1,
        image_first=True,
    )


def load_family(source: Source, options: LoadOptions) -> Model:
    """A SkyReels-V2 model from a folder or a live pipeline."""
    check_options(source, options)
    parts = _from_folder(source, options) if source.pipe is None else _from_live(source.pipe, options)
    config, vae = parts.transformer.config, parts.vae.config
    _refuse_unsupported(source.name, config.in_channels, vae.z_dim, config.num_frame_per_block)
    usual = shared.usual(_defaults(source.name), source)
    size = shared.fit_size(pick(options.size, usual["size"]), 2 * vae.scale_factor_spatial)
    steps, guidance = int(pick(options.num_steps, usual["steps"])), float(pick(options.guidance, usual["guidance"]))
    solver = options.solver or solver_of(parts.scheduler)
    schedule = schedule_of(parts.scheduler, steps, solver)
    self_check(parts.transformer, usual["fps"])
    window = shared.stretched_window(int(usual["window"]), options)
    if not 1 <= window <= config.rope_max_seq_len:
        raise UsageError(f"{source.name}: window must be in 1..{config.rope_max_seq_len} latent frames, got {window}")
    can = Capabilities(
        window=window,
        latent_shape=(vae.z_dim, size[1] // vae.scale_factor_spatial, size[0] // vae.scale_factor_spatial),
        per_row_levels="native",
        image_first=True,
    )
    text = PromptEncoder(parts.tokenizer, parts.encoder, parts.reload, int(usual["max_sequence_length"]))
    riflex = window if options.extras.get("riflex") else None
    wiring = Wiring(forward=partial(forward_forcing, fps=usual["fps"], riflex=riflex))
    model = Model(
        name=source.name,
        family="skyreels",
        source=source.folder,
        denoiser=WanDenoiser(parts.transformer, text, schedule, can, guidance, options.negative_prompt, wiring),
        codec=TiledCodec(WanCodec(parts.vae)) if options.extras.get("tiling") else WanCodec(parts.vae),
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
    )
    return adapted(model, options, (parts.transformer,), SkyReelsV2DiffusionForcingPipeline)


def _defaults(name: str) -> dict[str, Any]:
    # the repositories say in their names alone which size they were trained at
    return LARGE if "720P" in name.upper() else DEFAULTS


def _refuse_unsupported(name: str, channels: int, latent: int, block: int) -> None:
    if channels != latent:
        raise UsageError(
            f"{name} takes pictures by channels ({channels} for {latent}); use a diffusion forcing (DF) one"
        )
    if block != 1:
        raise UsageError(
            f"{name} reads blocks of {block} latents causally, which windows do not fit; use one of block 1"
        )


def _check_folder(source: Source) -> None:
    shared.check_folder(source, folders.PARTS, folders.WEIGHTED)
    config = folders.read_json(source.path("transformer") / "config.json")
    latent = folders.read_json(source.path("vae") / "config.json").get("z_dim", 16)
    _refuse_unsupported(str(source.folder), config.get("in_channels", 16), latent, config.get("num_frame_per_block", 1))
    scheduler = (source.index.get("scheduler") or [None, None])[1]
    if scheduler not in SCHEDULERS:
        raise UsageError(f"{source.folder}: scheduler {scheduler} is not supported; supported: {', '.join(SCHEDULERS)}")


def _from_live(pipe: Any, options: LoadOptions) -> _Parts:
    shared.check_live(pipe, pipe.transformer, options)
    return _Parts(pipe.transformer, pipe.vae, pipe.scheduler, pipe.tokenizer, pipe.text_encoder, None)


def _from_folder(source: Source, options: LoadOptions) -> _Parts:
    _check_folder(source)
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
    )
