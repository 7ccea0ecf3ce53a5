"""The latent reward model: its arithmetic by hand, its levels, and that it learns on a tiny pipeline."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from longtake.core.rollout import View
from longtake.core.schedule import flow, vp
from longtake.models.load import load
from longtake.models.tiny import tiny_wan
from longtake.rewards import reward_model
from longtake.rewards.reward_model import LatentReward, Scorer, buckets_of, share_of_noise, waves
from longtake.testing.laws import check_reward
from longtake.training import reward as training

PROMPTS = ["a dog", "a cat", "a red bus", "green hills", "a boat", "the sea", "night", "noon", "snow", "a tree"]


@pytest.fixture(scope="module")
def model() -> Any:
    return load(tiny_wan(scheduler="euler"), size=(32, 64), num_steps=12, guidance=1.0)


def label(latents: Any, frames: Any, prompt: str) -> list[float]:
    """Two numbers that the latents do hold."""
    return [float(latents.mean()), float(latents[:, 0].mean())]


def test_levels_span_the_schedule_and_half_are_held_out():
    for steps in (24, 50, 12):
        told, hidden = training.levels(steps)
        assert len(told) == len(set(told)) == 8 and told == sorted(told, reverse=True)
        assert told[0] == steps - 1 and told[-1] == 1
        assert len(hidden) == 4 and set(hidden) < set(told)


def test_examples_keep_what_the_sampler_passed_through(model: Any):
    one = training.example(model, "a dog", 5, label)
    noisy, guessed, done = training.trajectory(model, "a dog", 5)
    assert len(noisy) == 11 and one["x"].shape[0] == len(one["level"]) == len(set(one["level"].tolist()))
    for place, level in enumerate(one["level"].tolist()):
        x = noisy[11 - level]
        assert torch.equal(one["x"][place], x.half()) and torch.equal(one["x0"][place], guessed[11 - level].half())
        cosine = float((x * done).sum() / (x.norm() * done.norm()))
        assert float(one["similarity"][place]) == pytest.approx((1 + cosine) / 2, abs=1e-5)
    assert one["label"].tolist() == pytest.approx(label(done, None, ""))
    _, hidden = training.levels(12)
    assert set(hidden) < set(one["level"].tolist()[:8])


def test_the_loss_by_hand():
    class Fixed(torch.nn.Module):
        def forward(self, x: Any, noise: Any, words: Any) -> torch.Tensor:
            return torch.tensor([[1.0], [0.5], [2.0]])

    part = {
        "x": None, "noise": None, "words": None,
        "similarity": torch.tensor([1.0, 0.5, 0.5]), "label": torch.tensor([[1.0], [1.0], [3.0]]),
    }  # fmt: skip
    error = (0.0 + 0.0 + (2.0 - 1.5) ** 2) / 3
    # of pairs the equal one does not count: 1 before 3 and 1 before 3
    order = (math.log1p(math.exp(1 - 2)) + math.log1p(math.exp(0.5 - 2))) / 3
    assert float(training.loss_of(Fixed(), part)) == pytest.approx(error + order)  # type: ignore[arg-type]


def test_rank_correlation_by_hand():
    a = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert training.rank_correlation(a, a.exp()) == pytest.approx(1)
    assert training.rank_correlation(a, -a) == pytest.approx(-1)
    # 1 - 6 sum d^2 / (n (n^2 - 1)) with ranks 0 1 2 3 and 1 0 2 3
    assert training.rank_correlation(a, torch.tensor([2.0, 1.0, 3.0, 4.0])) == pytest.approx(1 - 6 * 2 / 60)
    assert training.ranks(torch.tensor([5.0, 1.0, 5.0])).tolist() == [1.5, 0.0, 1.5]
    assert training.rank_correlation(a, torch.ones(4)) == 0.0


def test_a_level_is_a_share_of_noise_for_any_schedule():
    schedule = flow(10, 3.0)
    assert [share_of_noise(schedule, level) for level in (0, 4, 10)] == pytest.approx([0, schedule.sigmas[4], 1])
    assert 0.9 < share_of_noise(vp(10), 10) < 1 and share_of_noise(vp(10), 0) == 0
    near, far = waves(torch.tensor([0.5, 0.501])), waves(torch.tensor([0.1, 0.9]))
    assert float((near[0] - near[1]).norm()) < 1 < float((far[0] - far[1]).norm())


def test_the_reward_reads_noisy_rows_and_is_small():
    net = Scorer(4, ("a", "b"), 16)
    reward = LatentReward(net, flow(10, 3.0), span=5)
    x = [torch.randn(4, 4, 6, generator=torch.Generator().manual_seed(n)) for n in range(9)]
    views = [
        View((0, 1), (x[n], x[n + 1]), (x[7], x[8]), (9, 4), ("", ""), (x[5], x[6]), 1, prompt="a dog") for n in (0, 2)
    ]
    check_reward(reward, views)
    other = View((0, 1), (x[0], x[1]), (x[6], x[5]), (9, 4), ("", ""), (x[5], x[6]), 1, prompt="a dog")
    assert reward([other]) == reward(views[:1])  # estimates are not read
    for change in ({"level": (8, 4)}, {"prompt": "a cat"}, {"recent": 0}, {"x": (x[3], x[1])}):
        from dataclasses import replace

        assert reward([replace(views[0], **change)]) != reward(views[:1]), change
    assert reward([View((), (), (), (), ())]) == [0.0]
    shipped = Scorer()
    assert 2 * sum(p.numel() for p in shipped.parameters()) <= 2 << 20
    assert torch.equal(buckets_of("A dog, a DOG", 64), buckets_of("a dog a dog", 64)) and buckets_of(
        "", 64
    ).tolist() == [0]


def test_prompts_are_never_on_both_sides():
    prompts = [f"prompt {n}" for n in range(400)] * 2
    hidden = training.split(prompts)
    assert hidden[:400] == hidden[400:] and 0.12 < sum(hidden) / 800 < 0.28


def test_collecting_goes_on_and_training_learns_what_latents_hold(model: Any, tmp_path):
    folder = tmp_path / "reward-data"
    paths = training.collect(model, PROMPTS[:3], label, folder, 5)
    before = [path.stat().st_mtime_ns for path in paths]
    paths = training.collect(model, PROMPTS, label, folder, 5)
    assert len(paths) == 10 and [path.stat().st_mtime_ns for path in paths[:3]] == before
    data = training.Data(paths, PROMPTS, model.denoiser.schedule)
    assert len(data.held) >= 2 and not set(data.held) & set(data.trained)
    torch.manual_seed(0)
    net = Scorer(model.denoiser.can.latent_shape[0], ("mean", "first"), 16)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    generator, losses = torch.Generator().manual_seed(0), []
    words = int(net.config["words"])
    hidden = {s for s in training.levels(12)[1]}
    for _ in range(40):
        part = data.drawn(generator, words)
        shares = {round(share_of_noise(model.denoiser.schedule, level), 5) for level in hidden}
        assert not {round(float(row[0]), 5) for row in part["noise"]} & shares
        loss = training.loss_of(net, part)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    rows = training.report(net, data, {"zero": lambda x, x0, prompt: 0.0})
    assert [row["level"] for row in rows] == training.levels(12)[0]
    assert [row["trained"] for row in rows] == [True, False] * 4
    for row in rows:
        assert row["zero"] == 0.0 and abs(row["model"]) <= 1 + 1e-9 and row["n"] == len(data.held)
    training.export(net, rows, tmp_path)
    again = reward_model.load(tmp_path)
    assert reward_model.exists(tmp_path) and again.config == net.config
    for name, value in net.state_dict().items():
        assert torch.allclose(again.state_dict()[name], value, atol=2e-3)
    assert json.loads((tmp_path / "reward" / "config.json").read_text())["rank_correlation"] == rows


@pytest.mark.slow
def test_the_whole_of_it_runs(model: Any, tmp_path):
    few = sorted((f"prompt {n}" for n in range(20)), key=lambda text: not training.split([text])[0])
    few = [*few[:2], *few[-6:]]
    net, data = training.train_reward(model, few, label, ("mean", "first"), 0.15, tmp_path)
    assert not net.training and len(data.items) >= 4
    assert (tmp_path / "reward" / "checkpoint.pt").exists()
    with pytest.raises(ValueError, match="too few to train on some"):
        training.train_reward(model, few[:1], label, ("mean", "first"), 0.01, tmp_path / "other")


def test_the_command_refuses_what_it_cannot_do(tmp_path):
    from longtake.apps.train_reward import run
    from longtake.errors import UsageError

    few = tmp_path / "few.txt"
    few.write_text("one prompt\n")
    for given, words in (
        ((0.0, "pocket", None, None, None, tmp_path), "above 0"),
        ((1.0, "pocket", None, tmp_path / "none", None, tmp_path), "no such file"),
        ((1.0, "pocket", None, few, None, tmp_path), "at least 2"),
        ((1.0, "wan", "consistency", None, None, tmp_path), "--prompts is needed"),
    ):
        with pytest.raises(UsageError, match=words):
            run(*given)
    few.write_text("one\ntwo\n")
    with pytest.raises(UsageError, match="what finished videos are labelled by"):
        run(1.0, "wan", None, few, None, tmp_path)


def test_scores_at_a_level_never_trained_on_lie_between_its_neighbours():
    """Levels are told as numbers, so a network that was fitted to a line over levels reads between them."""
    torch.manual_seed(0)
    net, schedule = Scorer(2, ("a",), 16, 64), flow(24)
    x = torch.randn(1, 3, 2, 4, 4)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    levels = [level for level in range(1, 24) if level % 4]
    noise = torch.tensor([share_of_noise(schedule, level) for level in levels])
    words = [buckets_of("a", 64)] * len(levels)
    many = x.expand(len(levels), -1, -1, -1, -1)
    for _ in range(300):
        loss = F.mse_loss(net(many, noise[:, None].expand(-1, 3), words)[:, 0], noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unseen = torch.tensor([share_of_noise(schedule, level) for level in range(4, 24, 4)])
    with torch.no_grad():
        got = net(x.expand(5, -1, -1, -1, -1), unseen[:, None].expand(-1, 3), words[:5])[:, 0]
    assert float((got - unseen).abs().max()) < 0.15
