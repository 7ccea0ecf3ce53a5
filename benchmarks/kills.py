"""Kill runs at the worst moments and look whether anything was lost.

    python benchmarks/kills.py [--kills 50] [--out benchmarks/results/kills.jsonl]

A process makes a small run and is killed, kill -9, at the nth time that it does one of `MOMENTS`: in the middle of
writing tensors, a film's fragment, a trace line, before or after a sync, before or after a rename, or at a random time.
Then the film has to play, and another process has to go on to the same frames, the same trace and the same bytes of
film as a run that nobody killed. Over all rollouts and searches that the laws know (tests/cases.py, search_cases.py).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FIXED = {"best-of video": 12, "best-of video fifo": 5}
"""Latents of the cases of a length of their own that tests/cases.py does not know."""
MOMENTS = ("tensors", "fragment", "sync", "renamed", "rename", "trace", "time")


def killed_run(folder: Path, case: str, frames: int, what: str, nth: int) -> int:
    """Run a case in a process that dies at the nth `what`; its exit code (-9: killed, 0: it was done before)."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--die", str(folder), case, str(frames), what,
               str(nth)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    if what == "time":
        while not (folder / "trace.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(nth / 100)
        process.kill()
    return process.wait()


def arm(what: str, nth: int) -> None:
    """Let this process kill itself at the nth time that it does `what`."""
    count = 0

    def due() -> bool:
        nonlocal count
        count += 1
        return count == nth

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    from longtake.output import checkpoint, trace
    from longtake.output.video import VideoWriter

    save_file, sync, rename = checkpoint.save_file, os.fsync, os.replace
    write, add = VideoWriter._write, trace.Trace.add

    def half_tensors(tensors: Any, path: Path) -> None:
        save_file(tensors, path)
        if due():
            os.truncate(path, path.stat().st_size // 2)
            die()

    def half_fragment(self: VideoWriter, fragment: bytes, place: int) -> None:
        if due():
            with open(self.path, "r+b") as file:
                file.truncate(place)
                file.seek(place)
                file.write((fragment[:4] + b"free" + fragment[8:])[: len(fragment) * 2 // 3])
            die()
        write(self, fragment, place)

    def half_line(self: Any, line: dict[str, Any]) -> bool:
        if due():
            with open(self.path, "ab") as file:
                file.write(json.dumps(line).encode()[:50])
            die()
        return add(self, line)

    def before(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if due():
                die()
            return function(*arguments)

        return call

    def after(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            if due():
                die()
            return result

        return call

    places: dict[str, Any] = {
        "tensors": lambda: setattr(checkpoint, "save_file", half_tensors),
        "fragment": lambda: setattr(VideoWriter, "_write", half_fragment),
        "trace": lambda: setattr(trace.Trace, "add", half_line),
        "sync": lambda: setattr(os, "fsync", before(sync)),
        "rename": lambda: setattr(os, "replace", before(rename)),
        "renamed": lambda: setattr(os, "replace", after(rename)),
        "time": lambda: None,
    }
    places[what]()


def every_case() -> dict[str, Any]:
    """All rollouts and searches by name."""
    from longtake.rewards.latent import LatentCosine
    from longtake.search.freeinit import FreeInit
    from longtake.search.reflect import fitted
    from tests import cases, search_cases

    methods = cases.rollouts()
    reflect = fitted(methods["fifo"], LatentCosine(), threshold=-9.0, max_corrections=2, tries=2)  # at every look
    own = {"freeinit": FreeInit(methods["chunk"], 3), "reflect": reflect}
    return {**methods, **cases.searches(), **search_cases.every_search(), **own}


def job_of(case: str, frames: int) -> Any:
    """A case of the laws as a job of this many frames, or the toy run of the tests."""
    from dataclasses import replace

    import torch

    from longtake.core.engine import Engine
    from longtake.core.rollout import Timeline
    from longtake.output.job import Job
    from tests import cases, toy_run

    if case == "toy":
        return toy_run.toy_job(frames)

    class Coloured(toy_run.ToyCodec):
        """For latents of two channels: the first is also the third."""

        def decode(self, z: Any, cache: Any = None) -> Any:
            return super().decode(torch.cat([z, z[:, :1]], 1), cache)

    found = every_case()[case]
    engine = Engine(cases.oracle(found), batch=4)
    form = replace(toy_run.FORM, width=8 * cases.SHAPE[2], height=8 * cases.SHAPE[1])
    latents = engine.denoiser.can.num_latents(frames)
    return Job(found, engine, Coloured(), Timeline.of("a"), 7, form, frames, latents)


def play(folder: Path, case: str, frames: int) -> None:
    """Make the run, or go on with it."""
    from longtake.output import run
    from tests import toy_run

    run.SAVE_SHARE = float("inf")  # a checkpoint after every tick
    toy_run.make(folder, job_of(case, frames), save_seconds=0.0)


def same(folder: Path, whole: Path) -> bool:
    """Whether a run ended as the one that nobody killed."""
    from longtake.output.trace import read_trace

    sides = [[(line["latents"], line["frames"], line["sha256"]) for line in read_trace(at / "trace.jsonl")]
             for at in (folder, whole)]  # fmt: skip
    return sides[0] == sides[1] and (folder / "video.mp4").read_bytes() == (whole / "video.mp4").read_bytes()


def one(root: Path, case: str, dice: random.Random, what: str) -> dict[str, Any]:
    """Kill a run up to three times and let it finish; what came of it."""
    from longtake.errors import UsageError
    from longtake.output.video import read_frames
    from tests.cases import wanted

    frames = 1 + 4 * (FIXED.get(case, wanted(case)) - 1)
    whole, folder = root / f"whole {case}", root / f"{case} {what} {dice.random()}"
    if not (whole / "FINISHED").exists():
        play(whole, case, frames)
    kills, died, plays, latest = dice.randint(1, 3), 0, True, 30
    while died < kills and latest:
        nth = dice.randint(1, latest)
        if killed_run(folder, case, frames, what, nth) != -signal.SIGKILL:
            if died:
                break  # it came to its end
            shutil.rmtree(folder)  # it does this more seldom: again from the beginning, to be killed earlier
            latest = nth // 2
            continue
        died += 1
        if (folder / "video.mp4").exists():
            try:
                plays &= sum(1 for _ in read_frames(folder / "video.mp4")) >= 0
            except UsageError:
                plays = False
    play(folder, case, frames)
    return {"case": case, "moment": what, "died": died, "plays": plays, "same": same(folder, whole)}


def main() -> None:
    """All the kills; one row each, and the sum printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="+", help="only these")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "kills.jsonl")
    options = parser.parse_args()
    names, dice = options.cases or [*every_case()], random.Random(options.seed)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    rows, died, number = [], 0, 0
    with tempfile.TemporaryDirectory() as root:
        while died < options.kills:
            row = one(Path(root), names[number % len(names)], dice, MOMENTS[number % len(MOMENTS)])
            number, died = number + 1, died + row["died"]
            rows.append(row)
            print(json.dumps(row), flush=True)
    summary = {
        "date": datetime.date.today().isoformat(), "commit": commit.stdout.strip(), "seed": options.seed, "kills": died,
        "runs": len(rows), "cases": len({row["case"] for row in rows if row["died"]}),
        "moments": sorted({row["moment"] for row in rows}),
        "all_play": all(row["plays"] for row in rows), "all_same": all(row["same"] for row in rows),
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        file.write(json.dumps(summary) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--die"]:
        _, _, where, name, length, moment, times = sys.argv
        arm(moment, int(times))
        play(Path(where), name, int(length))
    else:
        sys.path.insert(0, str(ROOT))
        main()
