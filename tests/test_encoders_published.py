"""The published encoders: the numbers of their authors' code, every naming of their weights, and VBench's preparation.

Their weights are not at hand here, so networks are filled by name (see encoder_cases.py): with the same names and the
same numbers, ours and theirs must say the same of the same pictures.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.apps.convert_command import run_convert
from longtake.errors import UsageError
from longtake.rewards import features
from longtake.rewards.encoders import amt, clip, convert, musiq, raft, videos, vit
from tests.encoder_cases import GOLDEN, fill, noise_pictures, same_as_golden, shapes_of


def published(name: str, gain: float = 1.4) -> dict[str, Tensor]:
    """Weights under the names and with the shapes of the published code."""
    return fill({key: tuple(shape) for key, shape in GOLDEN[name]["names"].items()}, gain)


def loaded(net: torch.nn.Module, weights: dict[str, Tensor]) -> Any:
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False)


def frames(count: int, height: int, width: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(1).randint(0, 256, (count, height, width, 3), dtype=np.uint8))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    return features.cache()


# -- the authors' numbers --------------------------------------------------------------------------------------------


def test_raft_gives_the_numbers_of_its_authors():
    first, second = (255 * noise_pictures(2, 128, 160).sigmoid()).split(1)
    net = loaded(raft.Raft(), convert.raft(published("raft-things", 0.7)))
    same_as_golden("raft-things", net(first, second, 6))


def test_amt_gives_the_numbers_of_its_authors():
    first, second = noise_pictures(2, 128, 160).sigmoid().split(1)
    net = amt.Amt()
    same_as_golden("amt-s", loaded(net, fill(shapes_of(net), 0.7))(first, second))
    first, second = noise_pictures(2, 256, 288).sigmoid().split(1)
    same_as_golden("amt-s/half", net(first, second, 2))


def test_musiq_gives_the_numbers_of_pyiqa():
    net = loaded(musiq.Musiq(depth=2), convert.musiq(published("musiq-spaq")))
    same_as_golden("musiq-spaq", net(noise_pictures(2, 70, 100).sigmoid())[:, None])


def test_i3d_gives_the_numbers_of_the_fvd_code():
    net = videos.I3D()
    clip_ = 2 * noise_pictures(9, 224, 224).sigmoid().transpose(0, 1)[None] - 1
    same_as_golden("i3d", loaded(net, fill(shapes_of(net)))(clip_))


def test_videomae_gives_the_numbers_of_the_fvd_code():
    weights = convert.videomae(published("videomae-v2"))
    net = loaded(videos.sized(weights), weights)
    same_as_golden("videomae-v2", net(noise_pictures(16, 224, 224).sigmoid().transpose(0, 1)[None]))


# -- the transformers library as the other side ----------------------------------------------------------------------


def _saved(net: Any, folder: Path) -> dict[str, Tensor]:
    net.load_state_dict(fill({name: shape for name, shape in shapes_of(net).items()}), strict=False)
    net.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def test_dino_equals_the_transformers_library_on_whole_squares(tmp_path: Path):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512, layer_norm_eps=1e-6
    )
    other = ViTModel(config, add_pooling_layer=False).eval()
    weights = convert.vit(_saved(other, tmp_path))
    pictures = noise_pictures(2, 224, 224)
    with torch.no_grad():
        wanted = other(pictures).last_hidden_state[:, 0]
        assert torch.allclose(loaded(vit.sized(weights), weights)(pictures), wanted, atol=1e-4)


def test_dinov2_equals_the_transformers_library_on_whole_squares(tmp_path: Path):
    from transformers import Dinov2Config, Dinov2Model

    other = Dinov2Model(Dinov2Config(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, patch_size=14)).eval()
    weights = convert.vit(_saved(other, tmp_path))
    pictures = noise_pictures(2, 224, 224)
    with torch.no_grad():
        wanted = other(pictures).pooler_output
        net = loaded(vit.sized(weights), weights)
        assert isinstance(net.blocks[0].ls1, vit.Scale)
        assert torch.allclose(net(pictures), wanted, atol=1e-4)


def _cubic(x: float) -> float:
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def _resampled(grid: np.ndarray, count: int, factor: float) -> np.ndarray:
    """Along the first axis: position i lies at (i + 1/2) / factor - 1/2 of the known ones, whose edge continues."""
    rows = []
    for i in range(count):
        at = (i + 0.5) / factor - 0.5
        low = math.floor(at)
        parts = [_cubic(at - j) * grid[min(max(j, 0), len(grid) - 1)] for j in range(low - 1, low + 3)]
        rows.append(sum(parts))
    return np.stack(rows)


def test_positions_of_other_grids_as_the_authors_resample_them():
    """DINO's factor is (patches + 0.1) / side, not patches / side: here 4 x 4 known positions for 3 x 6 patches."""
    net = vit.VisionTransformer(64, 1, 16, 4)
    net.load_state_dict(fill(shapes_of(net)))
    with torch.no_grad():
        found = net.positions(3, 6)[0]
    known = net.pos_embed.detach()[0, 1:].reshape(4, 4, 64).double().numpy()
    wanted = _resampled(_resampled(known, 3, 3.1 / 4).swapaxes(0, 1), 6, 6.1 / 4).swapaxes(0, 1)
    assert torch.allclose(found[1:].double(), torch.from_numpy(wanted).reshape(18, 64), atol=1e-5)
    plain = _resampled(_resampled(known, 3, 3 / 4).swapaxes(0, 1), 6, 6 / 4).swapaxes(0, 1)
    assert np.abs(plain - wanted).max() > 1e-3, "the tenth of a patch matters"
    assert torch.equal(net.positions(4, 4), net.pos_embed) and torch.equal(found[0], net.pos_embed[0, 0])


# -- CLIP, written again ---------------------------------------------------------------------------------------------


def openai_clip(weights: dict[str, Tensor], pictures: Tensor) -> Tensor:
    """CLIP's picture tower from the paper's code, with OpenAI's names and torch's own attention."""
    width = weights["visual.class_embedding"].shape[0]
    x = F.conv2d(pictures, weights["visual.conv1.weight"], stride=weights["visual.conv1.weight"].shape[2])
    x = x.flatten(2).transpose(1, 2)
    x = (
        torch.cat([weights["visual.class_embedding"].expand(len(x), 1, -1), x], 1)
        + weights["visual.positional_embedding"]
    )

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), weights[f"visual.{name}.weight"], weights[f"visual.{name}.bias"])

    x = norm(x, "ln_pre")
    for i in range(2):
        block = f"transformer.resblocks.{i}"
        attention = torch.nn.MultiheadAttention(width, width // 64, batch_first=True)
        names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        attention.load_state_dict({name: weights[f"visual.{block}.attn.{name}"] for name in names})
        y = norm(x, f"{block}.ln_1")
        x = x + attention(y, y, y, need_weights=False)[0]
        layer = f"visual.{block}.mlp."
        y = F.linear(norm(x, f"{block}.ln_2"), weights[layer + "c_fc.weight"], weights[layer + "c_fc.bias"])
        y = y * torch.sigmoid(1.702 * y)
        x = x + F.linear(y, weights[layer + "c_proj.weight"], weights[layer + "c_proj.bias"])
    return norm(x[:, 0], "ln_post") @ weights["visual.proj"]


def openai_weights(width: int = 128, out: int = 32, patch: int = 32) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (width,), "positional_embedding": ((224 // patch) ** 2 + 1, width), "proj": (width, out),
        "conv1.weight": (width, 3, patch, patch), "ln_pre.weight": (width,), "ln_pre.bias": (width,),
        "ln_post.weight": (width,), "ln_post.bias": (width,),
    }  # fmt: skip
    for i in range(2):
        parts = {
            "attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
            "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,), "ln_1.weight": (width,),
            "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
            "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,), "mlp.c_proj.bias": (width,),
            "mlp.c_proj.weight": (width, 4 * width),
        }  # fmt: skip
        shapes |= {f"transformer.resblocks.{i}.{name}": shape for name, shape in parts.items()}
    return fill({f"visual.{name}": shape for name, shape in shapes.items()})


def test_clip_equals_its_paper_from_either_naming(tmp_path: Path):
    theirs = openai_weights()
    weights = convert.clip(
        {**theirs, "transformer.resblocks.0.ln_1.weight": torch.ones(3), "logit_scale": torch.ones(())}
    )
    net = clip.Tower(loaded(clip.sized(weights), weights)).eval()
    pictures = noise_pictures(2, 224, 224)
    with torch.no_grad():
        wanted = openai_clip(theirs, pictures)
        assert torch.allclose(net(pictures), wanted, atol=2e-4 * float(wanted.abs().max()))
    net.net.save_pretrained(tmp_path)
    again = convert.clip(load_file(tmp_path / "model.safetensors"))
    assert set(again) == set(weights) and all(torch.equal(again[name], weights[name]) for name in weights)


def test_aesthetics_by_hand(shelf: Path, tmp_path: Path):
    """A normalised feature times the head's weights, plus its bias, over 10."""
    torch.save(openai_weights(patch=112), tmp_path / "clip.pt")
    head = fill({"weight": (1, 32), "bias": (1,)})
    torch.save(head, tmp_path / "head.pth")
    with pytest.raises(UsageError, match="type first: longtake convert clip-vitl14"):
        run_convert("laion-aesthetic", tmp_path / "head.pth")
    run_convert("clip-vitl14", tmp_path / "clip.pt")
    run_convert("laion-aesthetic", tmp_path / "head.pth")
    shots = frames(3, 40, 60)
    feature = features.load("clip-vitl14")(shots)
    wanted = (F.normalize(feature, dim=1) @ head["weight"][0] + head["bias"]) / 10
    scorer = features.find("aesthetic")
    assert scorer.name == "laion-aesthetic" and torch.allclose(scorer(shots), wanted, atol=1e-5)


# -- preparation, as VBench -------------------------------------------------------------------------------------------


def _bilinear(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Bilinear at centres (i + 1/2) * scale - 1/2, the edge continued; [H,W,C]."""

    def along(values: np.ndarray, count: int) -> np.ndarray:
        at = np.clip((np.arange(count) + 0.5) * len(values) / count - 0.5, 0, None)
        low = np.minimum(at.astype(int), len(values) - 1)
        high, part = np.minimum(low + 1, len(values) - 1), (at - at.astype(int))[:, None, None]
        return values[low] * (1 - part) + values[high] * part

    return along(along(picture, rows).swapaxes(0, 1), columns).swapaxes(0, 1)


def test_dino_sees_the_whole_picture_at_a_shorter_side_of_224():
    shots = frames(1, 300, 400)
    found = vit.dino_input(shots.permute(0, 3, 1, 2).float())[0]
    wanted = _bilinear(shots[0].double().numpy(), 224, 298) / 255  # int(224 * 400 / 300) = 298
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert found.shape == (3, 224, 298)
    assert np.allclose(found.permute(1, 2, 0).numpy(), (wanted - mean) / std, atol=1e-3)


def test_clip_sees_the_middle_square():
    """A picture that is black but for its middle square is seen white, and its edges are not seen."""
    shots = torch.zeros(1, 3, 100, 300)
    shots[:, :, :, 98:202] = 255
    white = (1 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor([0.26862954, 0.26130258, 0.27577711])
    assert clip.prepare(shots).shape == (1, 3, 224, 224)
    assert torch.allclose(clip.prepare(shots)[0].amin(dim=(1, 2)), white, atol=0.05)
    assert vit.dinov2_input(shots).shape == (1, 3, 224, 224)


@pytest.mark.parametrize(("size", "wanted"), [((480, 832), (295, 512)), ((512, 300), (512, 300)), ((64, 64), (64, 64))])
def test_musiq_brings_the_longer_side_to_512(size: tuple[int, int], wanted: tuple[int, int]):
    found = musiq.prepare(torch.full((1, 3, *size), 255.0))
    assert found.shape[2:] == wanted and torch.allclose(found, torch.ones(()))


def test_musiq_hashes_places_to_ten_by_ten():
    found = musiq.cells(3, 20).reshape(3, 20)
    assert found[:, 0].tolist() == [0, 30, 60] and found[0].tolist() == [i // 2 for i in range(20)]


# -- flow and interpolation ------------------------------------------------------------------------------------------


def test_raft_on_small_and_odd_sizes():
    net = raft.Raft()
    flow = raft.RaftFlow(loaded(net, fill(shapes_of(net), 0.7)))
    pair = frames(2, 65, 71)
    found = flow(pair[:1], pair[1:])
    assert found.shape == (1, 2, 65, 71) and torch.isfinite(found).all()


def test_above_1080p_flow_is_found_on_smaller_pictures():
    """A network that says a hundredth of the width sees half of 4K, says 19.2, and 38.4 is brought back."""

    class Says(torch.nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return torch.full((1, 2, *first.shape[2:]), first.shape[3] / 100)

    assert raft.shrinking(torch.empty(1, 0, 1080, 1920)) == 1 and raft.shrinking(torch.empty(1, 0, 2160, 3840)) == 2
    pair = torch.zeros(2, 2160, 3840, 3, dtype=torch.uint8)
    found = raft.RaftFlow(Says())(pair[:1], pair[1:])
    assert found.shape == (1, 2, 2160, 3840) and torch.allclose(found, torch.tensor(38.4))


def test_small_pictures_have_the_flow_of_large_ones_in_their_own_pixels():
    """With a network that says 6 pixels right everywhere, a picture enlarged threefold moves by 2 of its own."""

    class Says(torch.nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            assert min(first.shape[2:]) >= 128
            return torch.tensor([6.0, -3.0])[None, :, None, None].expand(1, 2, *first.shape[2:])

    pair = frames(2, 43, 60)
    found = raft.RaftFlow(Says())(pair[:1], pair[1:])
    assert torch.allclose(found, torch.tensor([2.0, -1.0])[None, :, None, None].expand(1, 2, 43, 60))


def test_correlations_are_looked_up_where_they_are():
    """At whole coordinates and radius 0 the lookup is the product of the two points' features, over sqrt(channels)."""
    first, second = noise_pictures(1, 16, 24), noise_pictures(2, 16, 24)[1:]
    volume = raft.correlations(first, second, 1)
    at = raft.coordinates(first) * 0 + torch.tensor([5.0, 7.0])[None, :, None, None]
    found = raft.look_up(volume, at, 0)[0, 0]
    wanted = (first[0] * second[0, :, 7, 5][:, None, None]).sum(0) / 3**0.5
    assert torch.allclose(found, wanted, atol=1e-5)


def test_amt_makes_whole_numbers_at_any_size():
    net = amt.Amt()
    middle = amt.AmtMiddle(loaded(net, fill(shapes_of(net), 0.7)))
    pair = frames(2, 70, 90)
    made = middle(pair[:1], pair[1:])
    assert made.shape == (1, 70, 90, 3) and torch.equal(made, made.floor()) and 0 <= made.min() <= made.max() <= 255


# -- clips -----------------------------------------------------------------------------------------------------------


def test_clips_are_squashed_and_lengths_are_checked():
    coder = videos.Clips("x", 16, 16, lambda frames: frames / 255, lambda clips: clips.mean(dim=(2, 3, 4)))
    clips = frames(32, 20, 50).unflatten(0, (2, 16))
    assert torch.allclose(coder(clips), clips.float().mean(dim=(1, 2, 3)) / 255, atol=2e-3)
    with pytest.raises(UsageError, match="clips of 16 frames, not 8"):
        coder(clips[:, :8])
    with pytest.raises(UsageError, match="at least 9 frames"):
        videos.Clips("i3d", None, 9, lambda frames: frames, lambda clips: clips)(clips[:, :8])


def test_sinusoids_by_hand():
    found = videos.sinusoids(5, 4)[0]
    assert torch.allclose(found[3], torch.tensor([math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]))


# -- all of them through convert and by name -------------------------------------------------------------------------


def _file_of(name: str) -> dict[str, Tensor]:
    if name.startswith("dino"):
        net = vit.VisionTransformer(128, 2, 14 if "v2" in name else 16, 16 if "v2" in name else 14, "v2" in name)
        return {**fill(shapes_of(net)), "head.last.weight": torch.ones(2)}
    if name.startswith("clip"):
        return openai_weights()
    nets = {"amt-s": amt.Amt, "i3d": videos.I3D, "musiq-spaq": musiq.Musiq}
    if name == "musiq-spaq":
        found = published(name)
        for i in range(2, musiq.DEPTH):
            found |= {key.replace("encoderblock_1", f"encoderblock_{i}"): value.clone() for key, value in found.items()
                      if "encoderblock_1." in key}  # fmt: skip
        return found
    return published(name, 0.7) if name in ("raft-things", "videomae-v2") else fill(shapes_of(nets[name]()), 0.7)


@pytest.mark.parametrize(
    ("name", "key"),
    [("musiq-spaq", "attention.key.weight"), ("videomae-v2", "v_bias"), ("raft-things", "fnet.conv1.weight")],
)
def test_a_file_with_a_hole_is_refused_in_a_line(shelf: Path, tmp_path: Path, name: str, key: str):
    weights = published(name)
    del weights[next(name for name in weights if name.endswith(key))]
    save_file(weights, tmp_path / "holed.safetensors")
    with pytest.raises(UsageError) as error:
        run_convert(name, tmp_path / "holed.safetensors")
    assert "\n" not in str(error.value) and list(shelf.iterdir()) == []


@pytest.mark.parametrize("name", ["dino-vitb16", "dinov2-vitb14", "clip-vitb32", "musiq-spaq", "raft-things", "amt-s",
                                  "videomae-v2"])  # fmt: skip
def test_convert_then_find(shelf: Path, tmp_path: Path, name: str):
    save_file(_file_of(name), tmp_path / "published.safetensors")
    run_convert(name, tmp_path / "published.safetensors")
    made = features.load(name)
    assert made.name == name and any(name in names for names in features.ROLES.values())
    shots = frames(2, 40, 56)
    if name in features.ROLES["video"]:
        assert made(frames(16, 20, 24)[None]).shape[0] == 1
    elif name in ("raft-things", "amt-s"):
        assert made(shots[:1], shots[1:]).shape[0] == 1
    else:
        both, alone = made(shots), torch.cat([made(shots[:1]), made(shots[1:])])
        assert both.shape[0] == 2 and torch.allclose(both, alone, rtol=1e-3, atol=1e-5)
    with pytest.raises(UsageError):
        run_convert("efficientnet-lite0", tmp_path / "published.safetensors")
