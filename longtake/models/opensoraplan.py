"""Open-Sora-Plan 1.3: a sparse-attention transformer on WF-VAE latents, from text, or from pictures and clips.

A folder of ours: `longtake.json` with family open-sora-plan, `transformer/` (the release's any93x640x640, or
any93x640x640_i2v, whose config.json names the inpaint class), `vae/`, both with config.json and safetensors,
`text_encoder/` and `tokenizer/` of mT5 XXL. `longtake convert open-sora-plan` writes one from those downloads.

v-prediction on linear betas rescaled to no signal at the end (Lin et al. 2024), Euler ancestral steps on trailing times
999, 989, ..., 9. A prompt is set into the release's template, and guidance steers away from its long negative prompt
unless another is given. The text network was trained with all latents at one level: levels by row go in at the
modulation, but a queue asks it for what it has not seen. So does a first row that is clean; only the image-to-video
network takes pictures (`opensoraplan_given`).

Default methods. The authors make one clip. Past that the text network has no training to go by, for chunks (a clean
beginning) as little as for queues (a level a row), and FIFO-Diffusion is what was published on its predecessor (Kim et
al. 2024, Open-Sora Plan 1.1): so `fifo`, where no row is told to be what it never was, the neighbours' levels lie close
together, and no join is seen. The image-to-video network was trained to go on from given frames, and only with all
latents at one level: so `chunk`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXPipeline
from jaxtyping import Float
from torch import Tensor
from transformers import AutoTokenizer, MT5EncoderModel

from longtake.core.model import Capabilities, Cond
from longtake.core.schedule import NoiseSchedule, from_grid
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models import parts as shared
from longtake.models.adapt import adapted, check_options, waiting
from longtake.models.families import LoadOptions, Model, ModelFacts, Source
from longtake.models.opensora_rows import (
    Inputs,
    Network,
    RowDenoiser,
    Worker,
    config_of,
    load_own,
    mixed,
    prompts_of,
    window_of,
)
from longtake.models.opensora_text import tokens_encode
from longtake.models.opensoraplan_codec import PlanCodec
from longtake.models.opensoraplan_dit import PlanConfig, PlanTransformer
from longtake.models.opensoraplan_given import GivenDenoiser, GivenFrames
from longtake.models.opensoraplan_vae import WFVAE, WFVAEConfig
from longtake.models.parts import load_module, load_part, pick
from longtake.models.prompts import PromptCache

PARTS = ("transformer", "vae", "text_encoder", "tokenizer")
WEIGHTED = PARTS[:3]
USUAL: dict[str, Any] = dict(window=24, fps=18, steps=100, guidance=7.5, size=(640, 352), max_sequence_length=512)
FACTOR = 8
TEMPLATE = "high quality, high aesthetic, {}"
NEGATIVE = (
    "nsfw, lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, "
    "worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
)
FILE_NAMES = {"num_heads": "num_attention_heads", "head_dim": "attention_head_dim", "sparse": "sparse_n"}
VAE_NAMES = {
    "num_resblocks": "encoder_num_resblocks",
    "encoder_flow": "encoder_energy_flow_hidden_size",
    "decoder_flow": "decoder_energy_flow_hidden_size",
}
VAE_FIXED = {"t_interpolation": "trilinear", "norm_type": "layernorm", "connect_res_layer_num": 2}


@dataclass(frozen=True, eq=False)
class _Network:
    run: Callable[..., Tensor]

    def __call__(self, inputs: Inputs) -> Tensor:
        return self.run(inputs.x, inputs.times, inputs.text, inputs.mask)


class PlanTexts:
    """Prompts in the release's template, and what guidance steers away from; `opensora_rows.Texts`."""

    def __init__(self, cache: PromptCache, negative: str = "") -> None:
        self.cache, self.negative = cache, negative or NEGATIVE

    def wanted(self, cond: Cond) -> Float[Tensor, "L D"]:
        """The prompt."""
        return mixed(cond, lambda prompt: self.cache(TEMPLATE.format(prompt)))

    def unwanted(self, cond: Cond) -> Float[Tensor, "L D"]:
        """The negative prompt, whatever `cond` is."""
        return self.cache(self.negative)

    def prepare(self, prompts: Iterable[Cond]) -> None:
        """Encode these prompts and the negative one now."""
        self.cache.prepare([*(TEMPLATE.format(prompt) for prompt in prompts_of(prompts)), self.negative])

    def release(self) -> None:
        """Let go of the text encoder."""
        self.cache.release()


def schedule_of(num_steps: int, num_train: int = 1000) -> NoiseSchedule:
    """The release's grid by level. UsageError unless steps are in 1..num_train.

    Betas from 1e-4 to 0.02, the root of the signal shifted and stretched so that nothing is left at the last time; that
    last signal is 2^-24 instead of 0, as diffusers has it, so that a ratio of noise to signal exists (4096).
    """
    if not 1 <= num_steps <= num_train:
        raise UsageError(f"steps must be in 1..{num_train}, got {num_steps}")
    root_signal = np.sqrt(np.cumprod(1 - np.linspace(1e-4, 0.02, num_train)))
    first, last = root_signal[0], root_signal[-1]
    signal = ((root_signal - last) * first / (first - last)) ** 2
    signal[-1] = 2.0**-24
    times = np.round(np.arange(num_train, 0, -num_train / num_steps)).astype(int) - 1
    return from_grid([math.sqrt((1 - signal[t]) / signal[t]) for t in times], times.tolist(), flow=False)


def facts(source: Source, options: LoadOptions) -> ModelFacts:
    """What the JSON of a folder tells."""
    shared.check_folder(source, PARTS, WEIGHTED)
    usual = shared.usual(USUAL, source)
    config = _config(source)
    return ModelFacts(
        family="open-sora-plan",
        window=window_of(usual, "open-sora-plan"),
        channels=config.in_channels,
        factor=FACTOR,
        fps=usual["fps"],
        steps=int(usual["steps"]),
        size=shared.fit_size(options.size or usual["size"], FACTOR * config.patch_size),
        guided=float(pick(options.guidance, usual["guidance"])) > 1,
        per_row_levels="own",
        image_first=config.inpaint,
        last_image=config.inpaint,
        frames_behind=2,
        method="chunk" if config.inpaint else None,
    )


def load_family(source: Source, options: LoadOptions) -> Model:
    """The model of a folder."""
    check_options(source, options)
    known = facts(source, options)
    usual = shared.usual(USUAL, source)
    device = shared.pick_device(options.device)
    kind, rest = shared.dtype_of(options.dtype, device), waiting(options, device)
    width, height = known.size
    config = _config(source)
    network = load_own(lambda: network_of(source), source, "transformer", rest, kind)
    vae = load_own(lambda: vae_of(source), source, "vae", rest, torch.float32)
    codec = PlanCodec(vae, bool(options.extras.get("tiling")))
    schedule = schedule_of(steps := int(pick(options.num_steps, known.steps)))
    tokenizer = load_part(AutoTokenizer, source.path("tokenizer"), source.folder)
    cache = PromptCache(
        tokens_encode(tokenizer, int(usual["max_sequence_length"]), str),
        reload=lambda: load_module(source, "text_encoder", MT5EncoderModel, device, dtype=kind),
    )
    texts = PlanTexts(cache, options.negative_prompt)
    guidance = float(pick(options.guidance, usual["guidance"]))
    worker = Worker(network)
    adapter: Network = GivenFrames(worker, codec, schedule) if config.inpaint else _Network(worker)
    can = Capabilities(
        known.window,
        (config.in_channels, height // FACTOR, width // FACTOR),
        per_row_levels="own",
        image_first=config.inpaint,
        last_image=config.inpaint,
        frames_behind=2,
    )
    model = Model(
        name=source.name,
        family="open-sora-plan",
        source=source.folder,
        denoiser=(GivenDenoiser if config.inpaint else RowDenoiser)(
            adapter, worker, texts, schedule, can, guidance, "v"
        ),
        codec=codec,
        solver=options.solver or "euler_ancestral",
        window=known.window,
        fps=known.fps,
        steps=steps,
        guidance=guidance,
        size=known.size,
        negative_prompt=texts.negative,
        dtype=str(kind).removeprefix("torch."),
        weights_hash=shared.weights_hash(source, WEIGHTED),
        license=shared.license_of(source),
    )
    return adapted(model, options, (network,), CogVideoXPipeline)


def _config(source: Source) -> PlanConfig:
    content = folders.read_json(source.path("transformer") / "config.json")
    config = config_of(PlanConfig, source, "transformer", FILE_NAMES)
    stretch = tuple(content.get(f"interpolation_scale_{axis}", 1.0) for axis in "thw")
    divisible = all(isinstance(value, (int, float)) and value > 0 for value in stretch)
    if not divisible or content.get("patch_size_t", 1) != 1:
        file = source.path("transformer") / "config.json"
        raise UsageError(f"{file}: interpolation scales must be above 0, and patch_size_t 1")
    config = replace(
        config, interpolation=tuple(map(float, stretch)), inpaint="Inpaint" in str(content.get("_class_name", ""))
    )
    return replace(config, dense_ends=config.num_layers) if content.get("sparse1d") is False else config


def network_of(source: Source) -> PlanTransformer:
    """The network that a folder's configuration describes, without its weights."""
    return PlanTransformer(_config(source))


def vae_of(source: Source) -> WFVAE:
    """The autoencoder that a folder's configuration describes, without its weights. UsageError for another kind."""
    content = folders.read_json(source.path("vae") / "config.json")
    for key, needed in VAE_FIXED.items():
        if content.get(key, needed) != needed:
            raise UsageError(f"{source.path('vae') / 'config.json'}: {key} is {content[key]!r}; supported: {needed!r}")
    return WFVAE(config_of(WFVAEConfig, source, "vae", VAE_NAMES))
