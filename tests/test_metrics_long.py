"""Scenes, drift, repetition, seams, stories; and videos with one fault each, caught by its metric alone."""

from __future__ import annotations

import colorsys
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from longtake.errors import UsageError
from longtake.metrics import drift, repetition, scenes, seams, story
from longtake.metrics.alarms import alarms
from longtake.metrics.entries import entries
from longtake.metrics.look import Eyes, Look
from longtake.metrics.measure import measure
from longtake.metrics.scenes import Scenes
from longtake.rewards.encoders.dis import DisFlow, DisMiddle
from tests import films
from tests.memory import in_use

# -- scenes ----------------------------------------------------------------------------------------------------------


def many_cuts() -> torch.Tensor:
    """Shots of 20, 9, 16, 15, 30 and 4 frames."""
    shots = [
        (20, (1, 1, 1)),
        (9, (0.2, 1, 0.4)),
        (16, (1, 0.3, 0.2)),
        (15, (0.3, 0.3, 1)),
        (30, (1, 1, 0.2)),
        (4, (1, 1, 1)),
    ]
    return torch.cat([films.moving(length, seed, tint=tint) for seed, (length, tint) in enumerate(shots)])


def large() -> torch.Tensor:
    """517 x 303 pixels with hard edges, which the detector looks at in 256 x 150."""
    return films.cut(60).repeat_interleave(9, dim=1).repeat_interleave(9, dim=2)[:, :303, :517].contiguous()


SCENEDETECT = {
    # recorded from PySceneDetect 0.7.2, AdaptiveDetector(): cuts, the sum of content_val, its largest
    "cut": ([48], 1382.5770, 66.0725),
    "moving": ([], 1654.4218, 19.3039),
    "many cuts": ([20, 45, 60, 90], 1465.0299, 63.6925),
    "large": ([30], 913.7059, 64.0854),
}


@pytest.mark.parametrize("name", sorted(SCENEDETECT))
def test_scenes_as_pyscenedetect_finds_them(name: str):
    film = {"cut": films.cut, "moving": films.moving, "many cuts": many_cuts, "large": large}[name]()
    fold = Scenes()
    for part in film.split(7):
        fold.update(part)
    cuts, total, most = SCENEDETECT[name]
    assert fold.cuts() == cuts and fold.result() == len(cuts) + 1
    assert sum(fold.content) == pytest.approx(total, rel=1e-5) and max(fold.content) == pytest.approx(most, rel=1e-5)


def test_content_score_against_python_s_own_hsv():
    """Standard hue, saturation and value, rounded to OpenCV's units; OpenCV's integer tables are up to 1 apart."""
    film = films.cut(
        4,
    )[:, ::8, ::8]
    fold = Scenes()
    fold.update(film)
    seen = np.array(
        [[[np.round(np.multiply(colorsys.rgb_to_hsv(*(p / 255)), (180, 255, 255))) for p in row] for row in picture]
         for picture in film.numpy()]
    )  # fmt: skip
    expected = np.abs(np.diff(seen, axis=0)).mean(axis=(1, 2)).sum(axis=1) / 3
    assert fold.content[0] == 0 and list(fold.content)[1:] == pytest.approx(list(expected), abs=0.7)


def test_the_adaptive_rule_by_hand():
    quiet = [2.0] * 40
    assert scenes.cuts(quiet) == []
    one = [*quiet[:20], 30.0, *quiet[20:]]
    assert scenes.cuts(one) == [20]
    assert scenes.cuts([*one[:18], 20.0, *one[19:]]) == [20]  # 20 / 9 around 18 is below 3, 30 / 6.5 at 20 is not
    assert scenes.cuts([*quiet[:20], 14.9, *quiet]) == []  # high against its surroundings, but below 15
    assert scenes.cuts([20.0] * 20 + [50.0] + [20.0] * 20) == []  # high, but only 2.5 times its surroundings
    assert scenes.cuts([*quiet[:14], 30.0, *quiet]) == []  # 14 frames from the first
    assert scenes.cuts([*quiet[:15], 30.0, *quiet[:13], 30.0, 2.0, 30.0, *quiet]) == [15, 31]
    assert scenes.cuts([0.0] * 20 + [16.0] + [0.0] * 20) == [20]  # nothing around: the ratio is 255
    assert scenes.cuts([0.0] * 19 + [30.0]) == []  # the last two frames have no surroundings
    assert scenes.shots([20], 41) == [range(20), range(20, 41)]


# -- drift -----------------------------------------------------------------------------------------------------------


def test_curves_are_means_of_two_seconds():
    """At 2 frames a second, points of 4 frames; a last one of 2 counts, of 1 does not; NaN is nothing."""
    nan = math.nan
    assert drift.curve([1, 2, 3, 4, 5, 7], 2) == [2.5, 6]
    assert drift.curve([1, nan, 3, 5, nan, nan, nan, nan, 8], 2) == [3, None]


def test_slope_of_a_line_by_hand():
    """3 a second is 180 a minute, however the cuts lie; the levels of shots do not matter."""
    line = [3 * t / 8 for t in range(160)]
    assert drift.slope(line, 8) == pytest.approx({"value": 180, "low": 180, "high": 180})
    stepped = [value + 1000 * (t >= 83) - 500 * (t >= 128) for t, value in enumerate(line)]
    assert drift.slope(stepped, 8, [83, 128]) == pytest.approx({"value": 180, "low": 180, "high": 180})
    assert abs(drift.slope(stepped, 8)["value"]) > 1000
    assert drift.slope(line[:47], 8) is None


def test_slope_against_numpy_and_its_interval():
    noise = np.random.default_rng(0).normal(size=320)
    series = noise + 0.002 * np.arange(320)
    means = series.reshape(20, 16).mean(1)
    expected = np.polyfit((np.arange(20) * 16 + 7.5) / 8 / 60, means, 1)[0]
    found = drift.slope(series.tolist(), 8)
    assert found["value"] == pytest.approx(expected)
    assert found["low"] < 0.002 * 8 * 60 < found["high"]


def test_intervals_cover_the_truth():
    """Of 60 flat noisy series about 57 should have 0 inside; fewer than 48 happens once in 10,000 times."""
    draws = np.random.default_rng(1).normal(size=(60, 20 * 16))
    found = [drift.slope(series.tolist(), 8) for series in draws]
    assert sum(one["low"] <= 0 <= one["high"] for one in found) >= 48


def test_numbers_across_a_cut_are_no_drift():
    assert [0 if math.isnan(x) else x for x in drift.by_frame(6, {1: 1, 3: 3, 5: 5}, [3], before=1)] == [
        0,
        1,
        0,
        0,
        0,
        5,
    ]
    series = drift.by_frame(8, {1: 1, 3: 3, 5: 5}, [4], before=1, after=1)
    assert [t for t, x in enumerate(series) if not math.isnan(x)] == [1, 5]


def test_colour_drift_by_hand():
    """Grey from L* 20 to L* 50 in a straight line: a drift of 30 along L* alone."""
    ramp = torch.zeros(3, 81, dtype=torch.float64)
    ramp[0] = torch.linspace(20, 50, 81)
    found = drift.colour_drift(ramp, 8)
    assert found["value"] == pytest.approx(30 * 81 / 80) and found["lab"] == pytest.approx([30 * 81 / 80, 0, 0])


def test_the_curve_of_colours_is_the_way_from_the_first_point():
    """L* and a* one after the other, at two frames a second: 3, then 3 and 4."""
    lab = torch.zeros(3, 24, dtype=torch.float64)
    lab[0, 4:], lab[1, 8:] = 3, 4
    assert drift.colour_drift(lab, 2)["curve"] == [0, 3, 5, 5, 5, 5]


def test_colours_are_cie_lab():
    """Pure sRGB red is L* 53.24, a* 80.09, b* 67.20; mid grey L* 53.59."""
    fold = drift.Colours()
    frames = torch.tensor([[255, 0, 0], [128, 128, 128]], dtype=torch.uint8)[:, None, None].expand(-1, 40, 70, -1)
    fold.update(frames)
    assert fold.channels().T.tolist() == [
        pytest.approx([53.24, 80.09, 67.20], abs=0.05),
        pytest.approx([53.59, 0, 0], abs=0.05),
    ]


# -- repetition and seams --------------------------------------------------------------------------------------------


def test_lag_distances_against_a_loop():
    pictures = 255 * torch.rand(37, 12, generator=torch.Generator().manual_seed(0))
    direct = [(pictures[d:] - pictures[: 37 - d]).square().mean().sqrt().item() for d in range(19)]
    assert repetition.lag_distances(pictures).tolist() == pytest.approx(direct, abs=1e-3)


def test_thumbnails_are_averages():
    fold = repetition.Thumbnails()
    film = films.moving(3)
    fold.update(film)
    blocks = film.float().unflatten(1, (8, 8)).unflatten(3, (8, 8)).mean(dim=(2, 4))
    assert torch.allclose(fold.pictures().float(), blocks.flatten(1), atol=0.07)


def test_repetition_by_hand():
    """D = 0, 4, 8, 8, 2, 8: at one frame a second the dip at lag 4 is 1 - 2/8."""
    found = repetition.repetition(torch.tensor([0.0, 4, 8, 8, 2, 8]), 1)
    assert found == {"value": 0.75, "period": 4.0}
    assert repetition.repetition(torch.tensor([0.0, 4, 8, 8, 2, 8, 8, 8, 2.1]), 1)["period"] == 4.0
    assert repetition.repetition(torch.tensor([0.0, 1, 2, 3, 4]), 1) == {"value": 0.0, "period": 0.0}
    assert repetition.repetition(torch.tensor([0.0, 8, 2, 8, 8, 8]), 4)["value"] == 0.0  # half a second is no period
    assert repetition.repetition(torch.tensor([0.0, 0.1, 0.5, 0.1, 0.1]), 1)["value"] == 0.0
    assert repetition.disorder(torch.tensor([0.0, 4, 8, 8])) == 0.5
    assert repetition.disorder(torch.tensor([0.0, 1.9, 1.9, 8])) == 0.0


def test_every_second_frame_out_of_place_is_disorder():
    film = films.moving(96)
    swapped = film.unflatten(0, (48, 2)).flip(1).flatten(0, 1)
    for frames, expected in ((film, False), (swapped, True)):
        fold = repetition.Thumbnails()
        fold.update(frames)
        assert (repetition.disorder(repetition.lag_distances(fold.pictures())) > 0.85) == expected


def test_seams_by_hand():
    """Jumps of 1.9 everywhere and of 3.9 at the joins: (3.9 + 0.1) / (1.9 + 0.1) = 2."""
    errors = [1.9] * 40
    for join in (10, 30):
        errors[join - 1] = 3.9
    assert seams.seam_visibility(errors, [10, 30, 99, 0], 8) == pytest.approx({"value": 2, "chance": 1, "n": 2})
    assert seams.seam_visibility(errors, [20], 8) == pytest.approx({"value": 1, "chance": 0.5 * 37 / 39, "n": 1})
    # a moment is not its own surrounding: others at 1 / 0.5 and 0.5 / 1, the join at 1 / 0.75
    assert seams.seam_visibility([0.9, 0.4, 0.9], [3], 8) == pytest.approx({"value": 4 / 3, "chance": 0.5, "n": 1})
    errors[19] = 0.0
    assert seams.seam_visibility(errors, [20], 8)["value"] == pytest.approx(0.05)
    assert seams.seam_visibility(errors, [], 8) is None


# -- stories ---------------------------------------------------------------------------------------------------------

DOG, CAT = {"subject": "dog", "motion": "right"}, {"subject": "cat", "motion": "left"}
STORY = [story.Event(0, 16, DOG), story.Event(16, 40, {**DOG, "motion": "left"}), story.Event(40, 48, CAT)]


def test_a_story_told_well():
    seen = [[event.asked] * 2 for event in STORY]
    assert story.score(STORY, seen) == {"fidelity": 1, "coverage": 1, "coherence": 1}


def test_a_story_by_hand():
    """Event 1 right in one of two clips of motion, event 2 a cat instead of a dog throughout, event 3 right."""
    left_dog, left_cat = {"subject": "dog", "motion": "left"}, {"subject": "cat", "motion": "left"}
    seen = [[DOG, left_dog], [left_cat, left_cat], [left_cat]]
    found = story.score(STORY, seen)
    assert found["fidelity"] == pytest.approx((1 + 0.5 + 0 + 1 + 1 + 1) / 6)
    assert found["coverage"] == pytest.approx(2 / 3)
    assert found["coherence"] == 0.0


def test_a_subject_that_changes_at_a_join_costs_coherence_alone():
    """Both events covered, but the dog is a cat in the first clip after the change."""
    events = STORY[:2]
    stays = [[DOG], [{"subject": "dog", "motion": "left"}] * 2]
    flips = [[DOG], [{"subject": "cat", "motion": "left"}, {"subject": "dog", "motion": "left"}]]
    assert story.score(events, stays)["coherence"] == 1
    assert story.score(events, flips) == {
        "fidelity": pytest.approx((1 + 1 + 0.5 + 1) / 4),
        "coverage": 1,
        "coherence": 0,
    }
    assert story.score(events, [[DOG], [DOG]])["coherence"] == 0  # the same dog, but it never turns round
    assert story.score(events[:1], stays[:1])["coherence"] is None


@pytest.mark.parametrize("many", [2, 3, 4])
def test_a_story_is_told_by_its_events(many: int):
    """Each segment has its own numbers, and together they are the story's; every second clip of one event is wrong."""
    events = [story.Event(16 * i, 16 * i + 16, (DOG, {**DOG, "motion": "left"})[i % 2]) for i in range(many)]
    seen = [[event.asked, event.asked] for event in events]
    seen[1] = [CAT, events[1].asked]
    rows = story.by_event(events, seen)
    assert [row["fidelity"] for row in rows] == [0.75 if i == 1 else 1 for i in range(many)]
    assert [row["covered"] for row in rows] == [1] * many and [row["start"] for row in rows] == list(
        range(0, 16 * many, 16)
    )
    assert "coherence" not in rows[0] and [row["coherence"] for row in rows[1:]] == [0, 1, 1][: many - 1]
    whole = story.score(events, seen)
    assert whole["fidelity"] == pytest.approx(sum(row["fidelity"] for row in rows) / many)
    assert whole["coherence"] == pytest.approx(sum(row.get("coherence", 0) for row in rows) / (many - 1))


def test_a_story_is_watched_in_clips_of_its_events():
    """Frames carry their number; clips of 8 in events [0, 16), [16, 21), [30, 40) of portions of 5 frames."""
    events = [story.Event(start, stop, DOG) for start, stop in ((0, 16), (16, 21), (30, 40))]
    frames = torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 1, 3)
    seen = story.watch(
        frames.split(5), events, lambda clip: {"first": str(int(clip[0, 0, 0, 0])), "n": str(len(clip))}, 8
    )
    assert [[(clip["first"], clip["n"]) for clip in clips] for clips in seen] == [
        [("0", "8"), ("8", "8")], [("16", "5")], [("30", "8")]
    ]  # fmt: skip


def test_a_story_that_cannot_be_scored_says_why():
    with pytest.raises(UsageError, match="event 2 of the story asks for nothing"):
        story.score([STORY[0], story.Event(1, 2, {})], [[DOG], [DOG]])
    with pytest.raises(UsageError, match="event 1 of the story is too short"):
        story.score(STORY[:1], [[]])
    with pytest.raises(UsageError, match="needs events"):
        story.score([], [])


# -- one fault at a time ---------------------------------------------------------------------------------------------


def looked_at(film: torch.Tensor, joins: list[int]) -> dict:
    look = Look(Eyes(flow=DisFlow(), middle=DisMiddle()), len(film), films.FPS)
    for part in film.split(16):
        look.update(part)
    return entries(look, joins)


FAULTS = {
    "moving": (films.moving, set()),
    "frozen": (films.frozen, {"dynamic_degree"}),
    "shuffled": (films.shuffled, {"disorder"}),
    "drifting": (films.drifting, {"colour_drift"}),
    "cut": (films.cut, {"scene_count"}),
    "looping": (films.looping, {"repetition"}),
    "seamed": (lambda: films.seamed()[0], {"seam_visibility"}),
}
JOINS = films.seamed()[1]


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_each_fault_is_caught_by_its_metric_and_raises_no_other_alarm(name: str):
    make, expected = FAULTS[name]
    # a cut at a join would rightly be told of as a jump there
    found = looked_at(make(), [join for join in JOINS if name != "cut" or join != 48])
    assert set(alarms(found)) == expected


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_each_fault_is_caught_after_compression_too(name: str, tmp_path: Path):
    make, expected = FAULTS[name]
    joins = [join for join in JOINS if name != "cut" or join != 48]
    path = films.save(make(), tmp_path / "film.mp4", crf=28)
    assert set(alarms(measure(path, Eyes(flow=DisFlow(), middle=DisMiddle()), joins))) == expected


def test_a_picture_that_halts_at_its_joins_is_caught():
    film = films.moving(96)
    for join in JOINS:
        film = torch.cat([film[:join], film[join - 1 : join], film[join:-1]])
    assert alarms(looked_at(film, JOINS)) == {"seam_visibility": "the picture halts at the joins"}


def test_the_field_s_numbers_move_as_they_should():
    found = {name: looked_at(make(), []) for name, (make, _) in FAULTS.items()}
    value = {name: {key: entry["value"] for key, entry in one.items()} for name, one in found.items()}
    assert value["frozen"]["temporal_flickering"] == 1 and value["frozen"]["dynamic_degree"] == 0
    assert found["frozen"]["dynamic_degree"]["flow"] == 0 and value["moving"]["dynamic_degree"] == 1
    for key in ("temporal_flickering", "motion_smoothness@vbench-formula"):
        assert value["shuffled"][key] < value["moving"][key] - 0.1
    assert found["cut"]["scene_count"]["cuts"] == [48] and value["cut"]["scene_count"] == 2
    assert found["looping"]["repetition"]["period"] == 3.0
    assert found["moving"]["dynamic_degree"]["flow"] == pytest.approx(2, abs=0.25)  # the pan
    assert found["drifting"]["colour_drift"]["value"] > found["moving"]["colour_drift"]["value"] + 10


def test_memory_does_not_grow_with_length():
    """4,000 frames: what stays is some numbers a frame, 8 MB at most over the last nine tenths."""
    film = films.moving(256)
    look = Look(Eyes(), 4000, films.FPS)
    for start in range(0, 4000, 16):
        if start == 400:
            before = in_use()
        look.update(film[start % 240 : start % 240 + 16])
    assert in_use() - before < 8 << 20
    assert look.flicker.errors.itemsize * len(look.flicker.errors) == 8 * 3999
