"""ConsistI2V: layout, reference numbers, forward, levels a row, guidance of two kinds, and a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from longtake.apps.convert_command import run_convert
from longtake.apps.session import generate
from longtake.core.engine import Engine
from longtake.core.model import Denoiser
from longtake.core.noise import normal, root
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.errors import UsageError
from longtake.models.consisti2v import BETAS, schedule_of
from longtake.models.consisti2v_noise import low_pass
from longtake.models.consisti2v_tiny import SIZES, save_tiny_consisti2v
from longtake.models.consisti2v_unet import ConsistUNet
from longtake.models.load import load
from longtake.models.vp import signal
from longtake.output.video import read_frames
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.plain import Plain
from longtake.testing import check_denoiser, check_rollout
from tests import consisti2v_reference as reference
from tests.adapted import assert_adapts, assert_compiles
from tests.test_models_opensora import layout, noise, relative
from tests.turns import assert_stopping_changes_nothing

PROMPT, NEGATIVE = "a dog runs right over the hills", "a cat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_consisti2v(tmp_path_factory.mktemp("models") / "consist")


@pytest.fixture(scope="module")
def model(folder):
    return load(folder, negative_prompt=NEGATIVE)


@pytest.fixture(scope="module")
def network(model) -> ConsistUNet:
    return model.denoiser.worker.module


def test_the_published_layout_name_for_name_and_shape_for_shape():
    with torch.device("meta"):
        network = ConsistUNet()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == layout("consisti2v") and len(shapes) == 1397
    assert sum(weight.numel() for weight in network.parameters()) == 1_249_975_241


def test_grid_and_betas_of_the_release():
    kept = signal(BETAS)
    wanted = [0.9991499781608582, 0.9982895255088806, 0.9789364337921143, 0.008424083702266216, 0.0019588281866163015]
    assert [kept[time] for time in (0, 1, 21, 850, 981)] == pytest.approx(wanted, rel=1e-4)
    schedule = schedule_of(50)
    assert list(schedule.times[:47:-1]) == [981, 961, 941] and schedule.times[:3] == (0, 1, 21)
    assert schedule.alphas[0] == 1, "the last step ends clean"


def test_low_pass_of_the_release():
    share = low_pass(16, 32, 32)
    wanted = {
        (8, 16, 16): 1.0, (7, 16, 16): 0.8824968934059143, (8, 15, 16): 0.9692332148551941,
        (0, 0, 0): 3.775134371775124e-11, (9, 17, 18): 0.7548395991325378,
    }  # fmt: skip
    assert {place: float(share[place]) for place in wanted} == pytest.approx(wanted, rel=1e-5)
    assert float(share.sum()) == pytest.approx(503.87554931640625, rel=1e-5)


@torch.no_grad()
def test_the_forward_against_one_written_from_the_description(network):
    """Its own time for every frame; equal times are the special case that the release runs."""
    x, text = noise(5, 4, 8, 4), noise(7, SIZES.context, seed=1)
    weights = {name: value.float() for name, value in network.state_dict().items()}
    for times in ([640.0] * 5, [0.0, 100.0, 400.0, 700.0, 999.0]):
        ours = network(x[None], torch.tensor([times]), text[None], torch.tensor([3.0]))[0]
        theirs = reference.forward(weights, SIZES, x, times, text, 3.0)
        assert relative(ours, theirs) < 1e-4


@torch.no_grad()
def test_each_row_depends_on_its_own_level_and_on_the_others(network):
    x, text, stride = noise(1, 5, 4, 8, 4), noise(1, 7, SIZES.context, seed=1), torch.tensor([3.0])
    usual = network(x, torch.full((1, 5), 500.0), text, stride)[0]
    for row in range(5):
        times = torch.full((1, 5), 500.0)
        times[0, row] = 100.0
        change = (network(x, times, text, stride)[0] - usual).abs().amax(dim=(1, 2, 3))
        assert change.min() > 1e-5 and change[row] > 1e-2
    other = network(x, torch.full((1, 5), 500.0), text, torch.tensor([5.0]))[0]
    assert float((other - usual).abs().max()) > 1e-3, "the frame stride counts"


@torch.no_grad()
def test_a_batch_equals_its_parts(network):
    x, text = noise(2, 4, 4, 8, 4), noise(2, 7, SIZES.context, seed=1)
    times, stride = torch.tensor([[0.0, 10, 500, 900], [999, 1, 300, 4]]), torch.tensor([3.0, 1.0])
    both = network(x, times, text, stride)
    parts = [network(x[i : i + 1], times[i : i + 1], text[i : i + 1], stride[i : i + 1]) for i in (0, 1)]
    assert relative(both, torch.cat(parts)) < 1e-4


def test_the_denoiser_keeps_the_laws(folder, model):
    assert isinstance(model.denoiser, Denoiser)
    check_denoiser(model.denoiser)
    can, unguided = model.denoiser.can, load(folder, guidance=1, num_steps=3).denoiser
    check_rollout(Chunk(can.latent_shape, unguided.schedule, Solver("ddim"), 3, 1), unguided, 5)


@pytest.mark.parametrize("guided", [False, True])
def test_plain_is_the_release_sampler(folder, model, network, guided):
    """Stock DDIM over the frames behind the picture, which is shown clean at their time and never stepped."""
    made = load(folder, negative_prompt=NEGATIVE, guidance=7.5 if guided else 1.0)
    denoiser, can = made.denoiser, made.denoiser.can
    picture = normal(can.latent_shape, root(1), "picture")
    rollout = Plain(can.latent_shape, denoiser.schedule, Solver(made.solver), window=5)
    engine = Engine(denoiser)
    state = engine.drive(rollout.init(3, Timeline.of(PROMPT), (picture,)))
    z = torch.stack([row.x for row in state.queue.rows if row.level])
    ours = [x for _, emission in stream(rollout, engine, state, None) for x in emission.latents]
    stock = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, steps_offset=1)
    stock.set_timesteps(6)
    prompt, empty = (made.denoiser.texts.cache(words)[None] for words in (PROMPT, NEGATIVE))
    with torch.no_grad():
        for time in stock.timesteps:
            x, times = torch.cat([picture[None], z])[None], torch.full((1, 5), float(time))
            noises = [network(x, times, text, torch.tensor([3.0]))[0, 1:] for text in (prompt, empty)]
            eps = noises[1] + 7.5 * (noises[0] - noises[1]) if guided else noises[0]
            z = stock.step(eps, time, z, eta=0.0, return_dict=False)[0]
    assert relative(torch.stack(ours), z) < 1e-4


def test_known_rows_behind_the_picture_are_shown_as_noisy_as_the_rest(model):
    denoiser, schedule = model.denoiser, model.denoiser.schedule
    x = noise(4, *denoiser.can.latent_shape)
    shown, times = denoiser._shown(x, [0, 0, 4, 4])
    assert torch.equal(shown[0], x[0]) and torch.equal(shown[2:], x[2:])
    eps = normal(x.shape[1:], root(0), "known row", 1)
    assert torch.allclose(shown[1], schedule.alphas[4] * x[1] + schedule.sigmas[4] * eps, atol=1e-6)
    assert times.tolist() == [schedule.times[4]] * 4
    shown, times = denoiser._shown(x, [0, 0, 2, 4])
    assert torch.equal(shown, x), "in a queue they are shown as they are"
    assert times.tolist() == [schedule.times[level] for level in (2, 0, 2, 4)]


def test_guidance_towards_the_picture_takes_a_third_pass(folder, tmp_path, network):
    home = Path(shutil.copytree(folder, tmp_path / "three"))
    settings = json.loads((home / "longtake.json").read_text())
    (home / "longtake.json").write_text(json.dumps(settings | {"guidance_image": 2.0}))
    denoiser = load(home).denoiser
    assert denoiser.cost == 3
    check_denoiser(denoiser)
    x, level, schedule = noise(1, 4, *denoiser.can.latent_shape), 4, denoiser.schedule
    hidden = x.clone()
    eps = normal(x.shape[2:], root(0), "known row", 0)
    hidden[0, 0] = schedule.alphas[level] * x[0, 0] + schedule.sigmas[level] * eps
    times, stride = torch.full((1, 4), schedule.times[level]), torch.tensor([3.0])
    text, none = (denoiser.texts.cache(words)[None] for words in (PROMPT, ""))
    with torch.no_grad():
        passes = ((hidden, none), (x, none), (x, text))
        e0, e1, e2 = (network(shown, times, words, stride) for shown, words in passes)
    e = e0 + 2.0 * (e1 - e0) + 7.5 * (e2 - e1)
    ours = denoiser(x, torch.tensor([[0, 4, 4, 4]]), [PROMPT])
    theirs = (x - schedule.sigmas[level] * e) / schedule.alphas[level]
    assert relative(ours[:, 1:], theirs[:, 1:]) < 1e-4 and torch.equal(ours[0, 0], x[0, 0])
    (home / "longtake.json").write_text(json.dumps(settings | {"guidance_image": 0.5}))
    with pytest.raises(UsageError, match="guidance_image must be at least 1"):
        load(home)


# -- folders and runs --------------------------------------------------------------------------------------------


def test_a_film_from_a_picture(folder, tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 32), (200, 40, 60)).save(picture)
    result = generate(
        PROMPT, tmp_path / "film", model=str(folder), frames=9, steps=2,
        image=picture, seed=3,
    )  # fmt: skip
    assert result.frames == len(list(read_frames(result.video))) == 9
    assert model_facts(folder) == (True, 16, 8.0)


def test_a_film_in_two_turns(folder, tmp_path):
    """The picture is read once: it can be gone when the film goes on."""
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 32), (200, 40, 60)).save(picture)
    options = {"frames": 10, "steps": 2, "image": picture, "seed": 3}
    assert_stopping_changes_nothing(PROMPT, tmp_path, 3, model=str(folder), **options)


def test_downloads_are_assembled(folder, tmp_path):
    downloads = Path(shutil.copytree(folder, tmp_path / "downloads"))
    (downloads / "longtake.json").unlink()
    made = run_convert("consisti2v", downloads, tmp_path / "made")
    (made / "longtake.json").write_text((folder / "longtake.json").read_text())
    x, levels = noise(1, 3, 4, 4, 8), torch.tensor([[0, 2, 2]])
    ours, theirs = (load(home, num_steps=2).denoiser(x, levels, [PROMPT]) for home in (made, folder))
    assert torch.equal(ours, theirs)


def model_facts(folder: Path) -> tuple[bool, int, float]:
    bare = json.loads((folder / "longtake.json").read_text())
    settings = {key: bare[key] for key in ("family", "size")}
    home = Path(shutil.copytree(folder, folder.parent / "bare"))
    (home / "longtake.json").write_text(json.dumps(settings))
    made = load(home, num_steps=2)
    return made.denoiser.can.image_only, made.window, float(made.fps)


def test_it_adapts(folder, tmp_path):
    assert_adapts(folder, tmp_path, "down_blocks.0.attentions.0.proj_in")


@pytest.mark.slow
def test_it_compiles(folder):
    assert_compiles(folder)


def test_one_line_for_what_is_wrong(folder, tmp_path):
    with pytest.raises(UsageError, match="multiples of 32"):
        load(folder, size="64x40")
    home = Path(shutil.copytree(folder, tmp_path / "other"))
    content = json.loads((home / "unet" / "config.json").read_text()) | {"n_temp_heads": 4}
    (home / "unet" / "config.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"rotary_bias\.relative_attention_bias\.weight has shape \(32, 2\)"):
        load(home)
