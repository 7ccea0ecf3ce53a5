"""The embedded model: a stock diffusers folder that our adapter, our laws and the stock pipeline all take."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline

import longtake
from longtake.core.engine import Engine
from longtake.core.noise import normal, root
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.metrics import judge as judging
from longtake.metrics.world import Size, evaluate
from longtake.models.load import NAMES, Model
from longtake.models.parts import load_part
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.plain import Plain
from longtake.testing import check_denoiser, check_rollout

PROMPT = "a dog walks right across green hills at noon"
FOLDER = NAMES["pocket"]


@pytest.fixture(scope="module")
def pocket() -> Model:
    return longtake.load("pocket", num_steps=4, guidance=1.0)


def rollouts(model: Model) -> dict[str, Any]:
    parts = (model.denoiser.can.latent_shape, model.denoiser.schedule, Solver(model.solver))
    return {
        "plain": Plain(*parts, 4),
        "chunk": Chunk(*parts, 4, overlap=1),
        "fifo": Fifo(*parts, 2),
    }


def test_the_folder_is_what_contract_says(pocket: Model):
    settings = json.loads((FOLDER / "longtake.json").read_text())
    assert (pocket.window, pocket.fps, settings["steps"]) == (12, 8, 24)
    assert (pocket.size, pocket.denoiser.can.latent_shape) == ((64, 64), (32, 8, 8))
    assert settings["max_sequence_length"] == 32 and settings["vocabulary"] == "world"
    assert json.loads((FOLDER / "model_index.json").read_text())["expand_timesteps"] is True
    assert not list(FOLDER.rglob("*.bin"))


def test_the_denoiser_keeps_the_law_kit(pocket: Model):
    check_denoiser(pocket.denoiser)


@pytest.mark.parametrize("name", ["plain", "chunk", "fifo"])
def test_rollouts_keep_the_law_kit(name: str, pocket: Model):
    check_rollout(rollouts(pocket)[name], pocket.denoiser, num_latents=4)


def test_the_stock_pipeline_loads_it_and_draws_the_same_clip():
    """Stock defaults but for length and steps: 512 text tokens there, 32 here; the padding is zeros in both."""
    model = longtake.load("pocket", num_steps=6, guidance=3.0)
    pipe = WanPipeline.from_pretrained(FOLDER, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    rows, shape = 3, model.denoiser.can.latent_shape
    start = torch.stack([normal(shape, root(7), "init", index) for index in range(rows)])
    options = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 6, "guidance_scale": 3.0,
               "latents": start.transpose(0, 1)[None], "output_type": "latent"}  # fmt: skip
    want = pipe(PROMPT, max_sequence_length=32, **options).frames[0].transpose(0, 1)
    rollout = Plain(shape, model.denoiser.schedule, Solver(model.solver), rows)
    engine = Engine(model.denoiser)
    state = engine.drive(rollout.init(7, Timeline.of(PROMPT)))
    got = torch.stack([x for _, emission in stream(rollout, engine, state) for x in emission.latents])
    assert float((got - want).abs().max()) <= 1e-4 * float(want.std())
    # with its own default of 512 tokens the stock pipeline reads more padding, and still draws the same kind of clip
    padded = pipe(PROMPT, **options).frames[0].transpose(0, 1)
    assert torch.isfinite(padded).all() and 0.5 < float(padded.std() / want.std()) < 2


def test_the_prompt_matters(pocket: Model):
    rollout = rollouts(pocket)["plain"]
    engine = Engine(pocket.denoiser)

    def clip(prompt: str) -> torch.Tensor:
        state = engine.drive(rollout.init(7, Timeline.of(prompt)))
        return torch.stack([x for _, emission in stream(rollout, engine, state) for x in emission.latents])

    noon, night = clip(PROMPT), clip("a dog walks right across green hills at night")
    assert float((noon - night).abs().mean()) > 0.05
    frames = [pocket.codec.decode(latents)[0].float().mean() for latents in (noon, night)]
    assert frames[0] > 1.3 * frames[1]  # night is darker, even from a model this small in four steps


def test_a_small_version_of_the_quality_suite():
    """`longtake eval --suite world` with few samples and half the steps; bounds that chance alone does not reach.

    A blind guess is right on 1 of 39 subjects and 1 of 8 places; the whole suite's numbers stand in docs/cards.
    """
    model = longtake.load("pocket", num_steps=10)
    said: list[str] = []
    found = evaluate(model, judging.load(), Size(captions=5, clips=1, stills=4, judged=4), said.append)
    assert found["subject_accuracy"]["mean"] >= 2 / 5 and found["place_accuracy"]["mean"] >= 3 / 5
    assert found["vae_psnr"]["mean"] > 20 and found["vae_psnr_stills"]["mean"] > 22
    assert found["judge"]["truth_subject"]["mean"] >= 3 / 4 and found["judge"]["through_vae_place"]["mean"] >= 3 / 4
    assert 0.6 < found["visual_quality"]["mean"] < 1 and 0 < found["motion_quality"]["mean"] < 1
    assert -20 < found["text_alignment"]["mean"] < 0 and found["visual_quality"]["n"] == 5
    assert said[1] == "clips: 0 of 5"


def test_threads_that_load_at_once_take_turns():
    """Loaders of diffusers and transformers patch torch for all threads; two at once left every later network empty."""
    inside, most = [], []

    class Part:
        @staticmethod
        def from_pretrained(path: Path, **options: Any) -> None:
            inside.append(path)
            most.append(len(inside))
            time.sleep(0.1)
            inside.remove(path)

    with ThreadPoolExecutor(4) as pool:
        parts = [pool.submit(load_part, Part, Path(str(n)), FOLDER) for n in range(3)]
        models = [pool.submit(longtake.load, "pocket", num_steps=4, guidance=1.0) for _ in range(2)]
        assert [part.result() for part in parts] == [None] * 3
        for model in [*(one.result() for one in models), longtake.load("pocket", num_steps=4, guidance=1.0)]:
            model.prepare([PROMPT])
            assert not any(weight.is_meta for weight in model.denoiser.transformer.parameters())
    assert max(most) == 1
