"""Trains pocket's transformer and text encoder by flow matching on cached latents.

    python -m longtake.training.pocket --minutes 12 --stage stills
    python -m longtake.training.pocket --minutes 13 --stage short      # 4 latents
    python -m longtake.training.pocket --minutes 20 --stage long       # 12 latents, the window

x_t = (1-t) x0 + t eps, target eps - x0, t logit-normal with shift 3. A clip has one noise level; a quarter of the
clips begin with 1-4 clean latents told as time 0 (image to video, continuation). Never progressive levels.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn

from longtake.training import cache, draw, shapes, text
from longtake.training.loop import CACHE, Budget, Ema, Run, newest, train
from longtake.training.optim import Optimizer
from longtake.training.vae import load_ema
from longtake.world.grammar import MOTIONS, PLACES, SUBJECTS, TIMES

STAGES = {"stills": (1, 64), "short": (4, 32), "long": (12, 16)}  # latents, batch
STILLS = {"stills": 1.0, "short": 0.6, "long": 0.35}  # share of steps on stills: they show the most subjects a minute
BEFORE = {"stills": None, "short": "stills", "long": "short"}
VAES = tuple(f"vae-{stage}" for stage in ("balanced", "joint", "decoder", "clips", "stills"))  # the latest first
RATE = 1.5e-3
LONGEST = 28  # tokens of a caption that training reads; one length for all batches, so that nothing is recompiled
MUON = 2.5  # times RATE, for the matrices: spectral norm of an update 0.012 (256x256), right for a few thousand steps
HEAD_BLOCK = 3  # the heads read what leaves this block (the fourth)
CLASSES = (len(SUBJECTS), len(PLACES), len(TIMES), len(MOTIONS))


class Pocket(nn.Module):
    """Transformer, text encoder and the auxiliary heads that are dropped at export."""

    def __init__(self, transformer: WanTransformer3DModel, encoder: nn.Module) -> None:
        super().__init__()
        self.transformer, self.text = transformer, encoder
        width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
        self.classes = nn.Linear(width, sum(CLASSES))
        self.mask = nn.Linear(width, 1)
        self.hidden: Tensor | None = None
        patches = transformer.patch_embedding
        patches.forward = partial(_patches, patches)
        block = transformer.blocks[min(HEAD_BLOCK, len(transformer.blocks) - 1)]
        block.register_forward_hook(lambda _, __, out: setattr(self, "hidden", out))
        self.padding = text.PadCount()
        for block in transformer.blocks:
            block.attn2.set_processor(self.padding)

    def forward(self, x: Tensor, times: Tensor, ids: Tensor, mask: Tensor, lengths: list[int]) -> Tensor:
        """Velocity [B,L,z,h,w] of `x` [B,L,z,h,w]; `times` [B,L] in 0..1; `lengths`: padded text lengths."""
        words = text.embed(self.text, ids, mask)
        self.padding.set(lengths, words.shape[1])
        tokens = (x.shape[-1] // 2) * (x.shape[-2] // 2)
        steps = 1000 * (times[:, 0] if x.shape[1] == 1 else times.repeat_interleave(tokens, dim=1))
        return self.transformer(x.transpose(1, 2), steps, words, return_dict=False)[0].transpose(1, 2)


def _patches(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """The patch embedding as a matrix product: the same numbers, where a convolution's gradient is 4 times slower."""
    b, c, f, h, w = x.shape
    x = x.reshape(b, c, f, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).flatten(4)
    return F.linear(x, layer.weight.flatten(1), layer.bias).movedim(-1, 1)


def new_pocket() -> Pocket:
    transformer = WanTransformer3DModel(**shapes.TRANSFORMER)
    nn.init.zeros_(transformer.proj_out.weight)
    return Pocket(transformer, text.new_encoder())


def optimizer(model: Pocket, lr: float = RATE) -> Optimizer:
    """Muon on the matrices of the blocks, AdamW on embeddings, time, text, norms and heads."""
    hidden = {n: p for n, p in model.named_parameters() if n.startswith("transformer.blocks") and n.endswith("weight")}
    hidden = {n: p for n, p in hidden.items() if p.ndim == 2}
    return Optimizer(list(hidden.values()), [p for n, p in model.named_parameters() if n not in hidden], lr, MUON)


def draw_times(batch: int, num_latents: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise levels [B,L] in 0..1, one a clip, 0 on clean first latents, and the mask [B,L] of what counts."""
    t = torch.randn(batch, generator=generator).sigmoid()
    t = shapes.SHIFT * t / (1 + (shapes.SHIFT - 1) * t)
    noisy = torch.ones(batch, num_latents)
    if num_latents > 1:
        clean = torch.randint(1, min(4, num_latents - 1) + 1, (batch,), generator=generator)
        clean = clean * (torch.rand(batch, generator=generator) < 0.25)
        noisy = (torch.arange(num_latents)[None] >= clean[:, None]).float()
    return t[:, None] * noisy, noisy


def drop_captions(data: dict[str, Tensor], generator: torch.Generator, share: float = 0.1) -> tuple[Tensor, Tensor]:
    """A tenth of the captions become "", which is `</s>` alone."""
    drop = (torch.rand(len(data["ids"]), 1, generator=generator) < share).to(data["ids"].device)
    empty = torch.zeros_like(data["ids"])
    empty[:, 0] = 1
    one = torch.zeros_like(data["text"])
    one[:, 0] = 1
    return torch.where(drop, empty, data["ids"]), torch.where(drop, one, data["text"])


def pad_lengths(batch: int, generator: torch.Generator) -> list[int]:
    """Our own length mostly; 15 % as stock pipelines pad (226 or 512)."""
    pick = torch.rand(batch, generator=generator)
    return [512 if p < 0.075 else 226 if p < 0.15 else shapes.TEXT_LENGTH for p in pick.tolist()]


def flow_loss(model: Pocket, data: dict[str, Tensor], generator: torch.Generator, aux: float) -> tuple[Tensor, dict]:
    """Flow-matching loss and `aux` times the heads' losses; `data["latents"]` is normalised [B,L,z,h,w]."""
    x0 = data["latents"]
    times, noisy = (v.to(x0.device) for v in draw_times(*x0.shape[:2], generator))
    eps = draw.normal(x0.shape, generator, x0.device)
    t = times[:, :, None, None, None]
    ids, mask = drop_captions(data, generator)
    lengths = pad_lengths(len(x0), generator)
    out = model((1 - t) * x0 + t * eps, times, ids.to(x0.device), mask.to(x0.device), lengths)
    error = (out.float() - (eps - x0)).square().mean(dim=(2, 3, 4))
    flow = (error * noisy).sum() / noisy.sum()
    heads, logs = head_losses(model, data)
    return flow + aux * heads, {"flow": flow.detach()} | logs


def head_losses(model: Pocket, data: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of subject, place, time and (on clips) motion, and of the subject's mask by token."""
    hidden = model.hidden
    device, num_latents = hidden.device, data["mask"].shape[1]
    mask = data["mask"].float().flatten(1).to(device)
    loss = F.binary_cross_entropy_with_logits(model.mask(hidden).float().squeeze(-1), mask)
    logits = model.classes(hidden.mean(1)).float().split(CLASSES, dim=1)
    logs = {"mask": loss.detach()}
    for i, name in enumerate(cache.LABELS[: 4 if num_latents > 1 else 3]):
        part = F.cross_entropy(logits[i], data["labels"][:, i].to(device))
        loss, logs = loss + 0.25 * part, logs | {name: part.detach()}
    return loss, logs


def start(stage: str, out: Path, device: str, weights: Path | None = None) -> Run:
    """The stage's run: continued, or begun from the stage before, or from an exported folder."""
    folder, before = out / f"pocket-{stage}", BEFORE[stage]
    model = new_pocket()
    if weights is not None:
        model.transformer.load_state_dict(WanTransformer3DModel.from_pretrained(weights / "transformer").state_dict())
        model.text.load_state_dict(type(model.text).from_pretrained(weights / "text_encoder").state_dict())
    model.to(device)
    run = Run(folder, model, optimizer(model), Ema(model, 0.9995))
    run.generator.manual_seed(2)
    if not run.load() and before and weights is None:
        if not run.load(out / f"pocket-{before}"):
            raise FileNotFoundError(f"{out / f'pocket-{before}'} has no checkpoint; train the stage {before} first")
        run.step, run.seconds = 0, 0.0
    return run


def load_vae(out: Path) -> AutoencoderKLWan:
    """The averaged VAE of the latest stage that was trained."""
    vae = AutoencoderKLWan(**shapes.VAE).eval()
    trained = newest(out, VAES)
    if trained is None:
        raise FileNotFoundError(f"{out} has no trained autoencoder; begin with: longtake train vae --stage stills")
    load_ema(trained, vae)
    return vae


def load_data(stage: str, out: Path, num: int | None = None, device: str = "cpu") -> dict[str, Tensor]:
    """The stage's cache, on the host, with latents normalised by the clips' statistics; encoded on `device`."""
    cache.settle(out)
    vae = load_vae(out).to(device)
    clips = cache.build(vae, out / "clips.safetensors", num or 9000, shapes.FRAMES, minutes=12)
    mean, std = cache.statistics(clips)
    data = cache.build(vae, out / "stills.safetensors", num or 16000, 1, minutes=3) if stage == "stills" else clips
    latents = (data["latents"].float() - mean[:, None, None]) / std[:, None, None]
    return data | {"latents": latents.half(), "ids": data["ids"][:, :LONGEST], "text": data["text"][:, :LONGEST]}


def train_pocket(minutes: float, stage: str = "stills", device: str = "cpu", out: Path = CACHE,
                 weights: Path | None = None, compiled: bool = True) -> None:  # fmt: skip
    """Train one stage for some minutes of wall time; `weights` continues from an exported pocket folder."""
    stills, clips = (
        {key: value.to(device) for key, value in load_data(which, out, device=device).items()}
        for which in ("stills", stage)
    )
    run = start(stage, out, device, weights)
    if compiled:
        run.model.transformer.compile_repeated_blocks(dynamic=False)

    def loss(run: Run, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        still = torch.rand((), generator=run.generator) < STILLS[stage]
        num_latents, batch = STAGES["stills" if still else stage]
        part = cache.window(stills if still else clips, batch, num_latents, run.generator)
        part["latents"] = part["latents"].float()
        aux = 0.5 - 0.2 * progress if stage == "stills" else 0.3 - 0.2 * progress
        with torch.autocast(device, torch.bfloat16):
            value, logs = flow_loss(run.model, part, run.generator, aux)
        return value, {f"{key}_{num_latents}" if key == "flow" else key: log for key, log in logs.items()}

    train(run, loss, Budget(minutes), log_every=50, decay=0.4 if stage == "long" else 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--stage", choices=list(STAGES), default="stills")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=CACHE)
    parser.add_argument("--weights", type=Path, help="an exported pocket folder to continue from")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(2)
    train_pocket(args.minutes, args.stage, args.device, args.out, args.weights, not args.no_compile)


if __name__ == "__main__":
    main()
