"""Vision transformers: DINO (Caron et al. 2021) and DINOv2 (Oquab et al. 2023), as VBench and VBench-Long run them.

Names of the weights as their authors publish them; sizes are read off the weights (heads are 64 wide). Pictures may
have any size: the grid of positions is resampled (bicubic) to the grid of patches by the factor (patches + 0.1) / side,
as the authors' code has it, which the transformers library's classes do not reproduce to the last digit.

VBench, DINO ViT-B/16       shorter side 224, all of the picture, bilinear without antialiasing
VBench-Long, DINOv2 ViT-B/14    shorter side 256 (bicubic), then the middle 224 x 224

The feature of a picture is the class token after the last norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from longtake.rewards.encoders.pictures import IMAGENET, Pictured, centre, filled, normalised, shorter_side

HEAD = 64


class Attention(nn.Module):
    """Softmax attention of all tokens to all; a mask says which tokens are there."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B,N,width] to the same; mask [B,1,N,N], True where a token may look."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, mask)
        return self.proj(seen.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[...,width] to the same."""
        return self.fc2(F.gelu(self.fc1(x)))


class Scale(nn.Module):
    """DINOv2's factor by channel on what a branch adds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[...,width] to the same."""
        return x * self.gamma


class Block(nn.Module):
    """Attention and MLP, each on the normalised input and added to it."""

    def __init__(self, width: int, heads: int, inner: int, scaled: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width, inner)
        self.ls1 = Scale(width) if scaled else nn.Identity()
        self.ls2 = Scale(width) if scaled else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B,N,width] to the same."""
        x = x + self.ls1(self.attn(self.norm1(x), mask))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Patches(nn.Module):
    """Pictures to tokens, a patch each; what is left over at the right and bottom is not seen."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,H,W] to [B,width,H/patch,W/patch]."""
        return self.proj(x)


class VisionTransformer(nn.Module):
    """DINO's and, with `scaled`, DINOv2's network."""

    def __init__(self, width: int, depth: int, patch: int, side: int, scaled: bool = False) -> None:
        super().__init__()
        self.patch_embed = Patches(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side + 1, width))
        self.blocks = nn.ModuleList(Block(width, width // HEAD, 4 * width, scaled) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,H,W] normalised to features [B,width]."""
        grid = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), grid.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + self.positions(grid.shape[2], grid.shape[3])
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 0]

    def positions(self, rows: int, columns: int) -> Tensor:
        """Positions [1,1+rows*columns,width] of a grid of patches."""
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        if rows == columns == side:
            return self.pos_embed
        known = self.pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        factors = ((rows + 0.1) / side, (columns + 0.1) / side)
        found = F.interpolate(known, scale_factor=factors, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], found.flatten(2).transpose(1, 2)], dim=1)


def sized(weights: Mapping[str, Tensor]) -> VisionTransformer:
    """The network that these weights belong to, not yet filled."""
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    side = math.isqrt(weights["pos_embed"].shape[1] - 1)
    return VisionTransformer(width, depth, patch, side, "blocks.0.ls1.gamma" in weights)


def dino(folder: Path) -> Pictured:
    """DINO, prepared as VBench does for subject consistency."""
    return Pictured(folder.name, dino_input, _filled(folder))


def dinov2(folder: Path) -> Pictured:
    """DINOv2, prepared as VBench-Long does for its score from clip to clip."""
    return Pictured(folder.name, dinov2_input, _filled(folder))


def dino_input(pictures: Tensor) -> Tensor:
    """Shorter side 224, ImageNet's statistics."""
    return normalised(shorter_side(pictures, 224), IMAGENET)


def dinov2_input(pictures: Tensor) -> Tensor:
    """Shorter side 256, bicubic with antialiasing as torchvision does unless told; the middle 224 x 224."""
    return normalised(centre(shorter_side(pictures, 256, "bicubic", antialias=True), 224), IMAGENET)


def _filled(folder: Path) -> nn.Module:
    from longtake.errors import UsageError

    try:
        net = sized(load_file(folder / "model.safetensors"))
    except (KeyError, ValueError) as error:
        raise UsageError(f"{folder} does not hold the weights of a vision transformer") from error
    return filled(net, folder)
