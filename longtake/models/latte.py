"""Latte text-to-video (Ma et al. 2024): 16 frames of 512x512, one latent a frame, from stock pipeline folders.

Noise is predicted with a learned variance, which is not used here (the solvers draw their own); a window has at most
the 16 frames that the network has positions for. Prompts are T5's 120 tokens cropped to the prompt's own length, and
the negative prompt is cropped to the length of the prompt that it stands against, as the stock pipeline does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, CogVideoXPipeline, LattePipeline, LatteTransformer3DModel
from diffusers.utils import is_bs4_available, is_ftfy_available
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoTokenizer, T5EncoderModel

from longtake.core.model import Blend, Capabilities, Cond
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models import parts as shared
from longtake.models.adapt import adapted, check_options, waiting
from longtake.models.epsilon import EpsilonDenoiser
from longtake.models.families import LoadOptions, Model, ModelFacts, Source
from longtake.models.frame_codec import FrameCodec
from longtake.models.latte_rows import forward_rows, self_check
from longtake.models.parts import pick
from longtake.models.place import Place, Stage
from longtake.models.prompts import PromptCache
from longtake.models.vp import check_config, vp_schedule

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHTED = PARTS[:3]
USUAL: dict[str, Any] = dict(fps=8, steps=50, guidance=7.5, size=(512, 512), max_sequence_length=120, solver="ddim")
"""The stock pipeline's."""


def clean(prompt: str) -> str:
    """The text as the stock pipeline hands it to the tokenizer: its caption cleaner twice if it can run, lower case."""
    if not (is_bs4_available() and is_ftfy_available()):
        return prompt.lower().strip()
    cleaner: Any = LattePipeline
    return cleaner._clean_caption(cleaner, cleaner._clean_caption(cleaner, prompt))


class LatteText:
    """T5 embeddings of prompts, all `max_length` tokens, and how many of those a prompt fills."""

    def __init__(
        self, tokenizer: Any, max_length: int, encoder: nn.Module | None, reload: Callable[[], nn.Module] | None
    ) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.cache = PromptCache(self._encode, encoder, reload)

    def __call__(self, prompt: str) -> Float[Tensor, "L D"]:
        """The embedding of one prompt, on the host."""
        return self.cache(prompt)

    def length(self, prompt: Cond) -> int:
        """Tokens of the prompt, its end included; of a cross-fade those of the longer one."""
        if isinstance(prompt, Blend):
            return max(self.length(prompt.first), self.length(prompt.second))
        return int(self._tokens(prompt).attention_mask.sum())

    def _tokens(self, prompt: str) -> Any:
        return self.tokenizer(
            [clean(prompt)],
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )

    def _encode(self, encoder: nn.Module, prompt: str) -> Tensor:
        tokens, device = self._tokens(prompt), next(encoder.parameters()).device
        return encoder(tokens.input_ids.to(device), attention_mask=tokens.attention_mask.to(device))[0][0]


@dataclass(frozen=True, eq=False)
class LatteNetwork:
    """The transformer with its prompts; an `epsilon.Network`. run: the forward, compiled if that was asked for."""

    transformer: nn.Module
    text: LatteText
    run: Callable[..., Tensor] = forward_rows

    @property
    def module(self) -> nn.Module:
        """What has the weights."""
        return self.transformer

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.transformer.proj_out.weight.dtype

    def __call__(
        self,
        x: Float[Tensor, "B F C H W"],
        times: Float[Tensor, "B F"],
        prompts: Sequence[Cond],
        leads: Sequence[Cond],
    ) -> Float[Tensor, "B F C H W"]:
        """The noise in each frame; the variance that the network also predicts is left out."""
        longest = self.transformer.config.video_length
        if x.shape[1] > longest:
            raise ValueError(f"Latte has positions for {longest} frames, got a window of {x.shape[1]}")
        lengths = [self.text.length(lead) for lead in leads]
        text = self.text.cache.batch(prompts, x.device, self.dtype, max(lengths))
        out = self.run(self.transformer, x, times.to(x.device), text, lengths)
        return out[:, :, : x.shape[2]]

    def prepare(self, prompts: Iterable[str]) -> None:
        """Encode these prompts now."""
        self.text.cache.prepare(prompts)

    def release(self) -> None:
        """Let go of the text encoder."""
        self.text.cache.release()


# -- the family --------------------------------------------------------------------------------------------------


def facts(source: Source, options: LoadOptions) -> ModelFacts:
    """What the JSON of a Latte folder tells."""
    shared.check_folder(source, PARTS, WEIGHTED)
    network = folders.read_json(source.path("transformer") / "config.json")
    vae = folders.read_json(source.path("vae") / "config.json")
    check_config(folders.read_json(source.path("scheduler") / "scheduler_config.json"))
    return _facts(source, options, network, vae)


def _facts(source: Source, options: LoadOptions, network: Mapping[str, Any], vae: Mapping[str, Any]) -> ModelFacts:
    if vae.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise UsageError(f"{source.name}: the vae is an {vae['_class_name']}; Latte is decoded by an AutoencoderKL")
    usual = shared.usual(USUAL, source)
    longest = int(network.get("video_length", 16))
    window = int(usual.get("window", longest))
    if not 1 <= window <= longest:
        raise UsageError(f"{source.name}: window must be in 1..{longest} frames, got {window}")
    factor = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
    return ModelFacts(
        family="latte",
        window=window,
        channels=int(network.get("in_channels") or 4),
        factor=factor,
        fps=usual["fps"],
        steps=int(usual["steps"]),
        size=shared.fit_size(pick(options.size, usual["size"]), factor * int(network.get("patch_size") or 2)),
        guided=float(pick(options.guidance, usual["guidance"])) > 1,
        per_row_levels="own",
        compression=1,
        first_is_image=False,
    )


def load_family(source: Source, options: LoadOptions) -> Model:
    """A Latte model from a folder or a live `LattePipeline`."""
    check_options(source, options)
    if options.offload == "group" and options.compile:
        raise UsageError("--compile and --offload group do not go together on latte: its forward is compiled whole")
    usual = shared.usual(USUAL, source)
    transformer, vae, config, text = _parts(source, options, int(usual["max_sequence_length"]))
    known = _facts(source, options, transformer.config, vae.config)
    steps = int(pick(options.num_steps, usual["steps"]))
    guidance = float(pick(options.guidance, usual["guidance"]))
    check_config(config)
    self_check(transformer)
    width, height = known.size
    can = Capabilities(
        known.window,
        (known.channels, height // known.factor, width // known.factor),
        "own",
        temporal_compression=1,
        first_is_image=False,
    )
    run = torch.compile(forward_rows) if options.compile else forward_rows
    if options.offload == "group":
        run = partial(forward_rows, home=shared.pick_device(options.device))
    network = LatteNetwork(transformer, text, run)
    model = Model(
        name=source.name,
        family="latte",
        source=source.folder,
        denoiser=EpsilonDenoiser(network, vp_schedule(config, steps), can, guidance, options.negative_prompt),
        codec=FrameCodec(vae, bool(options.extras.get("tiling"))),
        solver=options.solver or usual["solver"],
        window=known.window,
        fps=usual["fps"],
        steps=steps,
        guidance=guidance,
        size=known.size,
        negative_prompt=options.negative_prompt,
        dtype=str(network.dtype).removeprefix("torch."),
        weights_hash=shared.weights_hash(source, WEIGHTED),
        license=shared.license_of(source),
    )
    # our forward calls the parts of blocks, not blocks: it is compiled as a whole, and fetches blocks itself
    if options.offload != "group":
        return adapted(model, replace(options, compile=False), (transformer,), CogVideoXPipeline)
    model = adapted(model, replace(options, offload="none"), (transformer,), CogVideoXPipeline)
    return _streamed(model, transformer, shared.pick_device(options.device))


def _streamed(model: Model, transformer: nn.Module, home: torch.device) -> Model:
    """The model with all of its network but the blocks on the device for good, and its autoencoder while it works."""
    for child in transformer.children():
        if not isinstance(child, nn.ModuleList):
            child.to(home)
    denoiser: Any = model.denoiser
    codec: Any = model.codec
    around = denoiser.place.around
    denoiser.place = codec.place = Place(home, Stage(home), (transformer,))
    denoiser.place.around = around
    return model


def _parts(source: Source, options: LoadOptions, max_length: int) -> tuple[nn.Module, nn.Module, Any, LatteText]:
    if source.pipe is not None:
        pipe = source.pipe
        shared.check_live(pipe, pipe.transformer, options)
        text = LatteText(pipe.tokenizer, max_length, pipe.text_encoder, None)
        return pipe.transformer, pipe.vae, {**pipe.scheduler.config}, text
    shared.check_folder(source, PARTS, WEIGHTED)
    device = shared.pick_device(options.device)
    kind, rest = shared.dtype_of(options.dtype, device), waiting(options, device)
    tokenizer = shared.load_part(AutoTokenizer, source.path("tokenizer"), source.folder)
    text = LatteText(
        tokenizer,
        max_length,
        None,
        lambda: shared.load_module(source, "text_encoder", T5EncoderModel, device, dtype=kind),
    )
    return (
        shared.load_module(source, "transformer", LatteTransformer3DModel, rest, torch_dtype=kind),
        shared.load_module(source, "vae", AutoencoderKL, rest, torch_dtype=torch.float32),
        folders.read_json(source.path("scheduler") / "scheduler_config.json"),
        text,
    )
