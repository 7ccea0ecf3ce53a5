"""Trains the latent reward model of any model that loads: finished videos are labelled, and unfinished ones told.

After LatSearch's recipe: videos of many prompts and seeds are made, their noisy latents kept at levels over the whole
schedule, the finished videos scored by rewards that see pixels. At level t the target is the label times
s_t = (1 + cos(x_t, x_0)) / 2, so that little is asked where little can be known; the loss is the squared error and, for
every pair of videos in a batch, the cross entropy of which has the higher label.

Deviations. Labels are standardised over the training set (theirs are raw), pairs are of levels as near as
can be, and each video is kept at other levels, less those held out: the network is judged at some that it never saw.
The data are shards in `.cache`; collecting and training both go on where they stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.noise import fold, root
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.rewards.reward_model import FOLDER, Scorer, buckets_of, share_of_noise
from longtake.rollouts.plain import Plain
from longtake.training.export import write
from longtake.training.loop import CACHE, Budget, Ema, Run, train
from longtake.training.optim import Optimizer

Label = Callable[[Tensor, Tensor, str], Sequence[float]]
"""(finished latents [T,C,H,W], their frames uint8 [T,H,W,3], prompt) -> one number a head."""
JUDGED, KEPT, BATCH = 8, 6, 16  # levels that results are told at; others kept of a video; videos a step


def levels(steps: int) -> tuple[list[int], list[int]]:
    """(levels that results are told at, highest first; those of them that are never trained on)."""
    many = min(JUDGED, steps - 1)
    told = [1 + round((steps - 2) * (many - 1 - place) / max(many - 1, 1)) for place in range(many)]
    return told, told[1::2]


def trajectory(model: Any, prompt: str, seed: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """(x at levels S-1..1, the estimates x0 there, finished latents) of a clip, each [T,C,H,W]."""
    can, denoiser = model.denoiser.can, model.denoiser
    rollout, engine = Plain(can.latent_shape, denoiser.schedule, Solver(model.solver), can.window), Engine(denoiser)
    state, noisy, guessed = engine.drive(rollout.init(seed, Timeline.of(prompt))), [], []
    for state, emission in stream(rollout, engine, state):
        if emission.latents:
            return noisy, guessed, torch.stack(emission.latents)
        view = rollout.view(state)
        noisy.append(torch.stack(view.x))
        guessed.append(torch.stack(view.x0))
    raise RuntimeError("a clip ended without latents")


def example(model: Any, prompt: str, seed: int, label: Label) -> dict[str, Tensor]:
    """One video: `x`, `x0` half [L,T,C,H,W] at `level` [L], `similarity` [L] to the finished one, `label` [heads]."""
    steps = model.denoiser.schedule.num_steps
    told, hidden = levels(steps)
    noisy, guessed, done = trajectory(model, prompt, seed)
    free = [level for level in range(1, steps) if level not in told and level not in hidden]
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = [*told, *(free[place] for place in order[:KEPT])]
    x, x0 = (torch.stack([values[steps - 1 - level] for level in chosen]) for values in (noisy, guessed))
    similarity = (1 + F.cosine_similarity(x.flatten(1), done.flatten()[None])) / 2
    frames = model.codec.decode(done)[0]
    return {
        "x": x.half(), "x0": x0.half(), "level": torch.tensor(chosen), "similarity": similarity,
        "label": torch.tensor([float(value) for value in label(done, frames, prompt)]),
    }  # fmt: skip


def collect(model: Any, prompts: Sequence[str], label: Label, folder: Path, minutes: float) -> list[Path]:
    """Make examples, one file each, until all prompts are done or the minutes are up; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    model.prepare(list(dict.fromkeys(prompts)))
    end, made = time.monotonic() + 60 * minutes, []
    for number, prompt in enumerate(prompts):
        path = folder / f"{number:05d}.safetensors"
        if not path.exists():
            if time.monotonic() > end:
                break
            seed = fold(root(number), "reward") % 2**31
            partial = path.with_suffix(".new")
            save_file(example(model, prompt, seed, label), partial, {"prompt": prompt})
            partial.replace(path)
        made.append(path)
    return made


def split(prompts: Sequence[str]) -> list[bool]:
    """Which examples are held out: one prompt in five, by its words, so that a prompt is never on both sides."""
    return [fold(0, "heldout", prompt) % 5 == 0 for prompt in prompts]


def loss_of(net: Scorer, part: dict[str, Any]) -> Tensor:
    """Squared error of scaled labels, and cross entropy of the order of pairs, weighing the same."""
    scores = net(part["x"], part["noise"], part["words"])
    error = F.mse_loss(scores, part["similarity"][:, None] * part["label"])
    first, second = torch.triu_indices(len(scores), len(scores), 1)
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


class Data:
    """The collected examples in memory, their labels standardised over those that are trained on."""

    def __init__(self, paths: Sequence[Path], prompts: Sequence[str], schedule: Any) -> None:
        self.prompts, self.schedule = list(prompts[: len(paths)]), schedule
        self.items = [load_file(path) for path in paths]
        self.hidden = split(self.prompts)
        self.trained = [place for place, out in enumerate(self.hidden) if not out]
        self.held = [place for place, out in enumerate(self.hidden) if out]
        self.raw = torch.stack([item["label"] for item in self.items])
        chosen = self.raw[self.trained]
        self.mean, self.std = chosen.mean(0), chosen.std(0).nan_to_num(1.0).clamp_min(1e-3)
        self.label = (self.raw - self.mean) / self.std

    def batch(self, places: Sequence[int], which: Sequence[int], buckets: int) -> dict[str, Any]:
        """Examples `places`, each at its kept level number `which`."""
        rows = [(self.items[place], number, place) for place, number in zip(places, which, strict=True)]
        x = torch.stack([item["x"][number] for item, number, _ in rows]).float()
        noise = [share_of_noise(self.schedule, int(item["level"][number])) for item, number, _ in rows]
        return {
            "x": x,
            "noise": torch.tensor(noise)[:, None].expand(-1, x.shape[1]),
            "words": [buckets_of(self.prompts[place], buckets) for _, _, place in rows],
            "similarity": torch.stack([item["similarity"][number] for item, number, _ in rows]),
            "label": self.label[list(places)],
        }

    def drawn(self, generator: torch.Generator, buckets: int) -> dict[str, Any]:
        """A batch of one level, as nearly as the kept levels allow: the same place in the order of levels."""
        order = torch.randperm(len(self.trained), generator=generator)[:BATCH]
        places = [self.trained[int(place)] for place in order]
        hidden = set(levels(self.schedule.num_steps)[1])
        share = float(torch.rand((), generator=generator))
        which = []
        for place in places:
            allowed = [n for n, level in enumerate(self.items[place]["level"].tolist()) if level not in hidden]
            allowed.sort(key=lambda n, item=self.items[place]: int(item["level"][n]))
            which.append(allowed[int(share * len(allowed))])
        return self.batch(places, which, buckets)


@torch.no_grad()
def report(net: Scorer, data: Data, baselines: dict[str, Callable[[Tensor, Tensor, str], float]]) -> list[dict]:
    """For each told level: rank correlation of the model's sum, and of each baseline, with the sum of final labels.

    On held-out prompts. A baseline is given (x, x0, prompt) of a video at that level.
    """
    told, hidden = levels(data.schedule.num_steps)
    truth, rows = data.label[data.held].sum(1), []
    for number, level in enumerate(told):
        part = data.batch(data.held, [number] * len(data.held), int(net.config["words"]))  # type: ignore[call-overload]
        row = {"level": level, "trained": level not in hidden, "n": len(data.held)}
        row["model"] = rank_correlation(net(part["x"], part["noise"], part["words"]).sum(1), truth)
        for name, baseline in baselines.items():
            read = [(data.items[p]["x"][number].float(), data.items[p]["x0"][number].float(), data.prompts[p])
                    for p in data.held]  # fmt: skip
            row[name] = rank_correlation(torch.tensor([baseline(*given) for given in read]), truth)
        rows.append(row)
    return rows


def train_reward(
    model: Any, prompts: Sequence[str], label: Label, heads: Sequence[str], minutes: float, out: Path = CACHE
) -> tuple[Scorer, Data]:
    """Collect for half of the minutes, train for the rest; the network is the average of its training."""
    paths = collect(model, prompts, label, out / "reward-data", minutes / 2)
    hidden = split(prompts[: len(paths)])
    if sum(hidden) < 2 or len(hidden) - sum(hidden) < 2:
        raise ValueError(f"{len(paths)} videos are too few to train on some and be judged by others; give more minutes")
    data = Data(paths, prompts, model.denoiser.schedule)
    torch.manual_seed(0)
    net = Scorer(model.denoiser.can.latent_shape[0], heads)
    matrices = [p for p in net.parameters() if p.ndim == 4]
    run = Run(
        out / "reward", net, Optimizer(matrices, [p for p in net.parameters() if p.ndim != 4], 1e-3), Ema(net, 0.99)
    )
    run.load()

    def loss(run: Run, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        return loss_of(net, data.drawn(run.generator, int(net.config["words"]))), {}  # type: ignore[call-overload]

    train(run, loss, Budget(run.seconds / 60 + minutes / 2), log_every=50)
    run.ema.copy_to(net)
    return net.eval(), data


def export(net: Scorer, rows: list[dict], folder: Path) -> None:
    """Write `reward/` beside a model's weights: half precision, and how well it ranks."""
    home = folder / FOLDER
    home.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.half().contiguous() for name, value in net.state_dict().items()}, home / "reward.safetensors"
    )
    write(home / "config.json", {"model": net.config, "rank_correlation": json.loads(json.dumps(rows))})
