"""Training: the fold equals the stock VAE, runs resume bit-equal, texts and folders are what stock pipelines expect."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from transformers import AutoTokenizer

from longtake.output import checkpoint
from longtake.training import cache, export, fold, loop, optim, pocket, preview, sample, text, vae
from longtake.world.captions import vocabulary

CAPTION = "a dog walks right across green hills at noon"


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    return export.AutoencoderKLWan(**vae.shapes.VAE).eval()  # every temporal slice random, unlike `new_vae`


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("pocket")
    export.export_random(path)
    return path


@pytest.mark.parametrize("num_frames", [1, 5, 13])
@torch.no_grad()
def test_fold_equals_the_stock_forward(autoencoder, num_frames):
    video = torch.rand(2, num_frames, 3, 64, 64) * 2 - 1
    stock = autoencoder.encode(video.transpose(1, 2)).latent_dist
    mean, log_variance, _ = fold.encode(autoencoder, video)
    torch.testing.assert_close(mean, stock.mean.transpose(1, 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_variance, stock.logvar.transpose(1, 2), atol=1e-5, rtol=1e-5)
    out, _ = fold.decode(autoencoder, mean)
    expected = autoencoder.decode(mean.transpose(1, 2)).sample.transpose(1, 2)
    torch.testing.assert_close(out.clamp(-1, 1), expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_fold_streams(autoencoder):
    video = torch.rand(1, 13, 3, 64, 64) * 2 - 1
    mean, _, _ = fold.encode(autoencoder, video)
    whole, _ = fold.decode(autoencoder, mean)
    state, latents = None, []
    for first, last in ((0, 1), (1, 5), (5, 13)):
        part, _, state = fold.encode(autoencoder, video[:, first:last], state)
        latents.append(part)
    torch.testing.assert_close(torch.cat(latents, 1), mean, atol=1e-5, rtol=1e-5)
    state, frames = None, []
    for part in mean.split([1, 1, 2], dim=1):
        out, state = fold.decode(autoencoder, part, state)
        frames.append(out)
    torch.testing.assert_close(torch.cat(frames, 1), whole, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_a_new_vae_holds_each_still():
    fresh = vae.new_vae()
    mean, _, _ = fold.encode(fresh, (torch.rand(1, 1, 3, 64, 64) * 2 - 1).expand(-1, 9, -1, -1, -1))
    frames, _ = fold.decode(fresh, mean)
    torch.testing.assert_close(frames[:, 1:], frames[:, :1].expand(-1, 8, -1, -1, -1), atol=1e-4, rtol=1e-4)


def test_tokenizer_knows_its_world_and_loads_as_stock(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert len(tokenizer) <= 600
    ids = tokenizer(" ".join(vocabulary())).input_ids
    assert tokenizer.unk_token_id not in ids and ids[-1] == tokenizer.eos_token_id
    out = tokenizer([CAPTION, ""], padding="max_length", max_length=32, truncation=True)
    assert sum(out.attention_mask[0]) == len(CAPTION.split()) + 1 and sum(out.attention_mask[1]) == 1
    assert tokenizer.decode(out.input_ids[0], skip_special_tokens=True) == CAPTION


@pytest.fixture(scope="module")
def pipeline(folder):
    return WanPipeline.from_pretrained(folder)


@torch.no_grad()
def test_padding_is_what_the_pipeline_gives(pipeline):
    model = pocket.Pocket(pipeline.transformer, pipeline.text_encoder).eval()
    ids, mask = text.tokenize(text.new_tokenizer(), [CAPTION, ""])
    stock, empty = pipeline.encode_prompt(CAPTION, "", True, max_sequence_length=226)
    stock = torch.cat([stock, empty])
    ours = text.embed(model.text, ids, mask)
    torch.testing.assert_close(ours, stock[:, : ours.shape[1]], atol=1e-5, rtol=1e-4)
    assert not stock[:, ours.shape[1] :].any()
    x, times = torch.randn(2, 2, 32, 8, 8), torch.tensor([[0.0, 0.5]]).expand(2, -1)
    out = model(x, times, ids, mask, [226, 226])
    model.padding.bias = None
    plain = model.transformer(x.transpose(1, 2), 1000 * times.repeat_interleave(16, 1), stock, return_dict=False)[0]
    torch.testing.assert_close(out, plain.transpose(1, 2), atol=1e-5, rtol=1e-4)


def test_the_folder_samples_in_the_stock_pipeline(folder, pipeline):
    assert pipeline.config.expand_timesteps and pipeline.transformer.dtype == torch.float32
    settings = dict(height=64, width=64, num_frames=5, num_inference_steps=2, output_type="pt")
    video = pipeline(CAPTION, generator=torch.Generator().manual_seed(0), **settings).frames
    assert video.shape == (1, 5, 3, 64, 64) and video.isfinite().all()
    assert json.loads((folder / "longtake.json").read_text())["max_sequence_length"] == 32
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    assert max(sizes) <= 15 * 2**20 and sum(sizes) <= 27 * 2**20
    assert not list(folder.rglob("*.bin"))


def tiny_run(path) -> loop.Run:
    torch.manual_seed(0)
    small = pocket.shapes.TRANSFORMER | dict(num_layers=1, ffn_dim=64, num_attention_heads=1, attention_head_dim=32)
    model = pocket.Pocket(WanTransformer3DModel(**small), text.new_encoder())
    run = loop.Run(path, model, pocket.optimizer(model), loop.Ema(model, 0.9))
    run.generator.manual_seed(0)
    return run


def test_training_resumes_bit_equal(tmp_path):
    data = cache.encode_clips(vae.new_vae(), range(4), 5, torch.Generator().manual_seed(0))
    data["latents"] = data["latents"].float()

    def loss(run, progress):
        return pocket.flow_loss(run.model, cache.window(data, 2, 2, run.generator), run.generator, 0.5)

    whole = tiny_run(tmp_path / "whole")
    loop.train(whole, loss, loop.Budget(steps=3))
    loop.train(tiny_run(tmp_path / "cut"), loss, Cut(2))
    rest = tiny_run(tmp_path / "cut")
    assert rest.load() and rest.step == 2
    loop.train(rest, loss, loop.Budget(steps=3))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[name]), name
    for name, value in whole.ema.shadow.items():
        assert torch.equal(value, rest.ema.shadow[name]), name


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, monkeypatch):
    run = tiny_run(tmp_path / "run")
    run.step = 1
    run.save()
    assert sorted(path.name for path in run.folder.iterdir()) == ["checkpoint.json", "checkpoint.safetensors"]
    replace = checkpoint.os.replace

    def die(source, target):  # the first rename commits, what comes after it may be lost
        replace(source, target)
        raise KeyboardInterrupt

    for step, kill, kept in ((2, "save_file", 1), (3, "replace", 3)):
        run.step = step
        with monkeypatch.context() as patch:
            if kill == "save_file":
                patch.setattr(checkpoint, kill, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            else:
                patch.setattr(checkpoint.os, kill, die)
            with pytest.raises(KeyboardInterrupt):
                run.save()
        again = tiny_run(tmp_path / "run")
        assert again.load() and again.step == kept
        assert loop.averaged(run.folder).keys() == run.ema.shadow.keys()


def test_a_stage_begins_from_the_one_before_and_then_goes_on(tmp_path, monkeypatch):
    small = pocket.shapes.TRANSFORMER | dict(num_layers=1, ffn_dim=64, num_attention_heads=1, attention_head_dim=32)
    monkeypatch.setattr(pocket.shapes, "TRANSFORMER", small)
    with pytest.raises(FileNotFoundError, match="stills first"):
        pocket.start("short", tmp_path, "cpu")
    first = pocket.start("stills", tmp_path, "cpu")
    first.step, first.seconds = 7, 60.0
    first.save()
    following = pocket.start("short", tmp_path, "cpu")
    assert (following.step, following.seconds) == (0, 0.0)
    assert all(
        torch.equal(following.model.state_dict()[name], value) for name, value in first.model.state_dict().items()
    )
    following.step = 3
    following.save()
    assert pocket.start("short", tmp_path, "cpu").step == 3
    assert export.newest(tmp_path, ["pocket-long", "pocket-short", "pocket-stills"]) == tmp_path / "pocket-short"


class Cut(loop.Budget):
    """Three steps' schedule, stopped after `num`."""

    def __init__(self, num: int) -> None:
        super().__init__(steps=3)
        self.num = num

    def progress(self, seconds, step):
        return 1.0 if step >= self.num else super().progress(seconds, step)


def test_patches_by_a_matrix_product_are_the_convolution():
    """Pocket's patch embedding in training equals what the stock layer computes, gradients too."""
    x, layer = torch.randn(2, 32, 3, 8, 8), pocket.new_pocket().transformer.patch_embedding
    sides = [layer(x), torch.nn.functional.conv3d(x, layer.weight, layer.bias, stride=(1, 2, 2))]
    grads = [torch.autograd.grad(side.square().sum(), layer.weight)[0] for side in sides]
    assert torch.allclose(*sides, atol=1e-5)
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-2)


def test_noise_levels_are_one_a_clip_with_clean_first_latents():
    times, noisy = pocket.draw_times(400, 12, torch.Generator().manual_seed(0))
    clean = (noisy == 0).sum(1)
    assert 0.15 < (clean > 0).float().mean() < 0.35 and clean.max() == 4
    for row, count in zip(times, clean, strict=True):
        assert not row[:count].any() and row[count:].unique().numel() == 1 and 0 < row[-1] < 1


def test_muon_orthogonalises():
    out = optim.orthogonalise(torch.randn(2, 24, 48))
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.4 and values.max() < 1.4


def test_a_preview_decoder_is_of_its_autoencoder(tmp_path, monkeypatch):
    """A new autoencoder's is trained from the start; the minutes that an old one's took do not count."""
    torch.manual_seed(0)
    monkeypatch.setattr(preview, "pairs", lambda out, num: (torch.randn(4, 32, 8, 8), torch.zeros(4, 3, 64, 64)))
    monkeypatch.setattr(preview, "Budget", lambda minutes: loop.Budget(steps=2))
    runs = []

    def trained(run, *rest, **more):
        runs.append(run.step)
        loop.train(run, *rest, **more)

    monkeypatch.setattr(preview, "train", trained)
    vaes = [torch.nn.Linear(2, 2) for _ in range(2)]
    for one in (0, 0, 1):
        monkeypatch.setattr(preview, "load_vae", lambda out, vae=vaes[one]: vae)
        preview.train_preview(1, tmp_path / "cache", tmp_path / "to")
    assert runs == [0, 2, 0], "the same again is done already, another begins anew"


def test_preview_and_sampler():
    net = preview.Preview()
    assert net(torch.randn(3, 32, 8, 8)).shape == (3, 3, 64, 64)
    assert 2 * sum(p.numel() for p in net.parameters()) <= 2**19
    assert sample.times(4).tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])
