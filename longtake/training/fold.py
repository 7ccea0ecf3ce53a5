"""Wan VAE with time folded into channels: the same numbers as the stock modules, several times faster on a CPU.

A causal `Conv3d` over t-2, t-1, t is a `conv2d` over those three frames stacked as channels, and on the first frame
alone it is a `conv2d` with the last temporal slice of its kernel. All frames go through at once instead of latent by
latent, and the layout is channels-last, which oneDNN and cuDNN prefer. The weights stay in the stock
`AutoencoderKLWan`; this file only reads them, so it serves training and inference alike.

Public layout is `B F C H W`; inside it is `B F H W C`. Only the plain (non-residual) Wan 2.1 layout is covered.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cache = list[Tensor]


class _Past:
    """Hands each causal layer, in call order, the frames it saw last; `None` is the start of a video."""

    def __init__(self, old: Cache | None) -> None:
        self.old, self.new, self.start = old, [], old is None

    def before(self, x: Tensor, num: int) -> Tensor:
        """`x` [B,F,H,W,C] with the `num` frames before it put in front (zeros at the start)."""
        if self.start:
            previous = x.new_zeros(x.shape[0], num, *x.shape[2:])
        else:
            previous = self.old[len(self.new)].to(x)
        joined = torch.cat([previous, x], dim=1)
        self.new.append(joined[:, joined.shape[1] - num :])
        return joined


def _flat(x: Tensor) -> Tensor:
    """[B,F,H,W,C] as an image batch [B*F,C,H,W] in channels-last memory."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def _unflat(x: Tensor, batch: int) -> Tensor:
    return x.permute(0, 2, 3, 1).unflatten(0, (batch, -1))


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, **options) -> Tensor:
    return _unflat(F.conv2d(_flat(x), weight, bias, **options), x.shape[0])


def _causal(x: Tensor, layer: nn.Conv3d, past: _Past) -> Tensor:
    """A stride-1 causal convolution [B,F,H,W,C] -> [B,F,H,W,O]."""
    weight, space = layer.weight, layer.kernel_size[1] // 2
    if weight.shape[2] == 1:
        return _conv2d(x, weight[:, :, 0], layer.bias, padding=space)
    joined = past.before(x, 2)
    if past.start and x.shape[1] == 1:  # zeros in front: the earlier slices cannot matter
        return _conv2d(x, weight[:, :, 2], layer.bias, padding=space)
    frames = torch.cat([joined[:, :-2], joined[:, 1:-1], joined[:, 2:]], dim=-1)
    return _conv2d(frames, _stacked(weight), layer.bias, padding=space)


def _stacked(weight: Tensor) -> Tensor:
    """[O,I,3,h,w] -> [O,3*I,h,w], time-major."""
    return weight.permute(0, 2, 1, 3, 4).flatten(1, 2)


def _norm(x: Tensor, layer: nn.Module) -> Tensor:
    unit = F.normalize(x.float(), dim=-1)
    return (unit * (layer.scale * layer.gamma.flatten())).to(x.dtype)


def _residual(x: Tensor, block: nn.Module, past: _Past) -> Tensor:
    y = _causal(F.silu(_norm(x, block.norm1)), block.conv1, past)
    y = _causal(F.silu(_norm(y, block.norm2)), block.conv2, past)
    skip = x if isinstance(block.conv_shortcut, nn.Identity) else _causal(x, block.conv_shortcut, past)
    return y + skip


def _attention(x: Tensor, block: nn.Module) -> Tensor:
    qkv = _conv2d(_norm(x, block.norm), block.to_qkv.weight, block.to_qkv.bias)
    q, k, v = qkv.flatten(2, 3).chunk(3, dim=-1)
    y = F.scaled_dot_product_attention(q, k, v).unflatten(2, x.shape[2:4])
    return x + _conv2d(y, block.proj.weight, block.proj.bias)


def _middle(x: Tensor, block: nn.Module, past: _Past) -> Tensor:
    x = _residual(x, block.resnets[0], past)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        x = _residual(_attention(x, attention), resnet, past)
    return x


def _down(x: Tensor, layer: nn.Module, past: _Past) -> Tensor:
    space = layer.resample[1]
    x = _conv2d(F.pad(x, (0, 0, 0, 1, 0, 1)), space.weight, space.bias, stride=2)
    if layer.mode != "downsample3d":
        return x
    first = x[:, :1] if past.start else None  # the first frame of a video passes as it is
    joined = past.before(x, 1)
    joined = joined[:, 1:] if past.start else joined
    if joined.shape[1] < 3:
        return x
    frames = torch.cat([joined[:, :-2:2], joined[:, 1:-1:2], joined[:, 2::2]], dim=-1)
    y = _conv2d(frames, _stacked(layer.time_conv.weight), layer.time_conv.bias)
    return y if first is None else torch.cat([first, y], dim=1)


def _up(x: Tensor, layer: nn.Module, past: _Past) -> Tensor:
    if layer.mode == "upsample3d":
        # the first latent stays one frame and is not seen by the later ones: they start from zeros
        first, rest = (x[:, :1], x[:, 1:]) if past.start else (None, x)
        if rest.shape[1]:
            pair = _causal_rest(rest, layer.time_conv, past).unflatten(-1, (2, -1))
            x = pair.movedim(-2, 2).flatten(1, 2)
            x = x if first is None else torch.cat([first, x], dim=1)
        else:
            past.new.append(x.new_zeros(x.shape[0], 2, *x.shape[2:]))
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return _conv2d(x, layer.resample[1].weight, layer.resample[1].bias, padding=1)


def _causal_rest(x: Tensor, layer: nn.Conv3d, past: _Past) -> Tensor:
    joined = past.before(x, 2)
    frames = torch.cat([joined[:, :-2], joined[:, 1:-1], joined[:, 2:]], dim=-1)
    return _conv2d(frames, _stacked(layer.weight), layer.bias)


def patchify(video: Tensor, size: int) -> Tensor:
    """[B,F,C,H,W] -> [B,F,H/p,W/p,C*p*p], channels in the stock order (colour, column, row)."""
    b, f, c, h, w = video.shape
    video = video.reshape(b, f, c, h // size, size, w // size, size)
    return video.permute(0, 1, 3, 5, 2, 6, 4).flatten(4)


def unpatchify(x: Tensor, size: int) -> Tensor:
    """[B,F,h,w,C*p*p] -> [B,F,C,h*p,w*p]."""
    x = x.unflatten(-1, (-1, size, size))
    return x.permute(0, 1, 4, 2, 6, 3, 5).flatten(5, 6).flatten(3, 4)


def encode(vae: nn.Module, video: Tensor, cache: Cache | None = None) -> tuple[Tensor, Tensor, Cache]:
    """Pixels [B,F,3,H,W] in -1..1 to (mean, log variance) [B,L,z,h,w] and the cache for the frames that follow.

    F is 1 + 4n at the start of a video and 4n when `cache` continues one.
    """
    past, net = _Past(cache), vae.encoder
    x = _causal(patchify(video, vae.config.patch_size or 1), net.conv_in, past)
    for layer in net.down_blocks:
        if hasattr(layer, "conv1"):
            x = _residual(x, layer, past)
        else:
            x = _attention(x, layer) if hasattr(layer, "to_qkv") else _down(x, layer, past)
    x = _middle(x, net.mid_block, past)
    x = _causal(F.silu(_norm(x, net.norm_out)), net.conv_out, past)
    x = _causal(x, vae.quant_conv, past).movedim(-1, 2)
    mean, log_variance = x.float().chunk(2, dim=2)
    return mean, log_variance.clamp(-30.0, 20.0), past.new


def decode(vae: nn.Module, latents: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
    """Latents [B,L,z,h,w] (not normalised) to pixels [B,F,3,H,W], not clamped, and the cache for what follows."""
    past, net = _Past(cache), vae.decoder
    x = _causal(latents.movedim(2, -1), vae.post_quant_conv, past)
    x = _middle(_causal(x, net.conv_in, past), net.mid_block, past)
    for block in net.up_blocks:
        for resnet in block.resnets:
            x = _residual(x, resnet, past)
        for layer in block.upsamplers or ():
            x = _up(x, layer, past)
    x = _causal(F.silu(_norm(x, net.norm_out)), net.conv_out, past)
    return unpatchify(x.float(), vae.config.patch_size or 1), past.new
