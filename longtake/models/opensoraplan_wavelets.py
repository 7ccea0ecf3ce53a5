"""Haar wavelets and causal layers of WF-VAE (arXiv 2411.17459), each with a memory that is a value.

A layer that looks back in time takes `past`, a dictionary from layer names to the frames it still needs. Without one
(None) it sees a whole video, whose first frame stands for what was before; with an empty one a stream begins, and the
frames it leaves there let the next call go on where this one stopped. So piece by piece equals the whole.

Wavelets: a 3-D step turns 2 x 2 x 2 cells into eight bands, in the order of the sign flips along (t, h, w); a 2-D step
2 x 2 cells into four. Their filters are stored in checkpoints, rounded to four digits, and used as stored.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Past = dict[str, Tensor]
"""What causal layers remember of a stream, by layer."""

BANDS_3D = ("h", "g", "hh", "gh", "h_v", "g_v", "hh_v", "gh_v")
BANDS_2D = ("aa", "ad", "da", "dd")


class CausalConv(nn.Module):
    """A 3-D convolution behind the frames before: the first frame of a video stands for those before it.

    `pad` is the zero padding at the four sides (left, right, top, bottom) of a frame.
    """

    key = ""  # the layer's name in its network, under which it keeps its frames

    def __init__(
        self, inner: int, outer: int, kernel: int | tuple[int, int, int] = 3, stride: int = 1,
        pad: tuple[int, int, int, int] | None = None, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        kernel = (kernel,) * 3 if isinstance(kernel, int) else kernel
        self.pad = pad or (kernel[2] // 2, kernel[2] // 2, kernel[1] // 2, kernel[1] // 2)
        self.back = kernel[0] - 1
        self.conv = nn.Conv3d(inner, outer, kernel, stride, bias=bias)

    def forward(self, x: Float[Tensor, "B C T H W"], past: Past | None = None) -> Float[Tensor, "B D U H W"]:
        """Convolve; in a stream only at stride 1."""
        if self.back:
            before = None if past is None else past.get(self.key)
            before = x[:, :, :1].expand(-1, -1, self.back, -1, -1) if before is None else before
            x = torch.cat([before, x], dim=2)
            if past is not None:
                past[self.key] = x[:, :, -self.back :].clone()
        return self.conv(functional.pad(x, self.pad))


class Haar3D(nn.Module):
    """Pixels or bands (B, C, T, H, W), T odd, to (B, 8 C, (T + 1) / 2, H / 2, W / 2), band by band."""

    def __init__(self) -> None:
        super().__init__()
        for name, sign in zip(BANDS_3D, _signs(3), strict=True):
            conv = CausalConv(1, 1, 2, 2, pad=(0, 0, 0, 0), bias=False)
            conv.conv.weight = nn.Parameter(sign * 0.3536, requires_grad=False)
            self.add_module(f"{name}_conv", conv)

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D U h w"]:
        """The eight bands."""
        flat = x.flatten(0, 1)[:, None]
        bands = [self.get_submodule(f"{name}_conv")(flat) for name in BANDS_3D]
        return torch.cat([band.reshape(len(x), -1, *band.shape[2:]) for band in bands], dim=1)


class InverseHaar3D(nn.Module):
    """The way back. The first frame of the result belongs to the frame put in front, and is dropped once a video."""

    def __init__(self) -> None:
        super().__init__()
        for name, sign in zip(BANDS_3D, _signs(3), strict=True):
            self.register_buffer(name, sign * 0.3536)

    def forward(self, x: Float[Tensor, "B D T H W"], first: bool = True) -> Float[Tensor, "B C U H2 W2"]:
        """2 T frames, or 2 T - 1 if these are the `first` of a video."""
        out: Tensor | None = None
        for name, band in zip(BANDS_3D, x.chunk(8, dim=1), strict=True):
            part = functional.conv_transpose3d(band.flatten(0, 1)[:, None], self.get_buffer(name), stride=2)
            out = part if out is None else out + part
        assert out is not None
        return out.reshape(len(x), -1, *out.shape[2:])[:, :, 1 if first else 0 :]


class Haar2D(nn.Module):
    """(B, C, T, H, W) to (B, 4 C, T, H / 2, W / 2), frame by frame, band by band."""

    def __init__(self) -> None:
        super().__init__()
        for name, sign in zip(BANDS_2D, _signs(2), strict=True):
            self.register_buffer(name, sign * 0.5)

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D T h w"]:
        """The four bands."""
        flat = x.flatten(0, 2)[:, None]
        bands = [functional.conv2d(flat, self.get_buffer(name), stride=2) for name in BANDS_2D]
        return torch.cat([band.reshape(*x.shape[:3], *band.shape[2:]) for band in bands], dim=1)


class InverseHaar2D(nn.Module):
    """The way back, frame by frame."""

    def __init__(self) -> None:
        super().__init__()
        for name, sign in zip(BANDS_2D, _signs(2), strict=True):
            self.register_buffer(name, sign * 0.5)

    def forward(self, x: Float[Tensor, "B D T H W"]) -> Float[Tensor, "B C T H2 W2"]:
        """Frames of twice the size."""
        out: Tensor | None = None
        for name, band in zip(BANDS_2D, x.chunk(4, dim=1), strict=True):
            part = functional.conv_transpose2d(band.flatten(0, 2)[:, None], self.get_buffer(name), stride=2)
            out = part if out is None else out + part
        assert out is not None
        return out.reshape(len(x), -1, x.shape[2], *out.shape[2:])


def doubled(x: Float[Tensor, "B C T H W"], past: Past | None, key: str) -> Float[Tensor, "B C U H2 W2"]:
    """Twice the size, and in time twice the frames but for the first of a video, by trilinear interpolation.

    Between two frames the interpolation needs both, so in a stream the last half frame waits for the next: the second
    frame of a video gives 1 and each later one 2, of which the earlier belongs to the frame before.
    """
    if past is None:
        first, rest = x[:, :, :1], x[:, :, 1:]
        if rest.shape[2]:
            rest = functional.interpolate(rest, scale_factor=(2, 1, 1), mode="trilinear")
        return _enlarged(torch.cat([first, rest], dim=2))
    parts = []
    for frame in x.split(1, dim=2):
        before, number = past.get(f"{key}.last"), int(past.get(f"{key}.count", torch.zeros(())))
        if number < 2 or before is None:
            parts.append(frame)
        else:
            parts += [0.75 * before + 0.25 * frame, 0.25 * before + 0.75 * frame]
        past[f"{key}.last"], past[f"{key}.count"] = frame.clone(), torch.tensor(min(number + 1, 2))
    return _enlarged(torch.cat(parts, dim=2))


def _enlarged(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=(1, 2, 2), mode="trilinear")


def _signs(dims: int) -> list[Tensor]:
    # the sign patterns (1, 1, 2, ..) of all bands: which axes flip, the last axis fastest
    patterns = []
    for flips in itertools.product((False, True), repeat=dims):
        pattern = torch.ones((2,) * dims)
        for axis, flip in enumerate(flips):
            if flip:
                pattern = pattern * torch.tensor([1.0, -1.0]).reshape([-1 if a == axis else 1 for a in range(dims)])
        patterns.append(pattern[None, None])
    return patterns if dims == 3 else [patterns[place] for place in (0, 2, 1, 3)]
