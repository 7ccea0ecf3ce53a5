"""Progressive fine-tuning: the levels are those of PA-VDM Sec. 3.5, the loss falls, the written folder loads."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import longtake
from longtake.apps.train import train
from longtake.errors import UsageError
from longtake.output.video import Format, encode
from longtake.testing.tiny import save_tiny
from longtake.training import progressive as pa
from longtake.training.loop import Budget
from longtake.training.progressive_data import Material, cover, material, pieces

WINDOW = 8


def by_hand(rows: int, chunk: int, present: list[int], prefix: int, noise: float) -> list[float]:
    """Sec. 3.3 and 3.5 with loops: the ladder of levels, one shift for the clip, a clean prefix."""
    n = rows // chunk
    ladder = [0.5 * (g / n + (g + 1) / n) for g in range(n)]
    delta = 0.4 * noise * (1 / n)
    found = [0.0] * prefix
    for g in present:
        found += [min(max(ladder[g] + delta, 0.0), 1.0)] * chunk
    return found


@pytest.mark.parametrize("kind, length, present", [
    ("middle", 4, [0, 1, 2, 3]), ("start", 3, [1, 2, 3]), ("start", 1, [3]), ("end", 2, [0, 1]),
])  # fmt: skip
def test_levels_are_those_of_the_paper(kind, length, present):
    noise = torch.tensor([0.0, 0.7, -2.4, 2.9])
    setup = pa.Setup(prefix=2, rows=8, chunk=2)
    got = pa.progress_of(setup, kind, length, 2, pa.SPREAD * noise)
    want = torch.tensor([by_hand(8, 2, present, 2, float(e)) for e in noise])
    torch.testing.assert_close(got, want)


def test_every_setup_of_the_model_is_drawn_and_fits_its_window():
    assert pa.setups(12) == (pa.Setup(1, 11, 1), pa.Setup(2, 8, 2))  # the settings that `progressive` runs with
    generator = torch.Generator().manual_seed(0)
    plans = [pa.plan(12, 4, generator) for _ in range(400)]
    lengths = {one.progress.shape[1] for one in plans}
    assert {1, 2, 11, 12} <= lengths and max(lengths) == 12
    assert all(one.offset + one.progress.shape[1] <= 12 for one in plans)
    with_prefix = sum(bool((one.progress[:, 0] == 0).all()) for one in plans)
    assert 0.45 < with_prefix / 400 < 0.75  # 0.8 * 0.75, and a few whose shift reaches 0
    for one in plans:
        assert bool((one.progress.diff(dim=1) >= 0).all()) and one.progress.min() >= 0 and one.progress.max() <= 1
    short = sum(one.progress.shape[1] < 8 for one in plans)
    assert short > 40  # queues that fill and empty
    with pytest.raises(UsageError, match="window of at least 6"):
        pa.setups(4)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("base") / "tiny", seed=3)
    settings = {"window": WINDOW, "fps": 8, "steps": 4, "size": [16, 16], "guidance": 1.0}
    (folder / "longtake.json").write_text(json.dumps(settings))
    return folder


def test_levels_between_the_grid_lie_on_its_lines(base):
    schedule = longtake.load(str(base), num_steps=10).denoiser.schedule
    progress = torch.tensor([[0.0, 0.1, 0.25, 0.5, 0.999, 1.0]])
    sigmas, times = pa.along(schedule, progress)
    grid = np.linspace(0, 1, 11)
    np.testing.assert_allclose(sigmas[0], np.interp(progress[0], grid, schedule.sigmas), rtol=1e-5)
    np.testing.assert_allclose(times[0], np.interp(progress[0], grid, schedule.times), rtol=1e-5)


def test_the_loss_is_of_the_noisy_rows_alone(base):
    """Against a network that answers with a constant: the mean over scored rows of (c - (eps - x0))^2, by hand."""
    model = longtake.load(str(base), num_steps=20)
    latents = torch.randn(6, WINDOW, 6, 2, 2, generator=torch.Generator().manual_seed(1)).half()
    data = Material(latents, ("a dog",) * 6, model.denoiser.text)
    layout = pa.Plan(torch.tensor([[0.0, 0.2, 0.6], [0.0, 0.0, 1.0]]), 1)

    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.value = torch.nn.Parameter(torch.tensor(0.5))

    def forward(transformer, x, times, words, merge):
        return transformer.value.expand_as(x)

    real, pa.forward_rows = pa.forward_rows, forward
    try:
        got = pa.progressive_loss(Constant(), data, model.denoiser.schedule, layout, torch.Generator().manual_seed(5))
    finally:
        pa.forward_rows = real
    again = torch.Generator().manual_seed(5)
    picks = torch.randint(0, 6, (2,), generator=again)
    torch.rand(2, generator=again)
    x0 = latents[picks, 1:4].float()
    eps = torch.randn(x0.shape, generator=again)
    error = (0.5 - (eps - x0)) ** 2
    want = torch.stack([error[0, 1].mean(), error[0, 2].mean(), error[1, 2].mean()]).mean()
    torch.testing.assert_close(got, want)


def videos(folder, num):
    folder.mkdir()
    for number in range(num):
        ramp = torch.arange(29)[:, None, None, None] * 4 + torch.arange(20)[None, None, :, None] * (3 + number)
        frames = ramp.expand(29, 20, 20, 3).clamp(0, 255).byte()
        (folder / f"{number}.mp4").write_bytes(encode(frames, Format(20, 20, Fraction(8))))
        (folder / f"{number}.txt").write_text("a dog runs right\n")
    return folder


def test_it_learns_from_a_folder_of_videos_and_writes_a_model_that_loads(base, tmp_path):
    clips, to, cache = videos(tmp_path / "clips", 3), tmp_path / "out", tmp_path / "cache"
    task = pa.prepare(str(base), clips, to, out=cache)
    assert tuple(task.data.latents.shape) == (3, WINDOW, 6, 2, 2)
    pa.fine_tune(task, Budget(steps=200), batch=4)
    curve = [json.loads(line) for line in (task.run.folder / "curve.jsonl").read_text().splitlines()]
    held = [line["held"] for line in curve if "held" in line]
    assert held[-1] < 0.75 * held[0], held
    assert str(base) not in (to / "transformer/config.json").read_text()  # nothing of the machine goes along
    made = longtake.load(str(to), num_steps=4, guidance=1.0)
    for name, value in made.denoiser.transformer.state_dict().items():
        torch.testing.assert_close(value, task.run.ema.shadow[name], atol=1e-3, rtol=1e-3)
    again = pa.prepare(str(base), clips, to, out=cache)  # continued where it stopped
    assert again.run.step == 200
    assert torch.equal(again.run.model.patch_embedding.weight, task.run.model.patch_embedding.weight)


def test_what_is_encoded_follows_the_folder_of_videos(base, tmp_path):
    """Other videos, other captions, or another model: encoded anew. The same again: not."""
    model, kept = longtake.load(str(base)), tmp_path / "kept"
    few, more = videos(tmp_path / "few", 1), videos(tmp_path / "more", 2)
    assert len(material(model, few, tmp_path, kept).captions) == 1
    before = (kept / "clips.safetensors").stat().st_mtime_ns
    material(model, few, tmp_path, kept)
    assert (kept / "clips.safetensors").stat().st_mtime_ns == before
    assert len(material(model, more, tmp_path, kept).captions) == 2
    (more / "1.txt").write_text("a cat sleeps\n")
    assert material(model, more, tmp_path, kept).captions == ("a dog runs right", "a cat sleeps")


def test_a_run_is_not_gone_on_with_from_another_model_of_the_same_name(base, tmp_path):
    other = save_tiny(tmp_path / base.name, seed=4)
    (other / "longtake.json").write_text((base / "longtake.json").read_text())
    clips, cache = videos(tmp_path / "clips", 1), tmp_path / "cache"
    task = pa.prepare(str(base), clips, tmp_path / "to", out=cache)
    pa.fine_tune(task, Budget(steps=1), batch=1)
    with pytest.raises(UsageError, match="other weights"):
        pa.prepare(str(other), clips, tmp_path / "to", out=cache)
    assert pa.prepare(str(base), clips, tmp_path / "to", out=cache).run.step == 1


def test_large_models_make_activations_again_and_learn_the_same(base, tmp_path, monkeypatch):
    clips = videos(tmp_path / "clips", 2)
    weights = []
    for limit in (pa.LARGE, 0):
        monkeypatch.setattr(pa, "LARGE", limit)
        task = pa.prepare(str(base), clips, tmp_path / "to", out=tmp_path / f"cache-{limit}")
        assert task.run.model.is_gradient_checkpointing == (limit == 0)
        pa.fine_tune(task, Budget(steps=3), batch=2)
        weights.append(task.run.model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4)


def test_mistakes_are_one_line(base, tmp_path):
    model = longtake.load(str(base))
    with pytest.raises(UsageError, match="no folder"):
        material(model, tmp_path / "nowhere", tmp_path, tmp_path / "kept")
    with pytest.raises(UsageError, match="longtake train pocket"):
        material(model, None, tmp_path, tmp_path / "kept")
    (tmp_path / "clips").mkdir()
    with pytest.raises(UsageError, match="no video"):
        material(model, tmp_path / "clips", tmp_path, tmp_path / "kept")


def test_videos_are_cut_and_covered():
    frames = [np.full((10, 20, 3), number, dtype=np.uint8) for number in range(7)]
    got = list(pieces(iter(frames), (8, 8), 3))
    assert [tuple(piece.shape) for piece in got] == [(3, 8, 8, 3)] * 2
    assert [int(piece[0, 0, 0, 0]) for piece in got] == [0, 3]
    wide = torch.zeros(4, 12, 3, dtype=torch.uint8)
    wide[:, 4:8] = 200
    assert bool((cover(wide, (4, 4)) == 200).all())  # the middle is kept


def test_the_command_line_trains_every_part(tmp_path):
    runner = CliRunner()
    told = runner.invoke(train, ["--help"], prog_name="longtake train").output
    assert all(name in told for name in ("vae", "pocket", "judge", "preview", "progressive"))
    sets = runner.invoke(train, ["judge", "--set", "nobody", "--minutes", "1"])
    assert sets.exit_code == 2
    made = runner.invoke(train, ["progressive", "--minutes", "1", "--cache", str(tmp_path)])
    assert isinstance(made.exception, UsageError) and "train pocket" in str(made.exception)
    assert not list(tmp_path.iterdir())  # nothing half written
