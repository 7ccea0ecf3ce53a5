"""Runs the parts of benchmarks/gpu one after another: see all.sh.

Every part is a process of its own, so that one that hangs or fails takes nothing with it: a fork of this one, for which
heavy imports happen once, or a fresh one where a fork may not use the accelerator (which is tried).

A part that ends well leaves a marker in the work folder. After each, OUT is written anew, at most 8 files of 15 MiB:

    results.jsonl      a row a measurement, with part, device, commit and date
    log.txt            what the parts printed, the newest last
    report.tar.gz      curves, rows of searches, whatever else is small
    weights.tar.00 ... the models that were trained, as folders that load (halves; no optimiser, no caches)
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # world_rows and what searches are measured with

import packing

NEEDED = ("torch", "diffusers", "transformers", "safetensors", "tokenizers", "accelerate", "ftfy", "av", "PIL", "cv2",
          "typer", "rich", "jaxtyping", "filelock")  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A function of a module, called with a `Place`; `minutes` is what it may take, `after` what must be done."""

    name: str
    module: str
    function: str
    minutes: float
    after: str = ""


PARTS = (
    Part("overhead", "overhead", "part", 1.5),
    Part("wan", "wan", "part", 4),
    Part("wan-compiled", "wan", "part_compiled", 2.5),
    Part("vae-stills", "train", "vae_stills", 2),
    Part("vae-clips", "train", "vae_clips", 3.5, "vae-stills"),
    Part("data", "train", "data", 2.5, "vae-clips"),
    Part("pocket-stills", "train", "pocket_stills", 1.5, "data"),
    Part("pocket-short", "train", "pocket_short", 1.5, "pocket-stills"),
    Part("pocket-long", "train", "pocket_long", 4.5, "pocket-short"),
    Part("export", "train", "export_pocket", 1, "pocket-long"),
    Part("judges", "train", "judges", 3),
    Part("progressive", "train", "progressive", 2.5, "export"),
    Part("world", "train", "world", 2.5, "export"),
    Part("search-main", "searching", "main_arms", 9),
    Part("search-more", "searching", "more_arms", 9),
)


MOST = 9.0
"""Minutes of a part, whatever --scale says."""


@dataclass(frozen=True)
class Place:
    """Where a part works: device, the folder that stays here, the one that goes home, and how large and long.

    dry      tiny sizes
    minutes  the part's own limit, loading included
    """

    device: str
    work: Path
    out: Path
    dry: bool
    minutes: float = 9.0

    @property
    def training(self) -> float:
        """Minutes of the part that go into training: what is left when loading and writing are done."""
        return 0.01 if self.dry else self.minutes - 0.7


def missing() -> list[str]:
    """Packages that are not here."""
    import importlib.util

    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def prepare(device: str) -> None:
    """Import what parts need, before the first fork and without touching the accelerator."""
    import diffusers
    import torch
    import transformers

    import longtake

    assert longtake and transformers
    if device == "cuda":
        print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, {os.cpu_count()} cores", flush=True)


def pick_device(dry: bool, work: Path) -> str:
    """ "cuda" where there is one, whose name is noted; asked in a process of its own: no fork may follow its use."""
    if dry:
        return "cpu"
    told = work / "device"
    told.unlink(missing_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=_name_device, args=(told,))
    process.start()
    process.join()
    return "cuda" if told.exists() else "cpu"


def _name_device(told: Path) -> None:
    import torch

    if torch.cuda.is_available():
        told.write_text(torch.cuda.get_device_name())


def pick_start(device: str) -> str:
    """How parts begin: "fork", or "spawn" if a fork of this process cannot use the accelerator."""
    if device == "cpu":
        return "fork"
    process = multiprocessing.get_context("fork").Process(target=_touch)
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
    return "fork" if process.exitcode == 0 else "spawn"


def _touch() -> None:
    import torch

    os._exit(0 if float(torch.ones(2, device="cuda").sum()) == 2 else 1)


def _child(part: Part, place: Place, log: Path) -> None:
    os.setpgrp()  # its own children end with it
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    failed = 0
    try:
        module = __import__(part.module)
        getattr(module, part.function)(place)
    except BaseException:
        traceback.print_exc()
        failed = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(failed)


def run(part: Part, place: Place, how: str) -> str:
    """Do a part: "done", "failed" or "cut off"."""
    log = place.work / "logs" / f"{part.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    process: Any = multiprocessing.get_context(how).Process(target=_child, args=(part, place, log))
    process.start()
    process.join(60 * place.minutes)
    if process.is_alive():
        for sign, wait in ((15, 20), (9, 20)):  # trainings save at the first
            try:
                os.killpg(process.pid or 0, sign)
            except ProcessLookupError:
                break
            process.join(wait)
            if not process.is_alive():
                break
        return "cut off"
    return "done" if process.exitcode == 0 else "failed"


def chosen(names: list[str] | None) -> list[Part]:
    """The parts of these names, or whose names begin with one; all without."""
    found = [part for part in PARTS if not names or any(part.name.startswith(name) for name in names)]
    if not found:
        raise SystemExit(f"--parts {' '.join(names or [])}: the parts are {', '.join(part.name for part in PARTS)}")
    return found


def main() -> int:
    """Run what is not done yet; 0 if all that was tried succeeded."""
    options = arguments()
    if options.ready:
        print("\n".join(missing()) or "every package is here")
        return bool(missing())
    if missing():
        raise SystemExit(f"these packages are missing: {' '.join(missing())}; give their wheels in WHEELS")
    began, work = time.monotonic(), options.work
    options.out.mkdir(parents=True, exist_ok=True)
    (work / "done").mkdir(parents=True, exist_ok=True)
    device = pick_device(options.dry, work)
    prepare(device)
    how = options.start or pick_start(device)
    if options.source:
        packing.unpack(options.source, work)
    told: dict[str, str] = {}
    for part in chosen(options.parts):
        part = replace(part, minutes=min(MOST, part.minutes * options.scale))
        marker = work / "done" / part.name
        left = options.minutes - (time.monotonic() - began) / 60
        if marker.exists():
            told[part.name] = "done before"
        elif left < (0 if options.dry else part.minutes) + 0.3:
            told[part.name] = "not begun: no time"
        elif part.after and not (work / "done" / part.after).exists():
            told[part.name] = f"not begun: it needs {part.after}"
        else:
            print(f"== {part.name} ({part.minutes:g} min at most)", flush=True)
            start = time.monotonic()
            told[part.name] = run(part, Place(device, work, options.out, options.dry, part.minutes), how)
            seconds = time.monotonic() - start
            packing.row(work, part.name, device, {"part_result": told[part.name], "part_seconds": seconds})
            if told[part.name] == "done":
                marker.write_text(f"{seconds:.1f}\n")
            print(f"   {told[part.name]} in {seconds:.0f} s\n{packing.tail(work, part.name)}", flush=True)
            packing.pack(work, options.out)
    packing.pack(work, options.out)
    print("\n".join(f"{name:<14} {result}" for name, result in told.items()))
    return any(result in ("failed", "cut off") for result in told.values())


def arguments() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=1e9, help="of this call")
    parser.add_argument("--parts", nargs="+", help="whole names or how they begin")
    parser.add_argument("--scale", type=float, default=1.0, help="times the minutes of every part")
    parser.add_argument("--from", dest="source", type=Path, help="an OUT of before")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "longtake-gpu")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on a CPU")
    parser.add_argument("--start", choices=("fork", "spawn"), help="how parts begin; tried unless given")
    parser.add_argument("--ready", action="store_true", help="only name the packages that are missing")
    options = parser.parse_args()
    if options.out is None and not options.ready:
        parser.error("give the folder OUT")
    return options


if __name__ == "__main__":
    sys.exit(main())
