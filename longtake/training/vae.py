"""Trains pocket's VAE: stills first (2-D), then 9-frame clips with time folded into channels.

    python -m longtake.training.vae --minutes 35 --stage stills
    python -m longtake.training.vae --minutes 15 --stage clips
    python -m longtake.training.vae --minutes 60 --stage decoder   # latents stay, so the transformer stays valid
    python -m longtake.training.vae --minutes 90 --stage joint     # both again, from there: the transformer follows

Every third step of the stages after the first is on two clips of 33 frames: trained on 9-frame clips alone, 26 minutes
made those 0.6 dB better and frames 29 to 44 of a video 0.8 dB worse, for a latent after the third had never been seen.

The earlier temporal slices of every kernel start at zero and the up- and downsampling convolutions over time as
copies, so that the VAE trained on stills already codes a clip (as held frames) when the clip stage begins.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from longtake.training import fold, shapes
from longtake.training.loop import CACHE, Budget, Ema, Run, averaged, newest, train
from longtake.training.optim import Optimizer
from longtake.training.pool import Pool, clips

STAGES = {
    "stills": dict(frames=1, batch=32, lr=2e-3),
    "clips": dict(frames=9, batch=6, lr=1e-3),
    "decoder": dict(frames=9, batch=6, lr=1e-3),
    "joint": dict(frames=9, batch=6, lr=1e-3, decay=0.7),
}
LONG = dict(frames=33, batch=2)
BEFORE = {"clips": "stills", "decoder": "clips", "joint": "decoder"}


def new_vae(config: dict = shapes.VAE) -> AutoencoderKLWan:
    """An untrained VAE that treats a clip as separate stills."""
    vae = AutoencoderKLWan(**config)
    for layer in vae.modules():
        if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] == 3:
            _still(layer)
    return vae


@torch.no_grad()
def _still(layer: nn.Conv3d, fresh: bool = True) -> None:
    weight = torch.zeros_like(layer.weight)
    if layer.kernel_size[1] == 3:
        last = layer.weight[:, :, 2].clone()
        weight[:, :, 2] = nn.init.kaiming_normal_(last, nonlinearity="linear") if fresh else last
    else:  # over time only: hold the frame (twice as many channels out: hold it twice)
        eye = torch.eye(weight.shape[1])
        weight[:, :, 2, 0, 0] = eye.repeat(weight.shape[0] // weight.shape[1], 1)
        layer.bias.zero_()
    layer.weight.copy_(weight)


def vae_loss(vae: nn.Module, video: Tensor, generator: torch.Generator, kl_weight: float = 1e-6) -> tuple[Tensor, dict]:
    """Squared error + 0.1 x absolute error of the spatial gradients + a trace of KL; `video` [B,F,3,H,W] in -1..1.

    The first frame, which has a latent to itself, weighs three times: a film's still start is judged by it alone.
    """
    mean, log_variance, _ = fold.encode(vae, video)
    noise = torch.randn(mean.shape, generator=generator).to(mean)
    out, _ = fold.decode(vae, mean + (0.5 * log_variance).exp() * noise)
    weights = torch.tensor([3.0] + [1.0] * (video.shape[1] - 1)).to(video)
    error = (out - video) * (weights / weights.mean()).sqrt()[:, None, None, None]
    square = error.square().mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3, 4)).mean()
    return square + 0.1 * edges + kl_weight * kl / video.shape[1], {"mse": square.detach(), "kl": kl.detach()}


def psnr(out: Tensor, truth: Tensor) -> Tensor:
    """Decibels per clip; both [B,F,3,H,W] in -1..1."""
    error = (out.clamp(-1, 1) - truth).square().mean(dim=(1, 2, 3, 4)) / 4
    return -10 * error.clamp_min(1e-10).log10()


@torch.no_grad()
def reconstruct(vae: nn.Module, video: Tensor, batch: int = 4) -> Tensor:
    """Encode (mean) and decode whole clips."""
    out = [fold.decode(vae, fold.encode(vae, part)[0])[0] for part in video.split(batch)]
    return torch.cat(out)


def held_out(num: int, num_frames: int) -> Tensor:
    """Held-out clips in -1..1, always the same ones."""
    generator = torch.Generator().manual_seed(7)
    return clips(range(num), num_frames, "heldout", generator).float() / 127.5 - 1


def optimizer(vae: nn.Module, lr: float, muon: bool = True) -> Optimizer:
    """Muon on the kernels inside, AdamW on what touches pixels or latents, norms and biases."""
    outside = ("encoder.conv_in", "decoder.conv_out", "quant_conv", "encoder.conv_out", "decoder.conv_in")
    hidden = {n: p for n, p in vae.named_parameters() if p.ndim >= 4 and "gamma" not in n and not n.startswith(outside)}
    hidden = {n: p for n, p in hidden.items() if not n.startswith("post_quant") and muon}
    return Optimizer(list(hidden.values()), [p for n, p in vae.named_parameters() if n not in hidden], lr)


def load_ema(folder: Path, model: nn.Module) -> None:
    """Averaged weights of a run into a module."""
    ema = averaged(folder)
    for name, p in model.named_parameters():
        p.data.copy_(ema[name])


def _start(stage: str, out: Path, weights: Path | None, device: str) -> Run:
    vae = new_vae()
    if weights is not None and newest(weights.parent, [weights.name]):
        load_ema(weights, vae)
        for layer in vae.modules():
            if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] == 3:
                _still(layer, fresh=False)
    elif weights is not None:
        vae = AutoencoderKLWan.from_pretrained(weights, torch_dtype=torch.float32)
    elif stage in BEFORE:
        load_ema(out / f"vae-{BEFORE[stage]}", vae)
    vae.to(device)
    vae.encoder.requires_grad_(stage != "decoder")
    vae.quant_conv.requires_grad_(stage != "decoder")
    run = Run(out / f"vae-{stage}", vae, optimizer(vae, STAGES[stage]["lr"]), Ema(vae, 0.999))
    run.generator.manual_seed(1)
    run.load()
    return run


def train_vae(minutes: float, stage: str = "stills", device: str = "cpu", out: Path = CACHE,
              weights: Path | None = None) -> None:  # fmt: skip
    """Train one stage for some minutes of wall time; `weights` continues from an exported `vae/` folder."""
    frames, batch = STAGES[stage]["frames"], STAGES[stage]["batch"]
    run = _start(stage, out, weights, device)
    size = STAGES[stage].get("pool", 8192 if frames == 1 else 1536)
    pool = Pool(size, frames, seed=1 + run.step, device=device)
    long = Pool(LONG.get("pool", 384), LONG["frames"], seed=2 + run.step, device=device) if frames > 1 else None
    truth = held_out(64, 1) if frames == 1 else held_out(6, shapes.FRAMES)
    # 0.27 s a step instead of 0.62 on two cores
    step = torch.compile(vae_loss, dynamic=False) if device == "cpu" else vae_loss
    average = AutoencoderKLWan(**shapes.VAE).to(device).eval()

    def loss(run: Run, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        turn = long is not None and run.step % 3 == 2
        video = long.draw(LONG["batch"], run.generator) if turn else pool.draw(batch, run.generator)
        video = video.to(device)
        with torch.autocast(device, torch.bfloat16):
            value, logs = step(run.model, video, run.generator)
        return value, {f"{key}_{video.shape[1]}" if key == "mse" else key: log for key, log in logs.items()}

    def check(run: Run) -> dict[str, float]:
        run.ema.copy_to(average)
        return {"psnr": psnr(reconstruct(average, truth.to(device)), truth.to(device)).mean().item()}

    train(run, loss, Budget(minutes), check, log_every=100, decay=STAGES[stage].get("decay", 0.3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--stage", choices=list(STAGES), default="stills")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=CACHE)
    parser.add_argument("--weights", type=Path, help="an exported vae folder, or that of a run, to continue from")
    args = parser.parse_args()
    torch.set_num_threads(2)
    train_vae(args.minutes, args.stage, args.device, args.out, args.weights)


if __name__ == "__main__":
    main()
