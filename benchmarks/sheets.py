"""Contact sheets of six 60-second takes by FIFO and by chunks, for looking at.

    python benchmarks/sheets.py [--out docs/sheets]     (make sheets)

A take that is there is not made again; an interrupted one is resumed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from longtake.apps import session
from longtake.apps.settings import Request
from longtake.output.directory import RunDir
from longtake.output.video import contact_sheet

PROMPTS = (
    "a dog walks right across green hills at noon",
    "a dolphin swims left in the sea at dusk",
    "a rocket flies in an arc over the desert at night",
)
METHODS = ("fifo", "chunk")


def take(prompt: str, method: str, folder: Path, seconds: float) -> Path:
    """The video of one take, made or finished if it is not there."""
    if folder.exists():
        settings, finished = session.reopen(RunDir(folder))
        work = session.build(settings)
        run = RunDir(folder)
    else:
        work, finished = session.start(Request(prompt, method=method, seconds=seconds, seed=7)), False
        run = session.begin(work, folder)
    if not finished:
        with session.running(work, run) as (_, progress):
            for _ in progress:
                pass
    return run.video


def main() -> None:
    """Make the takes and their sheets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/sheets"))
    parser.add_argument("--runs", type=Path, default=Path("runs/sheets"))
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for number, prompt in enumerate(PROMPTS):
        for method in METHODS:
            name = f"{method}-{number}"
            video = take(prompt, method, options.runs / name, options.seconds)
            contact_sheet(video, every_seconds=2.0, columns=10).save(options.out / f"{name}.webp", quality=80)
            print(options.out / f"{name}.webp", prompt, flush=True)


if __name__ == "__main__":
    main()
