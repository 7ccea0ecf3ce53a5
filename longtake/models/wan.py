"""Wan 2.1 and 2.2 as an x0 denoiser with one noise level a row.

Wan's transformer takes one timestep a token. It would embed every token; here each row is embedded once and the
result handed to its tokens (models/wan_modulation), by hooks that exist only while a call runs, so a live pipeline
stays as it is.
Positions start at 0 in every window, as stock. Guidance runs as one batch, where the stock pipeline runs two.

Two experts (Wan 2.2 A14B). The stock pipeline gives times at or above `boundary_ratio` to `transformer` and those below
to `transformer_2`. A queue straddles the boundary, so each row's x0 comes from its own expert: a window whose noisy
rows all belong to one is evaluated by that one, a window that straddles by both, whole, since rows read each other.
Cost: `cost` evaluations a window and expert (`cost_of`); clean rows ask for none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args

import diffusers
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from longtake.core.model import Capabilities, Cond, embedded
from longtake.core.schedule import NoiseSchedule
from longtake.errors import UsageError
from longtake.models.place import Place
from longtake.models.rope import lengthened
from longtake.models.wan_modulation import Told, rows_embedded
from longtake.models.wan_text import PromptEncoder


class Pictures(Protocol):
    """Makes what image-to-video networks are told of the rows that are known."""

    def __call__(self, x: Float[Tensor, "F C H W"], levels: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """(channels (F, D, H, W) to append to the rows, image embedding (N, L, E) or None) of one window."""
        ...

    def end_with(self, picture: Any, size: tuple[int, int], frames: int | None) -> None: ...


@dataclass(frozen=True)
class Low:
    """The second of two experts: the network of levels up to `top`, and its own guidance scale."""

    transformer: nn.Module
    top: int
    guidance: float


@dataclass(frozen=True)
class Wiring:
    """What sets a model apart from plain Wan.

    low       the second expert
    pictures  for image-to-video networks
    forward   as `forward_rows`, which it is by default
    """

    low: Low | None = None
    pictures: Pictures | None = None
    forward: Callable[..., Tensor] | None = None


class WanDenoiser:
    """A Wan transformer bound to a schedule, prompts and guidance; implements `core.model.Denoiser`.

    guidance         scale of classifier-free guidance; at most 1 runs the network once a window instead of twice
    negative_prompt  what guidance steers away from

    Latents are float32 throughout; the transformer runs in its own dtype. A row at level 0 is told time 0 and comes
    back unchanged, as clean context does in the stock image-to-video pipeline of Wan 2.2 (`expand_timesteps`).
    """

    def __init__(
        self,
        transformer: nn.Module,
        text: PromptEncoder,
        schedule: NoiseSchedule,
        can: Capabilities,
        guidance: float = 5.0,
        negative_prompt: str = "",
        wiring: Wiring = Wiring(),
    ) -> None:
        self.transformer = transformer
        self.text = text
        self.schedule = schedule
        self.can = can
        self.guidance = guidance
        self.negative_prompt = negative_prompt
        self.wiring = wiring
        self.place = Place()
        self.cost = 2 if guidance > 1 else 1
        self._times = torch.tensor(schedule.times)
        self._sigmas = torch.tensor(schedule.sigmas)
        self._last: tuple[tuple[Cond, ...], Tensor] | None = None
        if wiring.low is not None:
            self.cost_of = self._cost_of  # only models whose windows differ in cost have it

    @property
    def device(self) -> torch.device:
        """Where the transformer works."""
        return self.place.home or self.transformer.patch_embedding.weight.device

    def prepare(self, prompts: Iterable[str]) -> None:
        """Encode these prompts, and the negative one if guidance needs it."""
        self.text.prepare([*prompts, *([self.negative_prompt] if self.cost == 2 else [])])

    def release_text_encoder(self) -> None:
        """Free the text encoder. See `PromptEncoder` for what a later prompt does."""
        self.text.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def end_with(self, picture: Any, size: tuple[int, int], frames: int | None = None) -> None:
        """The picture (PIL, None: none) that windows end with, scaled to (width, height), `frames` frames up to it."""
        if self.wiring.pictures is None:
            raise ValueError("this network takes no pictures by channels")
        self.wiring.pictures.end_with(picture, size, frames)

    def __call__(
        self, x: Float[Tensor, "B F C H W"], levels: Int[Tensor, "B F"], cond: Sequence[Cond]
    ) -> Float[Tensor, "B F C H W"]:
        """The clean latents that the network expects: x - sigma * v, each row with its own level."""
        if len(cond) != len(x):
            raise ValueError(f"one prompt a window: got {len(cond)} prompts for {len(x)} windows")
        levels = levels.cpu()
        told = self._told(x, levels)
        if self.wiring.low is None:
            flow = self._flow(self.transformer, self.guidance, told, levels, cond)
        else:
            flow = self._by_expert(self.wiring.low, told, levels, cond)
        sigmas = self._sigmas[levels].to(x.device)
        return x - sigmas[:, :, None, None, None] * flow.to(x.device)

    def _cost_of(self, levels: Sequence[int]) -> int:
        """Network evaluations of one window: those of each expert that its noisy rows ask for."""
        assert self.wiring.low is not None
        return self.cost * max(len({level > self.wiring.low.top for level in levels if level > 0}), 1)

    def _told(self, x: Tensor, levels: Tensor) -> tuple[Tensor, Tensor | None]:
        # (rows with the channels of known pictures, image embeddings)
        if self.wiring.pictures is None:
            return x, None
        windows = zip(x, levels.tolist(), strict=True)
        channels, images = zip(*(self.wiring.pictures(*window) for window in windows), strict=True)
        return torch.cat([x, torch.stack(channels).to(x)], dim=2), None if images[0] is None else torch.cat(images)

    def _by_expert(self, low: Low, told: tuple[Tensor, Tensor | None], levels: Tensor, cond: Sequence[Cond]) -> Tensor:
        x, image = told
        flow = torch.zeros_like(x[:, :, : self.can.latent_shape[0]], device=self.device)
        noisy, upper = levels > 0, levels > low.top
        # a window of clean rows alone goes to the low expert, as a clean row does
        asks_high = (noisy & upper).any(dim=1)
        asks_low = (noisy & ~upper).any(dim=1) | ~asks_high
        for network, scale, asks, rows in (
            (self.transformer, self.guidance, asks_high, upper),
            (low.transformer, low.guidance, asks_low, ~upper),
        ):
            picked = asks.nonzero().flatten().tolist()
            if picked:
                share = x[picked], None if image is None else image.unflatten(0, (len(x), -1))[picked].flatten(0, 1)
                part = self._flow(network, scale, share, levels[picked], [cond[place] for place in picked])
                mine = rows[picked][:, :, None, None, None].to(part.device)
                flow[picked] = torch.where(mine, part, flow[picked])
        return flow

    def _flow(
        self,
        network: nn.Module,
        guidance: float,
        told: tuple[Tensor, Tensor | None],
        levels: Tensor,
        cond: Sequence[Cond],
    ) -> Tensor:
        """The guided flow of windows, float32."""
        x, image = told
        inputs, times = x.to(self.device, network.dtype), self._times[levels]
        more = () if image is None else (True, image.to(self.device, network.dtype))
        if self.cost == 2:
            inputs, times = torch.cat([inputs, inputs]), torch.cat([times, times])
            more = () if image is None else (True, torch.cat([more[1], more[1]]))
        forward = self.wiring.forward or forward_rows
        text = self._embeddings(tuple(cond))
        with self.place.working(network):
            flow = forward(network, inputs, times, text, *more).float()
        if self.cost == 2:
            wanted, unwanted = flow.chunk(2)
            flow = unwanted + guidance * (wanted - unwanted)
        return flow

    def _embeddings(self, cond: tuple[Cond, ...]) -> Float[Tensor, "N L D"]:
        # the windows of a run share few prompts: keep the last batch on the device
        if self._last is None or self._last[0] != cond:
            texts = [*cond, *([self.negative_prompt] * len(cond) if self.cost == 2 else [])]
            stacked = torch.stack([embedded(text, self.text) for text in texts])
            self._last = cond, stacked.to(self.device, self.transformer.dtype)
        return self._last[1]


def forward_rows(
    transformer: nn.Module,
    x: Float[Tensor, "B F C H W"],
    times: Float[Tensor, "B F"],
    text: Float[Tensor, "B L D"],
    told: Told = "usual",
    image: Float[Tensor, "N M E"] | None = None,
    riflex: int | None = None,
) -> Float[Tensor, "B F D H W"]:
    """The flow that the stock transformer predicts when each row has its own time.

    `riflex`: the length in latents that positions in time are stretched to (models/rope).
    `told`: how times reach tokens. usual: windows whose rows all share one time embed it once and broadcast it, with
    nothing a token in memory; others by their size (models/wan_modulation). each: a time a token; rows: broadcast.
    """
    num_rows, height, width = x.shape[1], x.shape[3], x.shape[4]
    _, patch_height, patch_width = transformer.config.patch_size
    tokens = (height // patch_height) * (width // patch_width)
    if told == "usual" and bool((times == times[:, :1]).all()):
        times, tokens, num_rows = times[:, :1], 1, 1
    with rows_embedded(transformer, len(x), num_rows, tokens, told), lengthened(transformer.rope, riflex):
        out = transformer(
            hidden_states=x.transpose(1, 2),
            timestep=times.to(x.device),
            encoder_hidden_states=text,
            encoder_hidden_states_image=image,
            return_dict=False,
        )[0]
    return out.transpose(1, 2)


@torch.no_grad()
def self_check(transformer: nn.Module) -> None:
    """Hold `forward_rows` against the stock forward on two small latents; UsageError if they disagree.

    The hook leans on the inside of diffusers, so this runs at every load: equal rows = one scalar timestep, unequal
    rows = one timestep a token.
    """
    config, device, dtype = transformer.config, transformer.patch_embedding.weight.device, transformer.dtype
    draw = torch.Generator().manual_seed(0)
    height, width = (2 * patch for patch in config.patch_size[1:])
    x = torch.randn(1, 2, config.in_channels, height, width, generator=draw).to(device, dtype)
    # image-to-video networks take the last 512 tokens for text, so that there image tokens stand before 512 others
    text = torch.randn(1, 512 if config.image_dim else 4, config.text_dim, generator=draw).to(device, dtype)
    image = None
    if config.image_dim:
        # with a learned position for each token, tokens come from two pictures
        pictures, tokens = (2, config.pos_embed_seq_len // 2) if config.pos_embed_seq_len else (1, 3)
        image = torch.randn(pictures, tokens, config.image_dim, generator=draw).to(device, dtype)
    equal, mixed = torch.tensor([[500.0, 500.0]]), torch.tensor([[40.0, 800.0]])

    def stock(timestep: Tensor) -> Tensor:
        out = transformer(x.transpose(1, 2), timestep.to(device), text, image, return_dict=False)[0]
        return out.transpose(1, 2).float()

    try:
        pairs = [
            (forward_rows(transformer, x, times, text, told, image).float(), theirs)
            for times, theirs in ((equal, stock(equal[:, 0])), (mixed, stock(mixed.repeat_interleave(4, 1))))
            for told in get_args(Told)
        ]
        error = max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)
    except (RuntimeError, TypeError, ValueError, AttributeError) as problem:
        raise UsageError(f"levels by row do not work with diffusers {diffusers.__version__}: {problem}") from problem
    limit = 1e-4 if dtype == torch.float32 else 3e-2
    if not error <= limit:
        raise UsageError(
            f"levels by row do not work with diffusers {diffusers.__version__}: they differ from the stock forward by "
            f"{error:.1e} (allowed {limit:.0e}); install diffusers 0.42"
        )
