"""What Wan's image-to-video networks are told of known pictures: 20 more channels, and for Wan 2.1 CLIP's view of them.

The stock pipeline encodes a video that holds the picture and is blank (mid-grey) after it, and appends to every noisy
row four mask channels, one a pixel frame, and the latent of that video. Here the same is made for any window:
- leading rows at level 0 are known: they are decoded to the pixel frames they stand for;
- no known row (a window further down a queue): the blank video, masked as unknown throughout;
- pictures that were set with `open_with` and `end_with` stand in windows without known rows as in the stock pipeline,
  whose every row is noisy; a last picture also ends windows with known rows. Where a film shows fewer frames than a
  window has, the picture stands from the last that is shown to the window's end.
CLIP sees the first picture (the blank one where none is known) and, in networks made for it, the last.

Cost: one encoding of a window's pixels for each new set of known rows, kept by content: once a chunk, and at every
tick where finished rows of a queue are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from longtake.models.parts import Remembered, load_module, load_part
from longtake.models.seam import Source
from longtake.models.wan_codec import WanCodec, cover


class ClipEye:
    """CLIP's image encoder as Wan 2.1 uses it: the hidden states before the last layer."""

    def __init__(self, encoder: nn.Module, processor: Callable[..., Any]) -> None:
        self.encoder = encoder
        self.processor = processor

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "N L E"]:
        """A row of tokens a picture."""
        weight = next(self.encoder.parameters())
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return self.encoder(pixels.to(weight.device, weight.dtype), output_hidden_states=True).hidden_states[-2]


def load_eye(source: Source, device: torch.device) -> ClipEye:
    """CLIP of a folder, in float32; its encoder of the class that the folder's index names."""
    from transformers import CLIPImageProcessorPil, CLIPVisionModel, CLIPVisionModelWithProjection

    named = (source.index.get("image_encoder") or [None, None])[1]
    kind = CLIPVisionModelWithProjection if named == "CLIPVisionModelWithProjection" else CLIPVisionModel
    encoder = load_module(source, "image_encoder", kind, device, dtype=torch.float32)
    return ClipEye(encoder, load_part(CLIPImageProcessorPil, source.path("image_processor"), source.folder))


class WanPictures:
    """Implements `wan.Pictures`. `two` says that the network's CLIP tokens come from a first and a last picture."""

    def __init__(self, codec: WanCodec, eye: ClipEye | None = None, two: bool = False) -> None:
        self.codec, self.eye, self.two = codec, eye, two
        self.first: Tensor | None = None
        self.last: Tensor | None = None
        self.frames: int | None = None
        self._first_seen: Image.Image | None = None
        self._last_seen: Image.Image | None = None
        self._told = Remembered(self._tell)

    def open_with(self, picture: Image.Image | None, size: tuple[int, int]) -> None:
        """The picture at the start of windows without known rows; None takes it away. `size` is (width, height)."""
        self._first_seen = None if picture is None else cover(picture.convert("RGB"), size)
        self.first = None if picture is None else _pixels(self._first_seen)
        self._told = Remembered(self._tell)

    def end_with(self, picture: Image.Image | None, size: tuple[int, int], frames: int | None = None) -> None:
        """The picture at the end of every window; None takes it away.

        frames: pixel frames of a window up to the picture, which stands in all that follow; None: all of them.
        """
        self._last_seen = None if picture is None else cover(picture.convert("RGB"), size)
        self.last, self.frames = (None if picture is None else _pixels(self._last_seen)), frames
        self._told = Remembered(self._tell)

    def __call__(self, x: Float[Tensor, "F C H W"], levels: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """(mask and latents (F, 4 + C, H, W), CLIP tokens or None) of one window."""
        known = next((place for place, level in enumerate(levels) if level > 0), len(levels))
        # rows that are not known only say how long the window is
        return self._told(torch.cat([x[:known].float(), torch.zeros_like(x[known:], dtype=torch.float32)]), known)

    @torch.no_grad()
    def _tell(self, x: Tensor, known: int) -> tuple[Tensor, Tensor | None]:
        num_frames, factor = 4 * len(x) - 3, self.codec.factor
        video = torch.zeros(num_frames, 3, x.shape[2] * factor, x.shape[3] * factor)
        mask = torch.zeros(num_frames)
        first, start = self._first_seen, 0
        if known:
            shown = self.codec.pixels(x[:known])[0].cpu()
            video[: len(shown)], start, first = shown, len(shown), _picture(shown[0])
        elif self.first is not None:
            video[0], start = self.first, 1
        mask[:start] = 1
        if self.last is not None and start < num_frames:
            end = max(min(self.frames or num_frames, num_frames) - 1, start)
            video[end:], mask[end:] = self.last, 1
        # four masks a latent, those of the first picture all its own
        masks = torch.cat([mask[:1].repeat(3), mask]).reshape(len(x), 4, 1, 1).expand(-1, -1, *x.shape[2:])
        channels = torch.cat([masks.to(self.codec.device), self.codec.latents(video)], dim=1)
        return channels, self._seen(first, video)

    def _seen(self, first: Image.Image | None, video: Tensor) -> Tensor | None:
        if self.eye is None:
            return None
        blank = _picture(torch.zeros_like(video[0]))
        return self.eye([first or blank, self._last_seen or blank] if self.two else [first or blank])


def _pixels(picture: Image.Image | None) -> Float[Tensor, "3 H W"]:
    import numpy as np

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def _picture(pixels: Float[Tensor, "3 H W"]) -> Image.Image:
    return Image.fromarray(((pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
