"""Open-Sora 1.2: layout, reference numbers, forward, levels a row, texts, autoencoder, codec, and a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.apps.convert_command import run_convert
from longtake.apps.planning import context_latents, dry_run, plan
from longtake.apps.session import generate
from longtake.apps.settings import Request
from longtake.core.model import Blend, Codec, Denoiser
from longtake.core.rows import advance, noise_row
from longtake.core.solvers import Solver
from longtake.errors import UsageError
from longtake.models import opensora_text as text
from longtake.models.load import load
from longtake.models.opensora import schedule_of
from longtake.models.opensora_stdit import STDiT3, position_table
from longtake.models.opensora_tiny import SIZES, TEMPORAL, save_tiny_open_sora
from longtake.models.opensora_vae import OpenSoraVAE
from longtake.output.video import read_frames
from longtake.rollouts.fifo import Fifo
from longtake.testing import check_denoiser, check_rollout
from tests import opensora_reference as reference
from tests.adapted import assert_adapts, assert_compiles
from tests.small_runs import save_video
from tests.turns import assert_stopping_changes_nothing

PROMPT, NEGATIVE = "a dog runs right over the hills", "a cat"
HERE = Path(__file__).parent / "layouts"


def layout(name: str) -> dict[str, tuple[int, ...]]:
    lines = (HERE / f"{name}.txt").read_text().splitlines()
    return {key: tuple(map(int, shape.split("x"))) for key, shape in (line.split() for line in lines)}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.std())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_open_sora(tmp_path_factory.mktemp("models") / "os")


@pytest.fixture(scope="module")
def model(folder):
    return load(folder, num_steps=4)


@pytest.fixture(scope="module")
def network(model) -> STDiT3:
    return model.denoiser.worker.module


def test_the_published_layout_name_for_name_and_shape_for_shape():
    with torch.device("meta"):
        network, vae = STDiT3(), OpenSoraVAE()
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == layout("opensora12")
    temporal = {name: tuple(value.shape) for name, value in vae.temporal_vae.state_dict().items()}
    assert temporal == layout("opensora12_temporal_vae")
    assert sum(weight.numel() for weight in network.parameters()) == 1_207_643_972
    assert sum(weight.numel() for weight in vae.parameters()) == 393_341_007
    prefixes = {name.split(".")[0] for name in vae.state_dict()}
    assert prefixes == {"spatial_vae", "temporal_vae", "scale", "shift"}
    assert all(name.startswith("spatial_vae.module.") for name in vae.state_dict() if name.startswith("spatial"))


@pytest.mark.parametrize(
    "height, width, latents, first, last",
    [
        (240, 426, 15, [1000.0, 985.9438, 971.3156, 956.0797], [147.3149, 76.9835]),
        (720, 1280, 30, [1000.0, 996.6536, 993.0928, 989.2966], [423.1514, 261.519]),
        (240, 426, 1, [1000.0, 947.6737, 897.3639, 848.9564], [42.7031, 21.0809]),
    ],
)
def test_times_of_the_release(height, width, latents, first, last):
    times = schedule_of(30, height, width, latents).times[:0:-1]
    assert list(times[:4]) == pytest.approx(first, abs=1e-3) and list(times[-2:]) == pytest.approx(last, abs=1e-3)
    assert schedule_of(30, height, width, latents).sigmas[3] == pytest.approx(times[-3] / 1000)


def test_positions_of_the_release():
    table = position_table(8, (2, 3), 0.5, 2)
    assert table[1].tolist() == pytest.approx([0.97194, 0.01333, 0.23524, 0.99991, 0, 0, 1, 1], abs=1e-5)
    assert table[5].tolist() == pytest.approx(
        [0.45727, 0.02666, -0.88933, 0.99964, 0.9093, 0.02, -0.41615, 0.9998], abs=1e-5
    )


@pytest.mark.parametrize("clean", [[False] * 4, [True, False, False, True]])
def test_the_forward_against_one_written_from_the_description(network, clean):
    """Odd sides, so that patches need padding; two levels are what the release's mask can say."""
    x, words = noise(4, 4, 3, 5), noise(6, 16, seed=1)
    times = torch.tensor([[0.0 if flag else 640.0 for flag in clean]])
    ours = network(x[None], times, words[None], torch.ones(1, 6, dtype=torch.bool), torch.tensor([24.0]))[0]
    weights = {name: value.float() for name, value in network.state_dict().items()}
    theirs = reference.forward(weights, SIZES.num_heads, SIZES.depth, x, 640.0, clean, words, 24.0)
    assert ours.shape == theirs.shape and relative(ours, theirs) < 1e-4


def test_each_row_depends_on_its_own_level_and_on_the_others(network):
    x, words, mask = noise(1, 5, 4, 4, 6), noise(1, 6, 16, seed=1), torch.ones(1, 6, dtype=torch.bool)

    def run(times: list[float]) -> Tensor:
        return network(x, torch.tensor([times]), words, mask, torch.tensor([24.0]))[0]

    usual = run([500.0] * 5)
    for row in range(5):
        times = [500.0] * 5
        times[row] = 100.0
        change = (run(times) - usual).abs().amax(dim=(1, 2, 3))
        assert change.argmax() == row and change.min() > 1e-4


def test_a_batch_equals_its_parts_whatever_the_texts_are_long(network):
    x, words = noise(2, 3, 4, 4, 4), noise(2, 6, 16, seed=1)
    mask = torch.tensor([[True] * 3 + [False] * 3, [True] * 6])
    times, fps = torch.rand(2, 3, generator=torch.Generator().manual_seed(2)) * 1000, torch.tensor([24.0, 8.0])
    both = network(x, times, words, mask, fps)
    first = network(x[:1], times[:1], words[:1, :3], mask[:1, :3], fps[:1])
    second = network(x[1:], times[1:], words[1:], mask[1:], fps[1:])
    assert relative(both, torch.cat([first, second])) < 1e-5


def test_guidance_reads_as_much_of_nothing_as_the_prompt_has_tokens(model, network):
    x, levels = noise(1, 5, *model.denoiser.can.latent_shape), torch.tensor([[0, 1, 2, 3, 4]])
    words = model.denoiser.texts.wanted(PROMPT)
    schedule = model.denoiser.schedule
    times = torch.tensor([[schedule.times[level] for level in range(5)]])

    def run(embedding: Tensor) -> Tensor:
        mask = torch.ones(1, len(embedding), dtype=torch.bool)
        return network(x, times, embedding[None], mask, torch.tensor([24.0]))

    wanted, nothing = run(words), run(network.null_text[: len(words)])
    velocity = nothing + 7 * (wanted - nothing)
    sigmas = torch.tensor(schedule.sigmas)[levels][:, :, None, None, None]
    ours = model.denoiser(x, levels, [PROMPT])
    assert relative(ours, x + sigmas * velocity) < 1e-4
    assert torch.equal(ours[0, 0], x[0, 0]) and model.denoiser.cost == 2


def test_texts(folder, model):
    assert text.scored("A  Dog  <b>cat</b> https://x.org/y @me “runs”") == ('a dog cat "runs" aesthetic score: 6.5.')
    assert text.clean("a — b ‘c’") == "a - b 'c'"
    words = model.denoiser.texts
    assert 2 < len(words.wanted(PROMPT)) < 24
    mixed = words.wanted(Blend(PROMPT, NEGATIVE, 0.25))
    assert len(mixed) == max(len(words.wanted(PROMPT)), len(words.wanted(NEGATIVE)))
    against = load(folder, num_steps=4, negative_prompt=NEGATIVE).denoiser.texts
    assert torch.equal(against.unwanted(PROMPT), words.wanted(NEGATIVE))


def test_the_denoiser_keeps_the_laws(model):
    assert isinstance(model.denoiser, Denoiser)
    check_denoiser(model.denoiser)
    unguided = model.denoiser.__class__(
        model.denoiser.network, model.denoiser.worker, model.denoiser.texts, model.denoiser.schedule,
        model.denoiser.can, 1.0, "velocity",
    )  # fmt: skip
    check_denoiser(unguided)
    assert unguided.cost == 1


def test_a_queue_runs_on_it(model):
    can = model.denoiser.can
    check_rollout(Fifo(can.latent_shape, model.denoiser.schedule, Solver("euler"), window=4), model.denoiser, 6)


# -- the autoencoder ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_temporal_autoencoder_against_one_written_from_the_description(model):
    part = model.codec.vae.temporal_vae
    weights = dict(part.state_dict())
    sizes = TEMPORAL.num_groups, TEMPORAL.num_res_blocks
    z, x = noise(4, 5, 2, 3), noise(4, 17, 2, 3, seed=1)
    assert relative(part.decode(z[None], 17)[0], reference.temporal_decode(weights, z, *sizes)[:, 3:]) < 1e-4
    filled = torch.cat([torch.zeros(4, 3, 2, 3), x], dim=1)
    assert relative(part.encode(x[None])[0], reference.temporal_encode(weights, filled, *sizes)) < 1e-4


@torch.no_grad()
def test_latents_are_normalised_by_channel(model):
    vae, pixels = model.codec.vae, noise(17, 3, 16, 24).clamp(-1, 1)
    pictures = torch.cat([vae.spatial_vae.module.encode(one[None]).latent_dist.mode() for one in pixels]) * 0.18215
    inner = vae.temporal_vae.encode(pictures.transpose(0, 1)[None])[0].transpose(0, 1)
    shift, scale = torch.tensor([-0.10, 0.34, 0.27, 0.98]), torch.tensor([3.85, 2.32, 2.33, 3.06])
    theirs = (inner - shift[:, None, None]) / scale[:, None, None]
    # the tiny folder's own shift and scale are those of the release
    assert relative(vae.encode(pixels), theirs) < 1e-4


def test_streamed_decoding_is_whole_decoding_group_by_group(model):
    assert isinstance(model.codec, Codec)
    z = noise(12, *model.denoiser.can.latent_shape)
    whole, rest = model.codec.decode(z)
    assert whole.shape == (34, 32, 48, 3) and len(rest["waiting"]) == 2
    for cuts in ([1] * 12, [3, 4, 5], [7, 5]):
        cache, parts, counts = None, [], []
        for part in z.split(cuts):
            frames, cache = model.codec.decode(part, cache)
            parts.append(frames)
            counts.append(len(frames))
        assert torch.equal(torch.cat(parts), whole)
        assert cache is not None and torch.equal(cache["waiting"], rest["waiting"])
    assert counts == [17, 17] or sum(counts) == 34
    assert model.denoiser.can.num_frames(12) == 34 and model.denoiser.can.num_latents(18) == 10
    can = model.denoiser.can
    assert all(frame in model.codec.range_of(can.latent_of(frame)) for frame in range(60))
    alone = torch.cat([model.codec.decode(z[:5])[0], model.codec.decode(z[5:10])[0]])
    assert torch.equal(alone, whole), "groups know nothing of each other"
    assert [list(model.codec.range_of(index)) for index in (0, 4, 5)] == [[0], [13, 14, 15, 16], [17]]


def test_what_is_encoded_comes_in_whole_groups_or_as_a_picture(model):
    frames = (torch.rand(34, 32, 48, 3, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    z = model.codec.encode(frames)
    assert z.shape == (10, 4, 4, 6)
    assert relative(z[:5], model.codec.encode(frames[:17])) < 1e-5
    assert model.codec.encode_image(frames[0], (24, 16)).shape == (1, 4, 2, 3)
    with pytest.raises(UsageError, match="give 17: --method chunk reads"):
        model.codec.encode(frames[:21])
    with pytest.raises(UsageError, match="multiples of 8"):
        model.codec.encode(frames[:17, :30])


# -- folders and runs --------------------------------------------------------------------------------------------


def test_plain_is_the_release_sampler(model):
    """Euler on the velocity, z += v (t_i - t_{i+1}) / 1000, against the solver's rows."""
    denoiser, can = model.denoiser, model.denoiser.can
    rows = [noise_row(can.latent_shape, 4, index, 7) for index in range(3)]
    z = torch.stack([row.x for row in rows])[None]
    words, nothing = denoiser.texts.wanted(PROMPT), denoiser.texts.unwanted(PROMPT)
    mask, fps = torch.ones(1, len(words), dtype=torch.bool), torch.tensor([24.0])
    grid = [*denoiser.schedule.times[:0:-1], 0.0]
    for time, after in zip(grid, grid[1:], strict=False):
        v = [denoiser.network.run(z, torch.full((1, 3), time), y[None], mask, fps) for y in (words, nothing)]
        z = z + (v[1] + 7 * (v[0] - v[1])) * (time - after) / 1000
    for level in (4, 3, 2, 1):
        x0 = denoiser(torch.stack([row.x for row in rows])[None], torch.full((1, 3), level), [PROMPT])[0]
        rows = advance(rows, list(x0), [level - 1] * 3, Solver(model.solver), denoiser.schedule)
    assert relative(torch.stack([row.x for row in rows]), z[0]) < 1e-4


def test_a_film_from_a_folder_has_every_frame_asked_for(folder, tmp_path):
    options = {"model": str(folder), "method": "chunk", "frames": 20, "steps": 2}
    assert plan(Request(PROMPT, **options))[0].parameters == {"overlap": 5}, "as the release goes on from a group"
    result = generate(PROMPT, tmp_path / "film", **options)
    assert result.frames == len(list(read_frames(result.video))) == 20
    assert result.latent_frames == 10, "two groups"


def test_a_film_behind_a_picture_is_whole(folder, tmp_path):
    """The picture is the first latent of its group: 18 frames take one group more, and no frame is missing."""
    picture = tmp_path / "picture.png"
    Image.new("RGB", (48, 32), (200, 40, 60)).save(picture)
    for frames, latents in ((17, 4), (18, 9)):
        result = generate(
            PROMPT, tmp_path / str(frames), model=str(folder), method="chunk", frames=frames, steps=1, image=picture,
            guidance=1,
        )  # fmt: skip
        assert result.frames == len(list(read_frames(result.video))) == frames
        assert result.latent_frames == latents


@pytest.mark.parametrize("method,sets,read", [("rolling", [], 5), ("plain", [], 5), ("chunk", ["chunk.overlap=1"], 1)])
def test_a_film_goes_on_from_a_clip_in_whole_groups_or_its_last_picture(folder, tmp_path, method, sets, read):
    frames = torch.randint(0, 256, (20, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    save_video(tmp_path / "clip.mp4", frames, "24")
    options = {"model": str(folder), "video": tmp_path / "clip.mp4", "method": method, "set": sets, "seed": 1,
               "frames": 17, "steps": 2, "guidance": 1}  # fmt: skip
    settings, facts, _ = plan(Request(PROMPT, **options))
    assert context_latents(settings, facts.can) == read
    made = generate(PROMPT, tmp_path / "film", **options)
    assert made.frames == 17 and made.nfe == dry_run(settings, facts)[0].nfe
    if method == "plain":
        with pytest.raises(UsageError, match="plain makes one clip, at most 34 frames"):
            plan(Request(PROMPT, **{**options, "frames": 35}))


def test_a_film_in_two_turns(folder, tmp_path):
    """Stopped in the second group, with latents waiting for it."""
    options = {"model": str(folder), "method": "fifo", "steps": 15, "seed": 1, "frames": 30, "guidance": 1}
    assert_stopping_changes_nothing(PROMPT, tmp_path, 23, **options)


def test_it_adapts(folder, tmp_path):
    assert_adapts(folder, tmp_path, "spatial_blocks.1.mlp.fc1")


@pytest.mark.slow
def test_it_compiles(folder):
    assert_compiles(folder)


def test_one_line_for_what_is_wrong(folder, tmp_path):
    def broken(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    home = broken("weight")
    weights = load_file(home / "transformer" / "model.safetensors")
    save_file({name: value for name, value in weights.items() if name != "rope.freqs"},
              home / "transformer" / "model.safetensors")  # fmt: skip
    with pytest.raises(UsageError, match=r"lacks the weight rope\.freqs"):
        load(home)
    home = broken("config")
    content = json.loads((home / "transformer" / "config.json").read_text()) | {"depth": "two"}
    (home / "transformer" / "config.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="depth is 'two'"):
        load(home)
    shutil.rmtree(broken("part") / "vae")
    with pytest.raises(UsageError, match="has no folder 'vae'"):
        load(tmp_path / "part")
    with pytest.raises(UsageError, match="multiples of 8"):
        load(folder, size="50x32")


def test_downloads_are_assembled(folder, tmp_path):
    downloads = Path(shutil.copytree(folder, tmp_path / "downloads"))
    (downloads / "longtake.json").unlink()
    target = tmp_path / "made"
    text = downloads / "text_encoder"
    weights = load_file(text / "model.safetensors")
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        torch.save({name: weights[name] for name in names}, text / f"pytorch_model-{number}.bin")
    (text / "model.safetensors").unlink()

    run_convert("open-sora", downloads, target)
    (target / "longtake.json").write_text((folder / "longtake.json").read_text())
    x, levels = noise(1, 5, 4, 4, 6), torch.tensor([[0, 1, 2, 2, 1]])
    ours, theirs = (load(home, num_steps=2).denoiser(x, levels, [PROMPT]) for home in (target, folder))
    assert torch.equal(ours, theirs)
    shutil.rmtree(downloads / "tokenizer")
    with pytest.raises(UsageError, match="no folder 'tokenizer'"):
        run_convert("open-sora", downloads, tmp_path / "other")
