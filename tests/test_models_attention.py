"""The attention backend of a network: told to it alone, written down, refused in one line where it cannot be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers.models import attention_dispatch as dispatch
from torch.overrides import TorchFunctionMode

from longtake.apps.cli import app, run
from longtake.apps.session import begin, build, generate, reopen, start
from longtake.apps.settings import Request
from longtake.errors import UsageError
from longtake.models.adapt import compile_blocks
from longtake.models.attention import attend, check_attention, names
from longtake.models.load import load
from longtake.models.tiny import save_tiny, tiny_wan
from longtake.models.tiny_skyreels import tiny_skyreels
from tests.test_models_matrix import MAKE
from tests.wan_cases import PROMPT, SIZE, noise, relative

OTHERS = ("videocrafter2", "cogvideox", "latte", "latte-ucf", "svd", "consisti2v", "open-sora", "open-sora-plan")
"""Families whose processors take no backend."""


@pytest.fixture(scope="module")
def homes(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("attention")
    save_tiny(root / "wan")
    tiny_skyreels().save_pretrained(root / "skyreels", safe_serialization=True)
    for family in OTHERS:
        save, *_ = MAKE[family]
        save(root / family)
    return {home.name: str(home) for home in root.iterdir()}


def told(model: Any) -> set[Any]:
    processors = [getattr(module, "processor", None) for module in model.denoiser.transformer.modules()]
    return {processor._attention_backend for processor in processors if processor is not None}


@pytest.mark.parametrize("family", ["wan", "skyreels"])
def test_another_backend_says_the_same_and_no_other_network_is_told(homes, family: str):
    before = dispatch._AttentionBackendRegistry._active_backend
    stock = load(homes[family], size=SIZE, num_steps=6)
    x, levels = noise(stock, 1, 3), torch.tensor([[0, 2, 5]])
    calls: list[str] = []
    math = dispatch._AttentionBackendRegistry._backends[dispatch.AttentionBackendName._NATIVE_MATH]

    def counted(*args: Any, **more: Any) -> Any:
        calls.append("math")
        return math(*args, **more)

    other = load(homes[family], size=SIZE, num_steps=6, attention="_native_math")
    want = stock.denoiser(x, levels, [PROMPT])
    dispatch._AttentionBackendRegistry._backends[dispatch.AttentionBackendName._NATIVE_MATH] = counted
    try:
        assert relative(stock.denoiser(x, levels, [PROMPT]), want) == 0 and not calls
        assert relative(other.denoiser(x, levels, [PROMPT]), want) < 1e-4 and len(calls) >= 4  # 2 blocks, 2 each
    finally:
        dispatch._AttentionBackendRegistry._backends[dispatch.AttentionBackendName._NATIVE_MATH] = math
    assert told(other) == {"_native_math"} and told(stock) == {None}
    assert dispatch._AttentionBackendRegistry._active_backend == before


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[list[tuple[int, ...]]]:
    """What a backend of the dispatcher is asked: the shapes of its queries."""
    key, asked = dispatch.AttentionBackendName(name), []
    real = dispatch._AttentionBackendRegistry._backends[key]

    def seen(*args: Any, **more: Any) -> Any:
        asked.append(tuple(more["query"].shape))
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setitem(dispatch._AttentionBackendRegistry._backends, key, seen)
        yield asked


@contextmanager
def products() -> Iterator[list[bool]]:
    """Every product of torch's own while it is open: whether it has a mask."""
    masked: list[bool] = []

    class Seen(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.nn.functional.scaled_dot_product_attention:
                masked.append((kwargs or {}).get("attn_mask") is not None)
            return func(*args, **(kwargs or {}))

    with Seen():
        yield masked


def of(homes: dict[str, str], family: str, **options: Any) -> Any:
    """The tiny model of a family, its pictures small."""
    flags = MAKE[family][2]
    size = flags[flags.index("--size") + 1] if "--size" in flags else None
    return load(homes[family], size=size, num_steps=3, **options)


def x0(model: Any) -> torch.Tensor:
    shape = model.denoiser.can.latent_shape
    x = torch.randn(1, 4, *shape, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([[0, 2, 2, 2] if model.denoiser.can.per_row_levels == "no" else [0, 1, 2, 3]])
    return model.denoiser(x, levels, ["playing guitar" if model.family == "latte-ucf" else PROMPT])


@pytest.mark.parametrize("family", OTHERS)
def test_networks_whose_processors_take_none_are_led_to_it_while_they_work(homes, family: str, monkeypatch):
    stock = of(homes, family)
    want = x0(stock)
    with products() as own:  # its prompts are read by now: text encoders are other networks
        assert torch.equal(x0(stock), want)
    other = of(homes, family, attention="_native_math")
    decode = lambda: other.codec.decode(torch.zeros(2, *other.denoiser.can.latent_shape))  # noqa: E731
    with counted(monkeypatch, "_native_math") as asked:
        assert relative(x0(other), want) < 1e-4
        many = len(asked)
        assert torch.equal(x0(stock), want)
        decode()
        assert many == len(asked) == len(own) > 1, "every product of this network and of no other"
    # a backend that takes no mask is asked for those products that have none
    registry, flash = dispatch._AttentionBackendRegistry._backends, dispatch.AttentionBackendName._NATIVE_FLASH
    math = registry[dispatch.AttentionBackendName._NATIVE_MATH]
    monkeypatch.setitem(registry, flash, lambda attn_mask, **more: attn_mask is None and math(**more))
    with counted(monkeypatch, "_native_flash") as asked:
        other = of(homes, family, attention="_native_flash")
        tried = len(asked)
        assert relative(x0(other), want) < 1e-4
    assert len(asked) - tried == own.count(False) > 0


@pytest.mark.parametrize("family", ["latte", "svd"])  # ours over diffusers' blocks, and diffusers' with hooks
def test_a_backend_goes_with_offloading(homes, family: str, monkeypatch):
    want = x0(of(homes, family))
    for mode in ("model", "group"):
        model = of(homes, family, attention="_native_math", offload=mode)
        with counted(monkeypatch, "_native_math") as asked:
            assert relative(x0(model), want) < 1e-4 and asked


def test_a_backend_goes_with_tracing(homes, monkeypatch):
    want, model = x0(of(homes, "open-sora-plan")), of(homes, "open-sora-plan", attention="_native_math")
    compile_blocks(model.denoiser.worker.module, backend="eager")
    with counted(monkeypatch, "_native_math") as asked:
        assert relative(x0(model), want) < 1e-4 and asked


def test_names_are_those_of_the_installed_dispatcher():
    assert set(names()) == {item.value for item in dispatch.AttentionBackendName}
    assert {"native", "flash", "sage", "xformers"} <= set(names()) and not names()[0].startswith("_")


def test_what_cannot_be_is_refused_in_one_line_before_weights(homes, monkeypatch):
    from longtake.models import parts

    monkeypatch.setattr(parts, "load_part", lambda *args, **more: pytest.fail("weights were read"))
    for family, name, match in (
        ("wan", "quick", "--attention quick is not known to this diffusers; known: "),
        ("wan", "flash", "--attention flash cannot be used: .*flash-attn"),
        ("skyreels", "sage", "--attention sage cannot be used: .*sageattention"),
        ("cogvideox", "flash", "--attention flash cannot be used: .*flash-attn"),
        ("open-sora", "quick", "--attention quick is not known to this diffusers; known: "),
    ):
        with pytest.raises(UsageError, match=match) as error:
            load(homes[family], size="64x64", attention=name)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400
        assert run(lambda f=family, n=name: app(
            args=["generate", "a dog", "--model", homes[f], "--size", "64x64", "--attention", n, "--dry-run"],
            standalone_mode=False)) == 2  # fmt: skip
    with pytest.raises(UsageError, match="takes no mask, which causal blocks need; use native"):
        monkeypatch.setattr("longtake.models.attention.dispatch._CAN_USE_SAGE_ATTN", True)
        load(homes["skyreels"], size=SIZE, attention="sage", extras={"causal_block": 5})


def test_what_does_not_run_on_the_device_is_refused_before_the_first_call(homes):
    check_attention("_native_cudnn")  # part of torch, so that only a trial tells
    with pytest.raises(UsageError, match=r"--attention _native_cudnn does not run here \(cpu, float32, heads of 16\)"):
        load(homes["wan"], size=SIZE, attention="_native_cudnn", device="cpu")
    with pytest.raises(UsageError, match=r"does not run here \(cpu, float32, heads of 8\)"):
        load(homes["videocrafter2"], attention="_native_cudnn", device="cpu")
    with pytest.raises(UsageError, match="Linear has no attention"):
        attend([torch.nn.Linear(2, 2)], "native", torch.device("cpu"))


def test_a_live_pipeline_keeps_its_own():
    pipe = tiny_wan()
    with pytest.raises(UsageError, match="--attention changes networks, and a live pipeline is left as it is"):
        load(pipe, size=SIZE, attention="native")


def test_a_run_writes_it_down_and_goes_on_with_it(homes, tmp_path):
    options: dict[str, Any] = dict(model=homes["wan"], size=(32, 32), method="chunk", steps=2, seed=3, frames=5)
    session = start(Request("a dog runs", attention="_native_math", **options))
    folder = begin(session, tmp_path / "run")
    assert json.loads(folder.manifest.read_text())["attention"] == "_native_math"
    settings, _ = reopen(folder)
    assert told(build(settings).model) == {"_native_math"}
    made = generate("a dog runs", out=tmp_path / "plain", **options)
    assert json.loads((tmp_path / "plain" / "run.json").read_text())["attention"] is None and made.frames == 5
