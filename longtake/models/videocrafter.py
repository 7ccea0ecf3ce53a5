"""VideoCrafter2 text-to-video (Chen et al. 2024): 16 frames of 512x320, one latent a frame, a level per row in full.

A folder of ours: `longtake.json` with family videocrafter2, `unet/` under the published names or those of the
diffusers-style conversion, `vae/` (AutoencoderKL), `text_encoder/` (CLIPTextModel of 23 layers, the tower without its
last block), `tokenizer/`, `scheduler/`. `longtake convert videocrafter2` writes one from the published checkpoint.

Two settings of its own. `fps_condition` (longtake.json) is what the network is told of the frame rate, a raw number:
28 in the release's script, 16 in its demo, 8 in FIFO-Diffusion. `scale` says what is done about the data scale s(t)
that the network was trained with (1 at time 0 to 0.7 at time 399): "consistent" applies it at every level, "reference"
nowhere, as FIFO-Diffusion's queue does although its base clip comes from a sampler that applies it.

Deviation under "consistent" with eta > 0: the noise of a step is that of the scaled process; the release takes the
variance of the unscaled one, which is smaller below time 400.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, CogVideoXPipeline
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from longtake.core.model import Capabilities, Cond
from longtake.core.schedule import NoiseSchedule
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models import parts as shared
from longtake.models.adapt import adapted, check_options, waiting
from longtake.models.epsilon import EpsilonDenoiser
from longtake.models.families import LoadOptions, Model, ModelFacts, Source
from longtake.models.frame_codec import FrameCodec
from longtake.models.longer import Mix, mix_of
from longtake.models.own import build, fill, read_weights
from longtake.models.parts import pick
from longtake.models.prompts import PromptCache, clip_encode
from longtake.models.videocrafter_unet import UNetConfig, VideoCrafterUNet, published_weights
from longtake.models.vp import check_config, videocrafter_scale, vp_schedule

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHTED = PARTS[:3]
USUAL: dict[str, Any] = dict(
    window=16, fps=10, fps_condition=28, steps=50, guidance=12.0, size=(512, 320), scale="consistent",
    max_sequence_length=77, solver="ddim",
)  # fmt: skip
"""The release's script; 10 frames a second is what it writes."""


@dataclass(frozen=True, eq=False)
class VideoCrafterNetwork:
    """The UNet with its prompts; an `epsilon.Network`."""

    unet: VideoCrafterUNet
    text: PromptCache
    fps_condition: float = 28.0
    mix: Mix | None = None

    @property
    def module(self) -> VideoCrafterUNet:
        """What has the weights."""
        return self.unet

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.unet.dtype

    def __call__(
        self,
        x: Float[Tensor, "B F C H W"],
        times: Float[Tensor, "B F"],
        prompts: Sequence[Cond],
        leads: Sequence[Cond],
    ) -> Float[Tensor, "B F C H W"]:
        """The noise in each frame."""
        text = self.text.batch(prompts, x.device, self.dtype)
        fps = torch.full((len(x),), float(self.fps_condition), device=x.device)
        change = self.mix(self.unet, times, (x.shape[3], x.shape[4])) if self.mix else nullcontext()
        with change:
            return self.unet(x, times.to(x.device), text, fps)

    def prepare(self, prompts: Iterable[str]) -> None:
        """Encode these prompts now."""
        self.text.prepare(prompts)

    def release(self) -> None:
        """Let go of the text encoder."""
        self.text.release()


# -- the family --------------------------------------------------------------------------------------------------


def facts(source: Source, options: LoadOptions) -> ModelFacts:
    """What the JSON of a VideoCrafter2 folder tells."""
    shared.check_folder(source, PARTS, WEIGHTED)
    usual = _usual(source, options)
    unet = unet_config(folders.read_json(source.path("unet") / "config.json"), source.folder)
    vae = folders.read_json(source.path("vae") / "config.json")
    factor = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
    _, window = mix_of(options.extras, int(usual["window"]))
    return ModelFacts(
        family="videocrafter2",
        window=window,
        channels=unet.in_channels,
        factor=factor,
        fps=usual["fps"],
        steps=int(usual["steps"]),
        size=shared.fit_size(pick(options.size, usual["size"]), factor * 2 ** (len(unet.mults) - 1)),
        guided=float(pick(options.guidance, usual["guidance"])) > 1,
        per_row_levels="own",
        compression=1,
        first_is_image=False,
    )


def load_family(source: Source, options: LoadOptions) -> Model:
    """A VideoCrafter2 model from a folder; there is no stock pipeline that could be live."""
    check_options(source, options)
    known, usual = facts(source, options), _usual(source, options)
    device = shared.pick_device(options.device)
    kind = shared.dtype_of(options.dtype, device)
    mix, window = mix_of(options.extras, int(usual["window"]))
    if mix is not None and options.compile:
        raise UsageError("--compile and freelong or freepca do not go together: both change the network; leave one out")
    steps = int(pick(options.num_steps, usual["steps"]))
    guidance = float(pick(options.guidance, usual["guidance"]))
    schedule = schedule_of(folders.read_json(source.path("scheduler") / "scheduler_config.json"), steps, usual["scale"])
    tokenizer = shared.load_part(CLIPTokenizer, source.path("tokenizer"), source.folder)
    text = PromptCache(
        clip_encode(tokenizer, int(usual["max_sequence_length"])),
        reload=lambda: shared.load_module(source, "text_encoder", CLIPTextModel, device, dtype=kind),
    )
    rest = waiting(options, device)
    network = VideoCrafterNetwork(load_unet(source.path("unet"), rest, kind), text, usual["fps_condition"], mix)
    vae = shared.load_module(source, "vae", AutoencoderKL, rest, torch_dtype=torch.float32)
    width, height = known.size
    shape = (known.channels, height // known.factor, width // known.factor)
    can = Capabilities(window, shape, "own", temporal_compression=1, first_is_image=False)
    model = Model(
        name=source.name,
        family="videocrafter2",
        source=source.folder,
        denoiser=EpsilonDenoiser(network, schedule, can, guidance, options.negative_prompt),
        codec=FrameCodec(vae, bool(options.extras.get("tiling"))),
        solver=options.solver or usual["solver"],
        window=window,
        fps=usual["fps"],
        steps=steps,
        guidance=guidance,
        size=known.size,
        negative_prompt=options.negative_prompt,
        dtype=str(kind).removeprefix("torch."),
        weights_hash=shared.weights_hash(source, WEIGHTED),
        license=shared.license_of(source),
    )
    return adapted(model, options, (network.unet,), CogVideoXPipeline)


def schedule_of(config: Mapping[str, Any], num_steps: int, scale: str = "consistent") -> NoiseSchedule:
    """VideoCrafter2's levels on the grid of a scheduler's configuration, with or without its data scale."""
    check_config(config)
    if scale not in ("consistent", "reference"):
        raise UsageError(f"scale must be consistent or reference, got {scale!r}")
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    config = {**betas, **config}
    if scale == "reference":
        return vp_schedule(config, num_steps)
    return vp_schedule(config, num_steps, videocrafter_scale)


def unet_config(config: Mapping[str, Any], owner: Any) -> UNetConfig:
    """The sizes from the `config.json` of a diffusers-style UNet; UsageError for a network that is another."""
    usual = UNetConfig()
    widths = config.get("block_out_channels", [usual.channels * mult for mult in usual.mults])
    widths = widths if isinstance(widths, list) else []
    types = config.get("down_block_types", ["CrossAttnDownBlock3D"] * (len(widths) - 1) + ["DownBlock3D"])
    types = [str(kind) for kind in types] if isinstance(types, list) else []
    head_dim = config.get("attention_head_dim", usual.head_dim)
    named = {"in_channels": "in_channels", "units": "layers_per_block", "text_dim": "cross_attention_dim"}
    sizes = {ours: config.get(theirs, getattr(usual, ours)) for ours, theirs in named.items()}
    numbers = (*widths, head_dim, *sizes.values())
    whole = all(isinstance(number, int) and number > 0 for number in numbers) and len(types) == len(widths) > 0
    if not whole or any(width % widths[0] for width in widths):
        raise UsageError(f"{owner}: unet/config.json is not that of a VideoCrafter2 network")
    return UNetConfig(
        channels=widths[0],
        mults=tuple(width // widths[0] for width in widths),
        attention=tuple("CrossAttn" in kind for kind in types),
        head_dim=head_dim,
        **sizes,
    )


def load_unet(folder: Path, device: torch.device, dtype: torch.dtype) -> VideoCrafterUNet:
    """The network of a folder with `config.json` and safetensors under either set of names."""
    config = unet_config(folders.read_json(folder / "config.json"), folder)
    weights = published_weights(read_weights(folder), config)
    return fill(build(lambda: VideoCrafterUNet(config), folder), weights, folder, device, dtype)


def _usual(source: Source, options: LoadOptions) -> dict[str, Any]:
    return {**shared.usual(USUAL, source), **{key: options.extras[key] for key in ("scale",) if key in options.extras}}
