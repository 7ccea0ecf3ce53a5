"""What good means in pocket's world: each number against a hand-made clip whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from longtake.metrics import judge as judging
from longtake.metrics import world_drift, world_quality
from longtake.world.grammar import scene
from longtake.world.renderer import render


@pytest.fixture(scope="module")
def judge():
    return judging.load()


def filmed(wanted, frames=45, start=0):
    return render([wanted], frames, start=start).pixels[0].permute(0, 2, 3, 1).contiguous()


WANTED = replace(scene(3), subject="cow", place="meadow", motion="right", time="noon", camera="still", prop=None)


def test_warp_consistency_of_known_motion():
    generator = torch.Generator().manual_seed(0)
    wide = F.interpolate(torch.rand(1, 3, 16, 40, generator=generator), (64, 160))[0].permute(1, 2, 0)
    wide = (wide * 255).byte()
    moving = torch.stack([wide[:, 3 * i : 3 * i + 64] for i in range(8)])
    fast = torch.stack([wide[:, 11 * i : 11 * i + 64] for i in range(8)])
    noise = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8, generator=generator)
    assert world_quality.warp_consistency(moving) == pytest.approx(1.0, abs=1e-6)
    assert world_quality.warp_consistency(moving[:1].expand(5, -1, -1, -1)) == pytest.approx(1.0)
    assert world_quality.warp_consistency(noise) < 0.05
    assert world_quality.warp_consistency(fast) < 0.8
    dimmed = torch.stack([torch.full((64, 64, 3), 100 + 13 * i, dtype=torch.uint8) for i in range(3)])
    assert world_quality.warp_consistency(dimmed) == pytest.approx(1 - (13 / 255) / 0.1, abs=1e-5)


def test_alignment_is_the_sum_of_the_words_log_probabilities(judge):
    clip = filmed(WANTED)
    got = world_quality.quality(judge, clip, WANTED)
    reading = judging.read(judge, clip.permute(0, 3, 1, 2)[None])
    words = {"subject": "cow", "place": "meadow", "time": "noon", "motion": "right"}
    by_hand = {}
    for key, word in words.items():
        chances = reading.says[key][0].exp()
        assert float(chances.sum()) == pytest.approx(1.0, abs=1e-4)
        by_hand[key] = math.log(max(float(chances[list(judging.CLASSES[key]).index(word)]), 1e-4))
    assert got.words == pytest.approx(by_hand, abs=1e-4)
    assert got.text_alignment == pytest.approx(sum(by_hand.values()), abs=1e-3)
    assert got.motion_quality == pytest.approx(math.exp(by_hand["motion"]) * got.warp, abs=1e-4)
    wrong = world_quality.quality(judge, clip, replace(WANTED, subject="bus", motion="jump"))
    assert wrong.text_alignment < got.text_alignment - 4 and wrong.motion_quality < got.motion_quality
    assert wrong.words["subject"] >= math.log(1e-4)


def test_truth_is_nearer_to_its_caption_than_other_truth(judge):
    truth = world_quality.references(WANTED)
    own = world_quality.nearness(judge, filmed(WANTED), truth)
    other = world_quality.nearness(judge, filmed(replace(WANTED, subject="rocket", place="city")), truth)
    same = world_quality.nearness(judge, truth[3], truth)
    noise = torch.randint(0, 256, (45, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert same == pytest.approx(1.0, abs=1e-5)
    assert 0.7 < own < same and other < own - 0.2 and world_quality.nearness(judge, noise, truth) < own - 0.2
    tints = {float(clip.float().mean()) for clip in truth}
    assert len(tints) == world_quality.NUM_REFERENCES  # hidden attributes and moments differ


def test_a_frozen_clip_moves_badly(judge):
    moving = world_quality.quality(judge, filmed(WANTED), WANTED)
    frozen = world_quality.quality(judge, filmed(WANTED)[:1].repeat(45, 1, 1, 1), WANTED)
    assert frozen.warp == pytest.approx(1.0) and moving.warp > 0.7
    assert frozen.motion_quality < 0.3 < moving.motion_quality  # a seventh is what seven motions get by chance


def test_drift_finds_the_piece_that_changed(judge):
    """Three pieces; in the last the subject is another and the light is gone."""
    clip = torch.cat([filmed(WANTED, 90), filmed(replace(WANTED, subject="tiger", time="night"), 45, 90)])
    curve = world_drift.drift(judge, clip, WANTED)
    assert set(curve) == set(world_drift.KEYS) and all(len(values) == 3 for values in curve.values())
    for key in ("subject_similarity", "place_similarity", "subject_word"):
        first, second, third = curve[key]
        assert third < second - 0.15 and abs(second - first) < 0.15, key
    mean = clip.float().mean(dim=(1, 2))
    shift = (mean[90:135].mean(0) - mean[:45].mean(0)).abs().mean()
    assert curve["colour_shift"][2] == pytest.approx(float(shift), rel=1e-4) and curve["colour_shift"][0] == 0
    assert world_drift.drift(judge, clip[:100], WANTED)["subject_word"] == curve["subject_word"][:2]
    with pytest.raises(ValueError, match="at least 45"):
        world_drift.drift(judge, clip[:44], WANTED)
