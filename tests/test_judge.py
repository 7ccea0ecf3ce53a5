"""The judge: what it learns from, what its features hold and ignore, and how well the two sets that ship do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from longtake.metrics import judge as judging
from longtake.training import judge as teaching
from longtake.training import judge_data as data
from longtake.world.grammar import is_held_out, scene
from longtake.world.renderer import render

SETS = pytest.mark.parametrize("which", judging.SETS)


def shown(scenes, frames=1, start=0):
    return render(scenes, frames, start=start).pixels


# -- what it learns from -----------------------------------------------------------------------------------------------


def test_a_group_is_two_subjects_in_two_places():
    alike = other = 0
    for seed in range(60):
        a, b, c, d = data.four(seed)
        who, where = (lambda s: (s.subject, s.tint, s.size)), (lambda s: (s.place, s.time, s.shade, s.backdrop))
        assert who(a) == who(b) and who(c) == who(d) and where(a) == where(c) and where(b) == where(d)
        assert a.tint != c.tint and a.backdrop != b.backdrop
        assert not any(is_held_out(s.subject, s.place, s.motion) for s in (a, b, c, d))
        alike += a.subject == c.subject
        other += a.place == b.place
    assert 10 <= alike <= 40 and 10 <= other <= 60  # a third each, and those that happen to be


def test_the_two_sets_share_nothing(tmp_path):
    reward, measure = (teaching.start(which, tmp_path) for which in judging.SETS)
    assert reward.model.judge.config != measure.model.judge.config
    seen = {which: {s for seed in range(40) for s in data.four(teaching.BASE[which] + seed)} for which in judging.SETS}
    assert not seen["reward"] & seen["measure"]


def test_clips_tell_where_the_subject_is_and_how_fast_the_ground_passes():
    """The camera follows who travels right: 0.30 widths a second at speed 1, and the cell is where the mask is."""
    moves, groups = data.clips(77, 6)
    scenes = [scene(seed) for seed in range(77, 83)]
    for one, course in zip(scenes, moves.course, strict=True):
        if one.motion in ("left", "right", "arc"):
            heading = {"left": -1, "right": 1}.get(one.motion, one.heading)
            torch.testing.assert_close(course[:, 3], torch.full((15,), 0.3 * heading * one.speed), atol=1e-3, rtol=0)
        else:
            pan = {"pan left": -0.16, "pan right": 0.16}.get(one.camera, 0.0)
            torch.testing.assert_close(course[:, 3], torch.full((15,), pan), atol=1e-3, rtol=0)
    mask = groups.mask.float().flatten(0, 1)
    columns = (mask.sum(1) * torch.arange(0.5, 8) / 8).sum(1) / mask.sum(dim=(1, 2))
    assert float((columns.unflatten(0, (6, 4)).mean(1) - moves.course[:, :, 0].mean(1)).abs().max()) < 0.12


def test_contrast_by_hand():
    features = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.6, 0.8]])
    ids = torch.tensor([0, 0, 1, 2])
    unit = [(1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.6, 0.8)]
    losses = []
    for i, friend in ((0, 1), (1, 0)):  # the others have no friend
        scores = [sum(p * q for p, q in zip(unit[i], unit[j], strict=True)) / 0.1 for j in range(4) if j != i]
        right = sum(p * q for p, q in zip(unit[i], unit[friend], strict=True)) / 0.1
        losses.append(torch.tensor(scores).logsumexp(0) - right)
    torch.testing.assert_close(teaching.contrast(features, ids), torch.stack(losses).mean())


def test_mirrored_clips_swap_left_and_right(monkeypatch):
    pupil = teaching.Pupil("plain")
    moves = data.clips(77, 2)[0]
    flipped = replace(moves, pairs=moves.pairs.flip(-1), course=moves.course * torch.tensor([-1, 1, 1, -1.0]))
    flipped.course[..., 0] += 1
    names = [judging.MOTIONS[i] for i in moves.motion]
    swap = {"left": "right", "right": "left"}
    flipped.motion = torch.tensor([judging.MOTIONS.index(swap.get(name, name)) for name in names])
    monkeypatch.setattr(teaching, "soften", lambda x, which, generator: x)
    monkeypatch.setattr(teaching, "STOPPED", 0.0)

    def fresh(mirrored):
        seeds = (torch.Generator().manual_seed(seed) for seed in range(99))
        seed = next(g.initial_seed() for g in seeds if (float(torch.rand((), generator=g)) < 0.5) == mirrored)
        return torch.Generator().manual_seed(seed)

    got = teaching.motion_loss(pupil, moves, "reward", fresh(True))
    want = teaching.motion_loss(pupil, flipped, "reward", fresh(False))
    for key in got:
        torch.testing.assert_close(got[key], want[key], atol=1e-4, rtol=1e-3)


def test_a_lesson_lowers_the_loss(tmp_path):
    run = teaching.start("reward", tmp_path)
    lessons = teaching.Lessons("reward", None, small=True)
    groups, moves = lessons.batch(run.generator)
    before = after = 0.0
    for _ in range(9):
        parts = teaching.picture_loss(run.model, groups, "reward", torch.Generator().manual_seed(1))
        parts |= teaching.motion_loss(run.model, moves, "reward", torch.Generator().manual_seed(1))
        loss = torch.stack(list(parts.values())).sum()
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step(0.5)
        before, after = before or loss.item(), loss.item()
    assert after < 0.85 * before


# -- how it reads ------------------------------------------------------------------------------------------------------


def test_long_clips_are_read_in_pieces():
    assert judging.spans(45) == [slice(0, 45)] and judging.spans(20) == [slice(0, 45)]
    assert judging.spans(100) == [slice(0, 45), slice(45, 90), slice(55, 100)]
    judge = judging.Judge().eval()
    clip = torch.randint(0, 256, (1, 90, 3, 64, 64), dtype=torch.uint8)
    whole, parts = judging.read(judge, clip), [judging.read(judge, part) for part in clip.split(45, dim=1)]
    for key in judging.CLASSES:
        mean = torch.stack([part.says[key] for part in parts]).mean(0).log_softmax(1)
        torch.testing.assert_close(whole.says[key], mean)
    assert whole.course.shape == (1, 30, 4)
    with pytest.raises(ValueError, match="at least 2 frames"):
        judging.read(judge, clip[:, :1])


@SETS
def test_features_do_not_depend_on_the_batch(which):
    encode = judging.encoder(which, "subject")
    frames = shown([scene(seed) for seed in range(5)])[:, 0].permute(0, 2, 3, 1)
    whole = encode(frames)
    assert whole.shape == (5, 64) and encode.name == f"pocket-judge/{which}/subject"
    torch.testing.assert_close(whole[2:3], encode(frames[2:3]), atol=1e-4, rtol=1e-4)
    large = frames.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(encode(large), whole, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="no encoder"):
        judging.encoder("measure", "motion")


# -- the sets that ship ------------------------------------------------------------------------------------------------


@SETS
def test_the_set_knows_held_out_truth(which):
    """A small version of `eval --suite world`'s own check: the bar is 97 % of subjects and places on many more."""
    scenes = [scene(8000 + i, "heldout") for i in range(24)]
    clip = render(scenes, judging.SPAN)
    said = judging.classify(judging.load(judging.WEIGHTS / which), clip.pixels)
    right = {key: int((said[key] == clip.labels[key]).sum()) for key in judging.CLASSES}
    assert right["subject"] >= 22 and right["place"] >= 23 and right["time"] >= 23 and right["motion"] >= 17, right


@SETS
def test_features_are_blind_to_motion_and_see_identity(which):
    """Pictures of one subject are nearer than pictures of its kind with another tint; and so for places."""
    pairs = [data.four(500 + seed) for seed in range(24)]
    for role, same in (("subject", ((0, 1), (2, 3))), ("place", ((0, 2), (1, 3)))):
        encode = judging.encoder(which, role)
        pictures = shown([one for four in pairs for one in four], start=9)[:, 0].permute(0, 2, 3, 1)
        unit = F.normalize(encode(pictures), dim=1).unflatten(0, (-1, 4))
        near = torch.stack([(unit[:, i] * unit[:, j]).sum(1) for i, j in same]).mean()
        far = torch.stack([(unit[:, i] * unit[:, j]).sum(1) for i in same[0] for j in same[1]]).mean()
        assert near > 0.75 and near > far + 0.2, (role, near, far)


@SETS
def test_features_see_what_no_caption_tells(which):
    """The same dog in the same place: another tint moves the subject's features more than another moment does."""
    dogs = [replace(scene(40 + i), subject="dog", place="meadow", motion="right", time="noon") for i in range(12)]
    dark = [replace(one, tint=(0.78, 0.84, 0.9)) for one in dogs]
    light = [replace(one, tint=(1.1, 1.04, 0.98)) for one in dogs]
    encode = judging.encoder(which, "subject")

    def features(scenes, start):
        return F.normalize(encode(shown(scenes, start=start)[:, 0].permute(0, 2, 3, 1)), dim=1)

    moment = (features(dark, 3) * features(dark, 60)).sum(1).mean()
    tinted = (features(dark, 3) * features(light, 3)).sum(1).mean()
    assert tinted < moment, (tinted, moment)


@SETS
def test_the_estimator_follows_the_subject(which):
    moves = data.clips(900_000, 12)[0]
    judge = judging.load(judging.WEIGHTS / which)
    with torch.no_grad():
        course, _ = judge.course(moves.pairs.float() / 127.5 - 1)
    off = (course - moves.course).abs().mean(dim=(0, 1))
    assert off[0] < 0.06 and off[1] < 0.06 and off[2] < 0.07 and off[3] < 0.25, off


def test_both_sets_are_small():
    files = [judging.WEIGHTS / which / "judge.safetensors" for which in judging.SETS]
    assert sum(file.stat().st_size for file in files) <= 3 * 2**20
