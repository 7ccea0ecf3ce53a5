"""Trains the latent reward model of any model that loads: finished videos are labelled, and unfinished ones told.

After LatSearch's recipe (training/reward_data makes the examples). At level t the target is the label times
s_t = (1 + cos(x_t, x_0)) / 2, so that little is asked where little can be known; the loss is the squared error and, for
every pair of videos of one prompt, the cross entropy of which has the higher label.

Deviations. Labels are normal scores of their ranks in the training set (theirs are raw), pairs are of one prompt, since
that is what a search compares, and of levels as near as can be, and each video is kept at other levels, less those held
out: the network is judged at some that it never saw. Theirs trains 15 epochs; a small network on few videos learns them
by heart, so here features are dropped, weights decay, the average of the weights is watched on prompts that are never
fed, the best moment is kept, and training ends when nothing better has come for a while. The mean of `RUNS` beginnings
ships. What is reported is of prompts that neither fed nor watched it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.core.noise import fold
from longtake.rewards.reward_model import FOLDER, Panel, Scorer
from longtake.training.export import write
from longtake.training.loop import CACHE, Budget, Ema, Run, train
from longtake.training.optim import Optimizer
from longtake.training.reward_data import Data, Label, collect, levels

RUNS, EVERY, PATIENCE = 3, 100, 12  # beginnings; steps between looks; looks without a better one after which it ends
COLLECTING = 0.75
"""Share of the minutes that videos may take."""


def loss_of(net: Scorer, part: dict[str, Any]) -> Tensor:
    """Squared error of scaled labels, and cross entropy of the order of pairs of a prompt, weighing the same."""
    scores = net(part["x"], part["x0"], part["noise"], part["words"])
    error = F.mse_loss(scores, part["similarity"][:, None] * part["label"])
    first, second = torch.triu_indices(len(scores), len(scores), 1)
    alike = part["group"][first] == part["group"][second]
    first, second = first[alike], second[alike]
    if not len(first):
        return error
    gap, truth = scores[first] - scores[second], part["label"][first] - part["label"][second]
    return error + F.binary_cross_entropy_with_logits(gap, (truth > 0).float(), weight=(truth != 0).float())


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0, equal values sharing the mean of theirs."""
    less = (values[None] < values[:, None]).sum(1)
    return less.double() + ((values[None] == values[:, None]).sum(1).double() - 1) / 2


def rank_correlation(left: Tensor, right: Tensor) -> float:
    """Spearman's: the correlation of ranks."""
    a, b = (ranks(values.double()) - (len(values) - 1) / 2 for values in (left, right))
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale else 0.0


@torch.no_grad()
def scores_at(net: Scorer | Panel, data: Data, places: Sequence[int], number: int) -> Tensor:
    """The sum of the heads for videos `places`, each at its kept level `number`; 64 at once."""
    found = []
    for start in range(0, len(places), 64):
        few = places[start : start + 64]
        part = data.batch(few, [number] * len(few), int(net.config["words"]))  # type: ignore[call-overload]
        found.append(net(part["x"], part["x0"], part["noise"], part["words"]).sum(1))
    return torch.cat(found)


def watch(net: Scorer, data: Data) -> float:
    """How well the watched videos are ranked, over all and within a prompt, at the told levels that are trained on."""
    told, hidden = levels(data.schedule.num_steps)
    truth, found = data.label[data.watched].sum(1), []
    groups = places_of(data, data.watched)
    for number, level in enumerate(told):
        if level not in hidden:
            scores = scores_at(net, data, data.watched, number)
            found += [rank_correlation(scores, truth), *([within(scores, truth, groups)] if groups else [])]
    return sum(found) / len(found)


def places_of(data: Data, videos: Sequence[int]) -> list[list[int]]:
    """Where among `videos` those of each prompt stand, of prompts that have more than two."""
    place = {video: number for number, video in enumerate(videos)}
    return [[place[video] for video in group] for group in data.groups(videos) if len(group) > 2]


def within(scores: Tensor, truth: Tensor, groups: Sequence[Sequence[int]]) -> float:
    """Rank correlation among the videos of a prompt, averaged over prompts."""
    return sum(rank_correlation(scores[list(group)], truth[list(group)]) for group in groups) / len(groups)


@torch.no_grad()
def report(net: Scorer | Panel, data: Data, baselines: dict[str, Callable[[Tensor, Tensor, str], float]]) -> list[dict]:
    """For each told level: rank correlation of the model's sum, and of each baseline, with the sum of final labels.

    On held-out prompts; `within` is the same among the videos of one prompt, averaged over prompts, which is what a
    search asks for. A baseline is given (x, x0, prompt) of a video at that level.
    """
    told, hidden = levels(data.schedule.num_steps)
    truth, rows = data.label[data.held].sum(1), []
    groups = places_of(data, data.held)
    for number, level in enumerate(told):
        row: dict[str, Any] = {"level": level, "trained": level not in hidden, "n": len(data.held)}
        found = {"model": scores_at(net, data, data.held, number)}
        for name, baseline in baselines.items():
            read = [(data.items[p]["x"][number].float(), data.items[p]["x0"][number].float(), data.prompts[p])
                    for p in data.held]  # fmt: skip
            found[name] = torch.tensor([baseline(*given) for given in read])
        row |= {name: rank_correlation(values, truth) for name, values in found.items()}
        if groups:
            row["within"] = {name: within(values, truth, groups) for name, values in found.items()}
        rows.append(row)
    return rows


def wins(rows: Sequence[dict]) -> bool:
    """Whether the model ranks better than every baseline: over all told levels, and among videos of one prompt."""
    tables = [[row for row in rows], [row["within"] for row in rows if "within" in row]]
    others = [name for name in rows[0] if name not in ("level", "trained", "n", "within", "model")] if rows else []
    if not others:
        return False
    means = [{name: sum(row[name] for row in table) / len(table) for name in ("model", *others)}
             for table in tables if table]  # fmt: skip
    return all(mean["model"] > mean[name] for mean in means for name in others)


class Best:
    """The best averaged weights of a run so far, on disk: what a run that was cut off goes on from.

    A score counts for the data that it was made with (`key`): with others a run goes on from `step`, and looks anew.
    """

    def __init__(self, folder: Path, key: str, step: int = 0) -> None:
        self.path, self.score, self.step, self.key = folder / "best.safetensors", float("-inf"), step, key
        if self.path.exists():
            with safe_open(self.path, "pt") as file:
                told = file.metadata()
            if told.get("data") == key:
                self.score, self.step = float(told["score"]), int(told["step"])

    def offer(self, net: Scorer, score: float, step: int) -> None:
        """Keep these weights if they are better."""
        if score > self.score:
            self.score, self.step = score, step
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(".new")
            state = {name: value.contiguous() for name, value in net.state_dict().items()}
            save_file(state, partial, {"score": repr(score), "step": str(step), "data": self.key})
            partial.replace(self.path)


def fit(data: Data, net: Scorer, folder: Path, minutes: float) -> Best:
    """Train until nothing better comes, or for so many minutes more; resumes in its folder."""
    decay = 0.995
    run = Run(folder, net, Optimizer([], list(net.parameters()), 1e-3, weight_decay=0.1), Ema(net, decay))
    run.load()
    best = Best(folder, data.key, run.step)
    limit = run.seconds / 60 + minutes
    average = copy.deepcopy(net)

    def loss(run: Run, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        return loss_of(net, data.drawn(run.generator, int(net.config["words"]))), {}  # type: ignore[call-overload]

    def look(run: Run) -> dict[str, float]:
        run.ema.copy_to(average)
        score = watch(average.eval(), data) if data.watched else float(run.step)  # nobody to watch: the last is best
        best.offer(average, score, run.step)
        return {"watched": score}

    while run.seconds < 60 * limit and run.step - best.step < PATIENCE * EVERY:
        target = (run.step // EVERY + 1) * EVERY
        train(run, loss, Budget(limit, target), look, log_every=EVERY, decay=1e-9)  # at one rate: averaging settles it
        if run.step < target:  # stopped from outside, or out of time
            break
    return best


def home_of(model: Any, heads: Sequence[str], out: Path) -> Path:
    """Where videos and curves are kept: a folder for each model, setting of its sampler and label."""
    told = model.weights_hash, model.denoiser.schedule.alphas, model.solver, model.window, model.size, model.guidance
    return out / "reward" / f"{fold(0, *map(repr, told), *heads):016x}"


def train_reward(
    model: Any, prompts: Sequence[str], label: Label, heads: Sequence[str], minutes: float, out: Path = CACHE
) -> tuple[Panel, Data]:
    """Collect for most of the minutes, train until nothing better comes or they are up; the best of each run.

    Everything goes on where it stopped: called again with what it has, it makes what is missing, and trains on with
    what is new. What other models or labels made lies elsewhere.
    """
    home = home_of(model, heads, out)
    paths = collect(model, prompts, label, home / "videos", minutes * COLLECTING)
    if paths:
        data = Data(paths, model.denoiser.schedule)
    if not paths or len(data.groups(data.held)) < 2 or len(data.groups(data.trained)) < 2:
        raise ValueError(
            f"videos of {len(paths)} prompts are too few to train on some and be judged by others; give more minutes"
        )
    nets = []
    for number in range(RUNS):
        torch.manual_seed(number)
        net = Scorer(model.denoiser.can.latent_shape[0], heads)
        # prompts that were fed while there were too few to watch by must not be watched later: that is another run
        folder = home / (f"{number}" if data.watched else f"{number}-unwatched")
        best = fit(data, net, folder, minutes * (1 - COLLECTING) / RUNS)
        net.load_state_dict(load_file(best.path))
        nets.append(net)
    return Panel(nets).eval().requires_grad_(False), data


def export(net: Panel, rows: list[dict], folder: Path) -> None:
    """Write `reward/` beside a model's weights: half precision, and how well it ranks."""
    home = folder / FOLDER
    home.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.half().contiguous() for name, value in net.state_dict().items()}, home / "reward.safetensors"
    )
    told = {"model": net.config, "rank_correlation": json.loads(json.dumps(rows)), "wins": wins(rows)}
    write(home / "config.json", told)
