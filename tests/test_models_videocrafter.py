"""VideoCrafter2: layout, forward, levels a row, schedule and scale, text, frames, and the run from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet3DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.apps.session import generate
from longtake.core.model import Codec, Denoiser
from longtake.core.rows import advance, noise_row
from longtake.core.solvers import Solver
from longtake.errors import UsageError
from longtake.models.adapt import compile_blocks
from longtake.models.load import load
from longtake.models.tiny_own import VIDEOCRAFTER, save_tiny_videocrafter
from longtake.models.videocrafter import load_unet, schedule_of
from longtake.models.videocrafter_blocks import sinusoid
from longtake.models.videocrafter_unet import VideoCrafterUNet, published_name, published_weights
from longtake.models.vp import signal, times, videocrafter_scale, vp_schedule
from longtake.output.video import probe, read_frames
from longtake.rollouts.fifo import Fifo
from longtake.testing import check_denoiser, check_rollout

PROMPT, NEGATIVE = "a dog runs right over the hills", "a cat"
LAYOUT = [line.split() for line in (Path(__file__).parent / "layouts" / "videocrafter2.txt").read_text().splitlines()]
RELEASE = {"timestep_spacing": "leading", "steps_offset": 1}  # of the published sampler
FIFO = {"timestep_spacing": "linspace"}


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.std())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_videocrafter(tmp_path_factory.mktemp("models") / "vc2")


@pytest.fixture(scope="module")
def unet(folder) -> VideoCrafterUNet:
    return load_unet(folder / "unet", torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def stock(unet) -> UNet3DConditionModel:
    """diffusers' 3-D UNet of the same sizes with the same weights: a second implementation of all but the fps."""
    made = UNet3DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    ).eval()  # fmt: skip
    own, weights = unet.state_dict(), {}
    for name, value in made.state_dict().items():
        weights[name] = own[published_name(name, VIDEOCRAFTER)].reshape(value.shape)
    made.load_state_dict(weights, strict=True)
    return made.requires_grad_(False)


def inputs(rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, rows, 4, 6, 4, generator=draw),
        torch.randn(2, 5, 16, generator=draw),
        torch.tensor([8.0, 28.0]),
    )


def stock_forward(stock: Any, unet: VideoCrafterUNet, x: Tensor, rows: Tensor, text: Tensor, fps: Tensor) -> Tensor:
    """The stock network with the embedding of each frame's own time, and of the fps, handed to its residual blocks."""

    def embed(values: Tensor, mlp: Any) -> Tensor:
        return mlp(sinusoid(values, 32))

    emb = embed(rows.flatten(), stock.time_embedding) + embed(fps, unet.fps_embedding).repeat_interleave(x.shape[1], 0)
    handles = [
        module.register_forward_pre_hook(lambda _, args, kwargs: ((args[0], emb, *args[2:]), kwargs), with_kwargs=True)
        for module in stock.modules()
        if isinstance(module, ResnetBlock2D)
    ]
    assert len(handles) == 8
    try:
        return stock(x.transpose(1, 2), 0, text).sample.transpose(1, 2)
    finally:
        for handle in handles:
            handle.remove()


# -- the layout --------------------------------------------------------------------------------------------------


def test_the_published_network_has_the_published_layout():
    with torch.device("meta"):
        made = VideoCrafterUNet()
    found = {name: "x".join(map(str, value.shape)) for name, value in made.state_dict().items()}
    assert found == {name: shape for name, shape, _ in LAYOUT}
    assert sum(value.numel() for value in made.parameters()) == 1_413_284_420


def test_every_name_of_the_conversion_is_translated():
    assert [published_name(converted) for _, _, converted in LAYOUT] == [name for name, _, _ in LAYOUT]


def test_both_sets_of_names_load_to_the_same_network(folder, unet, stock, tmp_path):
    converted = dict(stock.state_dict())
    for side in ("weight", "bias"):
        for ours, theirs in (("0", "linear_1"), ("2", "linear_2")):
            converted[f"fps_embedding.{theirs}.{side}"] = unet.state_dict()[f"fps_embedding.{ours}.{side}"]
    (tmp_path / "config.json").write_text((folder / "unet" / "config.json").read_text())
    save_file({name: value.contiguous() for name, value in converted.items()}, tmp_path / "model.safetensors")
    again = load_unet(tmp_path, torch.device("cpu"), torch.float32)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in unet.state_dict().items())


def test_weights_that_do_not_fit_are_named(folder, tmp_path):
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((folder / "unet" / "config.json").read_text())

    def problem(changed: dict[str, Tensor]) -> str:
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(UsageError) as caught:
            load_unet(tmp_path, torch.device("cpu"), torch.float32)
        return str(caught.value)

    missing = {name: value for name, value in weights.items() if name != "out.2.bias"}
    assert "lacks the weight out.2.bias; 1 are missing" in problem(missing)
    assert "has a weight extra" in problem({**weights, "extra": torch.zeros(1)})
    assert "out.2.bias has shape (3,), the network needs (4,)" in problem({**weights, "out.2.bias": torch.zeros(3)})
    with pytest.raises(UsageError, match=r"'strange\.weight' is no weight of VideoCrafter2"):
        published_weights({"strange.weight": torch.zeros(1)})


# -- the forward -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_equal_levels_are_the_stock_forward(unet, stock):
    x, text, fps = inputs()
    handle = stock.time_embedding.register_forward_hook(
        lambda _, args, out: out + unet.fps_embedding(sinusoid(fps, 32))
    )
    try:
        theirs = stock(x.transpose(1, 2), torch.tensor([500, 21]), text).sample.transpose(1, 2)
    finally:
        handle.remove()
    ours = unet(x, torch.tensor([[500.0] * 3, [21.0] * 3]), text, fps)
    assert relative(ours, theirs) < 2e-5


@torch.no_grad()
def test_a_level_a_row_is_the_stock_network_with_an_embedding_a_frame(unet, stock):
    x, text, fps = inputs()
    rows = torch.tensor([[0.0, 40.0, 981.0], [700.0, 21.0, 21.0]])
    assert relative(unet(x, rows, text, fps), stock_forward(stock, unet, x, rows, text, fps)) < 2e-5


@torch.no_grad()
def test_fps_and_every_row_matter(unet):
    x, text, fps = inputs()
    rows = torch.full((2, 3), 400.0)
    before = unet(x, rows, text, fps)
    assert relative(unet(x, rows, text, fps + 8), before) > 0.05
    rows[0, 2] = 900.0
    after = unet(x, rows, text, fps)
    assert relative(after[0, 2], before[0, 2]) > 0.1  # its own level
    assert relative(after[0, 0], before[0, 0]) > 1e-3  # a neighbour, through the layers over time
    assert torch.equal(after[1], before[1])  # the other window


# -- the schedule ------------------------------------------------------------------------------------------------


def test_the_schedule_has_the_published_numbers():
    grid = {time: level for level, time in enumerate(times({**RELEASE}, 50), start=1)}
    assert [*grid][:3] == [1, 21, 41] and [*grid][-2:] == [961, 981]
    plain, scaled = (schedule_of(RELEASE, 50, kind) for kind in ("reference", "consistent"))
    signals = {1: 0.9982960278384514, 21: 0.9803807481013713, 981: 0.00577550013949575}
    scales = {1: 0.9992481203007518, 21: 0.9842105263157894, 981: 0.7}
    for time, left in signals.items():
        level = grid[time]
        assert plain.times[level] == scaled.times[level] == time
        np.testing.assert_allclose(plain.alphas[level] ** 2, left, rtol=1e-12)
        np.testing.assert_allclose(scaled.alphas[level], left**0.5 * scales[time], rtol=1e-12)
        np.testing.assert_allclose(scaled.sigmas[level], (1 - left) ** 0.5, rtol=1e-12)
    assert (plain.alphas[0], plain.sigmas[0], scaled.alphas[0]) == (1.0, 0.0, 1.0)
    assert [videocrafter_scale(time) for time in (0, 399, 400, 981)] == [1.0, 0.7, 0.7, 0.7]
    kept = signal({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})
    np.testing.assert_allclose(kept[[0, 500, 999]], [0.99915, 0.2763326838229746, 0.004660098513077238], rtol=1e-12)
    sigmas = {1: 0.020648320165302107, 21: 0.039479546140895126, 981: 0.4544632724135991}  # of DDIM with eta 1
    for time in (21, 981):  # at time 1 the published sampler steps to time 0, ours to a clean frame
        plan = Solver("ddim", 1.0).plan(plain, grid[time], grid[time] - 1, noise_row((1,), 1, 0, 0).memory)
        np.testing.assert_allclose(plan.std, sigmas[time], rtol=1e-9)


def test_the_grid_of_fifo_diffusion():
    grid = times(FIFO, 64)
    assert grid[:5] == [0, 16, 32, 48, 63] and grid[-2:] == [983, 999]


def test_a_step_is_the_published_samplers(folder):
    """DDIM written down by hand with its data scale, against the solver on the schedule, all the way down."""
    model = load(folder, guidance=1.0)
    denoiser, schedule = model.denoiser, model.denoiser.schedule
    rows = [noise_row(denoiser.can.latent_shape, 6, index, 7) for index in range(3)]
    x = torch.stack([row.x for row in rows])[None]
    grid = [1, 167, 333, 499, 665, 831]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    text = denoiser.network.text(PROMPT)[None]
    for place in reversed(range(6)):
        time, before = grid[place], grid[place - 1] if place else None
        eps = denoiser.network.unet(x, torch.full((1, 3), float(time)), text, torch.tensor([28.0]))
        a, s = float(kept[time]), 1 - 0.3 * min(time, 399) / 399
        x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5 / s
        a, s = (float(kept[before]), 1 - 0.3 * min(before, 399) / 399) if before is not None else (1.0, 1.0)
        x = a**0.5 * s * x0 + (1 - a) ** 0.5 * eps
        ours = denoiser(torch.stack([row.x for row in rows])[None], torch.full((1, 3), place + 1), [PROMPT])
        rows = advance(rows, list(ours[0]), [place] * 3, Solver("ddim"), schedule)
    assert schedule.times == (0.0, *map(float, grid))
    assert relative(torch.stack([row.x for row in rows])[None], x) <= 1e-4


def test_the_two_scales_differ_only_where_the_network_was_trained_with_it():
    one, other = (schedule_of(FIFO, 64, kind) for kind in ("consistent", "reference"))
    assert one.sigmas == other.sigmas and one.alphas[:2] == other.alphas[:2]
    np.testing.assert_allclose(np.array(one.alphas[30:]) / np.array(other.alphas[30:]), 0.7)


@pytest.mark.parametrize(
    "config,steps,message",
    [({"beta_schedule": "cosine"}, 5, "beta_schedule"), ({"timestep_spacing": "odd"}, 5, "timestep_spacing"),
     ({"rescale_betas_zero_snr": True}, 5, "rescales"), ({}, 1001, r"1\.\.1000"), (RELEASE, 1000, "leave the 1000")],
)  # fmt: skip
def test_schedules_that_cannot_be_read_are_refused(config, steps, message):
    with pytest.raises(UsageError, match=message):
        vp_schedule(config, steps)


# -- the model ---------------------------------------------------------------------------------------------------


def test_it_is_what_the_core_asks_for(folder):
    model = load(folder)
    assert isinstance(model.denoiser, Denoiser) and isinstance(model.codec, Codec)
    assert (model.solver, model.window, model.fps, model.guidance, model.size) == ("ddim", 4, 10, 12.0, (32, 48))
    can = model.denoiser.can
    assert (can.temporal_compression, can.first_is_image, can.latent_shape) == (1, False, (4, 6, 4))
    assert can.num_latents(7) == 7 and can.num_frames(7) == 7
    check_denoiser(model.denoiser)


def test_prompts_are_the_clip_towers_last_states(folder):
    from transformers import CLIPTextModel, CLIPTokenizer

    model = load(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokens = tokenizer(PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
    assert tokens[0, -1] == 0  # padded with id 0, as the published tower was trained
    theirs = CLIPTextModel.from_pretrained(folder / "text_encoder")(tokens).last_hidden_state[0]
    ours = model.denoiser.network.text(PROMPT)
    assert ours.shape == (77, 16) and torch.equal(ours, theirs)


def test_the_guidance_pair_in_one_batch_is_two_forwards(folder):
    guided, alone = load(folder, guidance=3.0, negative_prompt=NEGATIVE), load(folder, guidance=1.0)
    x, levels = torch.randn(2, 3, 4, 6, 4), torch.tensor([[1, 2, 5], [4, 4, 4]])
    wanted = alone.denoiser(x, levels, [PROMPT, "the sea"])
    unwanted = alone.denoiser(x, levels, [NEGATIVE] * 2)
    ours = guided.denoiser(x, levels, [PROMPT, "the sea"])
    assert relative(ours, unwanted + 3.0 * (wanted - unwanted)) < 1e-4
    assert (guided.denoiser.cost, alone.denoiser.cost) == (2, 1)


def test_a_released_encoder_comes_back(folder):
    model = load(folder)
    model.prepare([PROMPT], release=True)
    assert model.denoiser.network.text._encoder is None
    x, levels = torch.randn(1, 2, 4, 6, 4), torch.tensor([[3, 3]])
    assert not torch.equal(model.denoiser(x, levels, [PROMPT]), model.denoiser(x, levels, ["the boat"]))


def test_frames_are_decoded_one_by_one(folder):
    codec = load(folder).codec
    z = torch.randn(5, 4, 6, 4)
    whole, _ = codec.decode(z)
    parts = torch.cat([codec.decode(piece)[0] for piece in z.split([2, 1, 2])])
    assert whole.shape == (5, 48, 32, 3) and torch.equal(whole, parts)
    stock = codec.vae.decode(z / 0.18215).sample.clamp(-1, 1)
    assert relative(codec.pixels(z), stock) < 1e-4
    encoded = codec.encode(whole)
    theirs = codec.vae.encode(whole.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mode() * 0.18215
    assert relative(encoded, theirs) < 1e-4
    assert codec.encode_image(whole[0].numpy(), (64, 32)).shape == (1, 4, 4, 8)
    assert codec.decode(z[:0])[0].shape == (0, 48, 32, 3)


def test_large_pictures_are_decoded_in_tiles_if_asked(folder):
    """As diffusers tiles; a picture no larger than a tile is decoded whole; the module itself is left as it is."""
    codec, z = load(folder, extras={"tiling": True}).codec, torch.randn(2, 4, 6, 4)
    codec.vae.tile_latent_min_size, codec.vae.tile_sample_min_size = 4, 32
    ours, whole = codec.pixels(z), codec.vae.decode(z / 0.18215).sample.clamp(-1, 1)
    assert not codec.vae.use_tiling
    codec.vae.enable_tiling()
    theirs = codec.vae.decode(z / 0.18215).sample.clamp(-1, 1)
    assert relative(ours, theirs) < 1e-5 and relative(ours, whole) > 1e-3
    codec.vae.disable_tiling()
    codec.vae.tile_latent_min_size = 6
    assert relative(codec.pixels(z), whole) < 1e-5


def test_a_queue_keeps_every_law(folder):
    model = load(folder, num_steps=4, guidance=1.0)
    can, schedule = model.denoiser.can, model.denoiser.schedule
    check_rollout(Fifo(can.latent_shape, schedule, Solver("ddim"), can.window), model.denoiser, num_latents=6)


@pytest.mark.parametrize("method,frames", [("plain", 4), ("chunk", 7), ("fifo", 5)])
def test_a_film_from_the_folder(folder, tmp_path, method, frames):
    made = generate(PROMPT, tmp_path / "run", model=str(folder), method=method, frames=frames, steps=8, seed=3)
    assert (made.frames, made.latent_frames >= frames, made.fps) == (frames, True, 10.0)
    assert len(list(read_frames(made.video))) == frames and probe(made.video).width == 32


def test_a_folder_that_is_not_whole_says_so(folder, tmp_path):
    import shutil

    broken = tmp_path / "vc2"
    shutil.copytree(folder, broken)
    shutil.rmtree(broken / "vae")
    with pytest.raises(UsageError, match="no folder 'vae'"):
        load(broken)
    with pytest.raises(UsageError, match="scale must be consistent or reference"):
        load(folder, extras={"scale": "none"})


def test_options_that_it_lacks_are_refused(folder):
    with pytest.raises(UsageError, match="riflex is no option of videocrafter2; it has freelong, freepca, scale"):
        load(folder, extras={"riflex": True})
    with pytest.raises(UsageError, match="do not go together"):
        load(folder, compile=True, extras={"freelong": True})


@torch.no_grad()
def test_a_lora_is_a_product_added_to_its_weight(folder, tmp_path):
    name, plain = "input_blocks.1.2.transformer_blocks.0.attn1.to_q", load(folder)
    low, high = torch.randn(2, 32), torch.randn(32, 2)
    pairs = {f"diffusion_model.{name}.lora_A.weight": low, f"diffusion_model.{name}.lora_B.weight": high}
    save_file(pairs, tmp_path / "style.safetensors")
    changed = load(folder, lora=(f"{tmp_path / 'style.safetensors'}:0.5",))
    before, after = (model.denoiser.network.unet.get_submodule(name).weight for model in (plain, changed))
    torch.testing.assert_close(after, before + 0.5 * high @ low)
    assert changed.weights_hash != plain.weights_hash


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offloading_changes_no_number(folder, offload):
    parked, plain = load(folder, offload=offload, device="cpu"), load(folder, device="cpu")
    x, levels, z = torch.randn(1, 3, 4, 6, 4), torch.tensor([[1, 2, 5]]), torch.randn(2, 4, 6, 4)
    for _ in range(2):
        assert torch.equal(parked.denoiser(x, levels, [PROMPT]), plain.denoiser(x, levels, [PROMPT]))
        assert torch.equal(parked.codec.decode(z)[0], plain.codec.decode(z)[0])


@pytest.mark.slow
def test_a_compiled_network_says_the_same(folder):
    # traced by torch's compiler and run as traced: generating machine code takes a minute and is torch's own affair
    compiled, plain = load(folder).denoiser, load(folder).denoiser
    assert compile_blocks(compiled.network.unet, backend="eager") == 4 + 1 + 4 + 4
    x, levels = torch.randn(1, 3, 4, 6, 4), torch.tensor([[1, 2, 5]])
    with torch.inference_mode():
        ours, theirs = (denoiser(x, levels, [PROMPT]) for denoiser in (compiled, plain))
    assert relative(ours, theirs) < 1e-5
