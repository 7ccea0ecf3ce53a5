"""Engine overhead at Wan-1.3B shapes on an accelerator: random weights, the real classes, no hub.

    python benchmarks/gpu/overhead.py --out overhead.json [--small]      (--small: a size that a CPU can check)

Overhead: the denoising loop over the same batches' transformer calls alone, A/B/A, median of 5.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from longtake.apps.bench import overhead
from longtake.apps.tables import METHODS
from longtake.models.load import load
from longtake.models.tiny import tiny_wan

WAN_1_3B = dict(patch_size=(1, 2, 2), num_attention_heads=12, attention_head_dim=128, num_layers=30, ffn_dim=8960,
                freq_dim=256, cross_attn_norm=True)  # fmt: skip


def pipeline(small: bool, device: str) -> Any:
    """The tiny pipeline with a transformer of Wan2.1-1.3B's shape (or its own)."""
    pipe = tiny_wan(scheduler="unipc")
    if not small:
        own = pipe.transformer.config
        with torch.device(device):
            big = WanTransformer3DModel(in_channels=own.in_channels, out_channels=own.out_channels,
                                        text_dim=own.text_dim, **WAN_1_3B)  # fmt: skip
        pipe.transformer = big.to(torch.bfloat16).eval()
    return pipe


def main() -> None:
    """Measure every method and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, steps = ((256, 160), 36) if options.small else ((832, 480), 36)
    model = load(pipeline(options.small, device), size=size, num_steps=steps, device=device)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "overhead": {}}
    for name, row in METHODS.items():
        ratio, loop, calls = overhead(row, model, 2)
        found["overhead"][name] = {"ratio": ratio, "loop_seconds": loop, "call_seconds": calls}
        print(name, found["overhead"][name], flush=True)
        options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
