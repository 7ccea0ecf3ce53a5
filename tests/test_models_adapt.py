"""LoRAs, offloading, compiling, tiles, and what happens when memory runs out."""

from __future__ import annotations

import gc
import json
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from longtake.apps.session import begin, build, reopen, running, start
from longtake.apps.settings import Request
from longtake.core.engine import Engine
from longtake.core.model import Capabilities
from longtake.core.schedule import flow
from longtake.core.step import Call
from longtake.core.window import Window
from longtake.errors import UsageError
from longtake.models import adapt, wan_codec, wan_modulation
from longtake.models.load import Model, load
from longtake.models.place import Place, Stage
from longtake.models.tiling import TiledCodec
from longtake.models.tiny import save_tiny, tiny_wan
from longtake.models.tiny_cogvideox import tiny_cogvideox
from longtake.models.tiny_skyreels import tiny_skyreels
from longtake.models.wan import WanDenoiser
from longtake.models.wan_codec import WanCodec
from tests.wan_cases import PROMPT, SIZE, noise, relative

pytest_plugins = ("tests.wan_fixtures",)
LAYERS = ("blocks.0.attn1.to_q", "blocks.1.ffn.net.2")


def lora_file(
    path: Path, network: nn.Module, rank: int = 2, layers: Any = LAYERS, prefix: str = "transformer."
) -> Path:
    """A LoRA as diffusers saves it, and its matrices."""
    draw, state = torch.Generator().manual_seed(3), {}
    modules = dict(network.named_modules())
    for name in layers:
        weight = modules[name].weight
        state[f"{prefix}{name}.lora_A.weight"] = torch.randn(rank, weight.shape[1], generator=draw)
        state[f"{prefix}{name}.lora_B.weight"] = torch.randn(weight.shape[0], rank, generator=draw) / 8
    save_file(state, path)
    return path


@pytest.mark.parametrize("prefix", ["transformer.", "diffusion_model.", "unet.", ""])
def test_layers_are_named_with_or_without_their_network(prefix: str, pipe, tmp_path):
    path = lora_file(tmp_path / "style.safetensors", pipe.transformer, prefix=prefix)
    assert sorted(adapt._pairs(load_file(path), str(path))) == sorted(LAYERS)


def x0(model: Model) -> torch.Tensor:
    return model.denoiser(noise(model, 2, 3), torch.tensor([[1, 3, 6], [2, 2, 2]]), [PROMPT] * 2)


# -- LoRA --------------------------------------------------------------------------------------------------------


def test_a_lora_is_its_product_on_its_layers(pipe, folder, tmp_path):
    path = lora_file(tmp_path / "style.safetensors", pipe.transformer)
    plain = load(folder, size=SIZE, num_steps=6)
    model = load(folder, size=SIZE, num_steps=6, lora=[f"{path}:0.5"])
    by_hand = tiny_wan()
    from safetensors.torch import load_file

    state, layers = load_file(path), dict(by_hand.transformer.named_modules())
    for name in LAYERS:
        pair = [state[f"transformer.{name}.lora_{half}.weight"] for half in "BA"]
        layers[name].weight.add_(0.5 * pair[0] @ pair[1])
    assert relative(x0(model), x0(load(by_hand, size=SIZE, num_steps=6))) < 1e-5
    assert relative(x0(model), x0(plain)) > 1e-2
    assert model.weights_hash != plain.weights_hash and len(model.weights_hash) == len(plain.weights_hash)
    again = load(folder, size=SIZE, num_steps=6, lora=[f"{path}:0.5"])
    other = load(folder, size=SIZE, num_steps=6, lora=[str(path)])
    assert again.weights_hash == model.weights_hash != other.weights_hash


def test_a_lora_of_the_release_changes_biases_too_and_says_what_it_leaves(folder, tmp_path):
    """Distilled Wan LoRAs come with `diff_b`, which diffusers turns into a bias of lora_B."""
    from safetensors.torch import load_file

    draw, by_hand = torch.Generator().manual_seed(3), tiny_wan()
    layer = dict(by_hand.transformer.named_modules())["blocks.0.attn1.to_q"]
    low, high = (
        torch.randn(shape, generator=draw) for shape in ((2, layer.weight.shape[1]), (layer.weight.shape[0], 2))
    )
    more = torch.randn(layer.bias.shape, generator=draw)
    name, path = "diffusion_model.blocks.0.self_attn.q", tmp_path / "distilled.safetensors"
    save_file({f"{name}.lora_down.weight": low, f"{name}.lora_up.weight": high, f"{name}.diff_b": more}, path)
    assert len(load_file(path)) == 3
    model = load(folder, size=SIZE, num_steps=6, lora=[f"{path}:0.5"])
    with torch.no_grad():
        layer.weight.add_(0.5 * high @ low)
        without = x0(load(by_hand, size=SIZE, num_steps=6))
        layer.bias.add_(0.5 * more)
    assert relative(x0(model), x0(load(by_hand, size=SIZE, num_steps=6))) < 1e-5 < relative(x0(model), without)
    assert not model.notes

    known = lora_file(tmp_path / "more.safetensors", by_hand.transformer)
    save_file({**load_file(known), "text_encoder.layer.0.lora_A": torch.ones(2)}, known)
    (note,) = load(folder, size=SIZE, num_steps=6, lora=[str(known)]).notes
    assert "1 of its weights belong to no layer that is changed, as text_encoder.layer.0.lora_A" in note


def test_loras_add_up_and_alpha_scales(folder, pipe, tmp_path):
    path = lora_file(tmp_path / "a.safetensors", pipe.transformer)
    twice = load(folder, size=SIZE, num_steps=6, lora=[str(path), str(path)])
    assert relative(x0(twice), x0(load(folder, size=SIZE, num_steps=6, lora=[f"{path}:2"]))) < 1e-4
    state = {"b.lora_A.weight": torch.ones(4, 8), "b.lora_B.weight": torch.ones(8, 4), "b.alpha": torch.tensor(2.0)}
    assert adapt._pairs(state, "a")["b"][2] == 0.5


def test_alpha_stands_in_the_metadata_too(folder, pipe, tmp_path):
    """Where diffusers and PEFT write it (`save_lora_weights`), and where stock pipelines read it."""
    bare = lora_file(tmp_path / "bare.safetensors", pipe.transformer)
    told = {"transformer.r": 2, "transformer.lora_alpha": 1, "transformer.alpha_pattern": {"net.2": 4}}
    path = tmp_path / "told.safetensors"
    save_file(load_file(bare), path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(told)})
    by_hand, model = tiny_wan(), load(folder, size=SIZE, num_steps=6, lora=[str(path)])
    state, layers = load_file(bare), dict(by_hand.transformer.named_modules())
    for name, ratio in zip(LAYERS, (0.5, 2.0), strict=True):
        pair = [state[f"transformer.{name}.lora_{half}.weight"] for half in "BA"]
        layers[name].weight.add_(ratio * pair[0] @ pair[1])
    assert relative(x0(model), x0(load(by_hand, size=SIZE, num_steps=6))) < 1e-5
    assert model.weights_hash != load(folder, size=SIZE, num_steps=6, lora=[str(bare)]).weights_hash
    assert adapt._told_ratio("a", 4, {"lora_alpha": 8, "use_rslora": True}) == 4


def test_each_expert_has_its_own(tmp_path):
    pipe = tiny_wan(boundary=0.7)
    pipe.save_pretrained(tmp_path / "a14b", safe_serialization=True)
    path = lora_file(tmp_path / "high.safetensors", pipe.transformer)
    before = load(tmp_path / "a14b", size=SIZE, num_steps=6)
    after = load(tmp_path / "a14b", size=SIZE, num_steps=6, lora=[f"high={path}"])
    both = load(tmp_path / "a14b", size=SIZE, num_steps=6, lora=[str(path)])
    x, top = noise(before, 1, 3), before.denoiser.wiring.low.top
    high, low = torch.full((1, 3), top + 1), torch.full((1, 3), top)
    assert relative(after.denoiser(x, high, [PROMPT]), before.denoiser(x, high, [PROMPT])) > 1e-2
    assert torch.equal(after.denoiser(x, low, [PROMPT]), before.denoiser(x, low, [PROMPT]))
    assert relative(both.denoiser(x, low, [PROMPT]), before.denoiser(x, low, [PROMPT])) > 1e-2


@pytest.mark.parametrize("make,layer", [(tiny_skyreels, LAYERS[0]),
                                        (lambda: tiny_cogvideox(), "transformer_blocks.0.attn1.to_q")])  # fmt: skip
def test_other_families_take_them_too(make: Any, layer: str, tmp_path):
    pipe = make()
    pipe.save_pretrained(tmp_path / "model", safe_serialization=True)
    path = lora_file(tmp_path / "l.safetensors", pipe.transformer, layers=(layer,))
    size = SIZE if layer in LAYERS else (48, 32)
    models = [load(tmp_path / "model", size=size, num_steps=6, lora=lora) for lora in ([], [f"{path}:3"])]
    x, levels = noise(models[0], 1, 3), torch.tensor([[4, 4, 4]])
    one, two = (model.denoiser(x, levels, [PROMPT]) for model in models)
    assert relative(one, two) > 1e-3


def test_loras_that_do_not_fit_are_refused_in_one_line(pipe, folder, tmp_path):
    other = lora_file(
        tmp_path / "other.safetensors", tiny_cogvideox().transformer, layers=("transformer_blocks.0.attn1.to_q",)
    )
    wide = tmp_path / "wide.safetensors"
    save_file({f"transformer.{LAYERS[0]}.lora_A.weight": torch.ones(2, 99),
               f"transformer.{LAYERS[0]}.lora_B.weight": torch.ones(99, 2)}, wide)  # fmt: skip
    half, none = tmp_path / "half.safetensors", tmp_path / "none.safetensors"
    save_file({f"transformer.{LAYERS[0]}.lora_A.weight": torch.ones(2, 32)}, half)
    save_file({"weight": torch.ones(2)}, none)
    (tmp_path / "x.bin").write_bytes(b"pickle")
    (tmp_path / "cut.safetensors").write_bytes(b"\x09")
    style = lora_file(tmp_path / "style.safetensors", pipe.transformer)
    for given, match in (
        (other, "is for another model: it names transformer_blocks"), (wide, "is for another model: .* has"),
        (half, "lacks .*lora_B.weight"), (none, "holds no LoRA"), (tmp_path / "x.bin", "no other kind is loaded"),
        (tmp_path / "gone.safetensors", "there is no such file"), (tmp_path / "cut.safetensors", "cannot be read"),
        (f"low={style}", "no second expert"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=match) as error:
            load(folder, size=SIZE, lora=[str(given)])
        assert "\n" not in str(error.value)


def test_what_is_typed_is_read():
    assert adapt.parsed("a/b.safetensors:0.7") == ("a/b.safetensors", 0.7, "")
    assert adapt.parsed("low=owner/name") == ("owner/name", 1.0, "low")
    assert adapt.parsed("C:\\loras\\a.safetensors") == ("C:\\loras\\a.safetensors", 1.0, "")


def test_a_live_pipeline_is_left_alone(pipe):
    for options in (dict(lora=["a.safetensors"]), dict(offload="model"), dict(compile=True)):
        with pytest.raises(UsageError, match="a live pipeline is left as it is"):
            load(pipe, size=SIZE, **options)


def test_options_that_a_family_lacks_are_named(folder):
    with pytest.raises(UsageError, match="freelong is no option of wan; it has riflex, shift, tiling"):
        load(folder, size=SIZE, extras={"freelong": True})
    with pytest.raises(UsageError, match="offload 'disk' is not known; known: none, model, group"):
        load(folder, size=SIZE, offload="disk")


# -- offloading and compiling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offloaded_is_the_same_and_one_part_is_in_front(offload: str, folder):
    plain, model = load(folder, size=SIZE, num_steps=6), load(folder, size=SIZE, num_steps=6, offload=offload)
    assert model.denoiser.device == torch.device("cpu") and model.weights_hash == plain.weights_hash
    assert torch.equal(x0(model), x0(plain))
    latents = noise(model, 1, 3)[0]
    assert torch.equal(model.codec.decode(latents)[0], plain.codec.decode(latents)[0])
    place = model.denoiser.place
    assert place is model.codec.place and place.stage.front is model.codec.vae
    assert len(place.streamed) == (offload == "group")


@pytest.mark.parametrize("offload", ["none", "model", "group"])
def test_the_decoder_s_cache_waits_where_the_decoder_does(offload: str, folder, monkeypatch):
    """3.8 GB of Wan at 832x480 would lie beside the network while it works, and are why a run was offloaded."""
    sent: list[Any] = []
    monkeypatch.setattr(wan_codec, "on_host", lambda cache: sent.append(cache) or {**cache, "waits": ()})
    model = load(folder, size=SIZE, num_steps=6, offload=offload)
    _, cache = model.codec.decode(noise(model, 1, 3)[0])
    assert len(sent) == (offload != "none") and ("waits" in cache) == (offload != "none")


def test_large_calls_go_with_blocks_that_come_one_after_the_other(folder, monkeypatch):
    plain, model = load(folder, size=SIZE, num_steps=6), load(folder, size=SIZE, num_steps=6, offload="group")
    want = x0(plain)
    monkeypatch.setattr(wan_modulation, "LARGE", 0)
    assert torch.equal(x0(model), want)


def test_a_stage_moves_what_works_and_lets_the_last_go():
    moves: list[tuple[str, str]] = []

    class Part(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def to(self, device: Any) -> Part:
            moves.append((self.name, str(device)))
            return self

    one, two, blocks = Part("one"), Part("two"), Part("blocks")
    place = Place(torch.device("cuda"), Stage(torch.device("cuda")), (blocks,))
    for part in (one, one, blocks, two, one):
        with place.working(part):
            pass
    assert moves == [("one", "cuda"), ("two", "cuda"), ("one", "cuda")]


def test_weights_on_stage_wait_on_the_host_too():
    """Frozen weights are the same there: to copy them back at every turn is time for nothing."""
    layers = [nn.BatchNorm1d(3), nn.Linear(3, 2)]
    before = [[value.data_ptr() for value in layer.state_dict().values()] for layer in layers]
    stage, parameter = Stage(torch.device("meta")), layers[1].weight
    with torch.inference_mode():
        stage.call(layers[0])
    assert layers[0].weight.is_meta and layers[0].running_mean.is_meta
    stage.call(layers[1])
    assert [value.data_ptr() for value in layers[0].state_dict().values()] == before[0]
    stage.call(layers[0])
    assert [value.data_ptr() for value in layers[1].state_dict().values()] == before[1]
    assert layers[1](torch.ones(1, 3)).shape == (1, 2) and layers[1].weight.shape == parameter.shape


def test_weights_that_moved_in_place_are_the_hosts_again():
    """Between a host and a card `to` changes what a parameter holds, and not which parameter it is."""

    class Moving(nn.Linear):
        def to(self, *args: Any, **kwargs: Any) -> Any:
            self.weight.data = self.weight.data.clone()
            return self

    stage, parts = Stage(torch.device("cpu")), [Moving(3, 2), Moving(3, 2)]
    place = parts[0].weight.data_ptr()
    with torch.inference_mode():
        stage.call(parts[0])
    assert parts[0].weight.data_ptr() != place
    stage.call(parts[1])
    assert parts[0].weight.data_ptr() == place


@pytest.mark.slow
def test_compiled_blocks_give_the_same(folder):
    plain, model = (load(folder, size=SIZE, num_steps=6) for _ in range(2))
    assert adapt.compile_blocks(model.denoiser.transformer, backend="eager") == 2
    assert all(block._compiled_call_impl is not None for block in model.denoiser.transformer.blocks)
    assert relative(x0(model), x0(plain)) < 1e-5
    with pytest.raises(UsageError, match="no repeated blocks"):
        adapt.compile_blocks(nn.Linear(2, 2))


# -- tiles -------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("make", [tiny_wan, tiny_skyreels], ids=["patches of two", "no patches"])
def test_tiles_are_the_stock_tiles_and_stream(make: Any):
    pipe = make()
    z = torch.randn(2, 6, 11, 9, generator=torch.Generator().manual_seed(0))
    codec = TiledCodec(WanCodec(pipe.vae), tile=64, stride=48)
    whole, _ = codec.decode(z)
    config = pipe.vae.config
    mean, std = (torch.tensor(getattr(config, f"latents_{name}")).reshape(1, -1, 1, 1, 1) for name in ("mean", "std"))
    pipe.vae.enable_tiling(64, 64, 48, 48)
    stock = pipe.vae.decode(z.transpose(0, 1)[None] * std + mean).sample[0]
    pipe.vae.disable_tiling()
    want = ((stock + 1) * 127.5).round().permute(1, 2, 3, 0)
    assert whole.shape == want.shape == (5, 88, 72, 3)
    assert float((whole.float() - want).abs().max()) <= 1
    cache, frames = None, []
    for latent in z:
        made, cache = codec.decode(latent[None], cache)
        frames.append(made)
    assert torch.equal(torch.cat(frames), whole)
    assert not torch.equal(whole, WanCodec(pipe.vae).decode(z)[0])
    small = z[:, :, :8, :8]
    assert torch.equal(codec.decode(small)[0], WanCodec(pipe.vae).decode(small)[0])


def test_caches_of_tiles_wait_on_the_host(pipe, monkeypatch):
    """All tiles' caches are more than that of the whole picture: on the device tiling would cost memory."""
    places: list[str] = []

    class Far(torch.Tensor):
        def to(self, device: Any) -> torch.Tensor:
            places.append(str(device))
            return torch.zeros(1)

    codec, z = TiledCodec(WanCodec(pipe.vae), tile=32, stride=24), torch.zeros(1, 6, 8, 8)
    far = torch.zeros(1).as_subclass(Far)
    side = codec.factor
    monkeypatch.setattr(
        codec, "raw", lambda z, cache: (torch.zeros(1, 3, z.shape[2] * side, z.shape[3] * side), {"feat": (far, "Rep")})
    )
    _, cache = codec.decode(z)
    assert places and set(places) == {"cpu"} and len(places) == len(cache["tiles"])
    assert all(type(tile["feat"][0]) is torch.Tensor and tile["feat"][1] == "Rep" for tile in cache["tiles"])


def test_tiling_is_an_option(folder):
    assert isinstance(load(folder, size=SIZE, extras={"tiling": True}).codec, TiledCodec)
    assert not isinstance(load(folder, size=SIZE).codec, TiledCodec)


# -- memory ------------------------------------------------------------------------------------------------------


class Tight:
    """A denoiser with memory for two windows."""

    schedule, can, cost, device = flow(4), Capabilities(2, (1, 1, 1)), 1, torch.device("cpu")

    def __init__(self, room: int = 2) -> None:
        self.room, self.batches = room, []

    def __call__(self, x: torch.Tensor, levels: torch.Tensor, cond: Any) -> torch.Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("no more")
        self.batches.append(len(x))
        return x + 1


def test_out_of_memory_is_answered_by_smaller_batches_and_said(caplog):
    calls = [Call((torch.full((1, 1, 1), float(n)),), (1,), "", Window((n,), (n,))) for n in range(9)]
    network = Tight()
    engine = Engine(network, batch=8)
    with caplog.at_level(logging.WARNING, "longtake"):
        answers = engine.answer(calls)
    assert [float(answer) for answer in answers] == [n + 1.0 for n in range(9)]
    assert engine.batch == 2 and max(network.batches) == 2 and engine.meter.nfe == 9
    said = [record.getMessage() for record in caplog.records]
    assert said and all("out of memory" in line for line in said) and "8 windows at once: going on with 4" in said[0]
    engine.answer(calls[:4])
    assert len(caplog.records) == len(said)  # known by now
    with pytest.raises(UsageError, match="out of memory with one window at a time; use a smaller --size"):
        Engine(Tight(0), batch=4).answer(calls)


def test_what_the_failed_try_held_is_let_go_before_the_next():
    alive: list[int] = []
    held: list[weakref.ref] = []

    class Hungry(Tight):
        def __call__(self, x: torch.Tensor, levels: torch.Tensor, cond: Any) -> torch.Tensor:
            alive.append(sum(ref() is not None for ref in held))
            activations = torch.zeros(3)
            held.append(weakref.ref(activations))
            return super().__call__(x, levels, cond)

    calls = [Call((torch.full((1, 1, 1), float(n)),), (1,), "", Window((n,), (n,))) for n in range(4)]
    gc.disable()  # no cycle may hold it either
    try:
        Engine(Hungry(), batch=4).answer(calls)
    finally:
        gc.enable()
    assert alive == [0, 0, 0]


def test_a_run_whose_memory_ran_out_is_gone_on_with_as_it_ended(tmp_path, monkeypatch, caplog):
    home = save_tiny(tmp_path / "wan")
    (home / "longtake.json").write_text('{"window": 4}')
    batches: list[int] = []
    whole = WanDenoiser.__call__

    def tight(self: Any, x: torch.Tensor, levels: torch.Tensor, cond: Any) -> torch.Tensor:
        batches.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("no more")
        return whole(self, x, levels, cond)

    monkeypatch.setattr(WanDenoiser, "__call__", tight)
    options: dict[str, Any] = dict(model=str(home), size=(32, 32), method="fifo", steps=8, seed=3, frames=21)
    session = start(Request("a dog runs", set=["batch=4"], **options))
    folder = begin(session, tmp_path / "run")
    assert json.loads(folder.manifest.read_text())["batch"] == 4
    with running(session, folder) as (_, progress), caplog.at_level(logging.WARNING, "longtake"):
        while max(batches, default=0) < 3:
            next(progress)
        said = json.loads(folder.manifest.read_text())  # at once, not at the end
    assert any("going on with 2; last bits may differ" in record.getMessage() for record in caplog.records)
    assert said["batch"] == 2 and "batch 4 -> 2: out of memory" in said["not_bit_exact"][0]["why"]
    settings, _ = reopen(folder)
    batches.clear()
    with running(build(settings), folder) as (_, progress):
        for _ in progress:
            pass
    assert max(batches) == 2 and folder.finished is not None and folder.finished["frames"] == 21
