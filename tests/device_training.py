"""The trainings of benchmarks/gpu, tiny, on a pretended accelerator: `python -m tests.device_training FOLDER`."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks/gpu")]

import everything  # noqa: E402
import searching  # noqa: E402
import train  # noqa: E402

from longtake.world.grammar import scene  # noqa: E402
from longtake.world.renderer import render  # noqa: E402
from tests.pretend import pretended  # noqa: E402


def drawn_alike(device: str) -> None:
    """Pictures rendered there are those rendered here: the same operations, in larger pieces."""
    scenes = [scene(number, "train") for number in range(3)]
    near, far = render(scenes, 4, start=[0, 9, 30]), render(scenes, 4, start=[0, 9, 30], device=device)
    assert far.pixels.device.type == device and torch.equal(near.pixels, far.pixels.cpu())
    assert torch.equal(near.mask, far.mask.cpu())


def main() -> None:
    """Run all and print {what: error, "" if none}."""
    torch.set_num_threads(1)
    told, work, out = {}, Path(sys.argv[1]) / "work", Path(sys.argv[1]) / "out"
    work.mkdir()
    with pretended() as name:
        place = everything.Place(name, work, out, dry=True)
        steps = {
            "render": lambda: drawn_alike(name),
            **{step: lambda step=step: getattr(train, step)(place)
               for step in ("vae_stills", "vae_clips", "data", "pocket_stills", "pocket_short", "pocket_long",
                            "export_pocket", "progressive")},
            "judge": lambda: train._judge(place, "measure"),
            "search": lambda: searching.work(str(work / "pocket"), name, ["fifo"], [0], work / "r.jsonl", 1e12, True),
        }  # fmt: skip
        for step, run in steps.items():
            try:
                run()
                told[step] = ""
            except Exception:
                told[step] = traceback.format_exc()[-1500:]
    json.dump(told, (Path(sys.argv[1]) / "told.json").open("w"))


if __name__ == "__main__":
    main()
