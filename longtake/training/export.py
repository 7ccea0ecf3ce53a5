"""Writes pocket as a stock diffusers folder that `WanPipeline.from_pretrained` loads: fp16 safetensors and JSON.

python -m longtake.training.export --to longtake/models/weights/pocket
python -m longtake.training.export --random --to .cache/longtake/pocket-random
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from safetensors.torch import load_file
from torch import Tensor

from longtake.training import cache, shapes, text
from longtake.training.loop import CACHE, newest
from longtake.training.pocket import Pocket, load_vae, new_pocket
from longtake.training.vae import load_ema, new_vae

PARTS = {
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": [None, None],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def settings() -> dict:
    """What `longtake.json` says: the settings that pocket was trained for."""
    return {
        "max_sequence_length": shapes.TEXT_LENGTH, "fps": shapes.FPS, "window": shapes.WINDOW, "steps": 24,
        "guidance": 3.0, "size": f"{shapes.SIZE}x{shapes.SIZE}", "vocabulary": "world",
    }  # fmt: skip


def write(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def export(model: Pocket, vae: AutoencoderKLWan, mean: Tensor, std: Tensor, folder: Path) -> None:
    """Write the folder; `mean` and `std` [z] normalise the latents. A preview decoder already there stays."""
    keep = folder / "longtake.json"
    extra = json.loads(keep.read_text()) if keep.exists() else {}
    vae.register_to_config(
        latents_mean=[round(v, 5) for v in mean.tolist()], latents_std=[round(v, 5) for v in std.tolist()]
    )
    vae.half().save_pretrained(folder / "vae")
    model.transformer.half().save_pretrained(folder / "transformer")
    model.text.half().save_pretrained(folder / "text_encoder")
    # stored in halves, computed in full precision by default, as the other parts
    config = json.loads((folder / "text_encoder/config.json").read_text())
    config.pop("torch_dtype", None)
    write(folder / "text_encoder/config.json", config | {"dtype": "float32"})
    text.save_tokenizer(text.new_tokenizer(), folder / "tokenizer")
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shapes.SHIFT
    )
    scheduler.save_pretrained(folder / "scheduler")
    index = {"_class_name": "WanPipeline", "_diffusers_version": "0.35.0", "boundary_ratio": None}
    write(folder / "model_index.json", index | {"expand_timesteps": True} | PARTS)
    write(folder / "longtake.json", {k: v for k, v in extra.items() if k not in settings()} | settings())


def trained(out: Path) -> Pocket:
    """The averaged weights of the latest stage."""
    model = new_pocket()
    latest = newest(out, [f"pocket-{stage}" for stage in ("long", "short", "stills")])
    if latest is None:
        raise FileNotFoundError(f"{out} has no trained pocket; begin with: longtake train pocket --stage stills")
    load_ema(latest, model)
    return model.eval()


def statistics(out: Path) -> tuple[Tensor, Tensor]:
    return cache.statistics(load_file(out / "clips.safetensors"))


def export_trained(folder: Path, out: Path = CACHE) -> None:
    """Write the latest averaged weights of every part."""
    export(trained(out), load_vae(out), *statistics(out), folder)


def export_random(folder: Path) -> None:
    """A folder with the right shapes and nothing learnt, for tests and integration."""
    model = new_pocket()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.02)
    export(model, new_vae(), torch.zeros(32), torch.ones(32), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=CACHE)
    parser.add_argument("--random", action="store_true")
    args = parser.parse_args()
    export_random(args.to) if args.random else export_trained(args.to, args.out)
    print(f"wrote {args.to}: {sum(f.stat().st_size for f in args.to.rglob('*') if f.is_file()) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
