"""Wan2.1-1.3B at 480 x 832 with random weights: seconds a latent, peak memory and overhead of plain, FIFO and MIGA.

    python benchmarks/gpu/wan.py --out wan.json [--small] [--compile] [--minutes 6]

Bfloat16 weights, float32 latents, guided (two evaluations a window), windows of 21 latents, 63 steps. A queue begins
full (FIFO from replicated latents, MIGA from a clip), so that one tick tells its pace. Overhead is the tick over the
same batches' transformer calls alone, A/B/A, median of up to 5 as time allows; seconds a latent are those of a window
call inside the tick times the method's window calls a latent in the long run (`longtake methods` at this window).
Peak memory is that of the tick, weights included; `weights_gib` is what was there before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from longtake.apps import bench
from longtake.core.engine import Engine
from longtake.core.forecast import forecast
from longtake.core.noise import normal, root
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.models.load import load
from longtake.models.tiny import tiny_wan
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.miga import Miga
from longtake.rollouts.plain import Plain

WAN_1_3B = dict(patch_size=(1, 2, 2), num_attention_heads=12, attention_head_dim=128, num_layers=30, ffn_dim=8960,
                freq_dim=256, cross_attn_norm=True)  # fmt: skip
PROMPT = "a dog"
STEPS = 63  # three windows of 21 latents, for FIFO
ORDER = (("plain", 1), ("fifo", 1), ("fifo", 4), ("miga", 1), ("miga", 4))
ROUNDS = 5
ROUND_SECONDS = 40  # for the rounds of one row


def pipeline(small: bool, device: str) -> Any:
    """The tiny pipeline with a transformer of Wan2.1-1.3B's shape (or its own)."""
    pipe = tiny_wan(scheduler="unipc")
    if not small:
        own = pipe.transformer.config
        with torch.device(device):
            big = WanTransformer3DModel(in_channels=own.in_channels, out_channels=own.out_channels,
                                        text_dim=own.text_dim, **WAN_1_3B)  # fmt: skip
        pipe.transformer = big.to(torch.bfloat16).eval().requires_grad_(False)
    return pipe


def methods(model: Any) -> dict[str, Any]:
    """At the model's window, with steps that fit each."""
    can, schedule, solver = model.denoiser.can, model.denoiser.schedule, Solver(model.solver)
    basics = can.latent_shape, schedule, solver, can.window
    return {
        "plain": Plain(*basics),
        "fifo": Fifo(*basics, start="replicate"),
        "miga": Miga(*basics, zigzag=7, handover=9),
    }


def gib(of: str) -> float:
    """Memory of the accelerator: `max_memory_allocated` and the like."""
    return getattr(torch.cuda, of)() / 2**30 if torch.cuda.is_available() else 0.0


def measure(model: Any, rollout: Any, batch: int) -> dict[str, float]:
    """A row's numbers, from one full state."""
    can, engine = model.denoiser.can, Engine(model.denoiser, batch)
    plain = isinstance(rollout, Plain)
    weights, device = gib("memory_allocated"), model.denoiser.device
    clip = [] if plain else [normal(can.latent_shape, root(1), "clip", i).to(device) for i in range(can.window)]
    state = engine.drive(rollout.init(0, Timeline.of(PROMPT), clip))
    state, _ = engine.drive(rollout.step(state))  # the first of its shapes is slow, and compiling slower

    def tick() -> None:
        engine.drive(rollout.step(state))

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    before = engine.meter.nfe
    with bench.recorded() as calls:
        first = bench._timed(tick)
    windows = (engine.meter.nfe - before) / model.denoiser.cost
    peak = gib("max_memory_allocated")
    rounds = max(1, min(ROUNDS, int(ROUND_SECONDS / 3 / first))) if torch.cuda.is_available() else 1
    triples = [(bench._timed(tick), bench._timed(lambda: bench._replay(calls)), bench._timed(tick))
               for _ in range(rounds)]  # fmt: skip
    loop = statistics.median((a + c) / 2 for a, _, c in triples)
    if plain:
        per_latent = rollout.schedule.num_steps / can.window
    else:
        base, cycle = 2 * rollout.in_flight, max(getattr(rollout, "cycle", 1), 1)
        per_latent = (forecast(rollout, base + 2 * cycle).nfe - forecast(rollout, base).nfe) / (2 * cycle)
    return {"windows_a_tick": windows, "forwards_a_tick": len(calls), "seconds_a_window": loop / windows,
            "seconds_a_latent": loop / windows * per_latent, "window_calls_a_latent": per_latent, "rounds": rounds,
            "overhead": statistics.median((a + c) / 2 / b for a, b, c in triples), "peak_gib": peak,
            "weights_gib": weights}  # fmt: skip


def rows(small: bool, compiled: bool, minutes: float) -> Any:
    """Rows one by one, in the order of their worth, while there is time for one like the last."""
    began, device = time.monotonic(), "cuda" if torch.cuda.is_available() else "cpu"
    model = load(pipeline(small, device), size=(32, 32) if small else (832, 480), num_steps=STEPS)
    transformer: Any = getattr(model.denoiser, "transformer", None)
    if compiled:
        transformer.compile_repeated_blocks()
    model.prepare([PROMPT])
    every, taken = methods(model), 0.0
    for name, batch in ORDER[:2] if small else ORDER[:3] if compiled else ORDER:
        start = time.monotonic()
        if start - began + 1.5 * taken > 60 * minutes:
            print(f"no time left for {name} with batch {batch}", flush=True)
            return
        found = measure(model, every[name], batch)
        taken = max(taken, time.monotonic() - start)
        yield {"method": name, "batch": batch, "compiled": compiled, "size": model.size, "window": model.window,
               "steps": STEPS, "dtype": str(transformer.dtype), **found}  # fmt: skip


def part(place: Any, compiled: bool = False) -> None:
    """For everything.py."""
    import packing

    for row in rows(place.dry, compiled, place.minutes - 0.7):
        packing.row(place.work, "wan", place.device, row)
        print(row, flush=True)


def part_compiled(place: Any) -> None:
    """The same with the transformer's blocks compiled; not in a dry run, where that takes longer than all else."""
    if not place.dry:
        part(place, compiled=True)


def main() -> None:
    """Measure and write one JSON object as it grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="a size that a CPU can check")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0)
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found: dict[str, Any] = {"device": device, "rows": []}
    for row in rows(options.small, options.compile, options.minutes):
        found["rows"].append(row)
        print(row, flush=True)
        options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
