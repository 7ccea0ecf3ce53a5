"""A tiny random Open-Sora-Plan in its folder format, built offline, for tests and docs."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import MT5Config, MT5EncoderModel

from longtake.models.opensora_tiny import save_own, save_t5
from longtake.models.opensoraplan_dit import PlanConfig, PlanTransformer
from longtake.models.opensoraplan_vae import WFVAE, WFVAEConfig
from longtake.models.opensoraplan_wavelets import Haar3D
from longtake.models.tiny_own import seeded

VAE = WFVAEConfig(latent_dim=4, base_channels=8, num_resblocks=2, encoder_flow=4, decoder_flow=8)


def plan_sizes(inpaint: bool = False) -> PlanConfig:
    """Six layers, two of them sparse."""
    return PlanConfig(
        num_layers=6, num_heads=2, head_dim=12, in_channels=4, out_channels=4, caption_channels=16, inpaint=inpaint
    )


def save_tiny_open_sora_plan(folder: str | Path, inpaint: bool = False, seed: int = 0) -> Path:
    """Write the folder; returns it. `inpaint` is the image-to-video network. About 1 MB."""
    home, sizes = Path(folder), plan_sizes(inpaint)
    config = {
        "_class_name": "OpenSoraInpaint_v1_3" if inpaint else "OpenSoraT2V_v1_3", "num_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads, "attention_head_dim": sizes.head_dim, "sparse1d": True, "sparse_n": 4,
        "in_channels": sizes.in_channels, "out_channels": sizes.out_channels, "patch_size": 2, "patch_size_t": 1,
        "caption_channels": sizes.caption_channels, "interpolation_scale_t": 1.0,
    }  # fmt: skip
    save_own(home / "transformer", seeded(seed, lambda: PlanTransformer(sizes)), config)
    save_own(home / "vae", _vae(seed + 1), {
        "latent_dim": VAE.latent_dim, "base_channels": VAE.base_channels, "encoder_num_resblocks": VAE.num_resblocks,
        "encoder_energy_flow_hidden_size": VAE.encoder_flow, "decoder_energy_flow_hidden_size": VAE.decoder_flow,
        "t_interpolation": "trilinear", "norm_type": "layernorm", "connect_res_layer_num": 2,
    })  # fmt: skip
    save_t5(home, seed + 2, MT5EncoderModel, MT5Config)
    settings = {"family": "open-sora-plan", "window": 5, "size": [48, 32], "steps": 6, "max_sequence_length": 24}
    (home / "longtake.json").write_text(json.dumps(settings) + "\n")
    return home


def _vae(seed: int) -> WFVAE:
    made = seeded(seed, lambda: WFVAE(VAE))
    for module in made.modules():  # wavelets are no weights
        if isinstance(module, Haar3D):
            module.load_state_dict(Haar3D().state_dict())
    return made
