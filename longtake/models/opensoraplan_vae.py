"""WF-VAE, the causal video autoencoder of Open-Sora-Plan 1.3 (arXiv 2411.17459), whole or as a stream.

The encoder splits a video into wavelet bands twice and feeds the low ones straight into its middle; the decoder
predicts the bands and puts them together. 4 n + 1 frames, 8 x 8 pixels each, make n + 1 latents of 8 channels. Every
convolution looks back only and norms are over channels, so decoding latent by latent gives the numbers of decoding all
at once; only the interpolation in time reads half a latent ahead, so a stream runs two frames behind (`doubled`).

Deviation: the reference samples the posterior when it encodes; here its mean is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from longtake.models.opensoraplan_wavelets import (
    CausalConv,
    Haar2D,
    Haar3D,
    InverseHaar2D,
    InverseHaar3D,
    Past,
    doubled,
)


@dataclass(frozen=True)
class WFVAEConfig:
    """Sizes; the defaults are those of the published 8-channel model."""

    latent_dim: int = 8
    base_channels: int = 128
    num_resblocks: int = 2
    encoder_flow: int = 64
    decoder_flow: int = 128
    scale: float = 0.18215


class WFVAE(nn.Module):
    """Pixels (B, 3, T, H, W) in -1..1 to latents (B, 8, F, H/8, W/8), times `scale`, and back."""

    def __init__(self, config: WFVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or WFVAEConfig()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        for name, module in self.named_modules():
            if isinstance(module, (CausalConv, _Doubling)):
                module.key = name

    def encode(self, pixels: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C F h w"]:
        """The posterior's mean, scaled. T = 4 n + 1."""
        return self.encoder(pixels).chunk(2, dim=1)[0] * self.config.scale

    def decode(self, z: Float[Tensor, "B C F h w"], past: Past | None = None) -> Float[Tensor, "B 3 T H W"]:
        """The 4 F - 3 frames of a whole video; with `past` (empty at first) those that these latents decide."""
        return self.decoder(z / self.config.scale, past)


class Encoder(nn.Module):
    """Bands of the pixels and of their low bands, each entering at its own scale."""

    def __init__(self, config: WFVAEConfig) -> None:
        super().__init__()
        base, flow, many = config.base_channels, config.encoder_flow, config.num_resblocks
        self.down1 = nn.Sequential(
            nn.Conv2d(24, base, 3, padding=1), *[_Res2D(base, base) for _ in range(many)], _Halving2D(base)
        )
        self.down2 = nn.Sequential(
            nn.Conv2d(base + flow, 2 * base, 3, padding=1),
            *[_Res3D(2 * base, 2 * base) for _ in range(many)],
            _Halving3D(2 * base),
        )
        self.connect_l1 = nn.Conv2d(12, flow, 3, padding=1)
        self.connect_l2 = nn.Conv2d(24, flow, 3, padding=1)
        self.mid = nn.Sequential(_Res3D(2 * base + flow, 4 * base), _Attention(4 * base), _Res3D(4 * base, 4 * base))
        self.norm_out = _Norm(4 * base)
        self.conv_out = CausalConv(4 * base, 2 * config.latent_dim)
        self.wavelet_transform_in = Haar3D()
        self.wavelet_transform_l1 = Haar2D()
        self.wavelet_transform_l2 = Haar3D()

    def forward(self, pixels: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B M F h w"]:
        """Mean and log variance, on the channel axis."""
        bands = self.wavelet_transform_in(pixels)
        lower = self.wavelet_transform_l1(bands[:, :3])
        lowest = self.wavelet_transform_l2(lower[:, :3])
        x = _through(self.down1, bands)
        x = _through(self.down2, torch.cat([x, _framewise(self.connect_l1, lower)], dim=1))
        x = _through(self.mid, torch.cat([x, _framewise(self.connect_l2, lowest)], dim=1))
        return self.conv_out(functional.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Latents to bands at three scales, each added to the low band of the next and put together."""

    def __init__(self, config: WFVAEConfig) -> None:
        super().__init__()
        base, flow, many = config.base_channels, config.decoder_flow, config.num_resblocks
        wide = 4 * base
        self.flow = flow
        self.conv_in = CausalConv(config.latent_dim, wide)
        self.mid = nn.Sequential(_Res3D(wide, wide), _Attention(wide), _Res3D(wide, wide + flow))
        self.up2 = nn.Sequential(*[_Res3D(wide, wide) for _ in range(many)], _Doubling(wide), _Res3D(wide, wide + flow))
        sizes = [wide, *[2 * base] * many]
        stack = [_Res3D(inner, outer) for inner, outer in zip(sizes, sizes[1:], strict=False)]
        self.up1 = nn.Sequential(*stack, _Doubling2D(2 * base), _Res3D(2 * base, 2 * base))
        self.layer = nn.Sequential(_Res3D(2 * base, base), *[_Res3D(base, base) for _ in range(many - 1)])
        self.connect_l1 = nn.Sequential(*[_Res3D(flow, flow) for _ in range(2)], nn.Conv2d(flow, 12, 3, padding=1))
        self.connect_l2 = nn.Sequential(*[_Res3D(flow, flow) for _ in range(2)], nn.Conv2d(flow, 24, 3, padding=1))
        self.norm_out = _Norm(base)
        self.conv_out = nn.Conv2d(base, 24, 3, padding=1)
        self.inverse_wavelet_transform_out = InverseHaar3D()
        self.inverse_wavelet_transform_l1 = InverseHaar2D()
        self.inverse_wavelet_transform_l2 = InverseHaar3D()

    def forward(self, z: Float[Tensor, "B C F h w"], past: Past | None) -> Float[Tensor, "B 3 T H W"]:
        """Frames; with `past`, those that the latents so far decide."""
        first = not past
        x = _through(self.mid, self.conv_in(z, past), past)
        low = self.inverse_wavelet_transform_l2(_through(self.connect_l2, x[:, -self.flow :], past), first)
        x = _through(self.up2, x[:, : -self.flow], past)
        low, late = self._matched(low, x.shape[2], past)
        bands = _through(self.connect_l1, x[:, -self.flow :], past)
        bands = torch.cat([bands[:, :3] + low, bands[:, 3:]], dim=1)
        if past is not None:
            past["low"] = late
        low = self.inverse_wavelet_transform_l1(bands)
        x = _through(self.layer, _through(self.up1, x[:, : -self.flow], past), past)
        bands = _framewise(self.conv_out, functional.silu(self.norm_out(x)))
        return self.inverse_wavelet_transform_out(torch.cat([bands[:, :3] + low, bands[:, 3:]], dim=1), first)

    def _matched(self, low: Tensor, count: int, past: Past | None) -> tuple[Tensor, Tensor]:
        # in a stream the low bands run ahead of the interpolation: what is early waits
        if past and "low" in past:
            low = torch.cat([past["low"], low], dim=2)
        return low[:, :, :count], low[:, :, count:].clone()


class _Norm(nn.Module):
    """Layer norm over the channels of every pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class _Res3D(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1 = _Norm(inner)
        self.conv1 = CausalConv(inner, outer)
        self.norm2 = _Norm(outer)
        self.conv2 = CausalConv(outer, outer)
        if inner != outer:
            self.nin_shortcut = CausalConv(inner, outer, 1)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(x)), past)
        hidden = self.conv2(functional.silu(self.norm2(hidden)), past)
        return hidden + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class _Res2D(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1 = _Norm(inner)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2 = _Norm(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = _framewise(self.conv1, functional.silu(self.norm1(x)))
        return x + _framewise(self.conv2, functional.silu(self.norm2(hidden)))


class _Attention(nn.Module):
    """One head over the pixels of each frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _Norm(width)
        self.q, self.k, self.v, self.proj_out = (CausalConv(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        normed = self.norm(x)
        # (B, T, 1, pixels, channels): one head
        query, key, value = (
            part(normed).permute(0, 2, 3, 4, 1).flatten(2, 3)[:, :, None] for part in (self.q, self.k, self.v)
        )
        out = functional.scaled_dot_product_attention(query, key, value)[:, :, 0]
        return x + self.proj_out(out.unflatten(2, x.shape[3:]).permute(0, 4, 1, 2, 3))


class _Halving2D(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return _framewise(self.conv, functional.pad(x, (0, 1, 0, 1)))


class _Halving3D(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = CausalConv(width, width, 3, 2, pad=(0, 1, 0, 1))

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        return self.conv(x, past)


class _Doubling(nn.Module):
    """Twice the size and nearly twice the frames."""

    key = ""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = CausalConv(width, width)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        return self.conv(doubled(x, past, self.key), past)


class _Doubling2D(nn.Module):
    """Twice the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return _framewise(self.conv, x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4))


def _through(layers: nn.Sequential, x: Tensor, past: Past | None = None) -> Tensor:
    for layer in layers:
        if isinstance(layer, (_Res3D, _Attention, _Doubling, _Halving3D)):
            x = layer(x, past)
        else:
            x = _framewise(layer, x) if isinstance(layer, nn.Conv2d) else layer(x)
    return x


def _framewise(layer: nn.Module, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D T h w"]:
    return layer(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1)).transpose(1, 2)
