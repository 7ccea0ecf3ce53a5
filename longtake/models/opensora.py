"""Open-Sora 1.2: rectified flow with a level a latent frame, trained to read clean frames (masked conditioning).

A folder of ours: `longtake.json` with family open-sora, `transformer/` and `vae/` as the release has them
(`hpcai-tech/OpenSora-STDiT-v3`, `hpcai-tech/OpenSora-VAE-v1.2`: config.json and safetensors), `text_encoder/` and
`tokenizer/` of T5 v1.1 XXL. `longtake convert open-sora` writes one from those three downloads.

Times are warped with size and length of the clip, so that more latents see more noise: t' = r t / (1 + (r - 1) t),
r = sqrt(H W / 512^2) sqrt(n), n the latents of the clip (1 for a picture). The warp is of the model's own window, also
for methods whose windows are shorter.

The release goes on from the last group of a clip, 5 latents: so does `chunk` here, unless told otherwise.

Deviations: `fps` of the model is what the network is told and what the film has. A picture that opens a video is a
clean first row; the release's edit ratios between 0 and 1 are not offered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import CogVideoXPipeline
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel

from longtake.core.model import Capabilities
from longtake.core.schedule import NoiseSchedule, from_grid
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models import parts as shared
from longtake.models.adapt import adapted, check_options, waiting
from longtake.models.families import LoadOptions, Model, ModelFacts, Source
from longtake.models.opensora_codec import GroupCodec
from longtake.models.opensora_longer import LATE_RATIO, Mix, mix_of
from longtake.models.opensora_rows import Inputs, RowDenoiser, Worker, config_of, load_own, window_of
from longtake.models.opensora_stdit import STDiT3, STDiT3Config
from longtake.models.opensora_text import OpenSoraTexts, scored, tokens_encode
from longtake.models.opensora_vae import MICRO_LATENTS, OpenSoraVAE, TemporalConfig
from longtake.models.parts import load_module, load_part, pick
from longtake.models.prompts import PromptCache

PARTS = ("transformer", "vae", "text_encoder", "tokenizer")
WEIGHTED = PARTS[:3]
USUAL: dict[str, Any] = dict(window=15, fps=24, steps=30, guidance=7.0, size=(424, 240), max_sequence_length=300)
"""The release's script at 240p: 51 frames of 426x240, of which the autoencoder keeps 424."""

FACTOR, CHANNELS = 8, 4
PICTURE_FPS = 120.0  # what the network is told of a single picture


@dataclass(frozen=True, eq=False)
class _Network:
    """The network, told a frame rate."""

    run: Worker
    fps: float
    mix: Mix | None = None

    def __call__(self, inputs: Inputs) -> Tensor:
        rate = PICTURE_FPS if inputs.x.shape[1] == 1 else self.fps
        fps = torch.full((len(inputs.x),), rate, device=inputs.x.device)
        grid = -(-inputs.x.shape[3] // 2), -(-inputs.x.shape[4] // 2)
        with self.mix(self.run.module, inputs.times, grid) if self.mix else nullcontext():
            return self.run(inputs.x, inputs.times, inputs.text, inputs.mask, fps)


def warp(time: float, ratio: float) -> float:
    """A time in 0..1, later for ratios above 1."""
    return ratio * time / (1 + (ratio - 1) * time)


def ratio_of(height: int, width: int, num_latents: int) -> float:
    """r of the warp for a clip of pixels (height, width) and so many latents."""
    return math.sqrt(height * width / 512**2) * math.sqrt(num_latents)


def schedule_of(num_steps: int, height: int, width: int, num_latents: int) -> NoiseSchedule:
    """The release's grid, (1 - i / S) warped, by level; times in 0..1000. UsageError without steps."""
    if num_steps < 1:
        raise UsageError(f"steps must be at least 1, got {num_steps}")
    ratio = ratio_of(height, width, num_latents)
    sigmas = [warp(1 - step / num_steps, ratio) for step in range(num_steps)]
    return from_grid(sigmas, [1000 * sigma for sigma in sigmas])


def facts(source: Source, options: LoadOptions) -> ModelFacts:
    """What the JSON of a folder tells."""
    shared.check_folder(source, PARTS, WEIGHTED)
    usual = shared.usual(USUAL, source)
    return ModelFacts(
        family="open-sora",
        window=_mixed(options, usual)[1],
        channels=CHANNELS,
        factor=FACTOR,
        fps=usual["fps"],
        steps=int(usual["steps"]),
        size=shared.fit_size(options.size or usual["size"], FACTOR),
        guided=float(pick(options.guidance, usual["guidance"])) > 1,
        chunk_overlap=MICRO_LATENTS if _mixed(options, usual)[1] > MICRO_LATENTS else 0,
        image_first=True,
        latent_group=MICRO_LATENTS,
    )


def load_family(source: Source, options: LoadOptions) -> Model:
    """The model of a folder."""
    check_options(source, options)
    known = facts(source, options)
    usual = shared.usual(USUAL, source)
    device = shared.pick_device(options.device)
    kind, rest = shared.dtype_of(options.dtype, device), waiting(options, device)
    width, height = known.size
    network = load_own(lambda: network_of(source), source, "transformer", rest, kind)
    vae = load_own(lambda: vae_of(source), source, "vae", rest, torch.float32)
    steps = int(pick(options.num_steps, known.steps))
    schedule = schedule_of(steps, height, width, _warped_latents(window_of(usual, "open-sora")))
    tokenizer = load_part(AutoTokenizer, source.path("tokenizer"), source.folder)
    cache = PromptCache(
        tokens_encode(tokenizer, int(usual["max_sequence_length"]), scored),
        reload=lambda: load_module(source, "text_encoder", T5EncoderModel, device, dtype=kind),
    )
    texts = OpenSoraTexts(cache, network.null_text, options.negative_prompt)
    guidance = float(pick(options.guidance, usual["guidance"]))
    worker = Worker(network)
    can = Capabilities(
        known.window, (CHANNELS, height // FACTOR, width // FACTOR), image_first=True, latent_group=MICRO_LATENTS
    )
    adapter = _Network(worker, float(known.fps), _mixed(options, usual)[0])
    denoiser = RowDenoiser(adapter, worker, texts, schedule, can, guidance, "velocity")
    model = Model(
        name=source.name,
        family="open-sora",
        source=source.folder,
        denoiser=denoiser,
        codec=GroupCodec(vae, FACTOR, bool(options.extras.get("tiling"))),
        solver=options.solver or "euler",
        window=known.window,
        fps=known.fps,
        steps=steps,
        guidance=guidance,
        size=known.size,
        negative_prompt=options.negative_prompt,
        dtype=str(kind).removeprefix("torch."),
        weights_hash=shared.weights_hash(source, WEIGHTED),
        license=shared.license_of(source),
    )
    return adapted(model, options, (network,), CogVideoXPipeline)


def _mixed(options: LoadOptions, usual: Mapping[str, Any]) -> tuple[Mix | None, int]:
    # the noise that bounds FreePCA, as a time: sigma = ratio (1 - sigma)
    late = 1000 * LATE_RATIO / (1 + LATE_RATIO)
    return mix_of(options.extras, window_of(usual, "open-sora"), late, options.compile)


def _warped_latents(window: int) -> int:
    # the release counts whole groups of 17 frames; shorter clips are counted as they are
    return window // MICRO_LATENTS * MICRO_LATENTS or window


def network_of(source: Source) -> STDiT3:
    """The network that a folder's configuration describes, without its weights."""
    return STDiT3(config_of(STDiT3Config, source, "transformer"))


def vae_of(source: Source) -> OpenSoraVAE:
    """The autoencoder that a folder's configuration describes, without its weights."""
    content = folders.read_json(source.path("vae") / "config.json")
    temporal = content.get("temporal")
    if temporal is None:  # the published file names its parts, not their sizes
        return OpenSoraVAE()
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in temporal.items()}
    return OpenSoraVAE(content.get("image"), TemporalConfig(**values))
