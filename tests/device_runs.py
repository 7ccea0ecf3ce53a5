"""Runs on a pretended accelerator, in a process of their own: `python -m tests.device_runs` prints what went wrong.

Every case is the same thing twice, on the host and on the other side, and both must be the same numbers: the pretended
device computes as the host does, so any difference is a mistake of ours.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.noise import normal
from longtake.core.rollout import Timeline
from longtake.core.rows import Queue, clean_row, noise_row
from longtake.core.stream import stream
from longtake.models.consisti2v_noise import Beginning
from longtake.search.beam import beam
from longtake.search.proposals import Mixture
from tests import cases, search_cases
from tests.pretend import NAME, pretended


class FarOracle:
    """The analytic denoiser on the other side. It takes nothing of the host's."""

    def __init__(self, near: Any) -> None:
        self.near, self.device = near, torch.device(NAME, 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.near, name)

    def __call__(self, x: Tensor, levels: Tensor, cond: Any) -> Tensor:
        assert x.device == self.device, f"the network was given a tensor on {x.device}"
        return self.near(x.cpu(), levels, cond).to(self.device)


def made(rollout: Any, until: int, far: bool) -> list[Tensor]:
    """Latents up to `until`, the calls that nothing reads left out, as runs of a known length leave them out."""
    denoiser = cases.oracle(rollout)
    engine = Engine(FarOracle(denoiser) if far else denoiser, batch=4)
    state = engine.drive(rollout.init(7, Timeline.of("a")))
    latents = [x for _, emission in stream(rollout, engine, state, until) for x in emission.latents]
    assert all((x.device.type == NAME) == far for x in latents)
    return latents


def check_rollout(rollout: Any, until: int) -> None:
    """The latents of both sides are equal."""
    near, far = made(rollout, until, False), made(rollout, until, True)
    assert near and len(near) == len(far)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(near, far, strict=True))


def check_beginning() -> None:
    """A clip behind a picture that is there, of noise that is still here."""
    shape, path = (2, 6, 6), 5
    picture = normal(shape, 1, "picture")
    made = []
    for there in (picture, picture.to(NAME)):
        queue = Queue((clean_row(there, -1, path), *(noise_row(shape, 8, index, path) for index in range(3))))
        made.append([row.x.cpu() for row in Beginning(signal=0.1)(queue, range(3)).rows])
    assert all(torch.equal(near, far) for near, far in zip(*made, strict=True))


def every_case() -> dict[str, Callable[[], None]]:
    """Checks by name."""
    found: dict[str, Callable[[], None]] = {}
    for solver in (cases.SOLVERS[0], cases.SOLVERS[5], cases.SOLVERS[6]):
        some = cases.rollouts(solver)
        if solver is not cases.SOLVERS[0]:
            some = {name: some[name] for name in ("chunk matched", "fifo", "miga all", "windows")}
        for name, rollout in some.items():
            until = cases.FIXED.get(name, 10)
            found[f"{name}, {solver.name}"] = lambda rollout=rollout, until=until: check_rollout(rollout, until)
    for name, search in search_cases.every_search().items():
        found[f"search {name}"] = lambda search=search: check_rollout(search, 8)
    found["a picture in front"] = check_beginning
    # past noise lies on either side: proposals made some of it there, and the rest was drawn on the host
    mixture = Mixture(search_cases.EVERY, dims=3, inversion_steps=2)
    volume = beam(cases.rollouts()["fifo"], cases.Smooth(), 2, 5, proposals=mixture)
    found["filters over time"] = lambda: check_rollout(volume, 24)
    return found


def main() -> None:
    """Run all and print {case: error, "" if none}."""
    torch.set_num_threads(1)
    told = {}
    with pretended():
        for name, check in every_case().items():
            try:
                check()
                told[name] = ""
            except Exception as problem:
                frames = [f for f in traceback.extract_tb(problem.__traceback__) if "longtake" in f.filename]
                where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "here"
                told[name] = f"{type(problem).__name__}: {str(problem)[:300]} ({where})"
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
