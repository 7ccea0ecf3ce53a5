"""A resumable training run: budget, checkpoints, averaged weights, curve file. Stoppable at any moment."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from longtake.output import checkpoint
from longtake.training.optim import Optimizer

STATE = "checkpoint"
"""Name of a run's checkpoint: `checkpoint.json` and `checkpoint.safetensors`, written as one (output/checkpoint)."""
CACHE = Path(os.environ.get("LONGTAKE_CACHE", ".cache/longtake"))


class Ema:
    """Exponential average of a module's parameters; young averages forget faster."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        shadow = [self.shadow[name] for name, _ in model.named_parameters()]
        torch._foreach_lerp_(shadow, [p.detach() for p in model.parameters()], weight)

    def copy_to(self, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            p.data.copy_(self.shadow[name])


@dataclass
class Budget:
    """How long to train: minutes of wall time, or steps; whichever ends first."""

    minutes: float = math.inf
    steps: float = math.inf
    save_minutes: float = 3.0

    def progress(self, seconds: float, step: int) -> float:
        return max(seconds / 60 / self.minutes, step / self.steps)


@dataclass
class Run:
    """Everything that a checkpoint holds. `folder` gets `checkpoint.json`, its tensors, and `curve.jsonl`."""

    folder: Path
    model: nn.Module
    optimizer: Optimizer
    ema: Ema
    generator: torch.Generator = field(default_factory=torch.Generator)
    step: int = 0
    seconds: float = 0.0

    def save(self) -> None:
        """Write the checkpoint; a kill at any moment leaves the old one or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = dict(
            model=self.model.state_dict(), optimizer=self.optimizer.state_dict(), ema=self.ema.shadow,
            ema_steps=self.ema.steps, generator=self.generator.get_state(), step=self.step, seconds=self.seconds,
        )  # fmt: skip
        checkpoint.save(state, self.folder, STATE)

    def load(self, folder: Path | None = None) -> bool:
        """Continue from the folder's checkpoint (or another's); False if there is none."""
        if not checkpoint.exists(folder or self.folder, STATE):
            return False
        state = checkpoint.load(folder or self.folder, STATE)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["ema"].items():
            self.ema.shadow[name].copy_(value)
        self.ema.steps, self.step, self.seconds = state["ema_steps"], state["step"], state["seconds"]
        self.generator.set_state(state["generator"])
        return True

    def log(self, **values: float) -> None:
        line = {"step": self.step, "minutes": round(self.seconds / 60, 2)}
        line |= {key: round(float(value), 5) for key, value in values.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)


def averaged(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of a run's checkpoint. CheckpointError if it has none."""
    return checkpoint.load(folder, STATE)["ema"]


def newest(out: Path, names: Sequence[str]) -> Path | None:
    """The first of these runs below `out` that has a checkpoint."""
    return next((out / name for name in names if checkpoint.exists(out / name, STATE)), None)


def rate(progress: float, step: int, warmup: int = 100, decay: float = 0.3) -> float:
    """Factor on the learning rate: linear warm-up, flat, linear fall over the last `decay` of the budget."""
    return min(1.0, (step + 1) / warmup) * max(0.02, min(1.0, (1 - progress) / decay))


def train(
    run: Run,
    loss: Callable[[Run, float], tuple[Tensor, dict[str, Tensor]]],
    budget: Budget,
    check: Callable[[Run], dict[str, float]] | None = None,
    log_every: int = 50,
    decay: float = 0.3,
) -> None:
    """Step until the budget is used or SIGTERM comes; saves every few minutes and at the end.

    `loss(run, progress)` returns the loss and what to log; `check(run)` is called at every save.
    """
    stop: list[int] = []
    old = signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    saved, logs = run.seconds, []
    last = time.monotonic()
    while not stop and (progress := budget.progress(run.seconds, run.step)) < 1:
        value, parts = loss(run, progress)
        run.optimizer.zero_grad()
        value.backward()
        norm = nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.optimizer.step(rate(progress, run.step, decay=decay))
        run.ema.update(run.model)
        run.step += 1
        logs.append({"loss": value.detach(), "norm": norm} | parts)
        run.seconds, last = run.seconds + time.monotonic() - last, time.monotonic()
        if run.step % log_every == 0:
            run.log(**averages(logs))
            logs.clear()
        if run.seconds - saved > 60 * budget.save_minutes:
            _save(run, check)
            saved, last = run.seconds, time.monotonic()
    _save(run, check)
    signal.signal(signal.SIGTERM, old)


def averages(logs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of every value over the steps that have it."""
    keys = {key: None for entry in logs for key in entry}
    return {key: torch.stack([entry[key] for entry in logs if key in entry]).mean() for key in keys}


def _save(run: Run, check: Callable[[Run], dict[str, float]] | None) -> None:
    run.save()
    if check is not None:
        run.log(**check(run))
