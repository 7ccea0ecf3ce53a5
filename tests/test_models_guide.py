"""The first picture from a text-to-image pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from longtake.apps.planning import plan
from longtake.apps.session import build, generate, reopen, start
from longtake.apps.settings import Request
from longtake.errors import UsageError
from longtake.models.guide import make_picture
from longtake.models.tiny import save_tiny, tiny_wan_image
from longtake.models.tiny_own import tiny_clip_text, tiny_clip_tokenizer
from longtake.output.directory import RunDir
from longtake.output.video import read_frames

SIZE = (32, 48)


def tiny_pictures() -> StableDiffusionPipeline:
    """A random text-to-image pipeline in the real classes."""
    tokenizer = tiny_clip_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
            attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), sample_size=8,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=tiny_clip_text(len(tokenizer)), tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler(clip_sample=False), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "pictures"
    tiny_pictures().save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "i2v"
    tiny_wan_image(scheduler="euler").save_pretrained(folder, safe_serialization=True)
    (folder / "longtake.json").write_text('{"window": 4}')
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def options(videos: Path, pictures: Any, **more: Any) -> dict[str, Any]:
    return dict(prompt="a dog runs", model=str(videos), guide_model=pictures, size=SIZE, method="plain", steps=2,
                guidance=1.0, seed=3, frames=9, **more)  # fmt: skip


def test_it_is_what_the_pipeline_makes_from_this_seed(pictures):
    ours = make_picture(str(pictures), "a dog runs", SIZE, 7, "a cat", "cpu")
    theirs = tiny_pictures()(
        prompt="a dog runs", negative_prompt="a cat", width=32, height=48, generator=torch.Generator().manual_seed(7)
    ).images[0]  # fmt: skip
    assert ours.size == SIZE and np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert not np.array_equal(np.asarray(make_picture(str(pictures), "a dog runs", SIZE, 8)), np.asarray(ours))


def test_a_film_begins_with_it(videos, pictures, cache, tmp_path):
    made = generate(out=tmp_path / "guided", **options(videos, str(pictures)))
    kept = list((cache / "guides").glob("*.png"))
    assert len(kept) == 1 and Image.open(kept[0]).size == SIZE
    rest = {key: value for key, value in options(videos, None).items() if key != "guide_model"}
    given = generate(out=tmp_path / "given", image=kept[0], **rest)
    frames = [list(read_frames(film.video)) for film in (made, given)]
    assert all(np.array_equal(one, two) for one, two in zip(*frames, strict=True)) and made.nfe == given.nfe
    settings, _ = reopen(RunDir(tmp_path / "guided"))
    assert settings.guide_model == str(pictures.absolute())
    kept[0].unlink()
    build(settings)  # a run that has begun needs it no more
    assert not kept[0].exists()


def test_a_plan_makes_nothing(videos, pictures, cache):
    settings, _, notes = plan(Request(**options(videos, str(pictures))))
    assert settings.image and not Path(settings.image).exists() and not cache.exists()
    assert any(f"the first picture comes from {pictures}" in note for note in notes)


def test_what_cannot_guide_is_refused_in_one_line(videos, pictures, tmp_path):
    save_tiny(tmp_path / "t2v")
    (tmp_path / "picture.png").write_bytes(b"")
    for given, match in (
        (options(tmp_path / "t2v", str(pictures)), "cannot begin with a picture, so --guide-model has no use"),
        (options(videos, str(pictures), image=tmp_path / "picture.png"), "leave out --image and --video"),
        (options(videos, str(tmp_path / "t2v")), "WanPipeline, not a text-to-image pipeline"),
        (options(videos, str(tmp_path / "nowhere")), "there is no such folder; give a folder or a hub id"),
        ({**options(videos, None)}, "makes videos from a picture; add --image FILE, or --guide-model"),
    ):
        with pytest.raises(UsageError, match=match) as error:
            start(Request(**given))
        assert "\n" not in str(error.value)
