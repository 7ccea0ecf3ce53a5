"""Load a video model: a name, a pipeline folder, a hub id or a live pipeline becomes a denoiser and a codec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, WanPipeline, WanTransformer3DModel
from torch import nn
from transformers import AutoTokenizer, UMT5EncoderModel
from transformers.utils import logging as hf_logging

from longtake.core.model import Capabilities
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models.schedules import SCHEDULERS, schedule_of, solver_of
from longtake.models.wan import WanDenoiser, self_check
from longtake.models.wan_codec import WanCodec
from longtake.models.wan_text import PromptEncoder

NAMES = {"pocket": Path(__file__).parent / "weights" / "pocket"}
FAMILIES = {"WanPipeline": "wan"}
DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
}  # fmt: skip
DEFAULTS: dict[bool, dict[str, Any]] = {
    # as the stock pipelines and model cards have them; keyed by expand_timesteps, which tells Wan 2.2 TI2V
    False: dict(window=21, fps=16, steps=50, guidance=5.0, size=(832, 480), max_sequence_length=512),
    True: dict(window=31, fps=24, steps=50, guidance=5.0, size=(1280, 704), max_sequence_length=512),
}


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model with its settings.

    window in latent frames; size is (width, height) in pixels; fps in pixel frames; weights_hash names the weights;
    source is the folder, or None for a live pipeline; license as the model card states it, None if unknown.
    """

    name: str
    family: str
    source: Path | None
    denoiser: WanDenoiser
    codec: WanCodec
    solver: str
    window: int
    fps: float
    steps: int
    guidance: float
    size: tuple[int, int]
    negative_prompt: str
    dtype: str
    weights_hash: str
    license: str | None

    def prepare(self, prompts: list[str], release: bool = False) -> None:
        """Encode every prompt of a run; `release` then frees the text encoder, the largest part of a real model."""
        self.denoiser.prepare(prompts)
        if release:
            self.denoiser.release_text_encoder()


@dataclass(frozen=True, eq=False)
class _Parts:
    name: str
    source: Path | None
    transformer: nn.Module
    vae: nn.Module
    scheduler: Any
    tokenizer: Any
    encoder: nn.Module | None
    reload: Callable[[], nn.Module] | None
    expand_timesteps: bool
    settings: dict[str, Any]
    weights_hash: str


def load(
    source: str | Path | DiffusionPipeline,
    size: str | tuple[int, int] | None = None,
    num_steps: int | None = None,
    guidance: float | None = None,
    solver: str | None = None,
    negative_prompt: str = "",
    device: str = "auto",
    dtype: str | torch.dtype | None = None,
) -> Model:
    """Load a model and check that it does what the adapter relies on.

    source  a name (`pocket`), a pipeline folder, a hub id (safetensors only), or a live `WanPipeline`, left as it is
    size    (width, height) or "WxH"; multiples of twice the autoencoder's spatial factor
    solver  default: the one that the pipeline's scheduler stands for

    What is not given comes from the folder's `longtake.json`, else from the model family.
    Raises UsageError, one line, for anything that cannot work.
    """
    if isinstance(source, (str, Path)):
        parts = _from_folder(source, pick_device(device), dtype)
    else:
        parts = _from_live(source, device, dtype)
    _refuse_unsupported(parts)
    defaults = {**DEFAULTS[parts.expand_timesteps], **parts.settings}
    size = fit_size(defaults["size"] if size is None else size, 2 * parts.vae.config.scale_factor_spatial)
    steps = int(num_steps if num_steps is not None else defaults["steps"])
    guidance = float(guidance if guidance is not None else defaults["guidance"])
    solver = solver or solver_of(parts.scheduler)
    schedule = schedule_of(parts.scheduler, steps, solver)
    self_check(parts.transformer)
    text = PromptEncoder(parts.tokenizer, parts.encoder, parts.reload, int(defaults["max_sequence_length"]))
    can = _capabilities(parts, int(defaults["window"]), size)
    return Model(
        name=parts.name,
        family="wan",
        source=parts.source,
        denoiser=WanDenoiser(parts.transformer, text, schedule, can, guidance, negative_prompt),
        codec=WanCodec(parts.vae),
        solver=solver,
        window=can.window,
        fps=defaults["fps"],
        steps=steps,
        guidance=guidance,
        size=size,
        negative_prompt=negative_prompt,
        dtype=str(parts.transformer.dtype).removeprefix("torch."),
        weights_hash=parts.weights_hash,
        license=defaults.get("license") or (folders.license_of(parts.source) if parts.source else None),
    )


def pick_device(device: str = "auto") -> torch.device:
    """The device of that name; auto is cuda, then mps, then cpu."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        raise UsageError(f"device {device!r} cannot be used here; try auto, cpu, cuda or mps") from problem
    return torch.device(device)


def fit_size(size: str | tuple[int, int] | list[int], multiple: int) -> tuple[int, int]:
    """(width, height) if both are multiples of `multiple`; UsageError names the nearest size that works."""
    try:
        sides = size.lower().split("x") if isinstance(size, str) else size
        width, height = (int(side) for side in sides)
    except (ValueError, TypeError) as problem:
        raise UsageError(f"size {size!r} is not WIDTHxHEIGHT, such as {4 * multiple}x{4 * multiple}") from problem
    near = [max(multiple, int(side / multiple + 0.5) * multiple) for side in (width, height)]
    if near != [width, height]:
        raise UsageError(
            f"size {width}x{height} does not fit this model: sides must be multiples of {multiple}; "
            f"the nearest that works is {near[0]}x{near[1]}"
        )
    return width, height


def _capabilities(parts: _Parts, window: int, size: tuple[int, int]) -> Capabilities:
    longest = parts.transformer.config.rope_max_seq_len
    if not 1 <= window <= longest:
        raise UsageError(f"{parts.name}: window must be in 1..{longest} latent frames, got {window}")
    config = parts.vae.config
    width, height = (side // config.scale_factor_spatial for side in size)
    return Capabilities(
        window=window,
        latent_shape=(config.z_dim, height, width),
        per_row_levels="native",
        image_first=parts.expand_timesteps,
        exact_streaming=True,
        temporal_compression=config.scale_factor_temporal,
        first_is_image=True,
    )


def _refuse_unsupported(parts: _Parts) -> None:
    config, channels = parts.transformer.config, parts.vae.config.z_dim
    if config.in_channels != channels or config.image_dim is not None:
        raise UsageError(
            f"{parts.name} is an image-to-video model ({config.in_channels} channels in, {channels} in its latents), "
            f"not supported yet; use a text-to-video model or Wan 2.2 TI2V"
        )
    patch_in_time, *_ = config.patch_size
    if patch_in_time != 1 or parts.vae.config.scale_factor_temporal != 4:
        raise UsageError(f"{parts.name}: only patches of one latent frame and 4x compression in time are supported")


def _from_live(pipe: Any, device: str, dtype: Any) -> _Parts:
    if not isinstance(pipe, WanPipeline):
        raise UsageError(f"{type(pipe).__name__} pipelines are not supported; supported: {', '.join(FAMILIES)}")
    if pipe.transformer is None or pipe.transformer_2 is not None or pipe.config.boundary_ratio is not None:
        raise UsageError("this pipeline has two experts (Wan 2.2 A14B), not supported yet; use Wan 2.1 or TI2V-5B")
    if device != "auto" and torch.device(device).type != pipe.transformer.device.type:
        raise UsageError(f"the pipeline is on {pipe.transformer.device}; call pipe.to({device!r}) before loading")
    if dtype is not None and _dtype(dtype) != pipe.transformer.dtype:
        raise UsageError(f"the pipeline's transformer is {pipe.transformer.dtype}; a live pipeline keeps its own dtype")
    origin = Path(str(pipe.config.get("_name_or_path") or "live"))
    modules = [module for module in (pipe.transformer, pipe.vae, pipe.text_encoder) if module is not None]
    return _Parts(
        name=origin.name,
        source=None,
        transformer=pipe.transformer,
        vae=pipe.vae,
        scheduler=pipe.scheduler,
        tokenizer=pipe.tokenizer,
        encoder=pipe.text_encoder,
        reload=None,
        expand_timesteps=bool(pipe.config.expand_timesteps),
        settings=folders.settings(origin),
        weights_hash=folders.module_hash(modules),
    )


def _from_folder(source: str | Path, device: torch.device, dtype: Any) -> _Parts:
    folder = folders.resolve(source, NAMES)
    index = folders.check(folder, FAMILIES)
    kind = _dtype(dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    scheduler = (index.get("scheduler") or [None, None])[1]
    if scheduler not in SCHEDULERS:
        raise UsageError(f"{folder}: scheduler {scheduler} is not supported; supported: {', '.join(SCHEDULERS)}")

    def part(kind_of_part: Any, name: str, **options: Any) -> Any:
        try:
            with _no_progress_bars():
                return kind_of_part.from_pretrained(folder / name, local_files_only=True, **options)
        except Exception as problem:  # diffusers and transformers raise many types; the user needs the part's name
            raise UsageError(f"cannot load the {name} of {folder}: {str(problem)[:200]}") from problem

    def weights(kind_of_part: Any, name: str, **options: Any) -> nn.Module:
        module = part(kind_of_part, name, use_safetensors=True, **options)
        if any(weight.is_meta for weight in module.parameters()):
            raise UsageError(f"cannot load the {name} of {folder}: its safetensors lack some of the weights")
        return module.eval().requires_grad_(False).to(device)

    return _Parts(
        name=folder.resolve().name if Path(source).expanduser().is_dir() else str(source),
        source=folder,
        transformer=weights(WanTransformer3DModel, "transformer", torch_dtype=kind),
        # the autoencoder stays in float32, as Wan's model cards ask
        vae=weights(AutoencoderKLWan, "vae", torch_dtype=torch.float32),
        scheduler=part(SCHEDULERS[scheduler][0], "scheduler"),
        tokenizer=part(AutoTokenizer, "tokenizer"),
        encoder=None,
        reload=lambda: weights(UMT5EncoderModel, "text_encoder", dtype=kind),
        expand_timesteps=bool(index.get("expand_timesteps")),
        settings=folders.settings(folder),
        weights_hash=folders.folder_hash(folder),
    )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    # transformers draws one for every set of weights, however small
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    return DTYPES[dtype]
