"""The latent reward model: its arithmetic by hand, its levels, and that it learns on a tiny pipeline."""

from __future__ import annotations

import json
import math
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from longtake.core.rollout import View
from longtake.core.schedule import flow, vp
from longtake.models.load import load
from longtake.models.tiny import tiny_wan
from longtake.rewards import reward_model
from longtake.rewards.reward_model import LatentReward, Panel, Scorer, buckets_of, share_of_noise, waves
from longtake.testing.laws import check_reward
from longtake.training import loop
from longtake.training import reward as training
from longtake.training import reward_data as examples
from longtake.training.optim import Optimizer

PROMPTS = ["a dog", "a cat", "a red bus", "green hills", "a boat", "the sea", "night", "noon", "snow", "a tree"]


@pytest.fixture(scope="module")
def model() -> Any:
    return load(tiny_wan(scheduler="euler"), size=(32, 64), num_steps=12, guidance=1.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes that do not depend on the machine: whoever looks at the clock moves it on by a tenth of a second."""
    counted = SimpleNamespace(monotonic=(tenth / 10 for tenth in count()).__next__)
    for module in (examples, loop):
        monkeypatch.setattr(module, "time", counted)


def label(clips: Any, prompt: str) -> list[list[float]]:
    """Two numbers that the latents do hold."""
    return [[float(latents.mean()), float(latents[:, 0].mean())] for latents in clips]


def test_levels_span_the_schedule_and_half_are_held_out():
    for steps in (24, 50, 12):
        told, hidden = examples.levels(steps)
        assert len(told) == len(set(told)) == 8 and told == sorted(told, reverse=True)
        assert told[0] == steps - 1 and told[-1] == 1
        assert len(hidden) == 4 and set(hidden) < set(told)


def test_examples_keep_what_the_sampler_passed_through(model: Any):
    """The other side makes each clip by itself; side by side a network's last bits may differ."""
    seeds = [5, 9, 11]
    made = examples.examples(model, "a dog", seeds, label)
    _, hidden = examples.levels(12)
    assert made["x"].shape == made["x0"].shape and made["x"].shape[:2] == (3, 8 + min(examples.KEPT, 3))
    for place, seed in enumerate(seeds):
        ((noisy, guessed, done),) = examples.trajectories(model, "a dog", [seed])
        kept = made["level"][place].tolist()
        assert len(noisy) == 11 and len(kept) == len(set(kept)) and set(hidden) < set(kept[:8])
        for number, level in enumerate(kept):
            x = noisy[11 - level]
            assert torch.allclose(made["x"][place, number].float(), x, atol=2e-3)
            assert torch.allclose(made["x0"][place, number].float(), guessed[11 - level], atol=4e-3)
            cosine = float((x * done).sum() / (x.norm() * done.norm()))
            assert float(made["similarity"][place, number]) == pytest.approx((1 + cosine) / 2, abs=1e-4)
        assert made["label"][place].tolist() == pytest.approx(label([done], "")[0], abs=1e-4)


def test_the_videos_of_a_prompt_take_one_call_a_step(model: Any):
    """Side by side: as many forwards as steps, for as many seeds as there are; and seeds are those of the prompt."""
    seen: list[int] = []

    class Counted:
        can, schedule, device, cost = (getattr(model.denoiser, n) for n in ("can", "schedule", "device", "cost"))

        def __call__(self, x: Any, levels: Any, cond: Any) -> Any:
            seen.append(len(x))
            return model.denoiser(x, levels, cond)

    class Watched:
        denoiser, solver = Counted(), model.solver

    courses = examples.trajectories(Watched(), "a dog", examples.seeds_of(3))
    assert seen == [4] * 12 and len(courses) == 4
    assert not torch.equal(courses[0][2], courses[1][2])
    assert len(set(examples.seeds_of(3)) | set(examples.seeds_of(4))) == 8


def test_the_loss_by_hand():
    class Fixed(torch.nn.Module):
        def forward(self, x: Any, x0: Any, noise: Any, words: Any) -> torch.Tensor:
            return torch.tensor([[1.0], [0.5], [2.0], [9.0]])[: len(x)]

    part = {
        "x": range(3), "x0": None, "noise": None, "words": None, "group": torch.tensor([0, 0, 0]),
        "similarity": torch.tensor([1.0, 0.5, 0.5]), "label": torch.tensor([[1.0], [1.0], [3.0]]),
    }  # fmt: skip
    error = (0.0 + 0.0 + (2.0 - 1.5) ** 2) / 3
    # of pairs the equal one does not count: 1 before 3 and 1 before 3
    order = (math.log1p(math.exp(1 - 2)) + math.log1p(math.exp(0.5 - 2))) / 3
    assert float(training.loss_of(Fixed(), part)) == pytest.approx(error + order)  # type: ignore[arg-type]
    # one of another prompt is a squared error more and no pair; videos of four prompts are no pairs at all
    more = part | {"x": range(4), "group": torch.tensor([0, 0, 0, 1]), "similarity": torch.tensor([1.0, 0.5, 0.5, 1.0]),
                   "label": torch.tensor([[1.0], [1.0], [3.0], [7.0]])}  # fmt: skip
    error = (error * 3 + (9.0 - 7.0) ** 2) / 4
    assert float(training.loss_of(Fixed(), more)) == pytest.approx(error + order)  # type: ignore[arg-type]
    apart = more | {"group": torch.arange(4)}
    assert float(training.loss_of(Fixed(), apart)) == pytest.approx(error)  # type: ignore[arg-type]


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
    changes = {"level": (8, 4)}, {"prompt": "a cat"}, {"recent": 0}, {"x": (x[3], x[1])}, {"x0": (x[6], x[5])}
    for change in changes:
        from dataclasses import replace

        assert reward([replace(views[0], **change)]) != reward(views[:1]), change
    assert reward([View((), (), (), (), ())]) == [0.0]
    shipped = Panel([Scorer() for _ in range(training.RUNS)])
    assert 2 * sum(p.numel() for p in shipped.parameters()) <= 2 << 20
    assert torch.equal(buckets_of("A dog, a DOG", 64), buckets_of("a dog a dog", 64)) and buckets_of(
        "", 64
    ).tolist() == [0]


def test_prompts_are_never_on_both_sides():
    prompts = [f"prompt {n}" for n in range(400)] * 2
    hidden, watched = examples.split(prompts), examples.watched(prompts)
    assert hidden[:400] == hidden[400:] and 0.12 < sum(hidden) / 800 < 0.28
    assert watched[:400] == watched[400:] and 0.06 < sum(watched) / 800 < 0.2
    assert not any(one and other for one, other in zip(hidden, watched, strict=True))


def few(many: int, held: int, watched: int = 0) -> list[str]:
    """Prompts of which so many are held out and so many watched."""
    found: dict[str, list[str]] = {"held": [], "watched": [], "fed": []}
    for text in (f"prompt {n}" for n in range(400)):
        kind = "held" if examples.split([text])[0] else "watched" if examples.watched([text])[0] else "fed"
        found[kind].append(text)
    return [*found["held"][:held], *found["watched"][:watched], *found["fed"][: many - held - watched]]


def test_collecting_goes_on_and_training_learns_what_latents_hold(model: Any, tmp_path):
    folder, prompts = tmp_path / "reward-data", few(8, 2, 1)
    paths = examples.collect(model, prompts[:2], label, folder, 5)
    before = [path.stat().st_mtime_ns for path in paths]
    paths = examples.collect(model, [*prompts, prompts[0]], label, folder, 5)
    assert len(paths) == 8 and [path.stat().st_mtime_ns for path in paths[:2]] == before
    assert examples.collect(model, prompts, label, folder, 0) == paths  # what is there counts when time is up
    assert examples.collect(model, prompts, label, tmp_path / "none", 0) == []
    other = examples.collect(model, ["another prompt", *prompts[1:]], label, folder, 5)  # its place was taken
    assert examples.prompt_of(other[0]) == "another prompt" and other[1].stat().st_mtime_ns == before[1]
    paths = examples.collect(model, prompts, label, folder, 5)
    data = examples.Data(paths, model.denoiser.schedule)
    sides = (data.held, data.watched, data.trained)
    assert [len(side) for side in sides] == [8, 4, 20] and len(set().union(*map(set, sides))) == 32
    assert data.prompts == [prompt for prompt in prompts for _ in range(4)]
    assert float(data.label[data.trained].mean().abs()) < 1e-5 and 0.7 < float(data.label[data.trained].std()) < 1.1
    torch.manual_seed(0)
    net = Scorer(model.denoiser.can.latent_shape[0], ("mean", "first"), 16)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    generator, losses = torch.Generator().manual_seed(0), []
    words = int(net.config["words"])
    shares = {round(share_of_noise(model.denoiser.schedule, level), 5) for level in examples.levels(12)[1]}
    fed = {data.prompts[place] for place in data.trained}
    known = {tuple(buckets_of(prompt, words).tolist()) for prompt in fed}
    for _ in range(40):
        part = data.drawn(generator, words)
        assert len(part["x"]) == 16 and {tuple(bag.tolist()) for bag in part["words"]} <= known
        assert not {round(float(row[0]), 5) for row in part["noise"]} & shares
        loss = training.loss_of(net, part)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    rows = training.report(net, data, {"zero": lambda x, x0, prompt: 0.0})
    assert [row["level"] for row in rows] == examples.levels(12)[0]
    assert [row["trained"] for row in rows] == [True, False] * 4
    for row in rows:
        assert row["zero"] == 0.0 and abs(row["model"]) <= 1 + 1e-9 and row["n"] == len(data.held)
        assert row["within"]["zero"] == 0.0 and abs(row["within"]["model"]) <= 1 + 1e-9
    both = Panel([net, Scorer(model.denoiser.can.latent_shape[0], ("mean", "first"), 16)]).eval()
    training.export(both, rows, tmp_path)
    again = reward_model.load(tmp_path)
    assert reward_model.exists(tmp_path) and again.config == both.config
    given = part["x"], part["x0"], part["noise"], part["words"]
    mean = (both.scorers[0](*given) + both.scorers[1](*given)) / 2
    assert torch.allclose(both(*given), mean) and not torch.allclose(both(*given), both.scorers[0](*given))
    for name, value in both.state_dict().items():
        assert torch.allclose(again.state_dict()[name], value, atol=2e-3)
    assert json.loads((tmp_path / "reward" / "config.json").read_text())["rank_correlation"] == rows


def test_within_a_prompt_is_by_hand():
    """Two prompts of three videos: one ranked right, one wrong; the correlation within is the mean, 0."""

    class Table:
        config: Any = {"words": 8}  # noqa: RUF012

        def __call__(self, x: Any, x0: Any, noise: Any, words: Any) -> torch.Tensor:
            return x[:, 0, 0, 0, :1]

    class Two(examples.Data):
        def __init__(self) -> None:
            values = [1.0, 2.0, 3.0, 6.0, 5.0, 4.0]
            self.schedule, self.prompts = flow(4), ["a"] * 3 + ["b"] * 3
            self.group = torch.tensor([0] * 3 + [1] * 3)
            self.items = [{"x": torch.full((3, 1, 1, 1, 1), v), "x0": torch.zeros(3, 1, 1, 1, 1),
                           "level": torch.tensor([3, 2, 1]), "similarity": torch.ones(3)} for v in values]  # fmt: skip
            self.label = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
            self.held, self.watched, self.trained = list(range(6)), [3, 4, 5], []

    net: Any = Table()
    rows = training.report(net, Two(), {})
    # over all: ranks 0 1 2 5 4 3 against 0..5: 1 - 6 (4 + 0 + 4) / (6 * 35)
    assert rows[0]["model"] == pytest.approx(1 - 6 * 8 / 210) and rows[0]["within"]["model"] == pytest.approx(0)
    assert training.watch(net, Two()) == pytest.approx(-1)  # over all and within are the same here
    both = Two()
    both.watched = list(range(6))
    assert training.watch(net, both) == pytest.approx((1 - 6 * 8 / 210) / 2)
    assert not training.wins(rows)  # nothing to win against
    for row in rows:
        row["other"], row["within"]["other"] = 0.5, -0.1
    assert training.wins(rows)
    for row in rows:
        row["within"]["other"] = 0.1
    assert not training.wins(rows)  # what a search asks for is the order within a prompt


def test_training_keeps_its_best_moment_stops_and_goes_on(model: Any, clock: None, tmp_path, monkeypatch):
    """The look is replaced by a curve that rises and falls: the best of it is kept, and patience ends the run."""
    data = examples.Data(examples.collect(model, few(6, 2, 1), label, tmp_path / "data", 5), model.denoiser.schedule)
    monkeypatch.setattr(training, "EVERY", 3)
    monkeypatch.setattr(training, "PATIENCE", 2)
    curve = {3: 0.1, 6: 0.4, 9: 0.3, 12: 0.2, 15: 0.9}
    looks: list[int] = []

    def watch(net: Any, data: Any) -> float:
        looks.append(3 * (len(looks) + 1))
        return curve.get(looks[-1], 0.0)

    monkeypatch.setattr(training, "watch", watch)
    make = lambda: Scorer(model.denoiser.can.latent_shape[0], ("a", "b"), 16)  # noqa: E731
    best = training.fit(data, make(), tmp_path / "run", 5)
    assert looks == [3, 6, 9, 12] and (best.score, best.step) == (0.4, 6)
    again = training.fit(data, make(), tmp_path / "run", 5)  # it had ended: nothing is done again
    assert looks == [3, 6, 9, 12] and (again.score, again.step) == (0.4, 6)
    monkeypatch.setattr(training, "PATIENCE", 3)
    later = training.fit(data, make(), tmp_path / "run", 5)  # more patience: it goes on where it stopped
    assert looks[-1] > 12 and later.score == 0.9


def test_more_videos_are_learnt_from_and_judged_anew(model: Any, clock: None, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "EVERY", 3)
    monkeypatch.setattr(training, "PATIENCE", 2)
    looks: list[int] = []

    def watch(net: Any, data: Any) -> float:
        looks.append(len(data.items))
        return 1.0 / len(looks)  # the first is the best

    monkeypatch.setattr(training, "watch", watch)
    prompts, folder = few(8, 2, 1), tmp_path / "data"
    make = lambda: Scorer(model.denoiser.can.latent_shape[0], ("a", "b"), 16)  # noqa: E731
    sets = []
    for many in (6, 8):
        paths = examples.collect(model, prompts[:many], label, folder, 5)
        data = examples.Data(paths, model.denoiser.schedule)
        best = training.fit(data, make(), tmp_path / "run", 5)
        sets.append((len(looks), best.step, data.key))
    assert looks == [24] * 3 + [32] * 3  # each until patience is over
    assert sets[0][1] == 3 and sets[1][1] == 12 and sets[0][2] != sets[1][2]  # it went on from step 9
    again = training.Best(tmp_path / "run", sets[0][2], 7)  # what other data scored does not count
    assert (again.score, again.step) == (float("-inf"), 7)


def test_models_samplers_and_labels_keep_their_videos_apart(model: Any, tmp_path):
    from dataclasses import replace

    home = training.home_of(model, ("a", "b"), tmp_path)
    assert home == training.home_of(model, ("a", "b"), tmp_path)
    others = [replace(model, weights_hash="other"), replace(model, solver="unipc"), replace(model, guidance=3.0)]
    homes = {training.home_of(other, ("a", "b"), tmp_path) for other in others}
    homes |= {training.home_of(model, ("a",), tmp_path), training.home_of(model, ("b", "a"), tmp_path)}
    assert len(homes) == 5 and home not in homes


@pytest.mark.slow
def test_the_whole_of_it_runs(model: Any, clock: None, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "RUNS", 2)
    monkeypatch.setattr(training, "EVERY", 10)
    monkeypatch.setattr(training, "PATIENCE", 2)
    net, data = training.train_reward(model, few(6, 2, 1), label, ("mean", "first"), 0.4, tmp_path)
    assert not net.training and len(data.items) == 24
    for number, scorer in enumerate(net.scorers):
        kept = training.Best(training.home_of(model, ("mean", "first"), tmp_path) / str(number), data.key)
        assert training.watch(scorer, data) == pytest.approx(kept.score, abs=1e-6)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="too few to train on some"):
        training.train_reward(model, few(1, 0), label, ("mean", "first"), 0.01, tmp_path / "other")


def test_the_command_refuses_what_it_cannot_do(tmp_path):
    from longtake.apps.train_reward import run
    from longtake.errors import UsageError

    file = tmp_path / "few.txt"
    file.write_text("one prompt\n")
    for given, words in (
        ((0.0, "pocket", None, None, None, tmp_path), "above 0"),
        ((1.0, "pocket", None, tmp_path / "none", None, tmp_path), "no such file"),
        ((1.0, "pocket", None, file, None, tmp_path), "at least 2"),
        ((1.0, "wan", "consistency", None, None, tmp_path), "--prompts is needed"),
    ):
        with pytest.raises(UsageError, match=words):
            run(*given)
    file.write_text("one\ntwo\n")
    with pytest.raises(UsageError, match="what finished videos are labelled by"):
        run(1.0, "wan", None, file, None, tmp_path)
    from longtake.apps.train_reward import _rewards

    with pytest.raises(UsageError, match="weighs the same"):
        _rewards("consistency+0.5*motion", None)


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
        loss = F.mse_loss(net(many, many, noise[:, None].expand(-1, 3), words)[:, 0], noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unseen = torch.tensor([share_of_noise(schedule, level) for level in range(4, 24, 4)])
    with torch.no_grad():
        got = net.eval()(many[:5], many[:5], unseen[:, None].expand(-1, 3), words[:5])[:, 0]
    assert float((got - unseen).abs().max()) < 0.15


def test_normal_scores_are_ranks_as_a_normal_draw_has_them():
    known = torch.tensor([[0.0], [1.0], [2.0], [1000.0]])
    got = examples.normal_scores(torch.tensor([[2.0], [-5.0], [1e9], [1.5], [1.0]]), known)[:, 0]
    # places 2.5, 0, 4, 2 and 1.5 of 5, each half a place further
    normal = torch.distributions.Normal(0.0, 1.0)
    assert got.tolist() == pytest.approx(normal.icdf(torch.tensor([3.0, 0.5, 4.5, 2.5, 2.0]) / 5).tolist(), abs=1e-6)
    many = torch.randn(1001, 2, generator=torch.Generator().manual_seed(0)).exp() ** 3  # long tails
    assert torch.allclose(examples.normal_scores(many, many).std(0), torch.ones(2), atol=0.02)


def test_what_needs_no_training_is_what_it_says():
    from longtake.apps.rewarding import make_reward, parse_reward
    from longtake.apps.train_reward import baselines
    from longtake.models.load import load as loaded
    from longtake.rewards.latent import latent_cosine

    pocket = loaded("pocket", num_steps=4)
    found, generator = baselines(pocket), torch.Generator().manual_seed(0)
    assert list(found) == ["latent-cosine", "preview-distance", "usual: consistency"]
    x, x0 = (torch.randn(12, 32, 8, 8, generator=generator) for _ in range(2))
    assert found["latent-cosine"](x, x0, "") == latent_cosine(x[1:], x[:1])
    assert found["preview-distance"](x, x0, "") == pytest.approx(-float(((x - x0) ** 2).sum()) / x.numel())
    from longtake.apps.rewarding import Supplies

    supplies = Supplies(pocket.codec, pocket.source, 12, pocket.denoiser.schedule)
    view = View((), (), (), (), (), tuple(x0), 12, prompt="a dog")
    want = make_reward(parse_reward("consistency"), supplies, {})([view])
    assert [found["usual: consistency"](x, x0, "a dog")] == pytest.approx(want)


def test_a_scorer_is_shown_latents_estimates_and_how_those_change():
    net, seen = Scorer(2, ("a",), 16, 8), []
    net.eye.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x, x0 = torch.randn(1, 3, 2, 4, 4), torch.randn(1, 3, 2, 4, 4)
    net(x, x0, torch.zeros(1, 3), [torch.tensor([1])])
    for row, change in enumerate((torch.zeros(2, 4, 4), x0[0, 1] - x0[0, 0], x0[0, 2] - x0[0, 1])):
        assert torch.equal(seen[0][row], torch.cat([x[0, row], x0[0, row], change]))


def test_weights_decay_if_that_is_asked():
    for asked, left in ((0.0, 1.0), (0.1, 1 - 0.1 * 0.5)):
        weight = torch.nn.Parameter(torch.ones(3))
        weight.grad = torch.zeros(3)
        Optimizer([], [weight], 0.5, weight_decay=asked).step()
        assert weight.tolist() == pytest.approx([left] * 3)
