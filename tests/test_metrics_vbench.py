"""VBench's, VBench-Long's and the k-step paper's formulas, against hand-worked numbers and a second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from longtake.metrics import aggregates, vbench, vbench_long
from longtake.metrics.vbench import Consistency, Flicker, Motion, Scores, Smoothness


class Shift:
    """A flow that reads its length off the red channel of the second picture."""

    name = "shift"

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        red = second[..., 0].float()
        return torch.stack([red * 0.6, red * 0.8], dim=1)


class Mean:
    """The plain average of both pictures."""

    name = "mean"

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return (first.float() + second.float()) / 2


class Red:
    """The mean red of each picture."""

    name = "red"

    def __call__(self, frames: Tensor) -> Tensor:
        return frames[..., 0].float().mean(dim=(1, 2))


def film(num_frames: int, seed: int = 0, height: int = 6, width: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, height, width, 3), generator=generator, dtype=torch.uint8)


def fed(fold, data: Tensor, sizes: tuple[int, ...] = (1, 3, 2)):
    """A fold that got the data in portions of uneven size."""
    at, turn = 0, 0
    while at < len(data):
        fold.update(data[at : at + sizes[turn % len(sizes)]])
        at, turn = at + sizes[turn % len(sizes)], turn + 1
    return fold


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_consistency_by_hand():
    """Unit vectors at 0, 60 and 120 degrees: cosines 1/2 and 1/2 to the frame before, 1/2 and -1/2 (clamped) to the
    first: ((1/2 + 1/2) / 2 + (1/2 + 0) / 2) / 2 = 3/8. The k-step variant is 1/2."""
    angles = torch.tensor([0.0, math.pi / 3, 2 * math.pi / 3], dtype=torch.float64)
    fold = fed(Consistency(), 5 * torch.stack([angles.cos(), angles.sin()], dim=1))
    assert fold.result() == pytest.approx(3 / 8)
    assert vbench.consecutive(fold.to_previous) == pytest.approx(1 / 2)


def test_the_kstep_variant_is_not_clamped():
    fold = fed(Consistency(), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]))
    assert vbench.consecutive(fold.to_previous) == pytest.approx(0.0)
    assert fold.result() == pytest.approx((0 + 0 + 1 + 0) / 4)


def test_flicker_by_hand():
    """Levels 10, 13, 8 everywhere: errors 3 and 5, mean 4."""
    frames = torch.stack([torch.full((4, 6, 3), level, dtype=torch.uint8) for level in (10, 13, 8)])
    fold = fed(Flicker(), frames)
    assert list(fold.errors) == [3.0, 5.0]
    assert fold.result() == pytest.approx((255 - 4) / 255)


def test_smoothness_by_hand():
    """Levels 0, 10, 10, 14, 15: middles 5 and 12.5 (rounded to even: 12), errors 5 and 2."""
    frames = torch.stack([torch.full((4, 6, 3), level, dtype=torch.uint8) for level in (0, 10, 10, 14, 15)])
    fold = fed(Smoothness(Mean()), frames)
    assert list(fold.errors) == [5.0, 2.0]
    assert fold.result() == pytest.approx((255 - 3.5) / 255)


def test_a_last_frame_of_odd_index_has_no_middle():
    assert len(fed(Smoothness(Mean()), film(8)).errors) == 3
    assert len(fed(Smoothness(Mean()), film(9)).errors) == 4
    assert fed(Smoothness(Mean()), film(2)).result() is None


def test_dynamic_degree_by_hand():
    """Shorter side 128: threshold 3 pixels. 16 sampled frames need round(4 * 16 / 16) = 4 pairs above it."""
    assert vbench.threshold(128) == 3.0
    assert vbench.dynamic_degree([3.1] * 4 + [3.0] * 11, 128)
    assert not vbench.dynamic_degree([3.1] * 3 + [3.0] * 12, 128)
    # 14 frames, 13 pairs: round(3.5) = 4, as Python rounds
    assert vbench.dynamic_degree([3.1] * 4 + [3.0] * 9, 128) and not vbench.dynamic_degree([3.1] * 3 + [3.0] * 10, 128)
    assert not vbench.dynamic_degree([0.0], 128) and vbench.dynamic_degree([4.0], 128)


def test_the_strongest_twentieth_by_hand():
    """Of 40 magnitudes the largest two count."""
    magnitude = torch.arange(40.0).reshape(5, 8)
    assert vbench.strongest(magnitude) == pytest.approx(38.5)
    assert vbench.strongest(torch.tensor([[1.0, 7.0]])) == 7.0


def test_sampled_frames():
    """At 24 frames a second every third frame is looked at, and flow runs between those."""
    assert [vbench.interval_of(fps) for fps in (8, 10, 12, 16, 24, 25, 30, 60)] == [1, 1, 2, 2, 3, 3, 4, 8]
    frames = torch.zeros(10, 4, 4, 3, dtype=torch.uint8)
    frames[:, ..., 0] = torch.arange(10)[:, None, None]
    fold = fed(Motion(Shift(), 3), frames)
    assert list(fold.seconds) == [3, 6, 9] and fold.pairs() == [0, 1, 2]
    assert list(fold.means) == pytest.approx([3, 6, 9])
    assert fold.mean() == pytest.approx(6)


def test_scores_are_averaged_over_frames():
    frames = film(7)
    assert fed(Scores(Red()), frames).result() == pytest.approx(float(frames[..., 0].double().mean()), rel=1e-6)


# -- against a second implementation ----------------------------------------------------------------------------------


def second_consistency(features: np.ndarray) -> float:
    total = 0.0
    for i in range(1, len(features)):
        for other in (features[i - 1], features[0]):
            cosine = other @ features[i] / np.sqrt((other @ other) * (features[i] @ features[i]))
            total += max(0.0, cosine) / 2
    return total / (len(features) - 1)


@pytest.mark.parametrize("seed", range(3))
def test_consistency_against_a_second_implementation(seed: int):
    features = torch.randn(17, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert fed(Consistency(), features).result() == pytest.approx(second_consistency(features.numpy()), abs=1e-12)


def test_pixel_metrics_against_a_second_implementation():
    frames = film(12)
    x = frames.numpy().astype(float)
    flicker = (255 - np.abs(x[1:] - x[:-1]).mean()) / 255
    middles = np.rint((x[0:-2:2] + x[2::2]) / 2)
    assert fed(Flicker(), frames).result() == pytest.approx(flicker)
    assert fed(Smoothness(Mean()), frames).result() == pytest.approx((255 - np.abs(middles - x[1:-1:2]).mean()) / 255)


def test_dynamic_degree_against_a_second_implementation():
    moved = []
    for seed in range(40):
        frames = film(9, seed, 5, 8) // 60
        tops = []
        for second in frames.numpy()[2::2, ..., 0].astype(float):
            tops.append(np.sort(second.ravel())[::-1][: int(40 * 0.05)].mean())
        level = 4.0 if seed % 2 else 3.9
        scaled = [top / level * 6 * 5 / 256 for top in tops]
        count, needed = sum(top > 6 * 5 / 256 for top in scaled), round(4 * 5 / 16)
        assert vbench.dynamic_degree(scaled, 5) == (count >= needed)
        assert [vbench.strongest(f[..., 0].double()) for f in frames[2::2]] == pytest.approx(tops)
        moved.append(count >= needed)
    assert 0 < sum(moved) < 40


# -- VBench-Long -----------------------------------------------------------------------------------------------------


def test_clips_by_hand():
    assert vbench_long.clip_length(8) == 16 and vbench_long.clip_length(23.976) == 46
    assert vbench_long.clips(10, 16) == [range(10)]
    assert vbench_long.clips(32, 16) == [range(16), range(16, 32)]
    assert vbench_long.clips(37, 16) == [range(16), range(16, 32), range(21, 37)]


def test_remapping_by_hand():
    """The numbers that the toolkit's tables hold at these places, to four decimals."""
    subject = {0: 0, 0.5: 0.9327, 0.8: 0.9795, 0.9: 0.9887, 1: 1}
    background = {0: 0, 0.5: 0.9461, 0.9: 0.9717, 1: 1}
    for name, points in (("subject_consistency", subject), ("background_consistency", background)):
        assert len(vbench_long.REMAP[name]) == 101 and list(vbench_long.REMAP[name]) == sorted(vbench_long.REMAP[name])
        for score, value in points.items():
            assert vbench_long.remapped(name, score) == pytest.approx(value, abs=5e-5)
    assert vbench_long.remapped("subject_consistency", 1 + 1e-12) == 1
    assert vbench_long.remapped("subject_consistency", -0.1) == 0


@pytest.mark.parametrize("name", list(vbench_long.REMAP))
def test_remapping_runs_straight_between_the_table_s_places(name: str):
    """As the toolkit interpolates: a nearest place would take unlike scores for equal, and others 1 % apart."""
    scores = np.linspace(0, 1, 997)
    expected = np.interp(scores, np.arange(101) / 100, vbench_long.REMAP[name])
    found = [vbench_long.remapped(name, float(score)) for score in scores]
    assert found == pytest.approx(expected.tolist(), abs=1e-12)
    assert all(one < other for one, other in zip(found, found[1:], strict=False))


def test_fusion_by_hand():
    name = "subject_consistency"
    assert vbench_long.fused(name, 0.96, 0.8, dev_flag=True) == pytest.approx((0.96 + 0.9795) / 2, abs=5e-5)
    assert vbench_long.fused(name, 0.96, 0.8, dev_flag=False) == 0.96
    assert vbench_long.fused(name, 0.96, None, dev_flag=True) == 0.96


@pytest.mark.parametrize("num_frames", [7, 16, 32, 37, 50])
def test_long_folds_against_cutting_the_video(num_frames: int):
    """Streamed scores equal those of clips that were really cut out."""
    length, frames = 16, film(num_frames)
    features = torch.randn(num_frames, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts = vbench_long.clips(num_frames, length)
    fold = fed(vbench_long.LongConsistency(num_frames, length), features, (5, 1, 9))
    assert fold.scores == pytest.approx([second_consistency(features.numpy()[p.start : p.stop]) for p in parts])
    firsts = features[[p.start for p in parts]]
    expected = second_consistency(firsts.numpy()) if len(parts) > 1 else None
    assert fold.clip_to_clip() == (pytest.approx(expected) if expected is not None else None)

    errors = fed(Flicker(), frames).errors
    own = [fed(Flicker(), frames[p.start : p.stop]).result() for p in parts]
    assert vbench_long.in_clip_pairs(errors, num_frames, length) == pytest.approx(own)
    values = fed(Scores(Red()), frames).values
    own = [fed(Scores(Red()), frames[p.start : p.stop]).result() for p in parts]
    assert vbench_long.in_clip_frames(values, num_frames, length) == pytest.approx(own)

    grids = vbench_long.motion_grids(num_frames, length, 3)
    motion = fed(Motion(Shift(), 3, grids), frames // 64)
    own = [fed(Motion(Shift(), 3), frames[p.start : p.stop] // 64).moves() for p in parts]
    assert vbench_long.in_clip_motion(motion) == own
    assert motion.moves() == fed(Motion(Shift(), 3), frames // 64).moves()


@pytest.mark.parametrize("num_frames", [16, 32, 38, 37])
def test_long_smoothness_against_cutting_the_video(num_frames: int):
    """Clips that start at an odd frame begin one frame later, as the header says."""
    frames, length = film(num_frames), 16
    starts = [(p.start + p.start % 2, p.stop) for p in vbench_long.clips(num_frames, length)]
    own = [fed(Smoothness(Mean()), frames[start:stop]).result() for start, stop in starts]
    whole = fed(Smoothness(Mean()), frames)
    assert vbench_long.in_clip_smoothness(whole, num_frames, length) == pytest.approx(own)


# -- aggregates ------------------------------------------------------------------------------------------------------


def test_papers_own_rows_give_the_means_they_print():
    """MIGA Table 1, FIFO on VideoCrafter2; ScalingNoise Table 2, FIFO and the paper's own."""
    four = dict(zip(aggregates.MIGA, (92.92, 95.01, 97.19, 94.94), strict=True))
    assert aggregates.overall(four, aggregates.MIGA) == pytest.approx(95.02, abs=0.006)
    for row, mean in (((90.26, 93.53, 95.86, 92.78, 65.52), 87.59), ((93.14, 94.61, 97.01, 95.34, 67.91), 89.60)):
        five = dict(zip(aggregates.SCALINGNOISE, row, strict=True))
        assert aggregates.overall(five, aggregates.SCALINGNOISE) == pytest.approx(mean, abs=0.006)
    assert aggregates.overall(four, aggregates.SCALINGNOISE) is None


def test_spread_by_hand():
    assert aggregates.spread([1.0, 2.0, 3.0, 6.0]) == pytest.approx(
        {"min": 1, "max": 6, "range": 5, "std": math.sqrt((4 + 1 + 0 + 9) / 4)}
    )
    rows = aggregates.mean_spread([[1.0, 3.0], [0.0, 8.0]])
    assert rows == pytest.approx({"min": 0.5, "max": 5.5, "range": 5, "std": 2.5})


def test_curves_over_videos_by_hand():
    assert aggregates.mean_curve([[1.0, 2.0, None], [3.0, None], [5.0]]) == [3.0, 2.0, None]
    assert aggregates.mean_curve([]) == []


def test_means_over_videos_by_hand():
    """VBench's subject consistency by frames: (0.5 * 10 + 0.8 * 30) / 40; flickering and VBench-Long by videos."""
    assert vbench.mean_over_videos("subject_consistency@vbench-long", [0.5, 0.8], [10, 30]) == pytest.approx(0.65)
    assert vbench.mean_over_videos("subject_consistency@vbench", [0.5, 0.8], [10, 30]) == pytest.approx(0.725)
    assert vbench.mean_over_videos("temporal_flickering", [0.5, 0.8], [10, 30]) == pytest.approx(0.65)
