"""Trains one set of the judge on rendered truth, a part of it through pocket's VAE. Resumable.

    python -m longtake.training.judge --set measure --minutes 12
    python -m longtake.training.judge --set reward --minutes 12

The sets share no training scene, no seed, no trunk and no augmentation:

    reward    chain of convolutions; blurred by averaging, white noise
    measure   residual trunk on coarse patches; made smaller and larger again, coarse noise, pieces cut out

Loss: cross-entropy of subject, place, time and motion; where the subject is (8 x 8 cells); tint, size and shade, which
no caption tells; a supervised contrast (Khosla et al. 2020, L_out) that draws pictures of one subject together across
places and moments, and pictures of one place across subjects; where the subject is in a pair and how fast the ground
passes. The heads for tint, size and shade are dropped at export. New scenes are drawn while it trains: a network of
this size learns any few thousand by heart (the first judge saw 3,200 clips and knew 82 % of held-out subjects).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor, nn

from longtake.metrics.judge import CLASSES, FEATURES, SETS, SPAN, WEIGHTS, Judge, classify
from longtake.training import judge_data as data
from longtake.training.export import write
from longtake.training.loop import CACHE, Budget, Ema, Run, newest, train
from longtake.training.optim import Optimizer
from longtake.training.pocket import VAES, load_vae
from longtake.world.grammar import MOTIONS, scene
from longtake.world.renderer import render

TRUNKS = {"reward": "plain", "measure": "residual"}
BASE = {"reward": 10**9, "measure": 2 * 10**9}  # numbers of the training scenes
GROUPS, CLIPS = 24, 16  # a batch: groups of four pictures, and clips
TEMPERATURE = 0.1
CONTRAST = {"subject": 0.6, "place": 0.3}  # weights; of the subject's tint and size little can be seen in 30 pixels
COURSE_SCALE = (0.12, 0.12, 0.08, 0.2)  # what the estimator's numbers are divided by in the loss
STOPPED = 1 / 6  # of the clips
SHARE = 0.35  # of the wall time, for drawing new scenes
CHECKED = 48  # held-out clips that the curve shows; others than those of `eval --suite world`


class Pupil(nn.Module):
    """A judge and the heads that only training needs."""

    def __init__(self, trunk: str) -> None:
        super().__init__()
        self.judge = Judge(trunk)
        self.person, self.light = nn.Linear(FEATURES, 4), nn.Linear(FEATURES, 3)


class Lessons:
    """The stores of one set: rendered groups and clips, and the same through the autoencoder."""

    def __init__(self, which: str, vae: nn.Module | None, past: int = 0, small: bool = False,
                 device: str = "cpu") -> None:  # fmt: skip
        """`past`: steps already made; the scenes after them are new ones. They are drawn on `device`."""
        size = 1 / 16 if small else 1
        base = BASE[which] + 64 * past
        self.seen = data.Fresh(lambda i, n: data.fours(i, n, None, device), base, int(1536 * size), 8192)
        self.seen_coded = data.Fresh(lambda i, n: data.fours(i, n, vae, device), base + 10**8, int(512 * size), 4096)
        self.clips = data.Fresh(lambda i, n: data.clips(i, n, None, device), base + 2 * 10**8, int(768 * size), 4096)
        self.clips_coded = data.Fresh(
            lambda i, n: data.clips(i, n, vae, device), base + 3 * 10**8, int(192 * size), 2048
        )
        self.begin, self.spent, self.turn = time.monotonic(), 0.0, 0

    def renew(self) -> None:
        """Draw new scenes for one of the stores, if their share of the time is not used up."""
        now = time.monotonic()
        if self.spent < SHARE * (now - self.begin):
            order = (self.seen, self.seen_coded, self.seen, self.clips, self.seen, self.clips_coded)
            order[self.turn % len(order)].renew()
            self.turn, self.spent = self.turn + 1, self.spent + time.monotonic() - now

    def batch(self, generator: torch.Generator) -> tuple[data.Fours, data.Moves]:
        """Groups of four pictures and clips, drawn and coded mixed."""
        plain, coded = GROUPS // 2, GROUPS // 4
        parts = [self.seen.draw(plain, generator), self.seen_coded.draw(coded, generator)]
        moved = [self.clips.draw(CLIPS - CLIPS // 3, generator), self.clips_coded.draw(CLIPS // 3, generator)]
        parts += [[*row[3:]] for row in (part for part in moved)]
        groups = [torch.cat(rows) for rows in zip(*parts, strict=True)]
        moves = [torch.cat(rows) for rows in zip(*(part[:3] for part in moved), strict=True)]
        keep = torch.randperm(len(groups[0]), generator=generator)[:GROUPS]
        return data.Fours(*(row[keep] for row in groups)), data.Moves(*moves)


def soften(x: Tensor, which: str, generator: torch.Generator) -> Tensor:
    """Pictures [N,C,h,w] in -1..1 a little worse, each set in its own way: generated clips are softer than truth."""
    amount, level = torch.rand(2, generator=generator).tolist()
    size = x.shape[-2:]
    if which == "reward":
        small = F.interpolate(F.avg_pool2d(x, 2), size, mode="bilinear")
        x = x.lerp(small, max(0.0, 2 * amount - 1))
        return x + 0.08 * level * torch.randn(x.shape, generator=generator).to(x)
    small = F.interpolate(x, scale_factor=0.4 + 0.6 * amount, mode="bilinear", antialias=True)
    x = F.interpolate(small, size, mode="bilinear")
    grain = torch.randn(len(x), x.shape[1], size[0] // 4, size[1] // 4, generator=generator).to(x)
    x = x + 0.08 * level * F.interpolate(grain, size, mode="bilinear")
    piece, at = size[0] // 6, torch.randint(0, size[0] - size[0] // 6, (2,), generator=generator).tolist()
    if level < 0.5:
        x[:, :, at[0] : at[0] + piece, at[1] : at[1] + piece] = 0
    return x


def contrast(features: Tensor, ids: Tensor) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, L_out) of features [N,D] with identities [N]."""
    unit = F.normalize(features.float(), dim=1)
    alone = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
    scores = (unit @ unit.mT / TEMPERATURE).masked_fill(alone, -1e9)
    friends = (ids[:, None] == ids[None]) & ~alone
    likely = scores.log_softmax(1).masked_fill(~friends, 0).sum(1) / friends.sum(1).clamp_min(1)
    return -likely[friends.any(1)].mean()


def picture_loss(pupil: Pupil, groups: data.Fours, which: str, generator: torch.Generator) -> dict[str, Tensor]:
    """The losses of a batch of groups, by name, weighted."""
    x = soften(groups.pixels.flatten(0, 1).float() / 127.5 - 1, which, generator)
    mask, hidden = groups.mask.flatten(0, 1).float() / 255, groups.hidden.flatten(0, 1)
    if torch.rand((), generator=generator) < 0.5:
        x, mask = x.flip(-1), mask.flip(-1)
    device = next(pupil.parameters()).device
    mask, hidden, labels = mask.to(device), hidden.to(device), groups.labels.flatten(0, 1).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        look = pupil.judge.look(x.to(device))
        said = pupil.judge.named(look)
        guesses = torch.cat([pupil.person(look.subject), pupil.light(look.place)], dim=1)
    parts = {key: F.cross_entropy(said[key].float(), labels[:, i]) for i, key in enumerate(data.LABELS)}
    parts["mask"] = 0.5 * F.binary_cross_entropy_with_logits(look.mask.float(), mask)
    parts["hidden"] = 0.5 * F.mse_loss(guesses.float(), hidden)
    number = 2 * torch.arange(len(groups.same))[:, None]
    for i, key in enumerate(("subject", "place")):
        ids = (number + groups.same[..., i]).flatten().to(device)
        parts[f"same_{key}"] = CONTRAST[key] * contrast(getattr(look, key), ids)
    return parts


def motion_loss(pupil: Pupil, moves: data.Moves, which: str, generator: torch.Generator) -> dict[str, Tensor]:
    """The losses of a batch of clips; half of the batches are mirrored, and left becomes right.

    A sixth of the clips are stopped at their first picture: of these the classifier shall say nothing, each motion as
    likely as any other, and that the ground stands. Else it reads a walk to the right off a face turned right.
    """
    device = next(pupil.parameters()).device
    pairs = soften(moves.pairs.flatten(0, 1).float() / 127.5 - 1, which, generator).unflatten(0, moves.pairs.shape[:2])
    course, motion = moves.course.clone(), moves.motion
    if torch.rand((), generator=generator) < 0.5:
        pairs = pairs.flip(-1)
        course[..., 0], course[..., 3] = 1 - course[..., 0], -course[..., 3]
        swap = torch.arange(len(MOTIONS))
        left, right = MOTIONS.index("left"), MOTIONS.index("right")
        swap[left], swap[right] = right, left
        motion = swap[motion]
    stopped = torch.rand(len(pairs), generator=generator) < STOPPED
    pairs[stopped] = pairs[stopped][:, :1, :3].repeat(1, pairs.shape[1], 2, 1, 1)
    course[stopped] = course[stopped][:, :1] * torch.tensor([1.0, 1.0, 1.0, 0.0])
    target = F.one_hot(motion, len(MOTIONS)).float()
    target[stopped] = 1 / len(MOTIONS)
    with torch.autocast(device.type, torch.bfloat16):
        numbers, logits = pupil.judge.course(pairs.to(device))
    off = (numbers.float() - course.to(device)) / torch.tensor(COURSE_SCALE, device=device)
    return {
        "course": 0.3 * F.smooth_l1_loss(off, torch.zeros_like(off)),
        "motion": F.cross_entropy(logits.float(), target.to(device)),
    }


def held_out(vae: nn.Module | None, num: int = CHECKED) -> list[tuple[str, Tensor, dict[str, Tensor]]]:
    """Held-out clips with their labels, as rendered and through the autoencoder."""
    clip = render([scene(9000 + i, "heldout") for i in range(num)], SPAN)
    found = [("truth", clip.pixels, clip.labels)]
    return found if vae is None else [*found, ("coded", data.recoded(vae, clip.pixels), clip.labels)]


def accuracies(judge: Judge, clips: list[tuple[str, Tensor, dict[str, Tensor]]]) -> dict[str, float]:
    """Share of clips that the judge names right, by kind and attribute."""
    found = {}
    for kind, pixels, labels in clips:
        said = classify(judge, pixels)
        found |= {f"{kind}_{key}": (said[key] == labels[key]).float().mean().item() for key in CLASSES}
    return found


def newest_vae(out: Path) -> AutoencoderKLWan:
    """The autoencoder in training, else the one that ships."""
    if newest(out, VAES):
        return load_vae(out)
    return AutoencoderKLWan.from_pretrained(WEIGHTS.parent / "pocket" / "vae", torch_dtype=torch.float32).eval()


def start(which: str, out: Path, device: str = "cpu") -> Run:
    """The set's run: begun, or continued."""
    torch.manual_seed(SETS.index(which))
    pupil = Pupil(TRUNKS[which]).to(device)
    matrices = [p for p in pupil.parameters() if p.ndim == 4]
    others = [p for p in pupil.parameters() if p.ndim != 4]
    run = Run(out / f"judge-{which}", pupil, Optimizer(matrices, others, 2e-3), Ema(pupil, 0.995))
    run.generator.manual_seed(SETS.index(which))
    run.load()
    return run


def train_judge(minutes: float, which: str = "measure", device: str = "cpu", out: Path = CACHE,
                folder: Path = WEIGHTS) -> None:  # fmt: skip
    """Train a set until `minutes` of wall time are spent on it in all, first drawing included; write it."""
    begin, run, vae = time.monotonic(), start(which, out, device), newest_vae(out).to(device)
    lessons, truth = Lessons(which, vae, run.step, device=device), held_out(vae)
    run.seconds += time.monotonic() - begin
    average = Judge(TRUNKS[which])

    def loss(run: Run, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        lessons.renew()
        groups, moves = lessons.batch(run.generator)
        parts = picture_loss(run.model, groups, which, run.generator)
        parts |= motion_loss(run.model, moves, which, run.generator)
        return torch.stack(list(parts.values())).sum(), {key: part.detach() for key, part in parts.items()}

    def check(run: Run) -> dict[str, float]:
        export(run, average, folder / which)
        return accuracies(average.eval(), truth)

    train(run, loss, Budget(minutes, save_minutes=2.0), check, log_every=50)


def export(run: Run, judge: Judge, folder: Path) -> None:
    """The averaged weights into `judge` and, as halves, into a folder."""
    prefix = "judge."
    state = {k.removeprefix(prefix): v.cpu() for k, v in run.ema.shadow.items() if k.startswith(prefix)}
    judge.load_state_dict(state)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in state.items()}, folder / "judge.safetensors")
    told = {"model": judge.config, "classes": {k: list(v) for k, v in CLASSES.items()}, "steps": run.step}
    write(folder / "config.json", told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--set", dest="which", choices=list(SETS), default="measure")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=CACHE)
    parser.add_argument("--to", type=Path, default=WEIGHTS)
    args = parser.parse_args()
    torch.set_num_threads(1)  # its tensors are small
    train_judge(args.minutes, args.which, args.device, args.out, args.to)


if __name__ == "__main__":
    main()
