"""MUSIQ (Ke et al. 2021), trained on SPAQ: VBench's imaging quality.

A picture at its own size and at longer sides of 224 and 384 pixels is cut into patches of 32 x 32; each goes through a
small convolutional stem, gets a learnt place (one of 10 x 10 cells of its picture) and a learnt scale, and a
transformer of 14 blocks reads all of them. Names of the weights as in pyiqa, but for the transformer's, which `convert`
renames to those of `vit.Block`. The published code pads scales with masked patches, which nothing looks at; here there
are none.

VBench's preparation: the longer side is brought to 512 if it is larger (bilinear without antialiasing); score / 100.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtake.rewards.encoders.pictures import Pictured, filled
from longtake.rewards.encoders.vit import Block

PATCH, CELLS, WIDTH, INNER, DEPTH, HEADS = 32, 10, 384, 1152, 14, 6
LONGER_SIDES = (224, 384)
LARGEST = 512


class StandardConv(nn.Conv2d):
    """A convolution whose filters have mean 0 and deviation 1, padded as TensorFlow's "same"."""

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] to [B,C',ceil(H/s),ceil(W/s)]."""
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(same(x, self.kernel_size[0], self.stride[0]), weight, self.bias, self.stride)


class Bottleneck(nn.Module):
    """Three convolutions beside a projected shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1, self.gn1 = StandardConv(before, before, 1, bias=False), nn.GroupNorm(32, before, eps=1e-4)
        self.conv2, self.gn2 = StandardConv(before, before, 3, bias=False), nn.GroupNorm(32, before, eps=1e-4)
        self.conv3, self.gn3 = StandardConv(before, after, 1, bias=False), nn.GroupNorm(32, after, eps=1e-4)
        self.conv_proj, self.gn_proj = StandardConv(before, after, 1, bias=False), nn.GroupNorm(32, after, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """[B,before,H,W] to [B,after,H,W]."""
        y = F.relu(self.gn2(self.conv2(F.relu(self.gn1(self.conv1(x))))))
        return F.relu(self.gn3(self.conv3(y)) + self.gn_proj(self.conv_proj(x)))


class Musiq(nn.Module):
    """The network."""

    def __init__(self, depth: int = DEPTH) -> None:
        super().__init__()
        self.conv_root, self.gn_root = StandardConv(3, 64, 7, 2, bias=False), nn.GroupNorm(32, 64, eps=1e-6)
        self.block1 = Bottleneck(64, 256)
        self.embedding = nn.Linear(256 * (PATCH // 4) ** 2, WIDTH)
        self.position_emb = nn.Parameter(torch.zeros(1, CELLS**2, WIDTH))
        self.scale_emb = nn.Parameter(torch.zeros(len(LONGER_SIDES) + 1, WIDTH))
        self.cls = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS, INNER) for _ in range(depth))
        self.encoder_norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores [B], about 0..1, of pictures [B,3,H,W] in 0..1."""
        pictures = 2 * pictures - 1
        height, width = pictures.shape[2:]
        parts = []
        for scale, longer in enumerate(LONGER_SIDES):
            size = tuple(round(side * (longer / max(height, width))) for side in (height, width))
            smaller = F.interpolate(pictures, size, mode="bicubic", align_corners=False)
            parts.append(self.tokens(smaller, scale))
        tokens = torch.cat(
            [self.cls.expand(len(pictures), -1, -1), *parts, self.tokens(pictures, len(LONGER_SIDES))], 1
        )
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.encoder_norm(tokens)[:, 0])[:, 0] / 100

    def tokens(self, pictures: Tensor, scale: int) -> Tensor:
        """A token [B,N,384] for every patch of pictures of one scale."""
        rows, columns = (-(-side // PATCH) for side in pictures.shape[2:])
        patches = F.unfold(same(pictures, PATCH, PATCH), PATCH, stride=PATCH).transpose(1, 2)
        x = patches.reshape(-1, 3, PATCH, PATCH)
        x = F.relu(self.gn_root(self.conv_root(x)))
        x = self.block1(F.max_pool2d(same(x, 3, 2), 3, 2))
        x = self.embedding(
            x.permute(0, 2, 3, 1).reshape(len(pictures), rows * columns, -1)
        )  # channels last, as trained
        return x + self.position_emb[0][cells(rows, columns).to(x.device)] + self.scale_emb[scale]


def musiq(folder: Path) -> Pictured:
    """MUSIQ as a scorer: one frame at a time, as its sizes differ."""
    return Pictured("musiq-spaq", prepare, filled(Musiq(), folder), batch=4)


def prepare(pictures: Tensor) -> Tensor:
    """0..255 to 0..1, the longer side at most 512."""
    height, width = pictures.shape[2:]
    if max(height, width) > LARGEST:
        factor = LARGEST / max(height, width)
        size = (int(factor * height), int(factor * width))
        pictures = F.interpolate(pictures, size, mode="bilinear", align_corners=False)
    return pictures / 255


def cells(rows: int, columns: int) -> Tensor:
    """Which of 10 x 10 cells each patch of a grid lies in, row by row: [rows*columns]."""
    down, right = (torch.tensor([math.floor(i * CELLS / count) for i in range(count)]) for count in (rows, columns))
    return (down[:, None] * CELLS + right).flatten()


def same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Padded with zeros so that every started step is whole; the odd pixel goes to the right and bottom."""
    down, right = ((-(-side // stride) - 1) * stride + kernel - side for side in x.shape[2:])
    return F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
