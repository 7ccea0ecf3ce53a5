"""What comes before every network: uint8 frames to normalised floats, sizes as each network was published with.

Resampling is on floats, in torch, with the weights of torchvision's `Resize(antialias=False)` on tensors: bilinear or
bicubic, pixel centres at half integers, no clamp after bicubic. The longer side is `int(size * long / short)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

from longtake.errors import UsageError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Means and standard deviations of the channels of pictures in 0..1."""
PORTION = 48 << 20
"""Bytes of frames that are prepared at a time."""


def planes(frames: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "T 3 H W"]:
    """Channels first, floats 0..255."""
    return frames.permute(0, 3, 1, 2).float()


def shorter_side(
    pictures: Float[Tensor, "T C H W"], size: int, mode: str = "bilinear", antialias: bool = False
) -> Float[Tensor, "T C h w"]:
    """Resized so that the shorter side is `size`, the longer cut to a whole number of pixels."""
    height, width = pictures.shape[2:]
    short, long = min(height, width), max(height, width)
    if short == size:
        return pictures
    other = int(size * long / short)
    wanted = (size, other) if height <= width else (other, size)
    return F.interpolate(pictures, wanted, mode=mode, align_corners=False, antialias=antialias)


def centre(pictures: Float[Tensor, "T C H W"], size: int) -> Float[Tensor, "T C size size"]:
    """The middle square; an odd rest is halved with the half rounded to even, as torchvision does."""
    top, left = (round((side - size) / 2) for side in pictures.shape[2:])
    return pictures[:, :, top : top + size, left : left + size]


def normalised(pictures: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """0..255 to zero mean and unit variance by channel."""
    mean, std = (torch.tensor(values, device=pictures.device)[:, None, None] for values in statistics)
    return (pictures / 255 - mean) / std


def padded(pictures: Tensor, multiple: int) -> tuple[Tensor, tuple[slice, slice]]:
    """Continued by its edge to sides that `multiple` divides, and where the picture lies in it.

    What is missing goes half to either side, the odd pixel after.
    """
    height, width = pictures.shape[2:]
    down, right = -height % multiple, -width % multiple
    top, left = down // 2, right // 2
    inside = (slice(top, top + height), slice(left, left + width))
    return F.pad(pictures, (left, right - left, top, down - top), mode="replicate"), inside


def enlarged(pictures: Tensor, smallest: int) -> tuple[Tensor, int]:
    """Enlarged (bilinear) by a whole factor so that no side is below `smallest`, and that factor."""
    factor = -(-smallest // min(pictures.shape[2:]))
    if factor == 1:
        return pictures, 1
    return F.interpolate(pictures, scale_factor=factor, mode="bilinear", align_corners=False), factor


@dataclass(frozen=True, eq=False)
class Pictured:
    """A network with its preparation, as `Encoder` or `Scorer`: frames go through it `batch` at a time."""

    name: str
    prepare: Callable[[Tensor], Tensor]
    net: Callable[[Tensor], Tensor]
    batch: int = 16

    def __call__(self, frames: UInt8[Tensor, "T H W 3"]) -> Tensor:
        """What the network says of each frame, float32 on the CPU."""
        device = best_device()
        size = max(1, min(self.batch, PORTION // max(frames[0].numel(), 1)))  # of 4K frames a few at a time
        with torch.inference_mode():
            parts = [self.net(self.prepare(planes(part.to(device)))).float().cpu() for part in frames.split(size)]
        return torch.cat(parts).clone()


def best_device() -> torch.device:
    """Where networks of encoders run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def filled(net: nn.Module, folder: Path) -> nn.Module:
    """The network with the weights of `folder`, ready to be used. UsageError if they belong to another network."""
    path = folder / "model.safetensors"
    weights = {name: value.float() for name, value in load_file(path).items()}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        what = str(error).splitlines()[-1].strip()
        raise UsageError(f"{path} does not hold the weights of this network: {what[:200]}") from error
    return net.eval().requires_grad_(False).to(best_device())
