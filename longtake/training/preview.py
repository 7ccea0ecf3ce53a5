"""The preview decoder: one 64x64 picture a latent frame, from that latent alone, for live previews and cheap rewards.

    python -m longtake.training.preview --minutes 2

It learns what the real decoder draws last for each latent. Reads normalised latents, as the transformer does. A run is
of one autoencoder, in a folder of that: with another it begins anew, however long the last one was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.models.folder import module_hash
from longtake.models.preview import FILE, Preview
from longtake.training import cache, fold
from longtake.training.export import write
from longtake.training.loop import CACHE, Budget, Ema, Run, train
from longtake.training.optim import Optimizer
from longtake.training.pocket import load_vae

FOLDER = Path("longtake/models/weights/pocket")


@torch.no_grad()
def pairs(out: Path, num: int) -> tuple[Tensor, Tensor]:
    """Normalised latents [N,z,8,8] and the last picture that the VAE decodes for each [N,3,64,64]."""
    data, vae = load_file(out / "clips.safetensors"), load_vae(out)
    mean, std = (v[:, None, None] for v in cache.statistics(data))
    latents = data["latents"][:num].float()
    with torch.autocast("cpu", torch.bfloat16):
        last = [fold.decode(vae, part)[0][:, ::4].half() for part in latents.split(4)]
    return ((latents - mean) / std).flatten(0, 1), torch.cat(last).flatten(0, 1)


def train_preview(minutes: float, out: Path = CACHE, folder: Path = FOLDER, num: int = 240) -> None:
    """Train on `num` cached clips and write `preview.safetensors` and its entry in `longtake.json`."""
    latents, truth = pairs(out, num)
    net = Preview()
    matrices = [p for p in net.parameters() if p.ndim == 4]
    others = [p for p in net.parameters() if p.ndim != 4]
    home = out / "preview" / module_hash([load_vae(out)])
    run = Run(home, net, Optimizer(matrices, others, 3e-3), Ema(net, 0.995))
    run.load()

    def loss(run: Run, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        picks = torch.randint(0, len(latents), (32,), generator=run.generator)
        with torch.autocast("cpu", torch.bfloat16):
            picture = run.model(latents[picks])
        return F.mse_loss(picture.float(), truth[picks].float()), {}

    train(run, loss, Budget(minutes), log_every=100)
    run.ema.copy_to(net)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in net.state_dict().items()}, folder / FILE)
    path = folder / "longtake.json"
    write(path, (json.loads(path.read_text()) if path.exists() else {}) | {"preview": net.config})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--out", type=Path, default=CACHE)
    parser.add_argument("--to", type=Path, default=FOLDER)
    args = parser.parse_args()
    torch.set_num_threads(2)
    train_preview(args.minutes, args.out, args.to)


if __name__ == "__main__":
    main()
