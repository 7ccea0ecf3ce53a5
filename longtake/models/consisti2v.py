"""ConsistI2V (arXiv 2402.04324): a picture becomes 16 frames of 256x256; the first frame is the picture, never noisy.

A folder of ours: `longtake.json` with family consisti2v, and the release's `unet/`, `vae/` (AutoencoderKL),
`text_encoder/` (CLIP of Stable Diffusion 2.1) and `tokenizer/`. `longtake convert consisti2v` writes one from
`TIGER-Lab/ConsistI2V`.

The picture is a window's first row at level 0. As in training it is told the time of the frames behind it. Other rows
that are known (an overlap of more than one latent) are shown noised where the rest share a level, and as they are, at
time 0, in queues. A first row that is not clean is what the network sees where its training dropped the picture; for
such a row it was never taught a noise estimate, so methods should commit rows behind the first. `chunk`, the default
here, hands the last latent of a clip to the next as its picture, as the release chains clips (`chunk_overlap` 1).

`guidance_image` above 1 adds a third pass whose first frame is noised (Sec. 4.4): e0 + g_i (e1 - e0) + g_t (e2 - e1)
with e0 of neither picture nor prompt, e1 of the picture, e2 of both.

A clip begins as the release begins it, with noise that its frames share and FrameInit (`consisti2v_noise`); the options
`noise` and `frameinit` change that.

Deviation: the picture's latent is the mean of its posterior, where the release samples it.
Cost: a window is two evaluations with guidance, three with `guidance_image`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, get_args

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
from longtake.models.consisti2v_noise import TIME, Beginning, Noise
from longtake.models.consisti2v_unet import ConsistConfig, ConsistUNet
from longtake.models.families import LoadOptions, Model, ModelFacts, Source
from longtake.models.frame_codec import FrameCodec
from longtake.models.opensora_longer import Mix, mix_of
from longtake.models.opensora_rows import (
    Inputs,
    RowDenoiser,
    Texts,
    Worker,
    as_noisy,
    config_of,
    leading,
    load_own,
    mixed,
    prompts_of,
    window_of,
)
from longtake.models.parts import load_module, load_part, pick
from longtake.models.prompts import PromptCache, clip_encode
from longtake.models.vp import signal, vp_schedule

PARTS = ("unet", "vae", "text_encoder", "tokenizer")
WEIGHTED = PARTS[:3]
USUAL: dict[str, Any] = dict(
    window=16, fps=8, steps=50, guidance=7.5, size=(256, 256), frame_stride=3, guidance_image=1.0,
    max_sequence_length=77, noise="mixed", frameinit=True,
)  # fmt: skip
BETAS = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "timestep_spacing": "leading",
    "steps_offset": 1,
}  # fmt: skip
"""A straight line of betas, not of their roots as Stable Diffusion has it; times 981, 961, ..., 1."""
LATE = 200.0
"""FreePCA's bound: the training time with the noise that VideoCrafter2 has at 250."""
FILE_NAMES = {
    "channels": "block_out_channels", "layers": "layers_per_block", "heads": "attention_head_dim",
    "temporal_heads": "n_temp_heads", "context": "cross_attention_dim", "groups": "norm_num_groups",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Network:
    """The network, told a frame stride."""

    run: Worker
    stride: float
    mix: Mix | None = None

    def __call__(self, inputs: Inputs) -> Tensor:
        stride = torch.full((len(inputs.x),), self.stride, device=inputs.x.device)
        size = inputs.x.shape[3], inputs.x.shape[4]
        with self.mix(self.run.module, inputs.times, size) if self.mix else nullcontext():
            return self.run(inputs.x, inputs.times, inputs.text, stride)


class ConsistTexts:
    """CLIP's reading of prompts; implements `opensora_rows.Texts`."""

    def __init__(self, cache: PromptCache, negative: str = "") -> None:
        self.cache, self.negative = cache, negative

    def wanted(self, cond: Cond) -> Float[Tensor, "L D"]:
        """The prompt."""
        return mixed(cond, self.cache)

    def unwanted(self, cond: Cond) -> Float[Tensor, "L D"]:
        """The negative prompt, which may be empty."""
        return self.cache(self.negative)

    def prepare(self, prompts: Iterable[Cond]) -> None:
        """Encode these prompts and the negative one now."""
        self.cache.prepare([*prompts_of(prompts), self.negative])

    def release(self) -> None:
        """Let go of the text encoder."""
        self.cache.release()


class ConsistDenoiser(RowDenoiser):
    """The network bound to a schedule, with the picture shown as it was trained, and guidance of two kinds."""

    def __init__(
        self,
        network: _Network,
        worker: Worker,
        texts: Texts,
        schedule: NoiseSchedule,
        can: Capabilities,
        guidance: float,
        guidance_image: float = 1.0,
    ) -> None:
        super().__init__(network, worker, texts, schedule, can, guidance, "noise")
        self.guidance_image = guidance_image
        if guidance_image > 1:
            self.cost = 3

    def predict(self, x: Tensor, levels: Tensor, cond: tuple[Cond, ...]) -> Float[Tensor, "B F C H W"]:
        """The noise, guided, float32."""
        shown, times = (
            torch.stack(part)
            for part in zip(*(self._shown(*row) for row in zip(x, levels.tolist(), strict=True)), strict=True)
        )
        text, mask = self._texts_of(cond)
        if self.cost == 1:
            return self.network(Inputs(shown, times, levels, text, mask, guided=False)).float()
        if self.cost == 2:
            batch = Inputs(*(torch.cat([part, part]) for part in (shown, times, levels)), text, mask, guided=True)
            both, prompt = self.network(batch).float().chunk(2)
            return prompt + self.guidance * (both - prompt)
        wanted, unwanted = text.chunk(2)
        hidden = torch.stack([self._hidden(*row) for row in zip(shown, levels.tolist(), strict=True)])
        inputs = Inputs(
            torch.cat([shown, shown, hidden]), torch.cat([times] * 3), torch.cat([levels] * 3),
            torch.cat([wanted, unwanted, unwanted]), mask[: len(x)].repeat(3, 1), guided=True,
        )  # fmt: skip
        both, picture, neither = self.network(inputs).float().chunk(3)
        towards_picture = self.guidance_image * (picture - neither)
        return neither + towards_picture + max(self.guidance, 1.0) * (both - picture)

    def _shown(self, x: Float[Tensor, "F C H W"], levels: list[int]) -> tuple[Tensor, Tensor]:
        # one window as the network is to see it, and what time each row is told
        times, count = self._times[levels].to(self.device), leading(levels)
        if not 0 < count < len(levels):
            return x, times
        rest = set(levels[count:])
        known = 1 if len(rest) > 1 else count
        if known > 1:
            x = torch.cat([x[:1], as_noisy(x[1:known], levels[count], self.schedule, start=1), x[known:]])
        return x, torch.cat([times[count].expand(known), times[known:]])

    def _hidden(self, shown: Float[Tensor, "F C H W"], levels: list[int]) -> Float[Tensor, "F C H W"]:
        # the picture as training hid it: noised like the frames behind it
        count = leading(levels)
        if not 0 < count < len(levels):
            return shown
        return torch.cat([as_noisy(shown[:1], levels[count], self.schedule), shown[1:]])


def schedule_of(num_steps: int) -> NoiseSchedule:
    """The release's DDIM grid, by level."""
    return vp_schedule(BETAS, num_steps)


def facts(source: Source, options: LoadOptions) -> ModelFacts:
    """What the JSON of a folder tells."""
    shared.check_folder(source, PARTS, WEIGHTED)
    usual = _usual(source, options)
    config = config_of(ConsistConfig, source, "unet", FILE_NAMES)
    vae = folders.read_json(source.path("vae") / "config.json")
    factor = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
    return ModelFacts(
        family="consisti2v",
        window=_mixed(options, usual)[1],
        channels=config.in_channels,
        factor=factor,
        fps=usual["fps"],
        steps=int(usual["steps"]),
        size=shared.fit_size(options.size or usual["size"], factor * 2 ** (len(config.channels) - 1)),
        guided=float(pick(options.guidance, usual["guidance"])) > 1,
        passes=3 if float(usual["guidance_image"]) > 1 else 0,
        method="chunk",
        chunk_overlap=1,
        begins=_beginning(usual) is not None,
        per_row_levels="own",
        image_first=True,
        image_only=True,
        compression=1,
        first_is_image=False,
    )


def load_family(source: Source, options: LoadOptions) -> Model:
    """The model of a folder."""
    check_options(source, options)
    known, usual = facts(source, options), _usual(source, options)
    device = shared.pick_device(options.device)
    kind, rest = shared.dtype_of(options.dtype, device), waiting(options, device)
    network = load_own(lambda: network_of(source), source, "unet", rest, kind)
    vae = load_module(source, "vae", AutoencoderKL, rest, torch_dtype=torch.float32)
    tokenizer = load_part(CLIPTokenizer, source.path("tokenizer"), source.folder)
    cache = PromptCache(
        clip_encode(tokenizer, int(usual["max_sequence_length"])),
        reload=lambda: load_module(source, "text_encoder", CLIPTextModel, device, dtype=kind),
    )
    steps = int(pick(options.num_steps, known.steps))
    guidance = float(pick(options.guidance, usual["guidance"]))
    worker = Worker(network)
    width, height = known.size
    can = Capabilities(
        known.window, (known.channels, height // known.factor, width // known.factor), "own", image_first=True,
        image_only=True, temporal_compression=1, first_is_image=False,
    )  # fmt: skip
    adapter = _Network(worker, float(usual["frame_stride"]), _mixed(options, usual)[0])
    texts = ConsistTexts(cache, options.negative_prompt)
    schedule, image = schedule_of(steps), float(usual["guidance_image"])
    denoiser = ConsistDenoiser(adapter, worker, texts, schedule, can, guidance, image)
    model = Model(
        name=source.name,
        family="consisti2v",
        source=source.folder,
        denoiser=denoiser,
        codec=FrameCodec(vae, bool(options.extras.get("tiling"))),
        solver=options.solver or "ddim",
        window=known.window,
        fps=known.fps,
        steps=steps,
        guidance=guidance,
        size=known.size,
        negative_prompt=options.negative_prompt,
        dtype=str(kind).removeprefix("torch."),
        weights_hash=shared.weights_hash(source, WEIGHTED),
        license=shared.license_of(source),
        begin=_beginning(usual),
    )
    return adapted(model, options, (network,), CogVideoXPipeline)


def _usual(source: Source, options: LoadOptions) -> dict[str, Any]:
    # defaults, the folder's settings, and options on top
    own = {name: options.extras[name] for name in ("noise", "frameinit", "guidance_image") if name in options.extras}
    usual = {**shared.usual(USUAL, source), **own}
    if float(usual["guidance_image"]) < 1:
        raise UsageError(f"guidance_image must be at least 1 (1: no guidance), got {usual['guidance_image']}")
    if usual["noise"] not in get_args(Noise) or not isinstance(usual["frameinit"], bool):
        raise UsageError(
            f"noise is {', '.join(get_args(Noise))} and frameinit true or false, got {usual['noise']!r}, "
            f"{usual['frameinit']!r}"
        )
    return usual


def _beginning(usual: Mapping[str, Any]) -> Beginning | None:
    if usual["noise"] == "own" and not usual["frameinit"]:
        return None
    return Beginning(usual["noise"], usual["frameinit"], float(signal(BETAS)[TIME]))


def _mixed(options: LoadOptions, usual: Mapping[str, Any]) -> tuple[Mix | None, int]:
    return mix_of(options.extras, window_of(usual, "consisti2v"), LATE, options.compile)


def network_of(source: Source) -> ConsistUNet:
    """The network that a folder's configuration describes, without its weights."""
    return ConsistUNet(config_of(ConsistConfig, source, "unet", FILE_NAMES))
