"""CogVideoX 1.5: two latents a token, its positions, its constant, the row in front; against diffusers' own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from longtake.apps.lookup import look_up
from longtake.apps.session import begin, build, generate, reopen, running, start
from longtake.apps.settings import Request
from longtake.core.engine import Engine
from longtake.core.noise import normal, root
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.errors import UsageError
from longtake.models.load import Model, load
from longtake.models.tiny_cogvideox import tiny_cogvideox
from longtake.output.directory import RunDir
from longtake.output.video import read_frames
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.plain import Plain
from longtake.testing import check_denoiser, check_rollout
from tests.wan_cases import NEGATIVE, PROMPT, noise, relative

SIZE, WINDOW, STEPS = (48, 32), 6, 5
KINDS = {"t2v": dict(newer=True), "i2v": dict(newer=True, image=True)}


@pytest.fixture(scope="module", params=list(KINDS))
def pipe(request) -> Any:
    return tiny_cogvideox(**KINDS[request.param])


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("newer")
    for name, kind in KINDS.items():
        pipe = tiny_cogvideox(**kind)
        pipe.save_pretrained(root / name, safe_serialization=True)
        pipe.save_pretrained(root / f"{name}-short", safe_serialization=True)
        (root / f"{name}-short" / "longtake.json").write_text(json.dumps({"window": {"t2v": 6, "i2v": 5}[name]}))
    Image.effect_noise(SIZE, 90).convert("RGB").save(root / "first.png")
    return {
        "t2v": dict(model=str(root / "t2v"), prompt="a dog runs", size=SIZE),
        "i2v": dict(model=str(root / "i2v"), prompt="a dog runs", size=SIZE, image=str(root / "first.png")),
    }


def of(pipe: Any, **options: Any) -> Model:
    return load(pipe, **{"size": SIZE, "num_steps": STEPS, "guidance": 3.0, "negative_prompt": NEGATIVE, **options})


def leaf(model: Model, window: int = WINDOW) -> Any:
    return model.denoiser.can.latent_shape, model.denoiser.schedule, Solver(model.solver), window


def stock_v(pipe: Any, rows: torch.Tensor, image: torch.Tensor | None, time: float, prompts: list[str]) -> torch.Tensor:
    """The stock forward as the stock pipelines call it, on rows that are even in number."""
    words = torch.cat([pipe.encode_prompt(p, None, False, max_sequence_length=226)[0] for p in prompts])
    rope = pipe._prepare_rotary_positional_embeddings(SIZE[1], SIZE[0], rows.shape[1], torch.device("cpu"))
    more = {} if image is None else {"ofs": torch.full((1,), 2.0)}
    inputs = rows if image is None else torch.cat([rows, image], dim=2)
    times = torch.tensor([time] * len(rows))
    return pipe.transformer(inputs, words, times, image_rotary_emb=rope, return_dict=False, **more)[0]


@torch.no_grad()
def test_an_even_window_is_the_stock_forward(pipe):
    model = of(pipe, guidance=1.0)
    x, schedule = noise(model, 2, WINDOW), model.denoiser.schedule
    takes = model.denoiser.can.image_only
    for level in (1, 3, 5):
        ours = model.denoiser(x, torch.full((2, WINDOW), level), [PROMPT, NEGATIVE])
        v = stock_v(pipe, x, torch.zeros_like(x) if takes else None, schedule.times[level], [PROMPT, NEGATIVE])
        assert relative(ours, schedule.alphas[level] * x - schedule.sigmas[level] * v) < 1e-5


@torch.no_grad()
def test_an_odd_window_has_a_copy_of_its_first_latent_in_front(pipe):
    model = of(pipe, guidance=1.0)
    x, schedule, level = noise(model, 1, 5), model.denoiser.schedule, 3
    alpha, sigma, time = schedule.alphas[level], schedule.sigmas[level], schedule.times[level]
    takes = model.denoiser.can.image_only
    # known rows are noised, the copy of the first with noise of its own; the picture stands in the very first row
    ours = model.denoiser(x, torch.tensor([[0, 0, 3, 3, 3]]), [PROMPT])
    shape = x.shape[2:]
    shown = [alpha * x[0, 0] + sigma * normal(shape, root(0), "padding row", 0)]
    shown += [alpha * x[0, row] + sigma * normal(shape, root(0), "known row", row) for row in range(2)]
    rows = torch.stack([*shown, *x[0, 2:]])[None]
    image = torch.zeros_like(rows)
    image[0, 0] = (1.0 if takes else 0.0) * x[0, 0]
    v = stock_v(pipe, rows, image if takes else None, time, [PROMPT])[:, 1:]
    assert relative(ours[:, 2:], (alpha * x - sigma * v)[:, 2:]) < 1e-5 and torch.equal(ours[:, :2], x[:, :2])
    # a noisy first row is copied as it is, and nothing is known
    ours = model.denoiser(x, torch.full((1, 5), level), [PROMPT])
    rows = torch.cat([x[:, :1], x], dim=1)
    v = stock_v(pipe, rows, torch.zeros_like(rows) if takes else None, time, [PROMPT])[:, 1:]
    assert relative(ours, alpha * x - sigma * v) < 1e-5


def test_law_kits(pipe):
    check_denoiser(of(pipe).denoiser)
    model = of(pipe, solver="ddim")
    check_rollout(Chunk(*leaf(model, 5), overlap=2), model.denoiser, num_latents=7)
    with pytest.raises(UsageError, match="two latents in one token, which has one time"):
        of(pipe, extras={"allow_unsound": True})


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("frames", [4 * WINDOW - 3, 4 * WINDOW - 7])
def test_plain_is_the_stock_pipeline(kind: str, frames: int):
    """Also where the stock pipeline adds a row in front (an odd number of latents): its latents are an even window."""
    pipe = tiny_cogvideox(**KINDS[kind], scheduler="ddim")
    model = of(pipe)
    more: dict[str, Any] = {}
    if kind == "i2v":
        picture = Image.effect_noise(SIZE, 90).convert("RGB")
        more = {"image": picture, "generator": torch.Generator().manual_seed(3)}
        pixels = pipe.video_processor.preprocess(picture, height=SIZE[1], width=SIZE[0])
        drawn = pipe.vae.encode(pixels[:, :, None]).latent_dist.sample(torch.Generator().manual_seed(3))
        model.denoiser.open_with(0.7 * drawn[0, :, 0])
    start = torch.stack([normal(model.denoiser.can.latent_shape, root(7), "init", index) for index in range(WINDOW)])
    pipe.set_progress_bar_config(disable=True)
    want = pipe(
        prompt=PROMPT, negative_prompt=NEGATIVE, height=SIZE[1], width=SIZE[0], num_frames=frames,
        num_inference_steps=STEPS, guidance_scale=3.0, latents=start[None], output_type="latent", **more,
    ).frames[0]  # fmt: skip
    engine = Engine(model.denoiser, 2)
    state = engine.drive(Plain(*leaf(model)).init(7, Timeline.of(PROMPT), ()))
    rows = [x for _, emission in stream(Plain(*leaf(model)), engine, state, WINDOW) for x in emission.latents]
    assert len(want) == WINDOW and relative(torch.stack(rows), want) <= 1e-4


def test_longer_windows_slow_positions_of_pairs():
    model = of(tiny_cogvideox(**KINDS["t2v"]), extras={"riflex": 44})
    model.denoiser(noise(model, 1, 44), torch.full((1, 44), 3), [PROMPT])
    cos, _ = model.denoiser._tables[1]
    assert cos.shape == (22 * 2 * 3, 16) and model.window == 44
    # 22 positions: the slowest pair of time's four columns that would come round (2 pi latents) makes .9 of a turn
    angles = torch.arange(22) * 0.9 * 2 * torch.pi / 22
    assert torch.allclose(cos.reshape(22, 6, 16)[:, 0, 0], angles.cos().float(), atol=1e-6)


def test_a_folder_says_what_the_model_says(folders):
    for name, window in (("t2v", 22), ("i2v", 21)):
        model, facts = of(folders[name]["model"]), look_up(Request("a dog", folders[name]["model"], size=SIZE))
        can = model.denoiser.can
        said = ("window", "per_row_levels", "image_first", "image_only", "clean_rows", "latents_at_once")
        assert all(getattr(facts, key) == getattr(can, key) for key in said)
        assert (facts.window, facts.fps, facts.steps, model.solver) == (window, 16, 50, "cogvideox_dpm")
        x, levels = noise(model, 1, 3), torch.tensor([[0, 4, 4]])
        live = of(tiny_cogvideox(**KINDS[name]))
        assert torch.equal(model.denoiser(x, levels, [PROMPT]), live.denoiser(x, levels, [PROMPT]))
        with pytest.raises(UsageError, match=r"size 64x64 is beyond this model's positions; the nearest .* is 48x32"):
            look_up(Request("a dog", folders[name]["model"], size="64x64"))
        assert (
            look_up(Request("a dog", folders[name]["model"])).size == SIZE
        )  # 1360x768 where the positions reach so far


def test_patches_of_another_length_are_refused():
    pipe = tiny_cogvideox()
    pipe.transformer.register_to_config(patch_size_t=4)
    with pytest.raises(UsageError, match="has patches of 4 latents"):
        of(pipe)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("method", ["plain", "chunk", "replace", "windows", "freenoise"])
def test_the_matrix(folders, kind: str, method: str, tmp_path):
    made = generate(out=tmp_path / "run", **folders[kind], method=method, seed=5, steps=2, frames=9)
    assert made.frames == 9 == len(list(read_frames(made.video)))


@pytest.mark.parametrize("kind,window", [("t2v", 6), ("i2v", 6), ("i2v", 5)])
def test_clips_joined_through_pixels_are_whole_pairs(folders, kind: str, window: int, tmp_path):
    """A latent whose pair is not whole gives no frames, and a new clip begins the decoder anew: none may be lost."""
    folder = Path(folders[kind]["model"] + "-short")
    copied = shutil.copytree(folder, tmp_path / "model")
    (copied / "longtake.json").write_text(json.dumps({"window": window}))
    options = {
        **folders[kind],
        "model": str(copied),
        "method": "chunk",
        "seed": 5,
        "steps": 2,
        "set": ["chunk.join=pixel"],
    }
    made = generate(out=tmp_path / "run", frames=33, **options)
    assert made.frames == 33 == len(list(read_frames(made.video)))
    assert made.nfe == start(Request(frames=33, **options)).job.expected_nfe == 2 * 2 * 2
    more = generate(out=tmp_path / "more", frames=9, **{**options, "image": None, "video": made.video})
    assert more.frames == 9 == len(list(read_frames(more.video)))


def test_too_long_for_a_clip_is_sent_to_a_method_that_the_model_has(folders):
    for length in (dict(frames=200), dict(seconds="inf")):
        with pytest.raises(UsageError, match="use --method chunk"):
            start(Request(**folders["t2v"], method="plain", **length))


@pytest.mark.parametrize("kind", list(KINDS))
def test_stopped_and_gone_on_with_is_uninterrupted(folders, kind: str, tmp_path):
    short = {**folders[kind], "model": folders[kind]["model"] + "-short"}
    options = dict(method="chunk", seed=5, steps=2, frames=33, **short)
    whole = generate(out=tmp_path / "whole", **options)
    session = start(Request(**options))
    folder = begin(session, tmp_path / "stopped")
    with running(session, folder) as (_, progress):
        for done in progress:
            if done.frames >= 9:
                break
    assert folder.finished is None
    settings, _ = reopen(RunDir(tmp_path / "stopped"))
    with running(build(settings), folder) as (_, progress):
        for _ in progress:
            pass
    assert folder.finished is not None and folder.finished["frames"] == whole.frames == 33
    assert folder.video.read_bytes() == Path(whole.video).read_bytes()
