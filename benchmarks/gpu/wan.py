"""Wan2.1-1.3B at 480 x 832 with random weights: seconds a latent and peak memory of plain, FIFO and MIGA.

    python benchmarks/gpu/wan.py --out wan.json [--small] [--compile] [--batches 1 2 4]

Bfloat16 weights, float32 latents, guided (two evaluations a window). A queue begins full (FIFO from replicated latents,
MIGA from a clip), so that two ticks tell its pace; seconds a latent are those of a window call, as measured inside the
method's own loop, times the method's window calls a latent in the long run (`longtake methods` at this window).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from overhead import pipeline

from longtake.core.engine import Engine
from longtake.core.forecast import forecast
from longtake.core.noise import normal, root
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.models.load import load
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.miga import Miga
from longtake.rollouts.plain import Plain

PROMPT = "a dog"
STEPS = 63  # three windows of 21 latents, for FIFO


def methods(model: Any) -> dict[str, Any]:
    """At the model's window, with steps that fit each."""
    can, schedule, solver = model.denoiser.can, model.denoiser.schedule, Solver(model.solver)
    basics = can.latent_shape, schedule, solver, can.window
    return {
        "plain": Plain(*basics),
        "fifo": Fifo(*basics, start="replicate"),
        "miga": Miga(*basics, zigzag=7, handover=9),
    }


def measure(model: Any, rollout: Any, batch: int, ticks: int) -> dict[str, float]:
    """Seconds of a window call inside the loop, and of a latent in the long run; peak memory in GiB."""
    device, can = model.denoiser.device, model.denoiser.can
    engine = Engine(model.denoiser, batch)
    plain = isinstance(rollout, Plain)
    clip = [] if plain else [normal(can.latent_shape, root(1), "clip", i).to(device) for i in range(can.window)]
    state = engine.drive(rollout.init(0, Timeline.of(PROMPT), clip))
    state, _ = engine.drive(rollout.step(state))  # warm-up
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before, began = engine.meter.nfe, _now(device)
    for _ in range(ticks):
        state, _ = engine.drive(rollout.step(state))
    seconds, calls = _now(device) - began, (engine.meter.nfe - before) / model.denoiser.cost
    if plain:
        per_latent = rollout.schedule.num_steps / can.window
    else:
        base, cycle = 2 * rollout.in_flight, max(getattr(rollout, "cycle", 1), 1)
        per_latent = (forecast(rollout, base + 2 * cycle).nfe - forecast(rollout, base).nfe) / (2 * cycle)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return {"seconds_a_window": seconds / calls, "seconds_a_latent": seconds / calls * per_latent, "peak_gib": peak}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Measure every method at every batch and write one JSON object as it grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="a size that a CPU can check")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = (64, 64) if options.small else (832, 480)
    model = load(pipeline(options.small, device), size=size, num_steps=STEPS)
    window = model.window
    if options.compile:
        model.denoiser.transformer.compile_repeated_blocks()
    model.prepare([PROMPT])
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "size": size,
                             "window": window, "compile": options.compile, "steps": STEPS, "rows": []}  # fmt: skip
    for name, rollout in methods(model).items():
        for batch in options.batches:
            row = {"method": name, "batch": batch, **measure(model, rollout, batch, 2)}
            found["rows"].append(row)
            print(row, flush=True)
            options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
