"""Stable Video Diffusion (Blattmann et al. 2023) as an x0 denoiser: a picture in, no prompt, sigmas of EDM.

The network works on x / sqrt(1 + sigma^2), which is how the core keeps latents: alpha = 1 / sqrt(1 + sigma^2) and
sigma' = sigma alpha, times ln(sigma) / 4, v-prediction, so x0 = alpha x - sigma' v (Karras et al. 2022, Table 1).

The picture is a window's first row where that row is clean: decoded once, it gives CLIP's embedding and, with a little
noise, the latent that is laid beside every frame. Where all other rows share a level, known rows are shown noised to
it, as the network was trained; in queues, where levels differ, at the lowest time. A window without a clean row is
shown no picture, as in the half of a guidance pair that is steered away from.

Guidance grows from `min_guidance` at the first frame of a window to `guidance` at the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from longtake.core.model import Capabilities, Cond
from longtake.core.noise import normal, root
from longtake.core.schedule import NoiseSchedule
from longtake.models.longer import Mix
from longtake.models.parts import Remembered, noised_prefix
from longtake.models.place import Place
from longtake.models.svd_codec import SVDCodec
from longtake.models.svd_unet import forward_rows

Shown = tuple[Float[Tensor, "1 D"], Float[Tensor, "C H W"]]
"""A picture as the network reads it: CLIP's embedding, and a latent that is not scaled."""


SEEN = 224
"""Pixels of a side of what CLIP looks at."""

Colours = tuple[Sequence[float], Sequence[float]]
"""Mean and deviation of each colour, by which CLIP's pictures are normalised."""


@dataclass(frozen=True)
class Micro:
    """What the network is told beside the picture. fps: as written to a file, one less is told, as it was trained."""

    fps: float = 7.0
    motion_bucket: int = 127
    noise: float = 0.02

    @property
    def ids(self) -> tuple[float, float, float]:
        """As the network reads them."""
        return self.fps - 1, self.motion_bucket, self.noise


class Guide:
    """From a clean latent to what the network is shown of it, kept by content for the last few pictures."""

    def __init__(self, codec: SVDCodec, encoder: nn.Module, colours: Colours, noise: float) -> None:
        self.codec, self.encoder, self.noise = codec, encoder, noise
        self._mean, self._std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in colours)
        self._known = Remembered(self._of_latent)

    def __call__(self, latent: Float[Tensor, "C H W"]) -> Shown:
        """Of a latent as the rows hold it. Without noise on the picture the latent itself is shown."""
        return self._known(latent)

    @torch.no_grad()
    def of_pixels(self, picture: Float[Tensor, "3 H2 W2"], noise: Tensor | None = None) -> Shown:
        """Of a picture in [-1, 1], with noise of the same shape on what the autoencoder reads."""
        noise = normal(picture.shape, root(0), "picture") if noise is None else noise
        noisy = picture.cpu() + self.noise * noise
        return self._embedded(picture), self.codec.encode_pixels(noisy[None])[0]

    @torch.no_grad()
    def _of_latent(self, latent: Tensor) -> Shown:
        picture = self.codec.pixels(latent[None])[0][0]
        if self.noise == 0:
            return self._embedded(picture), latent.float() / self.codec.scale
        return self.of_pixels(picture)

    def _embedded(self, picture: Tensor) -> Tensor:
        seen = (shrunk(picture[None].float().cpu(), SEEN) + 1) / 2
        with self.codec.place.working(self.encoder):
            weight = next(self.encoder.parameters())
            return self.encoder(((seen - self._mean) / self._std).to(weight)).image_embeds


class SVDDenoiser:
    """The network bound to a schedule, its guide and guidance; implements `core.model.Denoiser`.

    guidance   (first frame, last frame) of a window; a last of at most 1 runs the network once a window
    mix        a change to the layers over time, for windows longer than trained
    """

    def __init__(
        self,
        unet: nn.Module,
        guide: Guide,
        schedule: NoiseSchedule,
        can: Capabilities,
        guidance: tuple[float, float] = (1.0, 3.0),
        micro: Micro | None = None,
        mix: Mix | None = None,
    ) -> None:
        self.unet, self.guide, self.schedule, self.can = unet, guide, schedule, can
        self.guidance, self.micro, self.mix = guidance, micro or Micro(), mix
        self.negative_prompt, self.place = "", Place()
        self.cost = 2 if guidance[1] > 1 else 1
        self._times, self._alphas, self._sigmas = (
            torch.tensor(values) for values in (schedule.times, schedule.alphas, schedule.sigmas)
        )

    @property
    def device(self) -> torch.device:
        """Where the network works."""
        return self.place.home or self.unet.conv_in.weight.device

    def prepare(self, prompts: Iterable[str]) -> None:
        """There are no prompts to read."""

    def release_text_encoder(self) -> None:
        """There is none."""

    def __call__(
        self, x: Float[Tensor, "B F C H W"], levels: Int[Tensor, "B F"], cond: Sequence[Cond]
    ) -> Float[Tensor, "B F C H W"]:
        """The clean latents that the network expects, each row with its own level; `cond` is not read."""
        if len(cond) != len(x):
            raise ValueError(f"one prompt a window: got {len(cond)} prompts for {len(x)} windows")
        levels = levels.cpu()
        seen = [self._seen(*window) for window in zip(x, levels, strict=True)]
        shown = [self.guide(rows[0]) if level[0] == 0 else None for rows, level in zip(x, levels, strict=True)]
        x0 = self.predict(torch.stack([rows for rows, _ in seen]), torch.stack([told for _, told in seen]), shown)
        clean = (levels == 0).to(x.device)[:, :, None, None, None]
        return torch.where(clean, x, x0.to(x.device))

    def _seen(self, x: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        # (rows, levels) that the network is shown of one window
        noisy = levels[levels > 0]
        if len(noisy) and bool((noisy == noisy[0]).all()):
            rows, top = noised_prefix(x[None], levels[None], self.schedule)
            return rows[0], top.expand(len(x))
        return x, levels

    def predict(
        self, x: Float[Tensor, "B F C H W"], levels: Int[Tensor, "B F"], shown: Sequence[Shown | None]
    ) -> Float[Tensor, "B F C H W"]:
        """x0 of rows at their levels beside a picture a window; None shows no picture."""
        picture, beside = self._stacked(shown, x)
        inputs, times = x.to(picture), self._times[levels]
        ids = torch.tensor([self.micro.ids] * len(x)).to(picture)
        if self.cost == 2:
            picture, beside = (torch.cat([torch.zeros_like(part), part]) for part in (picture, beside))
            inputs, times, ids = (torch.cat([part, part]) for part in (inputs, times, ids))
        inputs = torch.cat([inputs, beside[:, None].expand_as(inputs)], dim=2)
        change = self.mix(self.unet, times, (x.shape[3], x.shape[4])) if self.mix else nullcontext()
        with change, self.place.working(self.unet):
            velocity = forward_rows(self.unet, inputs, times, picture, ids).float()
        if self.cost == 2:
            unwanted, wanted = velocity.chunk(2)
            ramp = torch.linspace(*self.guidance, x.shape[1], device=velocity.device)[:, None, None, None]
            velocity = unwanted + ramp * (wanted - unwanted)
        alphas, sigmas = (
            table[levels].to(velocity.device)[:, :, None, None, None] for table in (self._alphas, self._sigmas)
        )
        return alphas * x.to(velocity) - sigmas * velocity

    def _stacked(self, shown: Sequence[Shown | None], x: Tensor) -> tuple[Tensor, Tensor]:
        kind = self.unet.conv_in.weight.dtype
        widths = self.unet.config.cross_attention_dim
        width = widths if isinstance(widths, int) else widths[0]
        nothing = torch.zeros(1, width), torch.zeros(x.shape[2:])
        parts = [nothing if one is None else one for one in shown]
        return tuple(torch.stack([part[place].to(self.device, kind) for part in parts]) for place in (0, 1))  # type: ignore


def shrunk(picture: Float[Tensor, "N 3 H W"], side: int) -> Float[Tensor, "N 3 side side"]:
    """The picture at side x side: blurred by half of what each side shrinks (scikit-image's rule), then bicubic."""
    for axis in (3, 2):
        sigma = max((picture.shape[axis] / side - 1) / 2, 0.001)
        reach = int(max(4 * sigma, 3)) // 2  # two deviations to each side
        weights = torch.exp(-(torch.arange(-reach, reach + 1, dtype=picture.dtype) ** 2) / (2 * sigma**2))
        shape = (3, 1, 1, -1) if axis == 3 else (3, 1, -1, 1)
        pad = (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach)
        kernel = (weights / weights.sum()).repeat(3).reshape(shape)
        picture = functional.conv2d(functional.pad(picture, pad, mode="reflect"), kernel, groups=3)
    return functional.interpolate(picture, size=(side, side), mode="bicubic", align_corners=True)
