"""RIFE v4.0 (Huang et al. 2022): the flow to both neighbours from any time between, and the picture there.

Four blocks, coarse to fine (scales 8, 4, 2, 1). Each sees both pictures warped by the flow so far, the time, the
blending mask so far, and adds to flow and mask. The picture at time t is the blend of both warped pictures; the
refining network that the weights also contain is not used (the released code leaves it out too).

Symbols: flow[:, :2] points from time t to the first picture, flow[:, 2:4] to the second, in pixels.

As optical flow: what passes point m half way comes from m + flow[:, :2] and goes to m + flow[:, 2:], so it moves by
D(m), the difference. A pixel x of the first picture passes x + d/2, hence d = D(x + d/2), found by four iterations.
(Asking for time 0 is no good: the network was not trained there, and a shift of 4 pixels reads as 0.8.) A stand-in for
RAFT: it was trained to interpolate, so it is good where a picture can be made from its neighbours and vague elsewhere.
Deviation: where the published code doubles its scales once the motion is beyond 32 pixels and keeps them doubled for
every later call, here each pair starts from the usual scales.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from longtake.rewards.encoders.dis import warp
from longtake.rewards.encoders.pictures import best_device, filled, planes

WIDTHS = (192, 128, 96, 64)
SCALES = (8.0, 4.0, 2.0, 1.0)
ITERATIONS = 4
MULTIPLE = 128
"""Sides are padded to it, as the package that ships the weights does."""


class Block(nn.Module):
    """One scale: a quarter of its resolution, eight convolutions, flow and mask at full size."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(_conv(before, width // 2, 2), _conv(width // 2, width, 2))
        self.convblock = nn.Sequential(*(_conv(width, width, 1) for _ in range(8)))
        self.lastconv = nn.ConvTranspose2d(width, 5, 4, 2, 1)

    def forward(self, x: Tensor, flow: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        """(change of flow [B,4,H,W], change of mask [B,1,H,W]) of the input [B,before,H,W]."""
        x = _scaled(x, 1 / scale)
        if flow is not None:
            x = torch.cat([x, _scaled(flow, 1 / scale) / scale], dim=1)
        x = self.conv0(x)
        out = _scaled(self.lastconv(self.convblock(x) + x), 2 * scale)
        return out[:, :4] * 2 * scale, out[:, 4:]


class IFNet(nn.Module):
    """The four blocks."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.block0 = Block(7, widths[0])
        self.block1, self.block2, self.block3 = (Block(12, width) for width in widths[1:])

    def forward(self, first: Tensor, second: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """(flow [B,4,H,W], picture [B,3,H,W]) at a time 0..1 between pictures [B,3,H,W] in 0..1."""
        when = first.new_full((len(first), 1, *first.shape[2:]), time)
        scales = SCALES
        flow, mask = self.block0(torch.cat([first, second, when], dim=1), None, scales[0])
        for number, block in enumerate((self.block1, self.block2, self.block3), 1):
            more, change = block(self._seen(first, second, when, mask, flow), flow, scales[number])
            if number == 1 and min(more[:, :2].abs().max(), more[:, 2:4].abs().max()) > 32:
                scales = tuple(2 * scale for scale in SCALES)
                flow, mask = self.block0(torch.cat([first, second, when], dim=1), None, scales[0])
                more, change = block(self._seen(first, second, when, mask, flow), flow, scales[number])
            flow, mask = flow + more, mask + change
        share = torch.sigmoid(mask)
        return flow, warp(first, flow[:, :2]) * share + warp(second, flow[:, 2:]) * (1 - share)

    @staticmethod
    def _seen(first: Tensor, second: Tensor, when: Tensor, mask: Tensor, flow: Tensor) -> Tensor:
        return torch.cat([warp(first, flow[:, :2]), warp(second, flow[:, 2:]), when, mask], dim=1)


class RifeMiddle:
    """The picture half way, by RIFE."""

    name = "rife-v4"

    def __init__(self, net: nn.Module) -> None:
        self._net = net

    def __call__(self, first: UInt8[Tensor, "T H W 3"], second: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "T H W 3"]:
        """The picture half way between two, 0..255."""
        return torch.stack(
            [255 * _run(self._net, a, b, 0.5)[1].permute(1, 2, 0) for a, b in zip(first, second, strict=True)]
        )


class RifeFlow:
    """Optical flow by RIFE: both flows from half way, taken to the pixels of the first picture."""

    name = "rife-v4-flow"

    def __init__(self, net: nn.Module) -> None:
        self._net = net

    def __call__(self, first: UInt8[Tensor, "T H W 3"], second: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "T 2 H W"]:
        """Displacement (dx, dy) in pixels from `first` to `second`."""
        both = torch.stack([_run(self._net, a, b, 0.5)[0] for a, b in zip(first, second, strict=True)])
        at_middle = both[:, 2:] - both[:, :2]
        moved = at_middle
        for _ in range(ITERATIONS):
            moved = warp(at_middle, moved / 2)
        return moved


def middle(folder: Path) -> RifeMiddle:
    """RIFE as interpolation."""
    return RifeMiddle(filled(IFNet(), folder))


def flow(folder: Path) -> RifeFlow:
    """RIFE as optical flow."""
    return RifeFlow(filled(IFNet(), folder))


def _run(net: nn.Module, first: Tensor, second: Tensor, time: float) -> tuple[Tensor, Tensor]:
    """(flow [4,H,W], picture [3,H,W]) of one pair: alone, since the scales depend on its motion."""
    height, width = first.shape[:2]
    pair = planes(torch.stack([first, second]).to(best_device())) / 255
    # the package pads with black; a continued edge keeps the border from being drawn towards it
    pair = F.pad(pair, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
    with torch.inference_mode():
        found, picture = net(pair[:1], pair[1:], time)
    return found[0, :, :height, :width].cpu().clone(), picture[0, :, :height, :width].cpu().clone()


def _conv(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.PReLU(after))


def _scaled(x: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False, recompute_scale_factor=False)
