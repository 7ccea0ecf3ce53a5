"""What the core asks of a model: an x0 denoiser with one level per row, and a streaming codec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from longtake.core.schedule import NoiseSchedule


@dataclass(frozen=True)
class Blend:
    """Two prompts in cross-fade: their embeddings are mixed, `share` (0..1) of the second."""

    first: str
    second: str
    share: float

    def __str__(self) -> str:
        return self.first if self.share <= 0.5 else self.second


Cond = str | Blend
"""What a window is conditioned on: prompts, as text. Embeddings belong to the denoiser's cache, not to states."""


def embedded(cond: Cond, embed: Callable[[str], Tensor]) -> Tensor:
    """The embedding of a prompt, or the mixture of two."""
    if isinstance(cond, Blend):
        return torch.lerp(embed(cond.first), embed(cond.second), cond.share)
    return embed(cond)


@dataclass(frozen=True)
class Capabilities:
    """What a model can do, read by `check()` before any weights run.

    window                native number of latent frames in one call
    per_row_levels        how one level per row gets in: native, a hook, our own forward, or not at all
    clean_rows            without levels per row: leading rows at level 0 may still stand beside rows of one level
    image_first           the first row may be a clean image latent at level 0
    image_only            it makes nothing without one
    last_image            a picture that the clip ends with may be given too
    latent_shape          (C, H, W) of one latent frame
    temporal_compression  pixel frames of every latent after the first, which decodes to one if `first_is_image`
    latent_group          latents that are decoded together; each group begins anew, no frames come before it is whole
    latents_at_once       latents after the first that streamed decoding takes at a time; frames wait for them
    frames_behind         pixel frames that streamed decoding holds back until the next latent
    """

    window: int
    latent_shape: tuple[int, int, int]
    per_row_levels: Literal["native", "hook", "own", "no"] = "native"
    image_first: bool = False
    exact_streaming: bool = True
    temporal_compression: int = 4
    first_is_image: bool = True
    image_only: bool = False
    latent_group: int = 1
    frames_behind: int = 0
    latents_at_once: int = 1
    last_image: bool = False
    clean_rows: bool = False

    def num_latents(self, num_frames: int, after: bool = False) -> int:
        """Latents whose streamed decoding covers `num_frames` pixel frames, from the start or `after` whole others."""
        if self.latent_group > 1:
            return -(-num_frames // self._span(self.latent_group)) * self.latent_group
        lead = 1 if self.first_is_image and not after else 0
        later = max(num_frames - lead, 0)
        many = -(-(later + self.frames_behind if later else 0) // self.temporal_compression)
        return lead + -(-many // self.latents_at_once) * self.latents_at_once

    def num_frames(self, num_latents: int) -> int:
        """Pixel frames that `num_latents` latent frames decode to, streamed."""
        if self.latent_group > 1:
            return num_latents // self.latent_group * self._span(self.latent_group)
        lead = min(num_latents, 1)
        whole = self._span(lead + (num_latents - lead) // self.latents_at_once * self.latents_at_once)
        return max(whole - self.frames_behind, min(whole, 1 if self.first_is_image else 0))

    def latent_of(self, frame: int, after: bool = False) -> int:
        """The latent that a pixel frame belongs to, counted from the start or `after` whole others."""
        group, rest = divmod(frame, self._span(self.latent_group)) if self.latent_group > 1 else (0, frame)
        alone = self.first_is_image and (self.latent_group > 1 or not after)
        place = -(-rest // self.temporal_compression) if alone else rest // self.temporal_compression
        return group * self.latent_group + place

    def _span(self, num_latents: int) -> int:
        # frames of so many latents decoded whole
        if not self.first_is_image or num_latents == 0:
            return num_latents * self.temporal_compression
        return 1 + (num_latents - 1) * self.temporal_compression


@runtime_checkable
class Denoiser(Protocol):
    """A network bound to schedule and guidance. Returns the estimate of the clean latents, whatever it predicts inside.

    `cost` is the number of network evaluations of one window: 2 with classifier-free guidance, else 1.
    """

    @property
    def schedule(self) -> NoiseSchedule: ...

    @property
    def can(self) -> Capabilities: ...

    @property
    def cost(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def __call__(
        self, x: Float[Tensor, "B F C H W"], levels: Int[Tensor, "B F"], cond: Sequence[Cond]
    ) -> Float[Tensor, "B F C H W"]: ...


@runtime_checkable
class Codec(Protocol):
    """A video autoencoder that decodes latent by latent. Its cache is a value that can be saved, None at first.

    Frames are uint8 (F, H, W, 3). Decoding piece by piece equals decoding the whole.
    """

    def decode(self, z: Float[Tensor, "F C H W"], cache: Any = None) -> tuple[UInt8[Tensor, "T H W 3"], Any]: ...

    def encode(self, frames: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "F C H W"]: ...
