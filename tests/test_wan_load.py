"""Loading models: folders, live pipelines, defaults, and every way to be refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file, save_file

from longtake.errors import UsageError
from longtake.models import load as loading
from longtake.models.load import load
from longtake.testing.tiny import save_tiny, tiny_wan
from tests.wan_cases import PROMPT, SIZE, model_of, noise

pytest_plugins = ("tests.wan_fixtures",)


def copy_of(folder: Path, target: Path) -> Path:
    for path in folder.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return target


def test_the_tiny_folder_is_small_and_stock_loads_it(folder):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 600_000
    stock = WanPipeline.from_pretrained(folder, local_files_only=True)
    again = tiny_wan()
    for name in ("transformer", "vae", "text_encoder"):
        for ours, theirs in zip(getattr(stock, name).parameters(), getattr(again, name).parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_a_folder_and_a_live_pipeline_give_the_same(pipe, folder):
    live, loaded = model_of(pipe), load(str(folder), size="32x64", num_steps=6)
    x, levels = noise(live, 1, 3), torch.tensor([[1, 3, 6]])
    assert torch.equal(live.denoiser(x, levels, [PROMPT]), loaded.denoiser(x, levels, [PROMPT]))
    assert torch.equal(live.codec.decode(x[0])[0], loaded.codec.decode(x[0])[0])
    assert (loaded.name, loaded.family, loaded.source, loaded.solver) == ("tiny", "wan", folder, "unipc")
    assert (loaded.steps, loaded.guidance, loaded.dtype, loaded.license) == (6, 5.0, "float32", None)
    assert load(folder, size=SIZE, dtype="bf16").dtype == "bfloat16"


def test_longtake_json_and_the_model_card_set_the_defaults(folder, tmp_path):
    mine = copy_of(folder, tmp_path / "mine")
    chosen = dict(window=12, fps=8, steps=24, guidance=3.0, max_sequence_length=32, size=[64, 64])
    (mine / "longtake.json").write_text(json.dumps(chosen))
    (mine / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    model = load(mine)
    assert (model.window, model.fps, model.steps, model.guidance, model.size) == (12, 8, 24, 3.0, (64, 64))
    assert model.denoiser.text.max_length == 32 and model.license == "apache-2.0"
    assert load(mine, num_steps=5, guidance=1.0, size=SIZE).denoiser.schedule.num_steps == 5
    from_pipe = load(WanPipeline.from_pretrained(mine, local_files_only=True))
    assert (from_pipe.window, from_pipe.name) == (12, "mine")


def test_the_hash_names_the_weights(folder, tmp_path):
    ours = load(folder, size=SIZE).weights_hash
    assert load(copy_of(folder, tmp_path / "copy"), size=SIZE).weights_hash == ours
    assert load(save_tiny(tmp_path / "other", seed=1), size=SIZE).weights_hash != ours
    assert (
        model_of(tiny_wan(0)).weights_hash == model_of(tiny_wan(0)).weights_hash != model_of(tiny_wan(1)).weights_hash
    )


def refused(match: str, source: Any, **options: Any) -> None:
    with pytest.raises(UsageError, match=match) as error:
        load(source, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_impossible_settings_are_refused_in_one_line(folder):
    refused("multiples of 16; the nearest that works is 64x48", folder, size=(65, 50))
    refused("nearest that works is 16x16", folder, size="1x1")
    refused("not WIDTHxHEIGHT", folder, size="big")
    refused("steps must be at least 1", folder, size=SIZE, num_steps=0)
    refused("unknown solver 'heun'; known: euler", folder, size=SIZE, solver="heun")
    refused("unknown dtype 'int3'", folder, dtype="int3")
    refused("device 'quantum'", folder, device="quantum")


def test_sources_that_are_no_model_are_refused_in_one_line(folder, tmp_path, monkeypatch):
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(loading.NAMES, "pocket", tmp_path / "nowhere")
    refused("weights of 'pocket' are not in this installation", "pocket")
    refused("no folder", tmp_path / "missing")
    refused("no folder 'pokcet' here", "pokcet")
    refused("'nobody/nothing' is neither a folder here nor a model", "nobody/nothing")
    (tmp_path / "file.safetensors").write_bytes(b"")
    refused("is a file", tmp_path / "file.safetensors")
    (tmp_path / "empty").mkdir()
    refused("has no model_index.json", tmp_path / "empty")
    refused("object pipelines are not supported; supported: those of wan, ", object())


def damaged(folder: Path, target: Path, **changes: Any) -> Path:
    copy = copy_of(folder, target)
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, **changes}))
    return copy


def test_damaged_folders_are_refused_in_one_line(folder, tmp_path):
    refused("holds a LTXPipeline; supported: those of wan", damaged(folder, tmp_path / "a", _class_name="LTXPipeline"))
    refused("two experts", damaged(folder, tmp_path / "b", boundary_ratio=0.9))
    refused("DDIMScheduler is not supported", damaged(folder, tmp_path / "c", scheduler=["diffusers", "DDIMScheduler"]))
    weights = "transformer/diffusion_pytorch_model.safetensors"
    cut = damaged(folder, tmp_path / "d") / weights
    cut.write_bytes(cut.read_bytes()[:-100])
    refused(r"transformer.*safetensors is damaged: \d+ bytes where its header says \d+", tmp_path / "d")
    cut.write_bytes(b"\xff" * 50)
    refused("its safetensors header cannot be read", tmp_path / "d")
    cut.write_bytes(b"")
    refused("its safetensors header cannot be read", tmp_path / "d")
    cut.rename(cut.with_name("diffusion_pytorch_model.bin"))
    refused("a pickle; only safetensors are loaded", tmp_path / "d")
    cut.with_name("diffusion_pytorch_model.bin").unlink()
    refused("holds no weights", tmp_path / "d")
    lacking = damaged(folder, tmp_path / "e")
    tensors = load_file(lacking / weights)
    tensors.pop("proj_out.weight")
    save_file(tensors, lacking / weights)
    refused("cannot load the transformer|lack some of the weights", lacking)
    (lacking / "model_index.json").write_text("{not json")
    refused("model_index.json is not readable JSON", lacking)


def test_live_pipelines_that_cannot_work_are_refused_in_one_line(pipe):
    refused("keeps its own dtype", pipe, dtype="float16")
    refused("lacks an expert", WanPipeline(**pipe.components, boundary_ratio=0.5))
    odd = WanTransformer3DModel(**{**pipe.transformer.config, "in_channels": 9})
    refused("takes 9 channels, where its latents have 6", WanPipeline(**{**pipe.components, "transformer": odd}))
