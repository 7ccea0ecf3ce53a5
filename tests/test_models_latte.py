"""Latte text-to-video against the stock pipeline, and the class-conditional network against one written here again."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LatteTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from longtake.apps.session import generate
from longtake.core.model import Blend, Codec, Denoiser
from longtake.core.rows import advance, noise_row
from longtake.core.solvers import Solver
from longtake.errors import UsageError
from longtake.models.latte_rows import forward_rows, self_check
from longtake.models.latte_ucf import CLASSES, label_of
from longtake.models.latte_ucf_network import LatteUCF
from longtake.models.load import load
from longtake.models.tiny_own import LATTE_UCF, save_tiny_latte_ucf, tiny_latte
from longtake.models.vp import times, vp_schedule
from longtake.testing import check_denoiser

PROMPT, NEGATIVE = "A dog runs right over the hills", "a cat"
SIZE = (32, 48)


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.std())


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layout(name: str) -> dict[str, str]:
    lines = (Path(__file__).parent / "layouts" / f"{name}.txt").read_text().splitlines()
    return dict(line.split() for line in lines)


def shapes(module: nn.Module) -> dict[str, str]:
    return {name: "x".join(map(str, value.shape)) for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def pipe():
    made = tiny_latte()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("models") / "latte"
    pipe.save_pretrained(target, safe_serialization=True)
    return target


@pytest.fixture(scope="module")
def ucf(tmp_path_factory) -> Path:
    return save_tiny_latte_ucf(tmp_path_factory.mktemp("models") / "ucf")


# -- text to video -----------------------------------------------------------------------------------------------


def test_the_published_transformer_has_the_published_layout():
    with torch.device("meta"):
        made = LatteTransformer3DModel(
            num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28,
            cross_attention_dim=1152, attention_bias=True, sample_size=64, patch_size=2,
            activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
            norm_elementwise_affine=False, norm_eps=1e-6, caption_channels=4096, video_length=16,
        )  # fmt: skip
    assert shapes(made) == layout("latte1")


@torch.no_grad()
def test_equal_levels_are_the_stock_forward(pipe):
    x, text = draw(2, 4, 4, 8, 6), draw(2, 5, 32, seed=1)
    for number in (4, 1):  # one frame has no position in time, as stock
        theirs = pipe.transformer(x[:, :number].transpose(1, 2), torch.tensor([500, 40]), text, return_dict=False)[0]
        rows = torch.tensor([[500.0] * number, [40.0] * number])
        ours = forward_rows(pipe.transformer, x[:, :number], rows, text)
        assert relative(ours.transpose(1, 2), theirs) < 1e-5


@torch.no_grad()
def test_a_level_a_row_modulates_that_row_alone(pipe, monkeypatch):
    """The stock blocks, called frame by frame and pixel by pixel with each frame's own modulation."""
    network, x, text = pipe.transformer, draw(1, 3, 4, 4, 4), draw(1, 5, 32, seed=1)
    rows = torch.tensor([[20.0, 500.0, 900.0]])
    tokens, words = network.pos_embed(x[0]), network.caption_projection(text)
    modulation, embedded = network.adaln_single(rows[0], batch_size=3, hidden_dtype=torch.float32)
    for number, (space, time) in enumerate(
        zip(network.transformer_blocks, network.temporal_transformer_blocks, strict=True)
    ):
        tokens = torch.cat([
            space(tokens[i : i + 1], None, words, None, modulation[i : i + 1]) for i in range(3)
        ])  # fmt: skip
        sequences = tokens.transpose(0, 1)
        if number == 0:
            sequences = sequences + network.temp_pos_embed[:, :3]
        # the stock block reshapes its time to six vectors a sample: read it as six vectors a frame instead
        table = time.scale_shift_table
        shift, scale, gate, shift_ff, scale_ff, gate_ff = (table[None] + modulation.reshape(3, 6, -1)).unbind(1)
        sequences = sequences + gate * time.attn1(time.norm1(sequences) * (1 + scale) + shift)
        sequences = sequences + gate_ff * time.ff(time.norm2(sequences) * (1 + scale_ff) + shift_ff)
        tokens = sequences.transpose(0, 1)
    shift, scale = (network.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)
    head = network.proj_out(network.norm_out(tokens) * (1 + scale) + shift).reshape(3, 2, 2, 2, 2, 8)
    theirs = torch.einsum("nhwpqc->nchpwq", head).reshape(1, 3, 8, 4, 4)
    assert relative(forward_rows(network, x, rows, text), theirs) < 1e-5


@torch.no_grad()
def test_rows_and_windows_depend_on_their_own_levels(pipe):
    model = load(pipe, size=SIZE, num_steps=6)
    x, levels = draw(2, 4, *model.denoiser.can.latent_shape), torch.full((2, 4), 3)
    before = model.denoiser(x, levels, [PROMPT] * 2)
    levels[0, 3] = 6
    after = model.denoiser(x, levels, [PROMPT] * 2)
    assert relative(after[0, 3], before[0, 3]) > 0.1
    assert relative(after[0, 0], before[0, 0]) > 1e-3
    assert relative(after[1], before[1]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("steps,negative", [(6, ""), (5, NEGATIVE)])
def test_a_clip_is_the_stock_pipelines(pipe, steps, negative):
    model = load(pipe, size=SIZE, num_steps=steps, guidance=3.0, negative_prompt=negative)
    can, schedule = model.denoiser.can, model.denoiser.schedule
    rows = [noise_row(can.latent_shape, steps, index, 7) for index in range(4)]
    theirs = pipe(
        PROMPT, negative, height=SIZE[1], width=SIZE[0], video_length=4, num_inference_steps=steps, guidance_scale=3.0,
        output_type="latents", latents=torch.stack([row.x for row in rows], 1)[None],
    ).frames[0]  # fmt: skip
    for level in range(steps, 0, -1):
        x0 = model.denoiser(torch.stack([row.x for row in rows])[None], torch.full((1, 4), level), [PROMPT])
        rows = advance(rows, list(x0[0]), [level - 1] * 4, Solver(model.solver), schedule)
    assert relative(torch.stack([row.x for row in rows], 1), theirs) <= 1e-4


@torch.no_grad()
def test_prompts_are_encoded_and_cropped_as_the_stock_pipeline_does(pipe):
    text = load(pipe, size=SIZE).denoiser.network.text
    for prompt in ("", PROMPT, "the SEA "):
        wanted, unwanted = pipe.encode_prompt(prompt, True, NEGATIVE, clean_caption=True)
        length = text.length(prompt)
        assert torch.equal(text(prompt)[:length], wanted[0])
        assert torch.equal(text(NEGATIVE)[:length], unwanted[0])


@torch.no_grad()
def test_windows_with_prompts_of_other_lengths_are_what_they_are_alone(pipe):
    denoiser = load(pipe, size=SIZE, num_steps=6, guidance=3.0).denoiser
    x, levels, prompts = (
        draw(3, 4, *denoiser.can.latent_shape),
        torch.full((3, 4), 4),
        [PROMPT, "sea", Blend("a", PROMPT, 0.5)],
    )
    together = denoiser(x, levels, prompts)
    for number, prompt in enumerate(prompts):
        alone = denoiser(x[number : number + 1], levels[:1], [prompt])
        assert relative(together[number], alone[0]) < 1e-4


def test_a_live_pipeline_and_its_folder_are_one_model(pipe, folder):
    live, stored = load(pipe, size=SIZE, num_steps=6), load(folder, size=SIZE, num_steps=6)
    assert isinstance(stored.denoiser, Denoiser) and isinstance(stored.codec, Codec)
    assert (live.window, live.fps, live.solver, live.guidance) == (4, 8, "ddim", 7.5)
    x, levels = draw(1, 4, *live.denoiser.can.latent_shape), torch.tensor([[1, 2, 4, 6]])
    stored.prepare([PROMPT], release=True)
    assert torch.equal(live.denoiser(x, levels, [PROMPT]), stored.denoiser(x, levels, [PROMPT]))
    check_denoiser(stored.denoiser)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pipe.transformer.modules())


def test_what_cannot_work_is_refused(pipe):
    model = load(pipe, size=SIZE, num_steps=6)
    with pytest.raises(ValueError, match="positions for 4 frames, got a window of 5"):
        model.denoiser(draw(1, 5, *model.denoiser.can.latent_shape), torch.ones(1, 5, dtype=torch.int64), [PROMPT])
    with pytest.raises(UsageError, match="multiples of 16; the nearest that works is 48x32"):
        load(pipe, size=(40, 32))


def test_the_self_check_refuses_a_transformer_that_it_does_not_know(pipe, monkeypatch):
    self_check(pipe.transformer)
    stock = LatteTransformer3DModel.forward
    monkeypatch.setattr(
        LatteTransformer3DModel, "forward", lambda self, x, t, *rest, **named: stock(self, x, t + 100, *rest, **named)
    )
    with pytest.raises(UsageError, match=r"diffusers \d"):
        self_check(pipe.transformer)


@pytest.mark.parametrize("method,frames", [("plain", 4), ("fifo", 6)])
def test_a_film_from_the_folder(folder, tmp_path, method, frames):
    made = generate(
        PROMPT, tmp_path / "run", model=str(folder), method=method, frames=frames, steps=8, size=SIZE, seed=3
    )
    assert (made.frames, made.fps, made.width) == (frames, 8.0, 32)


# -- class-conditional -------------------------------------------------------------------------------------------


def test_the_published_class_conditional_network_has_the_published_layout():
    with torch.device("meta"):
        made = LatteUCF()
    assert shapes(made) == layout("latte_ucf101")
    assert sum(weight.numel() for weight in made.parameters() if weight.requires_grad) == 673_799_072


def test_the_published_grid():
    grid = times({"timestep_spacing": "linspace"}, 250)
    assert grid[:5] == [0, 4, 8, 12, 16] and grid[-3:] == [991, 995, 999] and len(grid) == 250
    schedule = vp_schedule({"timestep_spacing": "linspace"}, 250)
    kept = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))
    np.testing.assert_allclose(np.square(schedule.alphas[1:]), kept[grid], rtol=1e-12)


@torch.no_grad()
def test_the_class_conditional_forward_written_again(ucf):
    """The network as loops over frames and pixels, with torch's own multi-head attention."""
    network = load(ucf).denoiser.network.network
    weights, width, side = network.state_dict(), LATTE_UCF.width, 2
    x, rows, label = draw(1, 3, 4, 4, 4), [10.0, 500.0, 900.0], 7

    def linear(name: str, value: Tensor) -> Tensor:
        return functional.linear(value, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def embed(time: float) -> Tensor:
        angles = [time * 10000 ** (-k / 8) for k in range(8)]
        waves = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
        hidden = linear("t_embedder.mlp.2", functional.silu(linear("t_embedder.mlp.0", waves)))
        return hidden + weights["y_embedder.embedding_table.weight"][label]

    def norm(value: Tensor) -> Tensor:
        return (value - value.mean(-1, keepdim=True)) / (value.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()

    def block(number: int, value: Tensor, cond: Tensor) -> Tensor:
        """One sequence (L, D) under conditions (L or 1, D)."""
        parts = linear(f"blocks.{number}.adaLN_modulation.1", functional.silu(cond)).split(width, -1)
        attention = nn.MultiheadAttention(width, LATTE_UCF.heads, batch_first=True)
        attention.in_proj_weight.data = weights[f"blocks.{number}.attn.qkv.weight"]
        attention.in_proj_bias.data = weights[f"blocks.{number}.attn.qkv.bias"]
        attention.out_proj.weight.data = weights[f"blocks.{number}.attn.proj.weight"]
        attention.out_proj.bias.data = weights[f"blocks.{number}.attn.proj.bias"]
        inside = (norm(value) * (1 + parts[1]) + parts[0])[None]
        value = value + parts[2] * attention(inside, inside, inside, need_weights=False)[0][0]
        hidden = linear(f"blocks.{number}.mlp.fc1", norm(value) * (1 + parts[4]) + parts[3])
        hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        return value + parts[5] * linear(f"blocks.{number}.mlp.fc2", hidden)

    conds = torch.stack([embed(time) for time in rows])
    patches = x[0].unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(3, side * side, -1)
    kernel = weights["x_embedder.proj.weight"].reshape(width, -1)
    tokens = patches @ kernel.T + weights["x_embedder.proj.bias"] + weights["pos_embed"][0]
    for pair in range(LATTE_UCF.depth // 2):
        tokens = torch.stack([block(2 * pair, tokens[frame], conds[frame : frame + 1]) for frame in range(3)])
        if pair == 0:
            tokens = tokens + weights["temp_embed"][0, :3, None]
        tokens = torch.stack([block(2 * pair + 1, tokens[:, pixel], conds) for pixel in range(side * side)], 1)
    theirs = torch.zeros(1, 3, 8, 4, 4)
    for frame in range(3):
        shift, scale = linear("final_layer.adaLN_modulation.1", functional.silu(conds[frame])).split(width)
        out = linear("final_layer.linear", norm(tokens[frame]) * (1 + scale) + shift)
        for token in range(side * side):
            top, left = token // side * 2, token % side * 2
            theirs[0, frame, :, top : top + 2, left : left + 2] = out[token].reshape(2, 2, 8).permute(2, 0, 1)
    ours = network(x, torch.tensor([rows]), weights["y_embedder.embedding_table.weight"][label][None])
    assert relative(ours, theirs) < 1e-4


def test_classes_go_by_name_and_number():
    assert len(CLASSES) == len(set(CLASSES)) == 101 and list(CLASSES) == sorted(CLASSES)
    assert [label_of(text) for text in ("ApplyEyeMakeup", "playing guitar", "Yo-Yo", "0", "100", "")] == [
        0,
        62,
        100,
        0,
        100,
        101,
    ]
    assert label_of("HammerThrow") + 1 == label_of("hammering")  # folders sort capitals first
    with pytest.raises(UsageError, match="'playing guitars' is no class of UCF-101; near it: PlayingGuitar"):
        label_of("playing guitars")
    with pytest.raises(UsageError, match="from 0 to 100"):
        label_of("101")


def test_the_class_conditional_model_keeps_the_laws(ucf):
    model = load(ucf)
    assert (model.window, model.size, model.steps, model.guidance) == (4, (32, 32), 6, 7.0)
    check_denoiser(model.denoiser)
    model.prepare(["surfing"])
    with pytest.raises(UsageError, match="is no class"):
        model.prepare(["a dog on the moon"])
    x, levels = draw(1, 4, 4, 4, 4), torch.tensor([[2, 2, 3, 5]])
    one, other, half = (model.denoiser(x, levels, [c]) for c in ("surfing", "12", Blend("surfing", "12", 0.5)))
    assert relative(one, other) > 0.1 and relative(half, one) > 0.01 and relative(half, other) > 0.01
    with pytest.raises(UsageError, match="makes 32x32 only"):
        load(ucf, size=(64, 64))


def test_weights_of_another_network_are_named(ucf, tmp_path):
    import shutil

    broken = tmp_path / "ucf"
    shutil.copytree(ucf, broken)
    config = (broken / "transformer" / "config.json").read_text().replace('"depth": 4', '"depth": 6')
    (broken / "transformer" / "config.json").write_text(config)
    with pytest.raises(UsageError, match=r"lacks the weight blocks\.4\.adaLN_modulation\.1\.bias"):
        load(broken)
    assert "blocks.3.adaLN_modulation.1.bias" in load_file(
        broken / "transformer" / "diffusion_pytorch_model.safetensors"
    )


def test_a_film_of_a_class(ucf, tmp_path):
    made = generate("surfing", tmp_path / "run", model=str(ucf), method="fifo", frames=6, steps=8, seed=3)
    assert (made.frames, made.width, made.height) == (6, 32, 32)


@pytest.mark.slow
def test_the_compiled_forward_says_the_same(folder, monkeypatch):
    # traced by torch's compiler and run as traced: generating machine code takes a minute and is torch's own affair
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled, plain = load(folder, compile=True, size=SIZE), load(folder, size=SIZE)
    assert compiled.denoiser.network.run is not forward_rows
    x, levels = draw(1, 3, *plain.denoiser.can.latent_shape), torch.tensor([[1, 2, 5]])
    with torch.inference_mode():
        ours, theirs = (model.denoiser(x, levels, [PROMPT]) for model in (compiled, plain))
    assert relative(ours, theirs) < 1e-4


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offloading_changes_no_number(folder, ucf, offload):
    for source, options in ((folder, {"size": SIZE}), (ucf, {})):
        prompt = PROMPT if source is folder else "surfing"
        parked, plain = load(source, offload=offload, device="cpu", **options), load(source, device="cpu", **options)
        x, levels = draw(1, 3, *plain.denoiser.can.latent_shape), torch.tensor([[1, 2, 5]])
        assert torch.equal(parked.denoiser(x, levels, [prompt]), plain.denoiser(x, levels, [prompt]))


def test_blocks_visit_the_device_one_after_the_other(folder, monkeypatch):
    model = load(folder, size=SIZE, offload="group", device="cpu")
    blocks = [*model.denoiser.network.transformer.transformer_blocks,
              *model.denoiser.network.transformer.temporal_transformer_blocks]  # fmt: skip
    moves: list[tuple[int, str]] = []
    for number, block in enumerate(blocks):
        monkeypatch.setattr(block, "to", lambda place, n=number: moves.append((n, str(place))), raising=False)
    run = model.denoiser.network.run
    assert run.keywords == {"home": torch.device("cpu")}
    home = torch.device("meta")
    x, half = torch.zeros(1, 2, 4, 4, 6), len(blocks) // 2
    text = torch.zeros(1, 4, model.denoiser.network.transformer.config.caption_channels)
    forward_rows(model.denoiser.network.transformer, x, torch.full((1, 2), 500.0), text, home=home)
    order = [number for pair in zip(range(half), range(half, 2 * half), strict=True) for number in pair]
    assert moves == [(number, place) for number in order for place in ("meta", "cpu")]
    with pytest.raises(UsageError, match="--compile and --offload group do not go together on latte"):
        load(folder, size=SIZE, offload="group", compile=True)


def test_a_live_pipeline_is_not_changed_by_options(pipe, folder):
    with pytest.raises(UsageError, match="a live pipeline is left as it is"):
        load(pipe, size=SIZE, offload="model")
    with pytest.raises(UsageError, match="freelong is no option of latte; it has tiling"):
        load(folder, size=SIZE, extras={"freelong": True})
