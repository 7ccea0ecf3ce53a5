"""The command `bench`: what the engine costs on top of the network (CONTRACT 3).

Overhead = wall time of the denoising loop over that of the same batches' transformer calls alone: loop, calls, loop,
median of five such triples. Decoding and writing are not part of either side.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from longtake.apps.tables import METHODS, Materials, Method
from longtake.core.engine import Engine
from longtake.core.plan import level_gaps
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream

ROUNDS = 5
PROMPT = "a dog walks right across green hills at noon"
BATCH = 4
TICKS = {"quick": 2, "full": 12}
TINY_SIZE, TINY_WINDOW = (192, 128), 12


QUICK = ("plain", "chunk", "fifo", "miga")
"""Methods that the quick profile measures."""


def run_bench(full: bool, as_json: bool) -> None:
    """Measure every method and print the overheads."""
    torch.manual_seed(0)
    ticks = TICKS["full" if full else "quick"]
    found: dict[str, Any] = {
        "model": "",
        "device": "",
        "batch": BATCH,
        "rounds": ROUNDS,
        "ticks": ticks,
        "overhead": {},
    }
    seconds: dict[str, Any] = {}
    for name, row in METHODS.items():
        if not full and name not in QUICK:
            continue
        model = _model(row)
        found["model"], found["device"] = model.name if model.source else "tiny", str(model.denoiser.device)
        ratio, loop, calls = overhead(row, model, ticks)
        found["overhead"][name] = round(ratio, 4)
        seconds[name] = {"loop": round(loop, 4), "calls": round(calls, 4)}
        print(f"{name}: {ratio:.3f} ({loop:.3f} s / {calls:.3f} s)", file=sys.stderr, flush=True)
    found["seconds"] = seconds
    text = "\n".join(f"{name:<8} {value:.3f}" for name, value in found["overhead"].items())
    print(json.dumps(found) if as_json else text, flush=True)


def overhead(row: Method, model: Any, ticks: int) -> tuple[float, float, float]:
    """(ratio, seconds of the loop, seconds of its transformer calls alone) of `ticks` ticks in the steady state."""
    can = model.denoiser.can
    schedule, window = model.denoiser.schedule, _window(model)
    materials = Materials(can.latent_shape, schedule, Solver(model.solver), window, num_latents=2 * window)
    rollout = row.make(materials, {})
    engine = Engine(model.denoiser, BATCH)
    state = engine.drive(rollout.init(0, Timeline.of(PROMPT)))
    if level_gaps(rollout)[1]:  # a queue is measured when it is full
        state = _after(stream(rollout, engine, state, 1))
    with recorded() as calls:
        _walk(rollout, engine, state, ticks)
    ratios, loops, alone = [], [], []
    for _ in range(ROUNDS):
        before = _timed(lambda: _walk(rollout, engine, state, ticks))
        bare = _timed(lambda: _replay(calls))
        after = _timed(lambda: _walk(rollout, engine, state, ticks))
        loops.append((before + after) / 2)
        alone.append(bare)
        ratios.append(loops[-1] / bare)
    return statistics.median(ratios), statistics.median(loops), statistics.median(alone)


def _window(model: Any) -> int:
    # the tiny pipeline has no window of its own
    return TINY_WINDOW if model.source is None else model.window


@contextmanager
def recorded() -> Iterator[list[tuple[Any, ...]]]:
    """While open, the arguments of every transformer call are kept."""
    from longtake.models import wan

    calls: list[tuple[Any, ...]] = []
    forward = wan.forward_rows

    def keep(*arguments: Any) -> Any:
        calls.append(arguments)
        return forward(*arguments)

    wan.forward_rows = keep
    try:
        yield calls
    finally:
        wan.forward_rows = forward


def _replay(calls: list[tuple[Any, ...]]) -> None:
    from longtake.models.wan import forward_rows

    with torch.inference_mode():
        for arguments in calls:
            forward_rows(*arguments)


def _walk(rollout: Any, engine: Engine, state: Any, ticks: int) -> None:
    for _, _ in zip(range(ticks), stream(rollout, engine, state), strict=False):
        pass


def _after(ticks: Iterator[tuple[Any, Any]]) -> Any:
    state = None
    for state, _ in ticks:  # noqa: B007
        pass
    return state


def _timed(work: Callable[[], None]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _model(row: Method) -> Any:
    # pocket if it is installed, else the tiny random pipeline at its larger size
    from longtake.models.load import NAMES, load

    if NAMES["pocket"].is_dir():
        from longtake.apps.lookup import look_up
        from longtake.apps.settings import Request

        facts = look_up(Request(PROMPT))
        model = load("pocket", None, row.steps(facts.window, facts.steps, None, {}))
    else:
        from longtake.models.tiny import tiny_wan

        model = load(tiny_wan(), TINY_SIZE, row.steps(TINY_WINDOW, 24, None, {}), solver="euler")
    model.prepare([PROMPT])
    return model
