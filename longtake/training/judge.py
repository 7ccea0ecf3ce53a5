"""Trains the judge on rendered truth, half of it through pocket's VAE.

python -m longtake.training.judge --minutes 5
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from longtake.metrics.judge import CLASSES, Judge, pairs_of
from longtake.training.export import write
from longtake.training.loop import CACHE, Budget, Ema, Run, train
from longtake.training.optim import Optimizer
from longtake.training.pocket import load_vae
from longtake.training.pool import LONGEST
from longtake.training.vae import reconstruct
from longtake.world.grammar import scene
from longtake.world.renderer import render

FOLDER = Path("longtake/models/weights/pocket-judge")
BATCH = 16  # clips


@torch.no_grad()
def examples(vae: nn.Module, seeds: range, minutes: float, split: str = "train") -> tuple[Tensor, dict[str, Tensor]]:
    """Pairs uint8 [N,15,6,64,64] and labels; of every four batches one is the VAE's reconstruction."""
    generator = torch.Generator().manual_seed(seeds.start)
    pairs, labels, end = [], [], time.monotonic() + 60 * minutes
    for first in range(seeds.start, seeds.stop, 8):
        starts = torch.randint(0, LONGEST, (8,), generator=generator).tolist()
        clip = render([scene(seed, split) for seed in range(first, first + 8)], 45, start=starts)
        video = clip.pixels
        if (first // 8) % 4 == 0:
            with torch.autocast("cpu", torch.bfloat16):
                out = reconstruct(vae, video.float() / 127.5 - 1, 8).clamp(-1, 1)
            video = ((out + 1) * 127.5).round().byte()
        pairs.append(((pairs_of(video) + 1) * 127.5).round().byte())
        labels.append(clip.labels)
        if time.monotonic() > end:
            break
    return torch.cat(pairs), {name: torch.cat([part[name] for part in labels]) for name in CLASSES}


def soften(pairs: Tensor, generator: torch.Generator) -> Tensor:
    """Blur half of the batches and add a little noise: generated clips are softer than rendered ones."""
    blur, level = torch.rand(2, generator=generator).tolist()
    if blur > 0.5:
        small = F.avg_pool2d(pairs.flatten(0, 1), 2)
        pairs = pairs.lerp(F.interpolate(small, scale_factor=2.0, mode="bilinear").view_as(pairs), blur)
    return pairs + 0.06 * level * torch.randn(pairs.shape[1:], generator=generator)


def train_judge(minutes: float, device: str = "cpu", out: Path = CACHE, folder: Path = FOLDER, seed: int = 0) -> None:
    """Render for up to 30 % of the minutes, train for the rest, write the folder."""
    base = 200_000_000 * (seed + 1)
    pairs, labels = examples(load_vae(out), range(base, base + 3200), 0.3 * minutes)
    torch.manual_seed(seed)
    judge = Judge().to(device)
    matrices = [p for p in judge.parameters() if p.ndim == 4]
    others = [p for p in judge.parameters() if p.ndim != 4]
    run = Run(out / f"judge-{seed}", judge, Optimizer(matrices, others, 2e-3), Ema(judge, 0.995))
    run.load()

    def loss(run: Run, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        picks = torch.randint(0, len(pairs), (BATCH,), generator=run.generator)
        batch = soften(pairs[picks].float() / 127.5 - 1, run.generator).to(device)
        with torch.autocast(device, torch.bfloat16):
            logits = run.model(batch)
        parts = {k: F.cross_entropy(v.float(), labels[k][picks].to(device)) for k, v in logits.items()}
        return torch.stack(list(parts.values())).sum(), {k: v.detach() for k, v in parts.items()}

    train(run, loss, Budget(0.7 * minutes), log_every=20)
    run.ema.copy_to(judge)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().cpu().contiguous() for k, v in judge.state_dict().items()}, folder / "judge.safetensors")
    write(folder / "config.json", {"model": judge.config, "classes": {k: list(v) for k, v in CLASSES.items()}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=CACHE)
    parser.add_argument("--to", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=0, help="another seed makes an independent judge")
    args = parser.parse_args()
    torch.set_num_threads(2)
    train_judge(args.minutes, args.device, args.out, args.to, args.seed)


if __name__ == "__main__":
    main()
