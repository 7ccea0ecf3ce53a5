"""Frechet distance and inception score: analytic values, sets that are too small, sets without full rank."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from longtake.errors import UsageError
from longtake.metrics import frechet, fvd
from longtake.metrics.frechet import Gaussian
from tests import films


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean: list[float], covariance: list[list[float]]) -> Gaussian:
    return Gaussian(torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64), 100)


def test_diagonal_gaussians_by_hand():
    """|m|^2 = 9 + 16; sum of (sqrt a - sqrt b)^2 = (2 - 1)^2 + (3 - 5)^2."""
    first, second = gaussian([0, 0], [[4, 0], [0, 9]]), gaussian([3, 4], [[1, 0], [0, 25]])
    assert frechet.distance(first, second) == pytest.approx(25 + 1 + 4)


def test_rotated_gaussians_by_hand():
    """In 2-D tr (A B)^1/2 = sqrt(tr AB + 2 sqrt(det AB))."""
    a, b = [[5.0, 2.0], [2.0, 3.0]], [[2.0, -1.0], [-1.0, 4.0]]
    product = np.array(a) @ np.array(b)
    cross = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    got = frechet.distance(gaussian([0, 0], a), gaussian([0, 0], b))
    assert got == pytest.approx(8 + 6 - 2 * cross)


def test_rank_one_gaussians_by_hand():
    """S1 = u u', S2 = v v': the trace of the root is |u.v|. Here 5 + 10 - 2 * 5 and 5 + 5 - 0."""
    u, v, across = (torch.tensor(x, dtype=torch.float64) for x in ([1.0, 2.0], [3.0, 1.0], [2.0, -1.0]))
    zero = torch.zeros(2, dtype=torch.float64)
    one, two, three = (Gaussian(zero, torch.outer(x, x), 3) for x in (u, v, across))
    assert frechet.distance(one, two) == pytest.approx(5 + 10 - 2 * 5)
    assert frechet.distance(one, three) == pytest.approx(10)


def test_against_a_second_implementation():
    """The eigenvalues of S1 S2, whose roots sum to the trace, from numpy's general solver."""
    first, second = normal(60, 8) @ normal(8, 8, 1), normal(50, 8, 2) @ normal(8, 8, 3) + 0.3
    a, b = first.numpy(), second.numpy()
    roots = np.sqrt(np.linalg.eigvals(np.cov(a.T) @ np.cov(b.T)).real.clip(0))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T)) - 2 * roots.sum()
    assert frechet.frechet(first, second)["value"] == pytest.approx(expected, rel=1e-9)


def test_samples_of_known_gaussians_come_near_the_analytic_value():
    """One-dimensional N(0, 1) and N(2, 9): 4 + 4, to four standard errors at n = 20,000."""
    found = frechet.frechet(normal(20_000, 1), 2 + 3 * normal(20_000, 1, 1))
    assert found["value"] == pytest.approx(8, abs=0.25)
    assert found["n"] == [20_000, 20_000] and found["shrinkage"] == [0.0, 0.0]


@pytest.mark.parametrize("n", [3, 10, 40, 200])
def test_equal_sets_are_at_distance_zero_whatever_their_rank(n: int):
    data = 100 * normal(n, 40)
    assert frechet.distance(frechet.fit(data), frechet.fit(data)) == 0.0
    assert frechet.distance(frechet.fit(data, shrink=True), frechet.fit(data.flip(0), shrink=True)) == 0.0


@pytest.mark.parametrize("n", [3, 10, 30])
def test_fewer_samples_than_dimensions_stay_finite_and_not_negative(n: int):
    value = frechet.distance(frechet.fit(normal(n, 64)), frechet.fit(normal(n, 64, 1)))
    assert math.isfinite(value) and value >= 0
    shifted = frechet.distance(frechet.fit(normal(n, 64)), frechet.fit(normal(n, 64) + 2))
    assert shifted == pytest.approx(4 * 64, rel=1e-6)


def test_shrinkage_by_hand():
    """Samples (2, 0), (-2, 0), (0, 1), (0, -1): S = diag(2, 1/2) with n, mu = 5/4, its distance from round 9/16; the
    mean fourth power 17/2 less |S|^2 = 17/4, over 2 * 4, is 17/32: lambda = (17/32) / (9/16) = 17/18."""
    data = torch.tensor([[2.0, 0], [-2.0, 0], [0, 1.0], [0, -1.0]], dtype=torch.float64)
    assert frechet.ledoit_wolf(data) == pytest.approx(17 / 18)
    fitted = frechet.fit(data, shrink=True)
    level = (8 / 3 + 2 / 3) / 2  # the covariance itself is divided by n - 1
    assert fitted.covariance.diagonal().tolist() == pytest.approx(
        [(8 / 3) / 18 + 17 / 18 * level, (2 / 3) / 18 + 17 / 18 * level]
    )


def test_shrinkage_brings_small_sets_nearer_to_the_truth():
    """Two sets of 48 from one Gaussian in 32 dimensions: the truth is 0."""
    pairs = [(normal(48, 32, 2 * i), normal(48, 32, 2 * i + 1)) for i in range(5)]
    plain = [frechet.distance(frechet.fit(a), frechet.fit(b)) for a, b in pairs]
    shrunk = [frechet.frechet(a, b, shrink=True)["value"] for a, b in pairs]
    assert all(0 <= s < p / 2 for s, p in zip(shrunk, plain, strict=True))


def test_too_few_samples_are_refused():
    with pytest.raises(UsageError, match=r"64 dimensions of 100 samples .* give 128 or more"):
        frechet.frechet(normal(100, 64), normal(500, 64))
    with pytest.raises(UsageError, match="32 or more"):
        frechet.frechet(normal(31, 64), normal(500, 64), shrink=True)
    with pytest.raises(UsageError, match="not finite"):
        frechet.fit(torch.full((9, 2), math.nan))
    with pytest.raises(UsageError, match="two or more"):
        frechet.fit(normal(1, 4))
    with pytest.raises(UsageError, match="cannot be compared"):
        frechet.distance(frechet.fit(normal(9, 2)), frechet.fit(normal(9, 3)))


def test_inception_score_by_hand():
    """Certain and even over 4 classes: 4. All alike: 1. Two rows (3/4, 1/4), (1/4, 3/4): exp(ln 2 - H(1/4))."""
    assert frechet.inception_score(torch.eye(4)) == pytest.approx(4)
    assert frechet.inception_score(torch.full((5, 3), 1 / 3)) == pytest.approx(1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    rows = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    assert frechet.inception_score(rows) == pytest.approx(2 * math.exp(-entropy))
    with pytest.raises(UsageError, match="sum to 1"):
        frechet.inception_score(torch.ones(2, 2))


class Brightness:
    """A video encoder of 4 frames: their mean levels."""

    name = "brightness"
    num_frames = 4

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        assert clips.shape[1] == 4
        return clips.float().mean(dim=(2, 3, 4))


def test_clips_of_any_length_go_through_a_video_encoder():
    """Seven frames of levels 0 to 6 are sampled at 0, 2, 4, 6."""
    clip = torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 2, 3)
    assert frechet.over_clips(Brightness(), [clip, clip[:4]]).tolist() == [[0, 2, 4, 6], [0, 1, 2, 3]]
    with pytest.raises(UsageError, match="no clips"):
        frechet.over_clips(Brightness(), [])


class Colour:
    """A video encoder of three dimensions: the mean colour of a clip."""

    name = "colour"
    num_frames = None

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.float().mean(dim=(1, 2, 3))


def test_videos_are_compared_by_their_clips(tmp_path: Path):
    """At 8 frames a second clips of 16; 37 frames are two, 10 are one that is shorter."""
    long, short = films.save(films.moving(37), tmp_path / "a.mp4"), films.save(films.moving(10), tmp_path / "b.mp4")
    assert [len(clip) for clip in fvd.clips_of(long)] == [16, 16]
    assert [len(clip) for clip in fvd.clips_of(short)] == [10]
    joined, true = torch.cat([*fvd.clips_of(long)]).float(), films.moving(37).float()
    assert (joined - true[:32]).abs().mean() < (joined - true[1:33]).abs().mean() / 2


def test_fvd_of_videos(tmp_path: Path):
    """Equal collections are at 0, redder ones far; too few clips for three dimensions are refused."""
    films.save(films.moving(96), tmp_path / "a.mp4")
    films.save(films.moving(96, seed=1), tmp_path / "b.mp4")
    films.save(films.moving(96, tint=(1.3, 0.8, 0.8)), tmp_path / "c.mp4")
    a, b, c = (tmp_path / f"{name}.mp4" for name in "abc")
    same, near, far = (fvd.fvd(Colour(), [a], [other]) for other in (a, b, c))
    assert same["value"] == 0 and same["encoder"] == "colour" and same["n"] == [6, 6] and same["dimensions"] == 3
    assert near["value"] < far["value"] / 3 and near["frames"] == [[16], [16]]
    slow = films.save(films.moving(96), tmp_path / "slow.mp4", fps=4)
    assert fvd.fvd(Colour(), [a], [slow])["frames"] == [[16], [8]], "two seconds of either"
    with pytest.raises(UsageError, match="3 dimensions of 5 samples"):
        fvd.fvd(Colour(), [films.save(films.moving(85), tmp_path / "d.mp4")], [a])


class Redder:
    """A classifier of two classes, sure of both: red or not."""

    name = "redder"
    num_frames = 4

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        red = clips[..., 0].float().mean(dim=(1, 2, 3)) - clips[..., 2].float().mean(dim=(1, 2, 3))
        return torch.stack([100 * red, torch.zeros_like(red)], dim=1)


def test_the_inception_score_of_videos(tmp_path: Path):
    """Three clips of each of two classes: 2. Two kinds of three to one: exp of their entropy. One kind: 1."""
    red = films.save(films.moving(48, tint=(1.3, 0.6, 0.6)), tmp_path / "red.mp4")
    blue = films.save(films.moving(48, tint=(0.6, 0.6, 1.3)), tmp_path / "blue.mp4")
    short = films.save(films.moving(16, tint=(0.6, 0.6, 1.3)), tmp_path / "short.mp4")
    assert fvd.inception(Redder(), [red, blue]) == {"value": pytest.approx(2), "encoder": "redder", "n": 6}
    assert fvd.inception(Redder(), [red])["value"] == pytest.approx(1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert fvd.inception(Redder(), [red, short])["value"] == pytest.approx(math.exp(entropy))
    with pytest.raises(UsageError, match="no clips"):
        fvd.inception(Redder(), [])
