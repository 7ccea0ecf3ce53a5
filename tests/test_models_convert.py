"""Published checkpoints of VideoCrafter2 and class-conditional Latte, small and random, to folders that load."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor, nn

from longtake.apps.convert_command import run_convert
from longtake.errors import UsageError
from longtake.models.latte_ucf_network import LatteConfig, LatteUCF
from longtake.models.load import load
from longtake.models.tiny_own import VIDEOCRAFTER, seeded, tiny_autoencoder, tiny_clip_tokenizer
from longtake.models.videocrafter_convert import autoencoder_name, unet_sizes
from longtake.models.videocrafter_unet import VideoCrafterUNet
from longtake.testing import check_denoiser

LAYOUT = [line.split() for line in (Path(__file__).parent / "layouts" / "videocrafter2.txt").read_text().splitlines()]


def autoencoder() -> AutoencoderKL:
    return seeded(5, lambda: AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4,
        block_out_channels=(32, 64, 96, 96), layers_per_block=2,
    ))  # fmt: skip


def published_vae(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names of latent diffusion: the way back of what the conversion does, written down here."""
    found = {}
    for name, value in weights.items():
        if ".attentions." in name:
            value = value[:, :, None, None] if value.ndim == 2 else value
            name = re.sub(r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out", name)
            name = re.sub(r"mid_block\.attentions\.0\.to_", "mid.attn_1.", name)
            name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
        for number in (0, 1):
            name = name.replace(f"mid_block.resnets.{number}", f"mid.block_{number + 1}")
        for level in range(4):
            name = name.replace(f"decoder.up_blocks.{level}", f"decoder.up.{3 - level}")
            name = name.replace(f"encoder.down_blocks.{level}", f"encoder.down.{level}")
        name = name.replace(".resnets.", ".block.").replace(".downsamplers.0.", ".downsample.")
        name = name.replace(".upsamplers.0.", ".upsample.").replace(".conv_shortcut.", ".nin_shortcut.")
        found[name.replace(".conv_norm_out.", ".norm_out.")] = value
    return found


class Tower(nn.Module):
    """open_clip's text tower, small, from torch's own parts."""

    def __init__(self, vocabulary: int, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(77, width) * 0.1)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList()
        for _ in range(blocks):
            block = nn.Module()
            block.ln_1, block.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            block.attn = nn.MultiheadAttention(width, 1, batch_first=True)
            block.mlp = nn.Sequential()
            block.mlp.add_module("c_fc", nn.Linear(width, 32))
            block.mlp.add_module("gelu", nn.GELU())
            block.mlp.add_module("c_proj", nn.Linear(32, width))
            self.transformer.resblocks.append(block)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, width))
        self.logit_scale = nn.Parameter(torch.ones([]))

    def forward(self, ids: Tensor) -> Tensor:
        """What the block before the last says, behind the final norm."""
        x = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((77, 77), float("-inf")).triu(1)
        for block in self.transformer.resblocks[:-1]:
            inside = block.ln_1(x)
            x = x + block.attn(inside, inside, inside, need_weights=False, attn_mask=mask)[0]
            x = x + block.mlp(block.ln_2(x))
        return self.ln_final(x)


@pytest.fixture(scope="module")
def parts() -> dict[str, nn.Module]:
    vocabulary = len(tiny_clip_tokenizer())
    return {
        "model.diffusion_model.": seeded(1, lambda: VideoCrafterUNet(VIDEOCRAFTER)),
        "first_stage_model.": autoencoder(),
        "cond_stage_model.model.": seeded(3, lambda: Tower(vocabulary)),
    }


@pytest.fixture(scope="module")
def checkpoint(parts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    weights = {"betas": torch.zeros(1000), "scale_arr": torch.zeros(1400)}
    for prefix, part in parts.items():
        own = part.state_dict()
        own = published_vae(own) if prefix == "first_stage_model." else own
        weights |= {prefix + name: value for name, value in own.items()}
    torch.save({"state_dict": weights, "epoch": 3}, folder / "model.ckpt")
    tiny_clip_tokenizer().save_pretrained(folder / "tokenizer")
    return folder / "model.ckpt"


def test_the_autoencoders_names_are_those_of_diffusers_converter():
    made = autoencoder()
    published = published_vae(made.state_dict())
    theirs = convert_ldm_vae_checkpoint(dict(published), made.config)
    ours = {autoencoder_name(name): value for name, value in published.items()}
    assert len(ours) == 248 and set(ours) == set(theirs) == set(made.state_dict())
    assert all(torch.equal(value.squeeze(), theirs[name].squeeze()) for name, value in ours.items())


def test_sizes_are_read_off_the_published_shapes():
    shapes = {name: torch.empty([int(side) for side in shape.split("x")], device="meta") for name, shape, _ in LAYOUT}
    assert unet_sizes(shapes) == {
        "_class_name": "UNet3DVideoCrafterConditionModel", "in_channels": 4, "layers_per_block": 2,
        "block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": 64, "cross_attention_dim": 1024,
        "down_block_types": ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"], "fps_cond": True,
    }  # fmt: skip


@torch.no_grad()
def test_videocrafter2_from_its_checkpoint(parts, checkpoint, tmp_path):
    folder = run_convert("videocrafter2", checkpoint, tmp_path / "vc2")
    model = load(folder, size=(32, 16), num_steps=4)
    network = model.denoiser.network
    unet, vae, tower = parts.values()
    assert all(torch.equal(value, network.unet.state_dict()[name]) for name, value in unet.state_dict().items())
    assert all(torch.equal(value, model.codec.vae.state_dict()[name]) for name, value in vae.state_dict().items())
    ids = tiny_clip_tokenizer()("a dog runs", padding="max_length", max_length=77, return_tensors="pt").input_ids
    torch.testing.assert_close(network.text("a dog runs"), tower(ids)[0], rtol=1e-4, atol=1e-5)
    assert (model.window, model.fps, model.guidance, model.steps, model.solver) == (16, 10, 12.0, 4, "ddim")
    assert model.denoiser.schedule.times == (0.0, 1.0, 251.0, 501.0, 751.0)
    assert "research and non-commercial" in (model.license or "")
    check_denoiser(model.denoiser)


def test_a_checkpoint_saved_by_deepspeed_is_the_same(checkpoint, tmp_path):
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    (tmp_path / "other").mkdir()
    torch.save({"module": {"_forward_module." + name: value for name, value in weights.items()}},
               tmp_path / "other" / "model.ckpt")  # fmt: skip
    tiny_clip_tokenizer().save_pretrained(tmp_path / "other" / "tokenizer")
    one = run_convert("videocrafter2", checkpoint, tmp_path / "one")
    two = run_convert("videocrafter2", tmp_path / "other" / "model.ckpt", tmp_path / "two")
    for part in ("unet", "vae"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_what_is_missing_is_named_and_nothing_is_left(checkpoint, tmp_path):
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]

    def problem(changed: dict[str, Tensor], tokenizer: bool = True) -> str:
        source = tmp_path / f"broken-{len(list(tmp_path.iterdir()))}"
        source.mkdir()
        torch.save({"state_dict": changed}, source / "model.ckpt")
        if tokenizer:
            tiny_clip_tokenizer().save_pretrained(source / "tokenizer")
        with pytest.raises(UsageError) as caught:
            run_convert("videocrafter2", source / "model.ckpt", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert "put the folder 'tokenizer' of Stable Diffusion 2.1 there" in problem(weights, tokenizer=False)
    assert "holds no weight under first_stage_model." in problem(
        {name: value for name, value in weights.items() if not name.startswith("first_stage_model")}
    )
    short = "model.diffusion_model.out.2.bias"
    assert "lacks the weight out.2.bias" in problem({name: value for name, value in weights.items() if name != short})
    short = "cond_stage_model.model.ln_final.weight"
    assert "text tower is not open_clip's" in problem({n: value for n, value in weights.items() if n != short})
    short = "first_stage_model.quant_conv.bias"
    assert "autoencoder is not Stable Diffusion's" in problem({n: v for n, v in weights.items() if n != short})


def test_class_conditional_latte_from_its_checkpoint(tmp_path):
    config = LatteConfig(width=64, depth=4, heads=1, side=4, frames=4, time_width=16)
    network = seeded(2, lambda: LatteUCF(config))
    source = tmp_path / "published" / "ucf101.pt"
    source.parent.mkdir()
    training = {name: value + 1 for name, value in network.state_dict().items()}
    torch.save({"model": training, "ema": network.state_dict(), "steps": 7}, source)
    with pytest.raises(UsageError, match="beside it the folder 'vae'"):
        run_convert("latte-ucf", source, tmp_path / "latte")
    tiny_autoencoder().save_pretrained(source.parent / "vae")
    model = load(run_convert("latte-ucf", source, tmp_path / "latte"), num_steps=6)
    loaded = model.denoiser.network.network
    assert loaded.config == config
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in network.state_dict().items())
    assert model.denoiser.schedule.times == (0.0, 0.0, 200.0, 400.0, 599.0, 799.0, 999.0)
    check_denoiser(model.denoiser)
    torch.save({"ema": {"x_embedder.proj.weight": torch.zeros(64, 4, 2, 2)}}, source)
    with pytest.raises(UsageError, match="is not Latte's class-conditional checkpoint"):
        run_convert("latte-ucf", source, tmp_path / "again")
    assert json.loads((tmp_path / "latte" / "longtake.json").read_text())["family"] == "latte-ucf"
