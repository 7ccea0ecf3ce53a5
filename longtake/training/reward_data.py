"""Examples for the latent reward model: videos that are made, kept half done at many levels, and judged when finished.

After LatSearch's recipe (Zhao et al. 2026): several videos of every prompt, their noisy latents at levels over the
whole schedule, the finished videos scored by rewards that see pixels. The videos of a prompt are made side by side, so
that a device takes them in one network call a step, and are judged together, so that whatever judges them reads the
prompt once. One file a prompt; collecting goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.noise import fold, root
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.step import all_of
from longtake.rewards.reward_model import buckets_of, share_of_noise
from longtake.rollouts.plain import Plain

Label = Callable[[Sequence[Tensor], str], Sequence[Sequence[float]]]
"""(finished clips [T,C,H,W] of one prompt, the prompt) -> for each clip one number a head."""
SEEDS = 4
"""Videos of a prompt: what a search will have to tell apart."""
JUDGED, KEPT, BATCH = 8, 6, 16  # levels that results are told at; others kept of a video; videos a step
Course = tuple[list[Tensor], list[Tensor], Tensor]
"""(x at levels S-1..1, the estimates x0 there, finished latents) of a clip, each [T,C,H,W]."""


def levels(steps: int) -> tuple[list[int], list[int]]:
    """(levels that results are told at, highest first; those of them that are never trained on)."""
    many = min(JUDGED, steps - 1)
    told = [1 + round((steps - 2) * (many - 1 - place) / max(many - 1, 1)) for place in range(many)]
    return told, told[1::2]


def trajectories(model: Any, prompt: str, seeds: Sequence[int]) -> list[Course]:
    """A clip of the prompt for every seed, side by side: one call of the network a step for all of them."""
    can, denoiser = model.denoiser.can, model.denoiser
    rollout = Plain(can.latent_shape, denoiser.schedule, Solver(model.solver), can.window)
    engine = Engine(denoiser, len(seeds))
    states = [engine.drive(rollout.init(seed, Timeline.of(prompt))) for seed in seeds]
    courses: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in seeds]
    while True:
        moves = engine.drive(all_of([(rollout.step, (state,)) for state in states]))
        states = [state for state, _ in moves]
        if moves[0][1].latents:
            done = [torch.stack(emission.latents) for _, emission in moves]
            return [(noisy, guessed, latents) for (noisy, guessed), latents in zip(courses, done, strict=True)]
        for (noisy, guessed), state in zip(courses, states, strict=True):
            view = rollout.view(state)
            noisy.append(torch.stack(view.x))
            guessed.append(torch.stack(view.x0))


def examples(model: Any, prompt: str, seeds: Sequence[int], label: Label) -> dict[str, Tensor]:
    """N videos of a prompt: `x` half [N,L,T,C,H,W] at `level` [N,L], `similarity` [N,L] to the finished one, `label`
    [N,heads], and `x0` half like `x`, the estimates there. Levels that results are told at come first.
    """
    steps = model.denoiser.schedule.num_steps
    told, hidden = levels(steps)
    free = [level for level in range(1, steps) if level not in told and level not in hidden]
    courses = trajectories(model, prompt, seeds)
    x, x0, kept, similarity = [], [], [], []
    for seed, (noisy, guessed, done) in zip(seeds, courses, strict=True):
        order = torch.randperm(len(free), generator=torch.Generator().manual_seed(seed)).tolist()
        chosen = [*told, *(free[place] for place in order[:KEPT])]
        passed = torch.stack([noisy[steps - 1 - level] for level in chosen])
        x.append(passed.half())
        x0.append(torch.stack([guessed[steps - 1 - level] for level in chosen]).half())
        kept.append(chosen)
        similarity.append((1 + F.cosine_similarity(passed.flatten(1), done.flatten()[None])) / 2)
    labels = torch.tensor([[float(value) for value in row] for row in label([done for *_, done in courses], prompt)])
    return {
        "x": torch.stack(x), "x0": torch.stack(x0), "level": torch.tensor(kept),
        "similarity": torch.stack(similarity), "label": labels,
    }  # fmt: skip


def seeds_of(number: int, many: int = SEEDS) -> list[int]:
    """The seeds of a prompt's videos, by its number."""
    return [fold(root(number), "reward", *((place,) if place else ())) % 2**31 for place in range(many)]


def collect(model: Any, prompts: Sequence[str], label: Label, folder: Path, minutes: float) -> list[Path]:
    """Make examples, one file a prompt, until all are done or the minutes are up; what is there of these prompts stays.

    A folder is of one model and one label (`reward.home_of`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    prompts = list(dict.fromkeys(prompts))
    model.prepare(prompts)
    end, made, begun = time.monotonic() + 60 * minutes, [], 0
    for number, prompt in enumerate(prompts):
        path = folder / f"{number:05d}.safetensors"
        if not path.exists() or prompt_of(path) != prompt:
            if time.monotonic() > end:
                break
            partial = path.with_suffix(".new")
            save_file(examples(model, prompt, seeds_of(number), label), partial, {"prompt": prompt})
            partial.replace(path)
            begun += 1
            if begun % 10 == 1:
                print(f"{(number + 1) * SEEDS} videos of at most {len(prompts) * SEEDS}", flush=True)
        made.append(path)
    return made


def prompt_of(path: Path) -> str:
    """The prompt of a file of examples."""
    with safe_open(path, "pt") as file:
        return file.metadata()["prompt"]


def normal_scores(values: Tensor, known: Tensor) -> Tensor:
    """Values [N,heads] by their rank among `known` [M,heads], as a normal draw of that rank would be.

    Labels have long tails: a few videos without their subject would be most of what is learnt and of every sum.
    """
    found = []
    for one, among in zip(values.T.contiguous(), known.T.contiguous(), strict=True):
        order = among.sort().values
        below = (torch.searchsorted(order, one) + torch.searchsorted(order, one, right=True)) / 2
        found.append(torch.special.ndtri((below.double() + 0.5) / (len(order) + 1)).float())
    return torch.stack(found, 1)


def split(prompts: Sequence[str]) -> list[bool]:
    """Which examples are held out: one prompt in five, by its words, so that a prompt is never on both sides."""
    return [fold(0, "heldout", prompt) % 5 == 0 for prompt in prompts]


def watched(prompts: Sequence[str]) -> list[bool]:
    """Which of the others training is watched by and never fed: one prompt in six, of those not held out."""
    out = split(prompts)
    return [not held and fold(0, "watched", prompt) % 6 == 0 for held, prompt in zip(out, prompts, strict=True)]


class Data:
    """The collected examples in memory, one item a video, their labels as normal scores among those trained on.

    trained, watched, held   places of the videos that are fed, that say when to stop, and that results are told of
    """

    def __init__(self, paths: Sequence[Path], schedule: Any) -> None:
        self.schedule = schedule
        self.items: list[dict[str, Tensor]] = []
        self.prompts: list[str] = []
        for path in paths:
            prompt, part = prompt_of(path), load_file(path)
            for place in range(len(part["label"])):
                self.items.append({name: value[place] for name, value in part.items()})
                self.prompts.append(prompt)
        out, seen = split(self.prompts), watched(self.prompts)
        self.held = [place for place, held in enumerate(out) if held]
        self.watched = [place for place, look in enumerate(seen) if look]
        if len(self.watched) < 3:  # too few to say when to stop: they are better fed
            self.watched = []
        known = {*self.held, *self.watched}
        self.trained = [place for place in range(len(self.items)) if place not in known]
        self.raw = torch.stack([item["label"] for item in self.items])
        self.label = normal_scores(self.raw, self.raw[self.trained])
        self.group = torch.tensor([list(dict.fromkeys(self.prompts)).index(prompt) for prompt in self.prompts])

    @property
    def key(self) -> str:
        """Another for other videos, or where other of them are fed."""
        return f"{fold(0, *self.prompts, *map(str, self.trained)):016x}"

    def groups(self, places: Sequence[int]) -> list[list[int]]:
        """The places by prompt."""
        found: dict[str, list[int]] = {}
        for place in places:
            found.setdefault(self.prompts[place], []).append(place)
        return list(found.values())

    def batch(self, places: Sequence[int], which: Sequence[int], buckets: int) -> dict[str, Any]:
        """Examples `places`, each at its kept level number `which`."""
        rows = [(self.items[place], number, place) for place, number in zip(places, which, strict=True)]
        x, x0 = (torch.stack([item[name][number] for item, number, _ in rows]).float() for name in ("x", "x0"))
        noise = [share_of_noise(self.schedule, int(item["level"][number])) for item, number, _ in rows]
        return {
            "x": x,
            "x0": x0,
            "noise": torch.tensor(noise)[:, None].expand(-1, x.shape[1]),
            "words": [buckets_of(self.prompts[place], buckets) for _, _, place in rows],
            "similarity": torch.stack([item["similarity"][number] for item, number, _ in rows]),
            "label": self.label[list(places)],
            "group": self.group[list(places)],
        }

    def drawn(self, generator: torch.Generator, buckets: int) -> dict[str, Any]:
        """A batch of whole prompts and of one level, as nearly as the kept levels allow: the same place in their order.

        Whole prompts, since that is what a search compares: other noise of the same prompt at the same level.
        """
        groups = self.groups(self.trained)
        order = torch.randperm(len(groups), generator=generator).tolist()
        places = [place for number in order[:BATCH] for place in groups[number]][:BATCH]
        hidden = set(levels(self.schedule.num_steps)[1])
        share = float(torch.rand((), generator=generator))
        which = []
        for place in places:
            allowed = [n for n, level in enumerate(self.items[place]["level"].tolist()) if level not in hidden]
            allowed.sort(key=lambda n, item=self.items[place]: int(item["level"][n]))
            which.append(allowed[int(share * len(allowed))])
        return self.batch(places, which, buckets)
