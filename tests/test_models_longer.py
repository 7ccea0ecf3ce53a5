"""FreeLong and FreePCA on Open-Sora's and ConsistI2V's layers over time, against attention by hand in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from longtake.errors import UsageError
from longtake.models import freelong, freepca
from longtake.models.consisti2v import BETAS
from longtake.models.consisti2v import LATE as CONSIST_LATE
from longtake.models.consisti2v_blocks import TemporalTransformer, neighbours
from longtake.models.consisti2v_tiny import save_tiny_consisti2v
from longtake.models.load import load
from longtake.models.opensora_longer import LATE_RATIO, OverTime, blended, changed, joined
from longtake.models.opensora_stdit import STDiT3
from longtake.models.opensora_tiny import SIZES, save_tiny_open_sora
from longtake.models.tiny_own import seeded
from longtake.models.vp import signal
from longtake.testing import check_denoiser

WINDOW, FRAMES = 4, 9
Hand = np.ndarray


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(q: Hand, k: Hand, v: Hand, heads: int, rows: list[list[int]]) -> Hand:
    """Row i of each sequence reads the keys listed for it; all (N, L, C), float64."""
    out, width = np.zeros_like(q), q.shape[-1] // heads
    for head in range(heads):
        cut = slice(head * width, (head + 1) * width)
        for row, others in enumerate(rows):
            score = np.einsum("nc,nmc->nm", q[:, row, cut], k[:, others, cut]) / math.sqrt(width)
            weight = np.exp(score - score.max(1, keepdims=True))
            out[:, row, cut] = np.einsum("nm,nmc->nc", weight / weight.sum(1, keepdims=True), v[:, others, cut])
    return out


def spun(x: Hand, speeds: Hand, places: range) -> Hand:
    """Neighbouring channels turned by place times speed; x (N, L, 2 len(speeds))."""
    out = x.copy()
    for row, place in enumerate(places):
        c, s = np.cos(place * speeds), np.sin(place * speeds)
        out[:, row, ::2] = x[:, row, ::2] * c - x[:, row, 1::2] * s
        out[:, row, 1::2] = x[:, row, 1::2] * c + x[:, row, ::2] * s
    return out


def nearest(frames: int, window: int) -> list[list[int]]:
    firsts = [min(max(row - window // 2, 0), frames - window) for row in range(frames)]
    return [list(range(first, first + window)) for first in firsts]


def weights(module: torch.nn.Module) -> dict[str, Hand]:
    return {name: value.double().numpy() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def stdit() -> STDiT3:
    return seeded(1, lambda: STDiT3(SIZES))


def stdit_reading(network: STDiT3, x: Tensor, rows: list[list[int]], sharpen: float = 1.0) -> Hand:
    attention, heads = network.temporal_blocks[0].attn, SIZES.num_heads
    w, inputs = weights(attention), x.double().numpy()
    q, k, v = np.split(inputs @ w["qkv.weight"].T + w["qkv.bias"], 3, axis=-1)
    dim = SIZES.hidden_size // heads
    speeds = network.rope.freqs.double().numpy()

    def normed(part: Hand, name: str) -> Hand:
        split = part.reshape(*part.shape[:2], heads, dim)
        split = split / np.sqrt((split**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"]
        return np.concatenate([spun(split[:, :, h], speeds, range(part.shape[1])) for h in range(heads)], axis=-1)

    return by_hand(sharpen * normed(q, "q_norm"), normed(k, "k_norm"), v, heads, rows)


def torch_of(x: Hand) -> Tensor:
    return torch.from_numpy(x).float()


@torch.no_grad()
def test_freelong_on_open_sora(stdit):
    """Two clips of 2 x 3 places."""
    x, layer = draw(12, FRAMES, SIZES.hidden_size), stdit.temporal_blocks[0].attn
    everything = stdit_reading(stdit, x, [list(range(FRAMES))] * FRAMES)
    local = stdit_reading(stdit, x, nearest(FRAMES, WINDOW))
    wanted = layer.proj(freelong.blend(torch_of(everything), torch_of(local), (2, 3)))
    with changed(stdit, lambda read, part: blended(2, (2, 3), WINDOW, read, part)):
        ours = layer(x, stdit.rope)
        assert stdit.spatial_blocks[0].attn(x, None).shape == x.shape
    assert torch.allclose(ours, wanted, atol=1e-4)
    assert not torch.allclose(layer(x, stdit.rope), wanted, atol=1e-2), "put back behind the block"


@torch.no_grad()
def test_freepca_on_open_sora(stdit):
    """The first clip is late enough to be joined, the second is not."""
    x, layer = draw(12, FRAMES, SIZES.hidden_size), stdit.temporal_blocks[0].attn
    times = torch.tensor([[900.0] * FRAMES, [100.0] * FRAMES])
    sharpen = math.sqrt(math.log(FRAMES) / math.log(WINDOW))
    everything = torch_of(stdit_reading(stdit, x, [list(range(FRAMES))] * FRAMES, sharpen))
    total, count = torch.zeros_like(everything), torch.zeros(FRAMES)
    for number, first in enumerate((0, 4, 5)):
        rows = slice(first, first + WINDOW)
        local = torch_of(stdit_reading(stdit, x[:, rows], [list(range(WINDOW))] * WINDOW))
        if number:
            local[:6] = freepca.join(everything[:6, rows], local[:6], number)
        total[:, rows] += local
        count[rows] += 1
    wanted = layer.proj(total / count[:, None])
    with changed(stdit, lambda read, part: joined(times, WINDOW, 410.0, read, part)):
        assert torch.allclose(layer(x, stdit.rope), wanted, atol=1e-4)


@torch.no_grad()
def test_freelong_on_consisti2v_keeps_the_first_frames_neighbourhood():
    """Keys of every row: those it may read, and always the eight around its pixel in frame 0."""
    made = seeded(2, lambda: TemporalTransformer(16, 8, 2, 4))
    layer, grid = made.transformer_blocks[0].attn1, torch.Size((2, 3))
    x = draw(6, FRAMES, 16)
    w, inputs = weights(layer), x.double().numpy()
    speeds = layer.rotary_emb.freqs.double().numpy()

    def turned(part: Hand) -> Hand:
        return np.concatenate([spun(part[..., :8], speeds, range(FRAMES)), part[..., 8:]], axis=-1)

    near = neighbours(x[:, 0].unflatten(0, (-1, 2, 3)).movedim(-1, 1)).flatten(0, 1).double().numpy()
    q, k, v = (inputs @ w[f"to_{part}.weight"].T for part in "qkv")
    k = np.concatenate([turned(k), near @ w["to_k.weight"].T], axis=1)
    v = np.concatenate([v, near @ w["to_v.weight"].T], axis=1)
    beside = list(range(FRAMES, FRAMES + 8))
    everything, local = (
        torch_of(by_hand(turned(q), k, v, 2, [[*rows, *beside] for rows in listed]))
        for listed in ([list(range(FRAMES))] * FRAMES, nearest(FRAMES, WINDOW))
    )
    wanted = layer.to_out[0](freelong.blend(everything, local, (2, 3)))
    with changed(made, lambda read, part: blended(1, (2, 3), WINDOW, read, part)):
        assert torch.allclose(made._over_frames(layer, x, grid), wanted, atol=1e-4)
    plain = layer.to_out[0](everything)
    assert torch.allclose(made._over_frames(layer, x, grid), plain, atol=1e-4)


def test_layers_are_put_back_however_the_block_ends(stdit):
    layers = [module for module in stdit.modules() if isinstance(module, OverTime)]
    assert len(layers) == SIZES.depth, "the temporal blocks, and no others"
    with pytest.raises(RuntimeError), changed(stdit, lambda read, part: read(part)):
        assert all(layer.change is not None for layer in layers)
        raise RuntimeError
    assert all(layer.change is None for layer in layers)


@pytest.fixture(scope="module")
def homes(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("models")
    return {"open-sora": save_tiny_open_sora(home / "os"), "consisti2v": save_tiny_consisti2v(home / "consist")}


@pytest.mark.parametrize("family, window", [("open-sora", 15), ("consisti2v", 6)])
def test_the_options(homes, family, window):
    usual = load(homes[family], num_steps=3).denoiser
    for name, times in (("freelong", 8), ("freepca", 4)):
        model = load(homes[family], num_steps=3, extras={name: "true"})
        assert model.window == model.denoiser.can.window == times * window
        assert model.denoiser.schedule == usual.schedule, "the noise of a longer window is that of the trained one"
        check_denoiser(model.denoiser)
        x = draw(1, window + 2, *usual.can.latent_shape)
        levels = torch.tensor([[0, *[3] * (window + 1)]])
        long, plain = model.denoiser(x, levels, ["a dog"]), usual(x, levels, ["a dog"])
        assert not torch.allclose(long, plain, atol=1e-3)
        short = (x[:, :window], levels[:, :window], ["a dog"])
        assert torch.equal(model.denoiser(*short), usual(*short)), "a window as trained is left alone"
        with pytest.raises(UsageError, match="do not go together"):
            load(homes[family], extras={name: "true"}, compile=True)
    with pytest.raises(UsageError, match="set one of them"):
        load(homes[family], extras={"freelong": "true", "freepca": "true"})


def test_freepcas_bound_is_that_of_videocrafter2_in_noise():
    kept = signal({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})[int(freepca.LATE)]
    ratio = math.sqrt((1 - kept) / kept)
    assert pytest.approx(ratio, abs=1e-3) == LATE_RATIO
    ours = signal(BETAS)
    below, above = (math.sqrt((1 - ours[time]) / ours[time]) for time in (int(CONSIST_LATE) - 1, int(CONSIST_LATE) + 1))
    assert below < ratio < above
