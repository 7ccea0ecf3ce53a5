"""RAFT (Teed and Deng 2020), the large network: the optical flow of VBench's dynamic degree (`raft-things`).

Features at an eighth of the size, the correlation of every pair of points of both pictures and its means over 2x2, 4x4,
8x8 neighbourhoods, and a recurrent unit that looks up correlations around the current guess and corrects it, 20 times.
Symbols: `levels` 4, `radius` 4 of the lookup; the flow is brought to full size as a convex combination of 3x3
neighbours (the paper's Sec. 3.3). Names of the weights as published.

Deviations: VBench counts the rim that it pads onto pictures whose sides 8 does not divide; here it is cut off. Below
128 pixels a side the coarsest correlations are single points, where the published code divides by 0: such pictures are
enlarged first, by a whole factor, and their flow is brought back. Memory of a pair: 4/3 (H W / 64)^2 numbers, which at
4K are 90 GB: above 1920 x 1088 pixels the flow is found on pictures shrunk by a whole factor.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from longtake.rewards.encoders.pictures import best_device, enlarged, filled, padded, planes

LEVELS, RADIUS, ITERATIONS = 4, 4, 20
HIDDEN = 128
SMALLEST = 128
POINTS = 1920 * 1088 // 64
"""Points at an eighth of the size, above which the correlations of all pairs would not fit."""


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, stride, 1), nn.Conv2d(after, after, 3, 1, 1)
        self.norm1, self.norm2 = norm(after), norm(after)
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride), norm(after))
        self.downsample = shortcut if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """[B,before,H,W] to [B,after,H/stride,W/stride]."""
        y = F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        return F.relu((x if self.downsample is None else self.downsample(x)) + y)


class Encoder(nn.Module):
    """Pictures to features at an eighth of their size."""

    def __init__(self, out: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 64, 7, 2, 3), norm(64)
        self.layer1 = nn.Sequential(Residual(64, 64, 1, norm), Residual(64, 64, 1, norm))
        self.layer2 = nn.Sequential(Residual(64, 96, 2, norm), Residual(96, 96, 1, norm))
        self.layer3 = nn.Sequential(Residual(96, 128, 2, norm), Residual(128, 128, 1, norm))
        self.conv2 = nn.Conv2d(128, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,H,W] to [B,out,H/8,W/8]."""
        return self.conv2(self.layer3(self.layer2(self.layer1(F.relu(self.norm1(self.conv1(x)))))))


class MotionEncoder(nn.Module):
    """Correlations and flow to what the recurrent unit reads."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * RADIUS + 1) ** 2, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, 1, 1)
        self.convf1, self.convf2 = nn.Conv2d(2, 128, 7, 1, 3), nn.Conv2d(128, 64, 3, 1, 1)
        self.conv = nn.Conv2d(256, 126, 3, 1, 1)

    def forward(self, flow: Tensor, seen: Tensor) -> Tensor:
        """Flow [B,2,h,w] and correlations [B,324,h,w] to [B,128,h,w]."""
        both = torch.cat(
            [F.relu(self.convc2(F.relu(self.convc1(seen)))), F.relu(self.convf2(F.relu(self.convf1(flow))))], 1
        )
        return torch.cat([F.relu(self.conv(both)), flow], dim=1)


class SeparableGru(nn.Module):
    """A gated recurrent unit, once along rows and once along columns."""

    def __init__(self, reads: int) -> None:
        super().__init__()
        for name, kernel, padding in (("1", (1, 5), (0, 2)), ("2", (5, 1), (2, 0))):
            for gate in "zrq":
                self.add_module(f"conv{gate}{name}", nn.Conv2d(HIDDEN + reads, HIDDEN, kernel, padding=padding))

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Hidden [B,128,h,w] and what it reads [B,reads,h,w] to the next hidden."""
        for name in "12":
            both = torch.cat([hidden, x], dim=1)
            update = torch.sigmoid(self.get_submodule(f"convz{name}")(both))
            reset = torch.sigmoid(self.get_submodule(f"convr{name}")(both))
            fresh = torch.tanh(self.get_submodule(f"convq{name}")(torch.cat([reset * hidden, x], dim=1)))
            hidden = (1 - update) * hidden + update * fresh
        return hidden


class FlowHead(nn.Module):
    """Hidden to a change of flow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(HIDDEN, 256, 3, 1, 1), nn.Conv2d(256, 2, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,128,h,w] to [B,2,h,w]."""
        return self.conv2(F.relu(self.conv1(x)))


class Update(nn.Module):
    """One correction of the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.gru, self.flow_head = MotionEncoder(), SeparableGru(2 * HIDDEN), FlowHead()
        self.mask = nn.Sequential(nn.Conv2d(HIDDEN, 256, 3, 1, 1), nn.ReLU(), nn.Conv2d(256, 64 * 9, 1))


class Raft(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        self.fnet, self.cnet = Encoder(256, nn.InstanceNorm2d), Encoder(2 * HIDDEN, nn.BatchNorm2d)
        self.update_block = Update()

    def forward(self, first: Tensor, second: Tensor, iterations: int = ITERATIONS) -> Tensor:
        """Flow [B,2,H,W] in pixels between pictures [B,3,H,W] in 0..255 whose sides 8 divides."""
        first, second = 2 * first / 255 - 1, 2 * second / 255 - 1
        pyramid = correlations(*self.fnet(torch.cat([first, second])).split(len(first)))
        hidden, context = self.cnet(first).split(HIDDEN, dim=1)
        hidden, context = torch.tanh(hidden), torch.relu(context)
        start = coordinates(hidden)
        at = start
        for _ in range(iterations):
            motion = self.update_block.encoder(at - start, look_up(pyramid, at, RADIUS))
            hidden = self.update_block.gru(hidden, torch.cat([context, motion], dim=1))
            at = at + self.update_block.flow_head(hidden)
        return full_size(at - start, 0.25 * self.update_block.mask(hidden))


class RaftFlow:
    """Optical flow by RAFT."""

    name = "raft-things"

    def __init__(self, net: nn.Module) -> None:
        self._net = net

    def __call__(self, first: UInt8[Tensor, "T H W 3"], second: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "T 2 H W"]:
        """Displacement (dx, dy) in pixels from `first` to `second`, pair by pair."""
        found = []
        for a, b in zip(first, second, strict=True):
            pair, factor = enlarged(planes(torch.stack([a, b]).to(best_device())), SMALLEST)
            shrink = shrinking(pair)
            pair, (rows, columns) = padded(pair, 8 * shrink)
            with torch.inference_mode():
                small = F.avg_pool2d(pair, shrink)
                flow = shrink * _scaled(self._net(small[:1], small[1:]), shrink)[0][:, rows, columns]
                found.append((F.avg_pool2d(flow, factor) / factor).cpu().clone())
        return torch.stack(found)


def flow(folder: Path) -> RaftFlow:
    """RAFT from its folder."""
    return RaftFlow(filled(Raft(), folder))


def shrinking(pictures: Tensor) -> int:
    """The whole factor by which pictures must shrink for the correlations of all their points to fit."""
    return math.ceil(math.sqrt(pictures.shape[2] * pictures.shape[3] / 64 / POINTS))


def _scaled(x: Tensor, factor: int) -> Tensor:
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def coordinates(like: Tensor) -> Tensor:
    """(x, y) of every point of a map: [B,2,h,w]."""
    rows = torch.arange(like.shape[2], device=like.device, dtype=like.dtype)
    columns = torch.arange(like.shape[3], device=like.device, dtype=like.dtype)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y])[None].expand(len(like), -1, -1, -1)


def correlations(first: Tensor, second: Tensor, levels: int = LEVELS) -> list[Tensor]:
    """Every point of the first map with every point of the second, then means: [B*h*w,1,h/2^i,w/2^i] each."""
    channels, height, width = second.shape[1:]
    volume = torch.einsum("bcm,bcn->bmn", first.flatten(2), second.flatten(2)) / channels**0.5
    pyramid = [volume.reshape(-1, 1, height, width)]
    for _ in range(levels - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def look_up(pyramid: list[Tensor], at: Tensor, radius: int) -> Tensor:
    """Correlations around `at` [B,2,h,w] (x, y) on every level: [B,levels*(2r+1)^2,h,w], bilinear, 0 outside."""
    batch, _, height, width = at.shape
    steps = torch.linspace(-radius, radius, 2 * radius + 1, device=at.device)
    # the published code calls the first step dy and adds it to x; the weights are made for that order
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)
    centres = at.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    found = []
    for level, volume in enumerate(pyramid):
        sides = torch.tensor([volume.shape[3], volume.shape[2]], device=at.device)
        grid = 2 * (centres / 2**level + offsets) / (sides - 1) - 1
        found.append(F.grid_sample(volume, grid, align_corners=True).reshape(batch, height, width, -1))
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2)


def full_size(flow: Tensor, mask: Tensor) -> Tensor:
    """Flow [B,2,h,w] to [B,2,8h,8w]: each point a convex combination of 3x3 neighbours by `mask` [B,576,h,w]."""
    batch, _, height, width = flow.shape
    shares = mask.reshape(batch, 1, 9, 8, 8, height, width).softmax(dim=2)
    near = F.unfold(8 * flow, 3, padding=1).reshape(batch, 2, 9, 1, 1, height, width)
    return (shares * near).sum(2).permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, 8 * height, 8 * width)
