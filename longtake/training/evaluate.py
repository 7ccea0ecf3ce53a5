"""The numbers of `eval --suite world`: how well pocket draws what held-out captions say, and its VAE.

python -m longtake.training.evaluate --num 60
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor
from transformers import UMT5EncoderModel

from longtake.metrics import judge as judging
from longtake.training import judge as judge_training
from longtake.training import preview, sample
from longtake.training.pocket import Pocket
from longtake.training.vae import held_out, psnr, reconstruct
from longtake.world.captions import caption
from longtake.world.grammar import scene
from longtake.world.renderer import render

ASKED = ("subject", "place", "motion")


def load_folder(folder: Path) -> tuple[Pocket, AutoencoderKLWan]:
    """The models of an exported folder in float32."""
    transformer = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder").float()
    vae = AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    return Pocket(transformer, encoder).eval(), vae.eval()


def share(hits: Tensor) -> dict[str, float]:
    """A fraction with its 95 % Wilson interval; `hits` are booleans [N]."""
    n, z = len(hits), 1.96
    p = hits.float().mean().item()
    middle, half = p + z * z / (2 * n), z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5
    scale = 1 + z * z / n
    return {"mean": p, "low": max(0.0, (middle - half) / scale), "high": min(1.0, (middle + half) / scale), "n": n}


def average(values: Tensor) -> dict[str, float]:
    """A mean with its 95 % bootstrap interval; `values` [N]."""
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(0, len(values), (2000, len(values)), generator=generator)
    means = values[picks].mean(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975])).tolist()
    return {"mean": values.mean().item(), "low": low, "high": high, "n": len(values)}


def generate(folder: Path, captions: list[str], batch: int = 12, seed: int = 0) -> Tensor:
    """One clip a caption in -1..1 [N,45,3,64,64]."""
    model, vae = load_folder(folder)
    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    parts = []
    for first in range(0, len(captions), batch):
        latents = sample.sample(model, captions[first : first + batch], seed=seed + first)
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(sample.pictures(vae, latents, mean, std).float())
    return torch.cat(parts)


def judge_accuracy(judge: judging.Judge, vae: AutoencoderKLWan, num: int = 96) -> dict[str, dict[str, float]]:
    """What the judge gets right on held-out truth, as it is and through the VAE."""
    clip = render([scene(seed, "heldout") for seed in range(5000, 5000 + num)], 45)
    truth = clip.pixels.float() / 127.5 - 1
    with torch.autocast("cpu", torch.bfloat16):
        coded = reconstruct(vae, truth).float().clamp(-1, 1)
    result = {}
    for name, video in (("truth", truth), ("through_vae", coded)):
        said = judging.classify(judge, (video + 1) / 2)
        result |= {f"{name}_{key}": share(said[key] == clip.labels[key]) for key in (*ASKED, "time")}
    return result


def evaluate(folder: Path, judge_folder: Path = judge_training.FOLDER, num: int = 60) -> dict[str, dict[str, float]]:
    """The suite's numbers; the judge's own accuracy stands beside them under `judge`."""
    judge, (_, vae) = judging.load(judge_folder), load_folder(folder)
    clips, stills = held_out(16, 45), held_out(128, 1)
    with torch.inference_mode():
        numbers = {"vae_psnr": average(psnr(reconstruct(vae, clips), clips))}
        numbers["vae_psnr_stills"] = average(psnr(reconstruct(vae, stills, 32), stills))
    scenes = [scene(seed, "heldout") for seed in range(num)]
    said = judging.classify(judge, (generate(folder, [caption(s) for s in scenes]) + 1) / 2)
    for key in (*ASKED, "time"):
        truth = torch.tensor([judging.CLASSES[key].index(getattr(s, key)) for s in scenes])
        numbers[f"{key}_accuracy"] = share(said[key] == truth)
    return numbers | {"judge": judge_accuracy(judge, vae)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=preview.FOLDER)
    parser.add_argument("--judge", type=Path, default=judge_training.FOLDER)
    parser.add_argument("--num", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(2)
    print(json.dumps(evaluate(args.folder, args.judge, args.num)))


if __name__ == "__main__":
    main()
