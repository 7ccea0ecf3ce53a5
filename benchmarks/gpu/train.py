"""Pocket trained on an accelerator, from nothing, in half an hour: the project's own training code at other sizes.

The tables of `longtake.training` are made for two cores. Here batches are larger, stores of clips too, and all of it is
drawn and kept on the device. Rates stay: larger batches would bear larger ones, but nobody has tried them here.
Every part goes on where it was cut off, as long as its work folder is there.
"""

from __future__ import annotations

import json
import multiprocessing
from functools import partial
from pathlib import Path
from typing import Any

import torch

VAE = {"stills": dict(batch=256, pool=8192), "clips": dict(batch=48, pool=4096)}
VAE_LONG = dict(batch=16, pool=1024)
POCKET = {"stills": (1, 1024), "short": (4, 512), "long": (12, 256)}  # latents, batch
CLIPS, STILLS = 24_000, 32_000
JUDGE = dict(GROUPS=96, CLIPS=64)
PROGRESSIVE = 128
CAPTIONS = 120


def sizes(place: Any) -> None:
    """Set the tables of the training code: for an accelerator, or tiny for a dry run."""
    from longtake.training import judge, pocket, shapes, vae
    from longtake.training.loop import Budget

    if place.dry:
        torch.compiler.set_stance("force_eager")
        shapes.VAE.update(base_dim=4, decoder_base_dim=4)
        shapes.TRANSFORMER.update(num_layers=1, num_attention_heads=2, attention_head_dim=16, ffn_dim=32)
        vae.STAGES["stills"].update(batch=4, pool=32)
        vae.STAGES["clips"].update(batch=2, pool=16)
        vae.LONG.update(batch=1, pool=2)
        vae.held_out = partial(_few, vae.clips)
        pocket.STAGES.update({"stills": (1, 8), "short": (4, 4), "long": (12, 2)})
        judge.Lessons = partial(judge.Lessons, small=True)
        judge.held_out = partial(judge.held_out, num=2)
        judge.Budget = lambda *_, **__: Budget(steps=2)
        return
    for stage, values in VAE.items():
        vae.STAGES[stage].update(values)
    vae.LONG.update(VAE_LONG)
    pocket.STAGES.update(POCKET)
    for name, value in JUDGE.items():
        setattr(judge, name, value)


def _few(clips: Any, num: int, num_frames: int) -> Any:
    return clips(range(2), min(num_frames, 9), "heldout", torch.Generator().manual_seed(7)).float() / 127.5 - 1


def _curve(place: Any, name: str) -> None:
    import packing

    path = place.work / name / "curve.jsonl"
    last: dict[str, Any] = {}
    for row in packing.read(path) if path.exists() else []:
        last |= row
    packing.row(place.work, name, place.device, {"end_of_curve": last})


def _vae(place: Any, stage: str) -> None:
    from longtake.training.vae import train_vae

    sizes(place)
    train_vae(place.training, stage, place.device, place.work)
    _curve(place, f"vae-{stage}")


def vae_stills(place: Any) -> None:
    """The autoencoder on stills."""
    _vae(place, "stills")


def vae_clips(place: Any) -> None:
    """The autoencoder on clips."""
    _vae(place, "clips")


def data(place: Any) -> None:
    """Clips and stills, rendered and encoded once. Minutes bound it: fewer clips on a slower machine."""
    from longtake.output import checkpoint
    from longtake.training import balance, cache, shapes
    from longtake.training.loop import STATE
    from longtake.training.pocket import load_vae

    sizes(place)
    if not checkpoint.exists(place.work / "vae-balanced", STATE):
        balance.make(place.work, 1 if place.dry else 16)
    vae, minutes = load_vae(place.work).to(place.device), place.minutes - 0.5
    few = 16 if place.dry else 0
    clips = cache.build(vae, place.work / "clips.safetensors", few or CLIPS, shapes.FRAMES, 0.65 * minutes)
    stills = cache.build(vae, place.work / "stills.safetensors", few or STILLS, 1, 0.35 * minutes)
    print(f"{len(clips['latents'])} clips, {len(stills['latents'])} stills")


def _pocket(place: Any, stage: str) -> None:
    from longtake.training.pocket import train_pocket

    sizes(place)
    # compiled blocks would be faster still; a compiler that is not there would cost the part
    train_pocket(place.training, stage, place.device, place.work, compiled=False)
    _curve(place, f"pocket-{stage}")


def pocket_stills(place: Any) -> None:
    """The transformer on stills."""
    _pocket(place, "stills")


def pocket_short(place: Any) -> None:
    """The transformer on 4 latents."""
    _pocket(place, "short")


def pocket_long(place: Any) -> None:
    """The transformer on its window."""
    _pocket(place, "long")


def export_pocket(place: Any) -> None:
    """The folder of pocket, with a preview decoder."""
    from longtake.training import export, preview

    sizes(place)
    export.export_trained(place.work / "pocket", place.work)
    torch.set_num_threads(4)
    preview.train_preview(0.01 if place.dry else 0.75, place.work, place.work / "pocket", 4 if place.dry else 240)


def _judge(place: Any, which: str) -> None:
    from longtake.training.judge import train_judge

    sizes(place)
    torch.set_num_threads(1)
    train_judge(place.training, which, place.device, place.work, place.work / "pocket-judge")


def judges(place: Any) -> None:
    """Both sets side by side: most of their time they wait for scenes."""
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=_judge, args=(place, which)) for which in ("measure", "reward")]
    for one in both:
        one.start()
    for one in both:
        one.join()
    if any(one.exitcode for one in both):
        raise SystemExit("a judge failed")
    for which in ("measure", "reward"):
        _curve(place, f"judge-{which}")


def progressive(place: Any) -> None:
    """The fine-tune to rising levels."""
    from longtake.training.progressive import train_progressive

    sizes(place)
    to = place.work / "pocket-progressive"
    train_progressive(place.training, str(place.work / "pocket"), None, to, place.device, place.work,
                      2 if place.dry else PROGRESSIVE)  # fmt: skip
    told = json.loads((to / "longtake.json").read_text())
    (to / "longtake.json").write_text(json.dumps(told | {"base": "pocket"}, indent=2) + "\n")
    _curve(place, "progressive-pocket")


def world(place: Any) -> None:
    """`eval --suite world` of what was trained, by the judge that ships and by the new one."""
    import packing

    import longtake
    from longtake.metrics import judge as judging
    from longtake.metrics.world import Size, evaluate

    model = longtake.load(str(place.work / "pocket"), device=place.device, dtype="float32")
    size = Size(1, 1, 2, 1) if place.dry else Size(captions=CAPTIONS)
    new: Path = place.work / "pocket-judge" / "measure"
    for name, judge in (("shipped", judging.load()), ("new", judging.load(new) if new.is_dir() else None)):
        if judge is not None:
            found = evaluate(model, judge, size)
            packing.row(place.work, "world", place.device, {"judge": name, "weights": model.weights_hash, **found})
