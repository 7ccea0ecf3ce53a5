"""AMT-S (Li et al. 2023): the interpolation of VBench's motion smoothness.

As in RAFT, correlations of all pairs of points at an eighth of the size, here in both directions. A pyramid of decoders
(sixteenth to half of the size) guesses the flows from the middle to both pictures; after each guess correlations are
looked up where the flows lead and correct flows and features. At full size three pairs of flows, with masks and
residues, give three pictures, whose mean is corrected once more. Symbols: time 1/2, so a flow from the middle, doubled,
leads from one picture to the other. Names of the weights as published.

VBench's preparation: 0..1, sides padded to multiples of 16 by their edge, half to either side; the picture is cut to
whole numbers of 0..255, rounded down. Deviation: pictures below 128 pixels a side, of which the published code makes
nothing but NaN, are enlarged first by a whole factor and the result is averaged back. As VBench does where memory is
short, flows are found at a fraction of the size (`shrink`), here above 1920 x 1088 pixels, and pictures are warped and
blended at their own.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from longtake.rewards.encoders.dis import warp
from longtake.rewards.encoders.pictures import best_device, enlarged, filled, padded, planes
from longtake.rewards.encoders.raft import SMALLEST, coordinates, correlations, look_up, shrinking

CHANNELS, SKIP, FLOWS = (20, 32, 44, 56), 20, 3
LEVELS, RADIUS = 4, 3


class Bottleneck(nn.Module):
    """Narrow, filter, widen, beside a shortcut; instance norms have no weights."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        inner = after // 4
        self.conv1, self.conv2 = nn.Conv2d(before, inner, 1), nn.Conv2d(inner, inner, 3, stride, 1)
        self.conv3 = nn.Conv2d(inner, after, 1)
        self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """[B,before,H,W] to [B,after,H/stride,W/stride]."""
        y = x
        for convolution in (self.conv1, self.conv2, self.conv3):
            y = F.relu(F.instance_norm(convolution(y)))
        return F.relu((x if self.downsample is None else F.instance_norm(self.downsample(x))) + y)


class Features(nn.Module):
    """Pictures to features for correlations, at an eighth of their size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 7, 2, 3), nn.Conv2d(96, 84, 1)
        self.layer1 = nn.Sequential(Bottleneck(32, 32, 1), Bottleneck(32, 32, 1))
        self.layer2 = nn.Sequential(Bottleneck(32, 64, 2), Bottleneck(64, 64, 1))
        self.layer3 = nn.Sequential(Bottleneck(64, 96, 2), Bottleneck(96, 96, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,H,W] to [B,84,H/8,W/8]."""
        x = F.relu(F.instance_norm(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class Pyramid(nn.Module):
    """Pictures to features at a half, a quarter, an eighth and a sixteenth of their size."""

    def __init__(self) -> None:
        super().__init__()
        for number, (before, after) in enumerate(zip((3, *CHANNELS), CHANNELS, strict=False), 1):
            self.add_module(f"pyramid{number}", nn.Sequential(_conv(before, after, 2), _conv(after, after)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B,3,H,W] to four maps, finest first."""
        found = []
        for part in self.children():
            x = part(x)
            found.append(x)
        return found


class SideBlock(nn.Module):
    """Five convolutions, every second of the last 20 channels alone, beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(width, width), _conv(SKIP, SKIP)
        self.conv3, self.conv4 = _conv(width, width), _conv(SKIP, SKIP)
        self.conv5, self.prelu = nn.Conv2d(width, width, 3, 1, 1), nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B,width,H,W] to the same."""
        y = x
        for all_channels, side in ((self.conv1, self.conv2), (self.conv3, self.conv4)):
            y = all_channels(y)
            y = torch.cat([y[:, :-SKIP], side(y[:, -SKIP:])], dim=1)
        return self.prelu(x + self.conv5(y))


class Decoder(nn.Module):
    """Features of both pictures and of the middle to `out` maps at twice the size."""

    def __init__(self, before: int, width: int, out: int) -> None:
        super().__init__()
        up = nn.ConvTranspose2d(width, out, 4, 2, 1)
        self.convblock = nn.Sequential(_conv(before, width), SideBlock(width), up)

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps with `before` channels in all to [B,out,2h,2w]."""
        return self.convblock(torch.cat(maps, dim=1))


class Correction(nn.Module):
    """Correlations where the flows lead, to changes of features and flows; at an eighth of the full size."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.convc1 = nn.Conv2d(2 * LEVELS * (2 * RADIUS + 1) ** 2, 64, 1)
        self.convf1, self.convf2 = nn.Conv2d(4, 40, 7, 1, 3), nn.Conv2d(40, 20, 3, 1, 1)
        self.conv = nn.Conv2d(84, 68, 3, 1, 1)
        self.gru = _head(68 + 4 + channels, 76)
        self.feat_head, self.flow_head = _head(76, channels), _head(76, 4)

    def forward(self, features: Tensor, flows: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Changes of features [B,C,H,W] and of both flows [B,4,H,W] at the features' size."""
        small = _scaled(features, 1 / self.scale)
        motion = _leaky(self.convf2(_leaky(self.convf1(flows))))
        both = _leaky(self.conv(torch.cat([_leaky(self.convc1(seen)), motion], dim=1)))
        hidden = self.gru(torch.cat([both, flows, small], dim=1))
        change, flow = self.feat_head(hidden), self.flow_head(hidden)
        return _scaled(change, self.scale), self.scale * _scaled(flow, self.scale)


class Amt(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        one, two, three, four = CHANNELS
        self.feat_encoder, self.encoder = Features(), Pyramid()
        self.decoder4 = Decoder(2 * four + 1, 2 * four, three + 4)
        self.decoder3 = Decoder(3 * three + 4, 3 * three, two + 4)
        self.decoder2 = Decoder(3 * two + 4, 3 * two, one + 4)
        self.decoder1 = Decoder(3 * one + 4, 3 * one, 8 * FLOWS)
        self.update4, self.update3, self.update2 = Correction(three, 1), Correction(two, 2), Correction(one, 4)
        self.comb_block = nn.Sequential(
            nn.Conv2d(3 * FLOWS, 6 * FLOWS, 3, 1, 1), nn.PReLU(6 * FLOWS), nn.Conv2d(6 * FLOWS, 3, 3, 1, 1)
        )

    def forward(self, first: Tensor, second: Tensor, shrink: int = 1) -> Tensor:
        """The picture half way [B,3,H,W] in 0..1 between pictures in 0..1 whose sides 16 * shrink divides."""
        mean = torch.cat([first, second], dim=2).mean(dim=(1, 2, 3), keepdim=True)
        first, second = first - mean, second - mean
        small_first, small_second = _scaled(first, 1 / shrink), _scaled(second, 1 / shrink)
        one, two = self.feat_encoder(torch.cat([small_first, small_second])).split(len(first))
        pyramids = correlations(one, two, LEVELS), correlations(two, one, LEVELS)
        a, b = self.encoder(small_first), self.encoder(small_second)
        when = first.new_full((len(first), 1, *a[3].shape[2:]), 0.5)
        flows, features = self.decoder4(a[3], b[3], when).split((4, CHANNELS[2]), dim=1)
        flows, features = self._corrected(self.update4, pyramids, flows, features, 1)
        for level, correct in ((2, self.update3), (1, self.update2)):
            decoder = self.decoder3 if level == 2 else self.decoder2
            more, features = decoder(features, *_warped(a[level], b[level], flows)).split(
                (4, CHANNELS[level - 1]), dim=1
            )
            flows = more + 2 * _scaled(flows, 2)
            flows, features = self._corrected(correct, pyramids, flows, features, correct.scale)
        out = self.decoder1(features, *_warped(a[0], b[0], flows))
        ahead, behind, mask, rest = out.split((2 * FLOWS, 2 * FLOWS, FLOWS, 3 * FLOWS), dim=1)
        coarse = 2 * _scaled(flows, 2)
        ahead, behind = ahead + coarse[:, :2].repeat(1, FLOWS, 1, 1), behind + coarse[:, 2:].repeat(1, FLOWS, 1, 1)
        flows = shrink * _scaled(torch.cat([ahead, behind], dim=1), shrink)
        shares = _scaled(torch.sigmoid(mask), shrink)
        return self._merged(first, second, mean, flows, torch.cat([shares, _scaled(rest, shrink)], 1)).clamp(0, 1)

    @staticmethod
    def _corrected(
        correct: Correction, pyramids: tuple[list[Tensor], list[Tensor]], flows: Tensor, features: Tensor, scale: int
    ) -> tuple[Tensor, Tensor]:
        small = _scaled(flows, 1 / scale) / scale
        at = coordinates(small)
        # from the first picture to the second is twice the way from the middle to the second, and the other way round
        there, back = at + 2 * small[:, 2:], at + 2 * small[:, :2]
        seen = torch.cat([look_up(pyramids[0], there, RADIUS), look_up(pyramids[1], back, RADIUS)], dim=1)
        change, more = correct(features, small, seen)
        return flows + more, features + change

    def _merged(self, first: Tensor, second: Tensor, mean: Tensor, flows: Tensor, out: Tensor) -> Tensor:
        ahead, behind = flows.chunk(2, dim=1)
        shares, rest = out.split((FLOWS, 3 * FLOWS), dim=1)
        parts = []
        for i in range(FLOWS):
            pair = slice(2 * i, 2 * i + 2)
            share = shares[:, i : i + 1]
            blend = share * warp(first, ahead[:, pair]) + (1 - share) * warp(second, behind[:, pair])
            parts.append(blend + mean + rest[:, 3 * i : 3 * i + 3])
        return torch.stack(parts).mean(0) + self.comb_block(torch.cat(parts, dim=1))


class AmtMiddle:
    """The picture half way, by AMT-S."""

    name = "amt-s"

    def __init__(self, net: nn.Module) -> None:
        self._net = net

    def __call__(self, first: UInt8[Tensor, "T H W 3"], second: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "T H W 3"]:
        """The picture half way between two, whole numbers of 0..255, pair by pair."""
        made = []
        for a, b in zip(first, second, strict=True):
            pair, factor = enlarged(planes(torch.stack([a, b]).to(best_device())) / 255, SMALLEST)
            shrink = shrinking(pair)
            pair, (rows, columns) = padded(pair, 16 * shrink)
            with torch.inference_mode():
                picture = F.avg_pool2d(self._net(pair[:1], pair[1:], shrink)[0][:, rows, columns], factor)
                made.append((255 * picture).floor().cpu().clone())
        return torch.stack(made).permute(0, 2, 3, 1)


def middle(folder: Path) -> AmtMiddle:
    """AMT-S from its folder."""
    return AmtMiddle(filled(Amt(), folder))


def _warped(first: Tensor, second: Tensor, flows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return warp(first, flows[:, :2]), warp(second, flows[:, 2:]), flows


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.PReLU(after))


def _head(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, 76, 3, 1, 1), nn.LeakyReLU(0.1), nn.Conv2d(76, after, 3, 1, 1))


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
