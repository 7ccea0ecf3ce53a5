"""Fine-tunes any Wan-format model to progressive noise levels (PA-VDM, Xie et al. 2025, Sec. 3.5). Resumable.

    longtake train progressive --minutes 30                                  # pocket, on its cache of encoded clips
    longtake train progressive --minutes 600 --model FOLDER --clips DIR      # clips as name.mp4 with name.txt

The base model was trained with one level a clip; a queue shows it a rising one. Training goes on as it was (flow
matching, x_t = (1 - s) x0 + s eps, target eps - x0) with levels by row:

    u_g = (g + 1/2) / n + delta,   delta = 0.4 e / n,  e ~ N(0, 1), one for all rows of a clip

for chunk g of n; the C latents of a chunk share a level. u runs along the sampler's own grid of levels (the paper's
interpolation of the sampling schedule, Sec. 3.1), clipped to 0..1.
Symbols: F -> rows, C -> chunk, t_i - t_(i+1) -> 1/n, E -> prefix.

    middle   all n chunks, behind `prefix` clean latents three times out of four (Sec. 3.4)
    start    the last 1..n-1 levels without a prefix: a queue that fills (Sec. 3.2)
    end      the first 1..n-1 levels: a queue that empties

Deviations: levels sit in the middle between tau_(0..n-1) and tau_(1..n), of which the paper names both, so that delta
covers a period evenly; levels are linear along the sampler's grid and not in the noise itself, because the grid is what
rows pass through (with flow_shift 1 it is the same). Rows that delta moves to level 0 are clean and not scored.

Cost of a step: one window call with gradients for each of `batch` clips.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from longtake.core.schedule import NoiseSchedule
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models.load import NAMES, load
from longtake.models.wan import forward_rows
from longtake.training import draw
from longtake.training.loop import CACHE, Budget, Ema, Run, train
from longtake.training.optim import Optimizer
from longtake.training.progressive_data import Material, material

FINE = 200  # levels of the grid that u is interpolated on
SPREAD = 0.4  # of delta, in distances between neighbouring levels (Sec. 3.5)
KINDS = {"middle": 0.6, "start": 0.2, "end": 0.2}
WITH_PREFIX = 0.75
EMPTY = 0.1  # share of captions dropped, for guidance
RATE, MUON = 3e-4, 2.5
LARGE = 100_000_000  # parameters from which activations are made again instead of kept
HELD = 4  # batches of fixed noise that the curve's `held` is measured on

Kind = Literal["middle", "start", "end"]


@dataclass(frozen=True)
class Setup:
    """A queue: `prefix` clean latents, then `rows` noisy ones in chunks of `chunk`."""

    prefix: int
    rows: int
    chunk: int

    @property
    def num_chunks(self) -> int:
        """How many levels the queue holds at once."""
        return self.rows // self.chunk


def setups(window: int) -> tuple[Setup, ...]:
    """The queues that a model of that window learns: single latents behind one, and pairs behind a pair."""
    if window < 6:
        raise UsageError(f"progressive levels need a window of at least 6 latents, this model has {window}")
    return Setup(1, window - 1, 1), Setup(2, 2 * window // 3 // 2 * 2, 2)


def progress_of(setup: Setup, kind: Kind, length: int, prefix: int, deltas: Tensor) -> Tensor:
    """How far each row is from clean, 0..1, along the sampler's grid: [B, prefix + length * chunk].

    `length` chunks are there: all in the middle, the noisiest at the start, the cleanest at the end; `deltas` [B] are
    in distances between neighbouring levels.
    """
    n = setup.num_chunks
    first = n - length if kind == "start" else 0
    levels = (torch.arange(first, first + length) + 0.5)[None] / n + deltas[:, None] / n
    noisy = levels.clamp(0, 1).repeat_interleave(setup.chunk, 1)
    return torch.cat([torch.zeros(len(deltas), prefix), noisy], dim=1)


@dataclass(frozen=True)
class Plan:
    """One batch's layout: `progress` [B,R] and the latent at which its windows begin in their clips."""

    progress: Tensor
    offset: int


def plan(window: int, batch: int, generator: torch.Generator) -> Plan:
    """Draw a layout for a batch of clips of `window` latents."""

    def roll(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    choices = setups(window)
    setup = choices[roll(0, len(choices) - 1)]
    chance = torch.rand(2, generator=generator).tolist()
    kinds: tuple[Kind, ...] = ("middle", "start", "end")
    kind = kinds[0 if chance[0] < KINDS["middle"] else 1 if chance[0] < KINDS["middle"] + KINDS["start"] else 2]
    length = setup.num_chunks if kind == "middle" else roll(1, setup.num_chunks - 1)
    prefix = setup.prefix if kind != "start" and chance[1] < WITH_PREFIX else 0
    deltas = SPREAD * torch.randn(batch, generator=generator)
    progress = progress_of(setup, kind, length, prefix, deltas)
    # a queue begins at a video's first latent, which stands for one frame; later windows mostly do not
    spare = window - progress.shape[1]
    return Plan(progress, 0 if kind == "start" or not spare else roll(1, spare))


def along(schedule: NoiseSchedule, progress: Tensor) -> tuple[Tensor, Tensor]:
    """(sigmas, times) at `progress` in 0..1 of a schedule's levels, between them by straight lines."""
    place = progress * schedule.num_steps
    low = place.floor().long().clamp(max=schedule.num_steps - 1)
    share = place - low
    sigmas, times = torch.tensor(schedule.sigmas), torch.tensor(schedule.times)
    return tuple(torch.lerp(table[low], table[low + 1], share) for table in (sigmas.float(), times.float()))


def progressive_loss(
    transformer: nn.Module, data: Material, schedule: NoiseSchedule, layout: Plan, generator: torch.Generator
) -> Tensor:
    """Flow-matching loss of one batch under a layout, averaged over the rows that are noisy."""
    batch, rows = layout.progress.shape
    device = next(transformer.parameters()).device
    latents, words = data.draw(batch, layout.offset, rows, EMPTY, generator)
    x0, words = latents.to(device), words.to(device)
    sigmas, times = (value.to(device) for value in along(schedule, layout.progress))
    eps = draw.normal(x0.shape, generator, device)
    s = sigmas[:, :, None, None, None]
    with torch.autocast(device.type, torch.bfloat16):
        flow = forward_rows(transformer, (1 - s) * x0 + s * eps, times, words, "each")
    error = (flow.float() - (eps - x0)).square().mean(dim=(2, 3, 4))
    scored = (layout.progress > 0).to(device)
    return (error * scored).sum() / scored.sum().clamp_min(1)


def optimizer(transformer: nn.Module) -> Optimizer:
    """Muon on the matrices of the blocks, AdamW on the rest."""
    hidden = {n: p for n, p in transformer.named_parameters() if n.startswith("blocks") and p.ndim == 2}
    hidden = {n: p for n, p in hidden.items() if n.endswith("weight")}
    others = [p for n, p in transformer.named_parameters() if n not in hidden]
    return Optimizer(list(hidden.values()), others, RATE, MUON)


@dataclass(frozen=True)
class Task:
    """A fine-tuning as far as it has come: the run, what it learns from, and the folder it is written to.

    `home` is the base model's folder, `base` what the written folder calls it.
    """

    run: Run
    data: Material
    schedule: NoiseSchedule
    home: Path
    base: str
    to: Path


def prepare(model: str, clips: Path | None, to: Path | None, device: str = "cpu", out: Path = CACHE) -> Task:
    """Load the base model and its clips; continue the run that is in `out`, if there is one.

    UsageError if that was begun from other weights: models are told apart by the names of their folders alone.
    """
    base = load(model, num_steps=FINE, device=device, dtype="float32")
    transformer: Any = getattr(base.denoiser, "transformer", None)
    if base.family != "wan" or transformer is None:
        raise UsageError(f"{model} is of the family {base.family}; progressive training takes Wan text-to-video models")
    setups(base.window)
    folder = out / f"progressive-{base.name}"
    data = material(base, clips, out, folder)
    _of(folder, base.weights_hash)
    transformer.requires_grad_(True).train()
    if sum(p.numel() for p in transformer.parameters()) > LARGE:
        transformer.enable_gradient_checkpointing()
    run = Run(folder, transformer, optimizer(transformer), Ema(transformer, 0.999))
    run.generator.manual_seed(3)
    run.load()
    known = model if model in NAMES else str(base.source.resolve())
    return Task(run, data, base.denoiser.schedule, base.source, known, to or Path(f"{base.name}-progressive"))


def _of(folder: Path, weights: str) -> None:
    """Note from which weights the run in a folder is begun. UsageError if it was begun from others."""
    path = folder / "begun-from"
    if path.is_file() and path.read_text().strip() != weights:
        raise UsageError(
            f"the run in {folder} was begun from other weights of that name; move it away, or give another --cache"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(weights + "\n")


def fine_tune(task: Task, budget: Budget, batch: int = 16) -> None:
    """Train until the budget is used; the folder is written at every save."""
    run, data, schedule = task.run, task.data, task.schedule

    def loss(run: Run, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        layout = plan(data.window, batch, run.generator)
        return progressive_loss(run.model, data, schedule, layout, run.generator), {}

    def check(run: Run) -> dict[str, float]:
        export(task)
        return {"held": held(run.model, data, schedule)}

    if run.step == 0:
        run.log(held=held(run.model, data, schedule))
    train(run, loss, budget, check, log_every=25, decay=0.5)


def train_progressive(minutes: float, model: str = "pocket", clips: Path | None = None, to: Path | None = None,
                      device: str = "cpu", out: Path = CACHE, batch: int = 16) -> None:  # fmt: skip
    """Fine-tune for some minutes of wall time in all, write the folder `to`; what is done is kept in `out`."""
    fine_tune(prepare(model, clips, to, device, out), Budget(minutes), batch)


@torch.no_grad()
def held(transformer: nn.Module, data: Material, schedule: NoiseSchedule) -> float:
    """The loss on the same noise, levels and clips every time."""
    generator = torch.Generator().manual_seed(0)
    layouts = [plan(data.window, 16, generator) for _ in range(HELD)]
    return sum(float(progressive_loss(transformer, data, schedule, one, generator)) for one in layouts) / HELD


def export(task: Task) -> None:
    """Write `transformer/` with the averaged weights in halves; the other parts are read from the base model."""
    run, part = task.run, task.to / "transformer"
    part.mkdir(parents=True, exist_ok=True)
    state = {**run.model.state_dict(), **run.ema.shadow}
    state = {name: value.to(torch.float16).cpu().contiguous() for name, value in state.items()}
    save_file(state, part / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    run.model.save_config(part)
    config = json.loads((part / "config.json").read_text())
    config.pop("_name_or_path", None)  # where the base lay on the machine that trained it
    (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copyfile(task.home / "model_index.json", task.to / "model_index.json")
    settings = {key: value for key, value in folders.settings(task.home).items() if key != "preview"}
    (task.to / "longtake.json").write_text(json.dumps(settings | {"base": task.base}, indent=2) + "\n")
