"""Open-Sora-Plan 1.3: layout, reference numbers, forward, levels a row, given frames, autoencoder, codec, and a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from PIL import Image
from torch import Tensor

from longtake.apps.convert_command import run_convert
from longtake.apps.planning import plan
from longtake.apps.session import begin, build, generate, reopen, running, start
from longtake.apps.settings import Request
from longtake.core.model import Codec, Denoiser
from longtake.core.noise import normal, root
from longtake.core.solvers import Memory, Solver
from longtake.errors import UsageError
from longtake.models.load import load
from longtake.models.opensora_rows import leading
from longtake.models.opensoraplan import NEGATIVE, TEMPLATE, schedule_of
from longtake.models.opensoraplan_dit import PlanConfig, PlanTransformer, rotations, scopes, turned
from longtake.models.opensoraplan_tiny import VAE, plan_sizes, save_tiny_open_sora_plan
from longtake.models.opensoraplan_vae import WFVAE
from longtake.models.opensoraplan_wavelets import Haar2D, Haar3D, InverseHaar2D, InverseHaar3D
from longtake.output.video import read_frames
from longtake.rollouts.fifo import Fifo
from longtake.testing import check_denoiser, check_rollout
from tests import opensoraplan_reference as reference
from tests.adapted import assert_adapts, assert_compiles
from tests.test_models_opensora import layout, noise, relative
from tests.turns import assert_stopping_changes_nothing

PROMPT = "a dog runs right over the hills"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_open_sora_plan(tmp_path_factory.mktemp("models") / "osp")


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The image-to-video network."""
    return load(save_tiny_open_sora_plan(tmp_path_factory.mktemp("models") / "osp-i2v", inpaint=True))


@pytest.fixture(scope="module")
def network(model) -> PlanTransformer:
    return model.denoiser.worker.module


def words(count: int = 6) -> tuple[Tensor, Tensor]:
    return noise(1, count, 16, seed=1), torch.ones(1, count, dtype=torch.bool)


def test_the_published_layout_name_for_name_and_shape_for_shape():
    with torch.device("meta"):
        text, pictures, vae = PlanTransformer(), PlanTransformer(PlanConfig(inpaint=True)), WFVAE()
    shapes = [{name: tuple(value.shape) for name, value in net.state_dict().items()} for net in (text, pictures, vae)]
    assert shapes[0] == layout("opensoraplan13")
    assert shapes[1] == layout("opensoraplan13") | layout("opensoraplan13_i2v_extra")
    assert shapes[2] == layout("opensoraplan13_vae")
    counts = [sum(weight.numel() for weight in net.parameters()) for net in (text, pictures)]
    assert counts == [2_771_981_600, 2_782_713_632]
    assert sum(value.numel() for value in vae.state_dict().values()) == 147_347_948


def test_grid_of_the_release():
    schedule = schedule_of(100)
    ratios = [sigma / alpha for alpha, sigma in zip(schedule.alphas, schedule.sigmas, strict=True)]
    assert list(schedule.times[100:97:-1]) + list(schedule.times[2:0:-1]) == [999, 989, 979, 19, 9]
    assert ratios[100:97:-1] == pytest.approx([4095.999755859375, 1478.5574951171875, 706.075927734375], rel=1e-5)
    assert [*ratios[2:0:-1], ratios[0]] == pytest.approx([0.07641473, 0.04370396, 0], rel=1e-4)


@pytest.mark.parametrize("steps", [7, 25])
def test_a_step_is_that_of_diffusers(steps):
    """Euler ancestral in the stock scheduler's own variables: x there is x here times sqrt(1 + sigma^2)."""
    stock = EulerAncestralDiscreteScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip
    stock.set_timesteps(steps)
    schedule, solver = schedule_of(steps), Solver("euler_ancestral")
    assert stock.timesteps.tolist() == list(schedule.times[:0:-1])
    sigmas = torch.tensor([sigma / alpha for alpha, sigma in zip(schedule.alphas, schedule.sigmas, strict=True)])
    assert torch.allclose(stock.sigmas, sigmas.flip(0), rtol=1e-4)
    x, v = noise(1, 4, 3, 3).double(), noise(1, 4, 3, 3, seed=1).double()
    for level in range(steps, 0, -1):
        sigma, after = sigmas[level].double(), sigmas[level - 1].double()
        torch.manual_seed(level)
        theirs = stock.step(v, stock.timesteps[steps - level], x * (1 + sigma**2).sqrt(), return_dict=False)[0]
        theirs = theirs / (1 + after**2).sqrt()
        torch.manual_seed(level)
        fresh = torch.randn_like(x)
        plan = solver.plan(schedule, level, level - 1, Memory())
        x0 = schedule.alphas[level] * x - schedule.sigmas[level] * v
        ours = plan.next.x * x + plan.next.x0 * x0 + plan.std * fresh
        assert float((ours - theirs).abs().max()) < 2e-4, level


def test_scopes_and_rotations_of_the_release():
    assert scopes(32, 4, grouped=False).tolist() == [list(range(start, 32, 4)) for start in range(4)]
    assert scopes(32, 4, grouped=True).tolist() == [
        [0, 1, 2, 3, 16, 17, 18, 19], [4, 5, 6, 7, 20, 21, 22, 23],
        [8, 9, 10, 11, 24, 25, 26, 27], [12, 13, 14, 15, 28, 29, 30, 31],
    ]  # fmt: skip
    assert scopes(33, 4, grouped=False).shape == (4, 12), "padded to a multiple of 16"
    both = [1.0] * 4, [-0.30117, 0.98995, 1.38177, 1.00995]
    rows = turned(torch.ones(8, 12), rotations(12, (2, 2, 2), (1.0, 1.0, 1.0)))
    wanted = [[*both[place >> 2 & 1], *both[place >> 1 & 1], *both[place & 1]] for place in range(8)]
    assert torch.allclose(rows, torch.tensor(wanted), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 4, 4, 4), (3, 4, 4, 6)])
@torch.no_grad()
def test_the_forward_against_one_written_from_the_description(network, shape):
    """12 and 18 tokens: with and without padding of the scopes' last round."""
    x, (text, mask) = noise(*shape), words()
    ours = network(x[None], torch.full((1, 3), 640.0), text, mask)[0]
    weights, sizes = dict(network.state_dict()), plan_sizes()
    theirs = reference.forward(weights, sizes.num_heads, sizes.num_layers, x, 640.0, text[0])
    assert relative(ours, theirs) < 1e-4


@torch.no_grad()
def test_the_image_network_against_one_written_from_the_description(pictures):
    network, sizes = pictures.denoiser.worker.module, plan_sizes(inpaint=True)
    x, given, (text, mask) = noise(3, 4, 4, 4), noise(3, 8, 4, 4, seed=2), words()
    ours = network(x[None], torch.full((1, 3), 640.0), text, mask, given[None])[0]
    theirs = reference.forward(
        dict(network.state_dict()), sizes.num_heads, sizes.num_layers, x, 640.0, text[0], given
    )  # fmt: skip
    assert relative(ours, theirs) < 1e-4
    with pytest.raises(ValueError, match="cannot do without"):
        network(x[None], torch.full((1, 3), 640.0), text, mask)


@torch.no_grad()
def test_each_row_depends_on_its_own_level_and_on_the_others(network):
    x, (text, mask) = noise(1, 5, 4, 4, 6), words()
    usual = network(x, torch.full((1, 5), 500.0), text, mask)[0]
    for row in range(5):
        times = torch.full((1, 5), 500.0)
        times[0, row] = 100.0
        change = (network(x, times, text, mask)[0] - usual).abs().amax(dim=(1, 2, 3))
        assert change.argmax() == row and change.min() > 1e-4


@torch.no_grad()
def test_a_batch_equals_its_parts_whatever_the_texts_are_long(network):
    x, text = noise(2, 3, 4, 4, 6), noise(2, 6, 16, seed=1)
    mask = torch.tensor([[True] * 3 + [False] * 3, [True] * 6])
    times = torch.tensor([[10.0, 500, 900], [999, 1, 300]])
    both = network(x, times, text, mask)
    first = network(x[:1], times[:1], text[:1, :3], mask[:1, :3])
    assert relative(both, torch.cat([first, network(x[1:], times[1:], text[1:], mask[1:])])) < 1e-5


def test_guidance_in_the_templates_of_the_release(model, network):
    x, levels = noise(1, 4, *model.denoiser.can.latent_shape), torch.tensor([[0, 2, 4, 6]])
    schedule, cache = model.denoiser.schedule, model.denoiser.texts.cache
    times = torch.tensor([[schedule.times[level] for level in levels[0].tolist()]])
    both = [
        network(x, times, cache(prompt)[None], torch.ones(1, len(cache(prompt)), dtype=torch.bool))
        for prompt in (TEMPLATE.format(PROMPT), NEGATIVE)
    ]
    v = both[1] + 7.5 * (both[0] - both[1])
    alphas, sigmas = (
        torch.tensor([table[level] for level in levels[0].tolist()])[:, None, None, None]
        for table in (schedule.alphas, schedule.sigmas)
    )
    ours = model.denoiser(x, levels, [PROMPT])
    assert relative(ours, alphas * x - sigmas * v) < 1e-4
    assert torch.equal(ours[0, 0], x[0, 0])
    assert model.negative_prompt == NEGATIVE and model.solver == "euler_ancestral"


def test_the_denoisers_keep_the_laws(model, pictures):
    for one in (model, pictures):
        assert isinstance(one.denoiser, Denoiser)
        check_denoiser(one.denoiser)
    can = model.denoiser.can
    queue = Fifo(can.latent_shape, model.denoiser.schedule, Solver("euler_ancestral"), window=3)
    check_rollout(queue, model.denoiser, 6)


def test_given_rows_become_a_black_video_with_them_in_place(pictures, monkeypatch):
    """Two of four rows given: their frames, then black; a mask a frame; shown as noisy as the third row is."""
    denoiser, codec, schedule = pictures.denoiser, pictures.codec, pictures.denoiser.schedule
    x, seen, made = noise(1, 4, *denoiser.can.latent_shape), [], []
    run, latents = denoiser.worker.module, codec.latents
    monkeypatch.setattr(type(run), "forward", lambda self, *inputs: seen.append(inputs) or torch.zeros_like(inputs[0]))
    monkeypatch.setattr(type(codec), "latents", lambda self, pixels: made.append(pixels) or latents(pixels))
    levels = torch.tensor([[0, 0, 5, 3]])
    first = denoiser(x, levels, [PROMPT])
    assert torch.equal(first[0, :2], x[0, :2])
    shown, times, _, _, given = seen[-1]
    assert torch.equal(given[0], given[1]), "both halves of a guidance pair have the same condition"
    black = torch.full((13, 3, 32, 48), -1.0)
    black[:5] = codec.pixels(x[0, :2])
    assert relative(given[0, :, :4], latents(black)) < 1e-5
    assert torch.equal(given[0, :, 4:], torch.tensor([0.0, 0, 1, 1])[:, None, None, None].expand(4, 4, 4, 6))
    assert times[0].tolist() == [schedule.times[level] for level in (5, 5, 5, 3)]
    eps = normal(x.shape[2:], root(0), "known row", 1)
    assert torch.allclose(shown[0, 1], schedule.alphas[5] * x[0, 1] + schedule.sigmas[5] * eps, atol=1e-6)
    assert torch.equal(shown[0, 2:], x[0, 2:])
    denoiser(x, torch.tensor([[0, 0, 4, 2]]), [PROMPT])
    assert len(made) == 1, "the same rows are encoded once"
    end = Image.new("RGB", (48, 32), (10, 200, 90))
    for frames, last in ((None, [1, 1, 1, 0]), (11, [1, 0, 0, 0])):
        pictures.end_with(end, frames)
        denoiser(x, levels, [PROMPT])
        black[10 if frames else 12 :] = (torch.tensor([10.0, 200, 90]) / 127.5 - 1)[:, None, None]
        given = seen[-1][4]
        assert relative(given[0, :, :4], latents(black)) < 1e-5
        assert given[0, 2:, 4:, 0, 0].tolist() == [[1, 1, 1, 1], last], "from the last frame shown to the last of all"
    pictures.end_with(None)
    assert [leading(row) for row in ([0, 0, 3], [2, 0], [0, 0])] == [2, 0, 2]


def test_a_row_that_is_given_at_the_end_is_told_as_a_still(pictures, monkeypatch):
    """The first and the last of four: shown as noisy as the second, the last one's frames as of a still."""
    denoiser, codec, schedule = pictures.denoiser, pictures.codec, pictures.denoiser.schedule
    x, seen = noise(1, 4, *denoiser.can.latent_shape), []
    run = denoiser.worker.module
    monkeypatch.setattr(type(run), "forward", lambda self, *inputs: seen.append(inputs) or torch.zeros_like(inputs[0]))
    out = denoiser(x, torch.tensor([[0, 5, 3, 0]]), [PROMPT])
    assert torch.equal(out[0, [0, 3]], x[0, [0, 3]])
    shown, times, _, _, given = seen[-1]
    black = torch.full((13, 3, 32, 48), -1.0)
    black[0], black[9:] = codec.pixels(x[0, :1])[0], codec.pixels(torch.stack([x[0, 3]] * 2))[1:]
    assert relative(given[0, :, :4], codec.latents(black)) < 1e-5
    assert given[0, :, 4:, 0, 0].tolist() == [[0.0] * 4, [1.0] * 4, [1.0] * 4, [0.0] * 4]
    assert times[0].tolist() == [schedule.times[level] for level in (5, 5, 3, 5)]
    for place in (0, 3):
        eps = normal(x.shape[2:], root(0), "known row", place)
        assert torch.allclose(shown[0, place], schedule.alphas[5] * x[0, place] + schedule.sigmas[5] * eps, atol=1e-6)


# -- the autoencoder ---------------------------------------------------------------------------------------------


def test_wavelets_there_and_back():
    x = noise(2, 3, 5, 4, 6)
    bands, planes = Haar3D()(x), Haar2D()(x)
    assert bands.shape == (2, 24, 3, 2, 3) and planes.shape == (2, 12, 5, 2, 3)
    assert torch.allclose(InverseHaar3D()(bands), x, rtol=1e-3), "filters are stored in four digits"
    assert torch.allclose(InverseHaar2D()(planes), x, atol=1e-6)
    assert torch.allclose(bands[0], reference.haar(x[0]), atol=1e-6)
    assert torch.allclose(planes[0], reference.haar2d(x[0]), atol=1e-6)
    flat = Haar3D()(torch.ones(1, 1, 3, 4, 4))
    assert torch.allclose(flat[:, :1], torch.full((1, 1, 2, 2, 2), 8 * 0.3536)) and not flat[:, 1:].abs().max() > 1e-6


@pytest.mark.parametrize("frames", [1, 5, 9])
@torch.no_grad()
def test_the_autoencoder_against_one_written_from_the_description(model, frames):
    vae = model.codec.vae
    weights, pixels = dict(vae.state_dict()), noise(3, frames, 16, 24).clamp(-1, 1)
    moments = reference.encode(weights, pixels)
    assert moments.shape == (8, (frames + 3) // 4, 2, 3)
    assert relative(vae.encode(pixels[None])[0], moments[:4] * 0.18215) < 1e-4
    z = noise(4, (frames + 3) // 4, 2, 3, seed=1)
    theirs = reference.decode(weights, z / 0.18215, VAE.decoder_flow)
    assert theirs.shape == (3, frames, 16, 24)
    assert relative(vae.decode(z[None])[0], theirs) < 1e-4


def test_a_stream_is_the_whole_two_frames_behind(model):
    assert isinstance(model.codec, Codec)
    can = model.denoiser.can
    z = 0.5 * noise(5, *can.latent_shape)
    whole = ((model.codec.pixels(z).permute(0, 2, 3, 1) + 1) * 127.5).round()
    one = model.codec.decode(z)[0]
    assert len(whole) == 17 and len(one) == can.num_frames(5) == 15
    assert (one - whole[:15]).abs().max() <= 1
    for cuts in ([1] * 5, [2, 3], [4, 1]):
        cache, parts = None, []
        for part in z.split(cuts):
            frames, cache = model.codec.decode(part, cache)
            parts.append(frames)
        assert torch.equal(torch.cat(parts), one)
        assert [sum(map(len, parts[: i + 1])) for i in range(len(cuts))] == [
            can.num_frames(sum(cuts[: i + 1])) for i in range(len(cuts))
        ]
    assert [can.num_latents(frames) for frames in (1, 2, 3, 4, 15, 16)] == [1, 2, 2, 3, 5, 6]
    assert all(frame in model.codec.range_of(can.latent_of(frame)) for frame in range(30))
    assert [can.latent_of(frame, after=True) for frame in (0, 3, 4, 8)] == [0, 0, 1, 2]


def test_a_cache_is_a_value(model):
    z = 0.5 * noise(3, *model.denoiser.can.latent_shape)
    _, cache = model.codec.decode(z[:2])
    before = {name: value.clone() for name, value in cache.items()}
    one, two = (model.codec.decode(z[2:], cache)[0] for _ in range(2))
    assert torch.equal(one, two) and all(torch.equal(cache[name], value) for name, value in before.items())


def test_pictures_and_clips_are_encoded(model):
    frames = (torch.rand(9, 32, 48, 3, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    z = model.codec.encode(frames)
    assert z.shape == (3, 4, 4, 6)
    assert relative(z[:1], model.codec.encode_image(frames[0])) < 1e-5, "the first latent knows the first frame alone"
    with pytest.raises(UsageError, match="4k \\+ 1 frames"):
        model.codec.encode(frames[:8])


# -- folders and runs --------------------------------------------------------------------------------------------


def test_films_from_folders(folder, pictures, tmp_path):
    result = generate(PROMPT, tmp_path / "film", model=str(folder), method="fifo", frames=11, steps=10, seed=3)
    assert result.frames == len(list(read_frames(result.video))) == 11
    picture = tmp_path / "picture.png"
    Image.new("RGB", (48, 32), (200, 40, 60)).save(picture)
    result = generate(
        PROMPT, tmp_path / "i2v", model=str(pictures.source), method="plain", frames=7, steps=2, image=picture, seed=3
    )
    assert result.frames == len(list(read_frames(result.video))) == 7


@pytest.mark.parametrize("method,frames", [("plain", 11), ("plain", 14), ("chunk", 22)])
def test_a_film_ends_on_a_picture_also_when_it_was_stopped_and_the_picture_deleted(pictures, tmp_path, method, frames):
    """By the command's own way; one clip is told the picture, chunks have its latent in their state."""
    first, last = tmp_path / "first.png", tmp_path / "last.png"
    Image.new("RGB", (48, 32), (200, 40, 60)).save(first)
    options = dict(model=str(pictures.source), method=method, frames=frames, steps=3, image=first, seed=3)
    films = []
    for colour in ((10, 200, 90), (240, 240, 10)):
        Image.new("RGB", (48, 32), colour).save(last)
        session = start(Request(PROMPT, last_image=last, **options))
        for stop in (None, 2):
            target = begin(session, tmp_path / f"{colour[0]}-{stop}")
            with running(session, target) as (_, progress):
                for number, _ in enumerate(progress):
                    if number + 1 == stop:
                        break
            if stop:
                assert target.finished is None
                last.unlink()
                first.rename(tmp_path / "away.png")
                settings, _ = reopen(target)
                with running(build(settings), target) as (_, progress):
                    for _ in progress:
                        pass
                (tmp_path / "away.png").rename(first)
            films.append(target.finished["sha256"])
    assert films[0] == films[1] and films[2] == films[3] and films[0] != films[2]
    assert target.finished["frames"] == frames


def test_what_is_the_default_follows_what_a_network_was_trained_for(folder, pictures, tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (48, 32)).save(picture)
    text = plan(Request(PROMPT, model=str(folder), frames=30))[0]
    image = plan(Request(PROMPT, model=str(pictures.source), frames=30, image=picture))[0]
    assert (text.method, image.method) == ("fifo", "chunk")


def test_a_film_in_two_turns(folder, tmp_path):
    """The autoencoder's memory goes through the disk, two frames behind."""
    options = {"model": str(folder), "method": "fifo", "steps": 5, "seed": 1, "frames": 16}
    assert_stopping_changes_nothing(PROMPT, tmp_path, 8, **options)


def test_downloads_are_assembled(folder, pictures, tmp_path):
    for name, source in (("text", folder), ("pictures", pictures.source)):
        downloads = Path(shutil.copytree(source, tmp_path / f"{name}-downloads"))
        (downloads / "longtake.json").unlink()
        made = run_convert("open-sora-plan", downloads, tmp_path / name)
        (made / "longtake.json").write_text((source / "longtake.json").read_text())
        assert load(made).denoiser.can.image_first == (name == "pictures")
    config = tmp_path / "text-downloads" / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_channels": 16}))
    with pytest.raises(UsageError, match=r"the vae is another network: decoder\.conv_in\.conv\.bias is \(32,\)"):
        run_convert("open-sora-plan", tmp_path / "text-downloads", tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_it_adapts(folder, pictures, tmp_path):
    assert_adapts(folder, tmp_path, "transformer_blocks.2.attn1.to_q")
    assert_adapts(pictures.source, tmp_path, "transformer_blocks.2.attn1.to_q")


@pytest.mark.slow
def test_it_compiles(folder, pictures):
    assert_compiles(folder)
    assert_compiles(pictures.source)


def test_one_line_for_what_is_wrong(folder, tmp_path):
    home = Path(shutil.copytree(folder, tmp_path / "vae"))
    path = home / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"t_interpolation": "nearest"}))
    with pytest.raises(UsageError, match="t_interpolation is 'nearest'; supported: 'trilinear'"):
        load(home)
    with pytest.raises(UsageError, match=r"steps must be in 1\.\.1000"):
        load(folder, num_steps=0)
    with pytest.raises(UsageError, match="riflex is no option of open-sora-plan"):
        load(folder, extras={"riflex": True})
    (home / "longtake.json").write_text(json.dumps({"family": "open-sora-plan", "window": 0}))
    with pytest.raises(UsageError, match="window must be a number of latents from 1 up, got 0"):
        load(home)
    with pytest.raises(UsageError, match="multiples of 16"):
        load(folder, size="40x32")
