"""Encoders: names, preparation by hand, flow of known motion, the published networks' numbers, one frame at a time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from longtake.apps import speed
from longtake.apps.convert_command import KINDS
from longtake.errors import UsageError
from longtake.rewards import features
from longtake.rewards.encoders import dis, mobile, pictures, plain, rife
from tests.encoder_cases import fill, noise_pictures, plane, same_as_golden, seen, shapes_of


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path))
    return features.cache()


def put(shelf: Path, name: str, weights: dict[str, Tensor]) -> None:
    (shelf / name).mkdir(parents=True)
    save_file(weights, shelf / name / "model.safetensors")


def frames(count: int, height: int, width: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(0).randint(0, 256, (count, height, width, 3), dtype=np.uint8))


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch):
    """As in containers whose user is a bare number: pocket needs nothing of a home, and said that there is none."""
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "LONGTAKE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", Mock(side_effect=RuntimeError("Could not determine home directory.")))
    assert features.cache().is_absolute() and not features.at_hand("mobilenetv2")
    assert speed.recall("nobody's model") is None


# -- names -----------------------------------------------------------------------------------------------------------


def test_roles_name_what_is_known_and_every_name_has_its_function():
    assert {name for names in features.ROLES.values() for name in names} <= set(features.KNOWN)
    for name, known in features.KNOWN.items():
        module, _, function = known.make.partition(":")
        made = __import__(f"longtake.rewards.encoders.{module}", fromlist=[function])
        assert callable(getattr(made, function)), name
        assert known.origin or not known.folders, f"{name}: say where the weights come from"


def test_the_page_on_encoders_names_every_one_of_them():
    page = (Path(__file__).parent.parent / "docs" / "encoders.md").read_text()
    assert {name for name in features.KNOWN if f"`{name}`" not in page} == set()
    folders = {folder for known in features.KNOWN.values() for folder in known.folders}
    assert folders <= set(KINDS) and all(f"`{folder}`" in page or f"convert {folder} " in page for folder in folders)


def test_without_weights_there_is_flow_and_no_aesthetics(shelf: Path):
    assert features.find("flow").name == "opencv-dis" and features.find("middle").name == "opencv-dis-middle"
    assert features.find("aesthetic") is None and not features.at_hand("mobilenetv2")
    with pytest.raises(UsageError, match="longtake convert mobilenetv2 FILE"):
        features.load("mobilenetv2")
    with pytest.raises(UsageError, match=r"known: .*opencv-dis"):
        features.load("dyno")
    with pytest.raises(UsageError, match="known: subject, background"):
        features.find("sound")


def test_a_reward_never_gets_what_measures(shelf: Path):
    lite2 = mobile.EfficientNetLite(*mobile.SCALES["efficientnet-lite2"])
    nets = {"mobilenetv2": mobile.MobileNetV2(), "efficientnet-lite0": mobile.EfficientNetLite(1, 1)}
    for name, net in {**nets, "efficientnet-lite2": lite2}.items():
        put(shelf, name, fill(shapes_of(net)))
        for role in ("subject", "background"):
            measure, reward = features.find(role), features.find(role, "reward")
            assert reward is None or (reward.name != measure.name and "/measure/" not in reward.name)
    assert features.find("subject").name == "mobilenetv2" and features.find("background").name == "efficientnet-lite2"
    assert features.find("subject", "reward").name == "efficientnet-lite0-whitened"
    shutil.rmtree(shelf / "efficientnet-lite2")
    shutil.rmtree(shelf / "mobilenetv2")
    assert features.find("subject").name == "efficientnet-lite0-whitened"
    reward = features.find("subject", "reward")
    assert reward is None or "efficientnet" not in reward.name, "the same network under another name"


def test_weights_of_another_network_are_refused(shelf: Path):
    put(shelf, "mobilenetv2", fill(shapes_of(mobile.EfficientNetLite(1, 1))))
    with pytest.raises(UsageError, match="does not hold the weights of this network"):
        features.load("mobilenetv2")


# -- preparation -----------------------------------------------------------------------------------------------------


def test_bilinear_without_antialiasing_by_hand():
    """A row at a quarter of its size: centres (i + 1/2) * 4 - 1/2 = 1.5, 5.5, so means of two, the rest unseen."""
    row = torch.arange(8.0)[None, None, None].expand(1, 1, 8, 8).contiguous()
    assert torch.equal(pictures.shorter_side(row, 2)[0, 0], torch.tensor([[1.5, 5.5], [1.5, 5.5]]))
    # with antialiasing every pixel has its part: a triangle of half width 4 around 1.5 and 5.5, cut at the edges
    weights = torch.stack([(1 - (torch.arange(8.0) - at).abs() / 4).clamp(min=0) for at in (1.5, 5.5)])
    wanted = (weights * torch.arange(8.0)).sum(1) / weights.sum(1)
    assert torch.allclose(pictures.shorter_side(row, 2, antialias=True)[0, 0, 0], wanted)


@pytest.mark.parametrize(
    ("size", "wanted"), [((480, 832), (224, 388)), ((832, 480), (388, 224)), ((224, 225), (224, 225))]
)
def test_the_longer_side_is_cut_to_whole_pixels(size: tuple[int, int], wanted: tuple[int, int]):
    assert pictures.shorter_side(torch.zeros(1, 3, *size), 224).shape[2:] == wanted


def test_centre_and_statistics_by_hand():
    """(9 - 4) / 2 = 2.5 goes to the even 2; a grey of 128 becomes (128/255 - mean) / std."""
    grid = torch.arange(9.0)[None, None, None].expand(1, 1, 9, 9)
    assert pictures.centre(grid, 4)[0, 0, 0].tolist() == [2, 3, 4, 5]
    grey = pictures.normalised(torch.full((1, 3, 1, 1), 128.0), pictures.IMAGENET).flatten()
    wanted = [(128 / 255 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    assert torch.allclose(grey, torch.tensor(wanted))


def test_padding_to_a_multiple_continues_the_edge_on_both_sides():
    picture = torch.arange(15.0).reshape(1, 1, 3, 5)
    padded, (rows, columns) = pictures.padded(picture, 8)
    assert padded.shape == (1, 1, 8, 8) and torch.equal(padded[:, :, rows, columns], picture)
    assert (rows, columns) == (slice(2, 5), slice(1, 6)) and padded[0, 0, 0, 0] == 0 and padded[0, 0, 7, 7] == 14


# -- flow and interpolation ------------------------------------------------------------------------------------------

MOVES = [(0, 0), (4, 0), (-3, 2), (0, -5)]


@pytest.mark.parametrize(("dx", "dy"), MOVES)
def test_flow_of_a_known_motion(dx: int, dy: int):
    pattern = plane()
    found = dis.DisFlow()(seen(pattern, 0, 0)[None], seen(pattern, dx, dy)[None])
    inner = found[0, :, 12:-12, 12:-12].mean(dim=(1, 2))
    assert torch.allclose(inner, torch.tensor([float(dx), float(dy)]), atol=0.1)


def test_a_pair_does_not_depend_on_the_pairs_before_it():
    pattern, flow = plane(), dis.DisFlow()
    first = torch.stack([seen(pattern, 0, 0), seen(pattern, 3, 1)])
    second = torch.stack([seen(pattern, 6, 0), seen(pattern, 1, -2)])
    both = flow(first, second)
    assert torch.equal(both[1:], dis.DisFlow()(first[1:], second[1:])) and torch.equal(both, flow(first, second))


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (15, 15), (17, 33)])
def test_small_and_odd_sizes_have_flow(size: tuple[int, int]):
    pair = frames(2, *size)
    assert dis.DisFlow()(pair[:1], pair[1:]).shape == (1, 2, *size)
    assert dis.DisMiddle()(pair[:1], pair[1:]).shape == (1, *size, 3)


def test_the_middle_is_nearer_to_the_truth_than_a_blend():
    pattern = plane()
    first, truth, second = (seen(pattern, dx, 0)[None].float() for dx in (0, 3, 6))
    made = dis.DisMiddle()(first.byte(), second.byte())
    error = (made - truth)[:, 8:-8, 8:-8].square().mean()
    blend = ((first + second) / 2 - truth)[:, 8:-8, 8:-8].square().mean()
    assert error < 0.02 * blend
    still = dis.DisMiddle()(first.byte(), first.byte())
    assert torch.allclose(still, first, atol=1e-3)


def test_warp_reads_where_the_flow_points():
    picture = torch.arange(12.0).reshape(1, 1, 3, 4)
    right = torch.zeros(1, 2, 3, 4)
    right[:, 0] = 1
    assert dis.warp(picture, right)[0, 0, 0].tolist() == [1, 2, 3, 3]
    half_down = torch.zeros(1, 2, 3, 4)
    half_down[:, 1] = 0.5
    assert torch.allclose(dis.warp(picture, half_down)[0, 0, :, 0], torch.tensor([2.0, 6.0, 8.0]))


# -- networks --------------------------------------------------------------------------------------------------------


def filled(net: torch.nn.Module, gain: float = 1.4) -> Any:
    net.load_state_dict(fill(shapes_of(net), gain))
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize(("name", "side"), [("efficientnet-lite0", 224), ("efficientnet-lite2", 260)])
def test_efficientnet_gives_the_numbers_of_its_package(name: str, side: int):
    net = filled(mobile.EfficientNetLite(*mobile.SCALES[name]))
    same_as_golden(name, net(noise_pictures(2, side, side)))


def test_mobilenet_gives_the_numbers_of_its_package():
    same_as_golden("mobilenetv2", filled(mobile.MobileNetV2())(noise_pictures(2, 224, 192)))


def test_rife_gives_the_numbers_of_its_package():
    first, second = noise_pictures(2, 128, 192).sigmoid().split(1)
    flow, picture = filled(rife.IFNet(), 0.5)(first, second, 0.5)
    same_as_golden("rife-v4/flow", flow)
    same_as_golden("rife-v4/picture", picture)


def test_rife_flow_is_twice_the_way_from_the_middle():
    """With a network that says everything comes from 2 pixels left and goes 2 right, the flow is 4."""

    class Says(torch.nn.Module):
        def forward(self, first: Tensor, second: Tensor, time: float) -> tuple[Tensor, Tensor]:
            flow = torch.tensor([-2.0, 1.0, 2.0, -1.0])[None, :, None, None].expand(1, 4, *first.shape[2:])
            return flow, (first + second) / 2

    pair = frames(2, 30, 50)
    found = rife.RifeFlow(Says())(pair[:1], pair[1:])
    assert (
        found.shape == (1, 2, 30, 50) and found[0, 0].unique().tolist() == [4] and found[0, 1].unique().tolist() == [-2]
    )
    made = rife.RifeMiddle(Says())(pair[:1], pair[1:])
    assert torch.allclose(made, (pair[:1].float() + pair[1:].float()) / 2, atol=1e-3)


@pytest.mark.parametrize("name", ["mobilenetv2", "efficientnet-lite0", "colour-histogram"])
def test_a_frame_has_its_features_whatever_the_batch(shelf: Path, name: str):
    if name != "colour-histogram":
        net = mobile.MobileNetV2() if name == "mobilenetv2" else mobile.EfficientNetLite(1, 1)
        put(shelf, name, fill(shapes_of(net)))
    encoder, shots = features.load(name), frames(5, 40, 64)
    together = encoder(shots)
    assert encoder.name == name and together.shape == (5, 512 if name == "colour-histogram" else 1280)
    alone = torch.cat([encoder(shots[i : i + 1]) for i in range(5)])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert not F.cosine_similarity(together[:1], together[1:2]).isclose(torch.ones(1))


def test_the_histogram_by_hand():
    shots = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    shots[0, 0, 0] = torch.tensor([255, 31, 32])  # boxes 7, 0, 1
    found = plain.ColourHistogram()(shots)[0]
    assert found[0] == 0.75 and found[7 * 64 + 1] == 0.25 and found.sum() == 1
