"""Encoders of clips for Frechet video distances: I3D on Kinetics-400 and VideoMAE-v2 on Something-Something v2.

Both as the content-debiased FVD code (Ge et al. 2024) runs them. I3D (Carreira and Zisserman 2017): frames squashed to
224 x 224 (bilinear), -1..1, the 400 logits, averaged over time; needs 9 frames at least, FVD takes 16. VideoMAE-v2
(Wang et al. 2023), ViT-g: exactly 16 frames squashed to 224 x 224, 0..1, patches of 2 x 14 x 14, fixed sinusoidal
positions, the normalised mean of all tokens. Names of the weights as published; VideoMAE's separate biases of queries
and values are joined by `convert`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.rewards.encoders.pictures import best_device, filled
from longtake.rewards.encoders.vit import Block

SIDE = 224
Triple = tuple[int, int, int]
# channels of the branches: 1x1, 3x3 after 1x1, second 3x3 after 1x1, 1x1 after pooling
MIXED = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32), "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64), "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64), "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128), "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip
POOLS: dict[str, tuple[Triple, Triple]] = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)), "Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}  # fmt: skip
"""What is pooled before a part: kernel and stride."""


@dataclass(frozen=True, eq=False)
class Clips:
    """A network with its preparation, as `VideoEncoder`."""

    name: str
    num_frames: int | None
    shortest: int
    prepare: Callable[[Tensor], Tensor]
    net: Callable[[Tensor], Tensor]

    def __call__(self, clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B D"]:
        """A feature vector a clip. UsageError for clips of a length that the network does not take."""
        length = clips.shape[1]
        if length < self.shortest or self.num_frames not in (None, length):
            wanted = f"{self.num_frames}" if self.num_frames else f"at least {self.shortest}"
            raise UsageError(f"{self.name} reads clips of {wanted} frames, not {length}")
        with torch.inference_mode():
            found = [self.net(squashed(clip[None].to(best_device()), self.prepare)).float().cpu() for clip in clips]
        return torch.cat(found).clone()


def squashed(clips: Tensor, scale: Callable[[Tensor], Tensor]) -> Tensor:
    """Clips [B,T,H,W,3] of 0..255 to [B,3,T,224,224]."""
    batch, length = clips.shape[:2]
    frames = clips.flatten(0, 1).permute(0, 3, 1, 2).float()
    small = F.interpolate(frames, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return scale(small).unflatten(0, (batch, length)).transpose(1, 2)


class Unit(nn.Module):
    """Convolution over space and time with "same" padding, batch norm, ReLU."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(before, after, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(after)

    def forward(self, x: Tensor) -> Tensor:
        """[B,before,T,H,W] to [B,after,T/s,H/s,W/s]."""
        return F.relu(self.bn(self.conv3d(_same(x, self.conv3d.kernel_size, self.conv3d.stride))))  # type: ignore[arg-type]


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, before: int, *sizes: int) -> None:
        super().__init__()
        one, two_a, two_b, three_a, three_b, four = sizes
        self.b0 = Unit(before, one, 1)
        self.b1a, self.b1b = Unit(before, two_a, 1), Unit(two_a, two_b, 3)
        self.b2a, self.b2b = Unit(before, three_a, 1), Unit(three_a, three_b, 3)
        self.b3b = Unit(before, four, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,before,T,H,W] to [B,sum of the branches,T,H,W]."""
        pooled = self.b3b(_pooled(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), pooled], dim=1)


class Logits(nn.Module):
    """The last layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,1024,T,1,1] to [B,classes,T,1,1]."""
        return self.conv3d(x)


class I3D(nn.Module):
    """Inflated Inception."""

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1, self.Conv3d_2c_3x3 = Unit(64, 64, 1), Unit(64, 192, 3)
        for name, sizes in MIXED.items():
            self.add_module(name, Mixed(*sizes))
        self.logits = Logits(classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,T,224,224] in -1..1 to logits [B,classes]."""
        for name, part in self.named_children():
            if name in POOLS:
                x = _pooled(x, *POOLS[name])
            if name != "logits":
                x = part(x)
        return self.logits(F.avg_pool3d(x, (2, 7, 7), 1))[..., 0, 0].mean(2)


class VideoMae(nn.Module):
    """VideoMAE-v2's encoder."""

    def __init__(self, width: int, depth: int, inner: int, heads: int, patch: Triple) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, width, patch, patch)})
        self.blocks = nn.ModuleList(Block(width, heads, inner) for _ in range(depth))
        self.fc_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,16,224,224] in 0..1 to features [B,width]."""
        tokens = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        tokens = tokens + sinusoids(tokens.shape[1], tokens.shape[2]).to(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return self.fc_norm(tokens.mean(1))


def sinusoids(count: int, width: int) -> Tensor:
    """Positions [1,count,width]: sin and cos of position / 10000^(2 (j // 2) / width), even and odd j."""
    powers = 2 * (torch.arange(width, dtype=torch.float64) // 2) / width
    angles = torch.arange(count, dtype=torch.float64)[:, None] / 10000**powers
    angles[:, 0::2], angles[:, 1::2] = angles[:, 0::2].sin(), angles[:, 1::2].cos()
    return angles.float()[None]


def sized(weights: Mapping[str, Tensor]) -> VideoMae:
    """The VideoMAE that these weights belong to, not yet filled; heads are 88 wide in ViT-g, else 64."""
    width, _, *patch = weights["patch_embed.proj.weight"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    inner = weights["blocks.0.mlp.fc1.weight"].shape[0]
    return VideoMae(width, depth, inner, width // (88 if width % 88 == 0 else 64), (patch[0], patch[1], patch[2]))


def i3d(folder: Path) -> Clips:
    """I3D's logits of clips."""
    return Clips("i3d", None, 9, lambda frames: 2 * frames / 255 - 1, filled(I3D(), folder))


def videomae(folder: Path) -> Clips:
    """VideoMAE-v2's features of clips of 16 frames."""
    try:
        net = sized(load_file(folder / "model.safetensors"))
    except (KeyError, ValueError, IndexError) as error:
        raise UsageError(f"{folder} does not hold the weights of VideoMAE-v2") from error
    return Clips(folder.name, 16, 16, lambda frames: frames / 255, filled(net, folder))


def _same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    pads: list[int] = []
    for side, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        missing = max((-(-side // s) - 1) * s + k - side, 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(x, pads)


def _pooled(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    return F.max_pool3d(_same(x, kernel, stride), kernel, stride)
