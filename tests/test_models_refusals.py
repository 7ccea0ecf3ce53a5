"""Folders that are damaged, mixed up or incomplete, and settings that cannot work: one line, nothing made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longtake.apps.planning import plan
from longtake.apps.settings import Request
from longtake.errors import UsageError
from longtake.models.consisti2v_tiny import save_tiny_consisti2v
from longtake.models.load import load
from longtake.models.opensora_tiny import save_tiny_open_sora
from longtake.models.opensoraplan_tiny import save_tiny_open_sora_plan
from longtake.models.tiny import save_tiny
from longtake.models.tiny_own import save_tiny_latte_ucf, save_tiny_videocrafter
from longtake.models.tiny_skyreels import tiny_skyreels

MAKE: dict[str, Callable[[Path], Any]] = {
    "wan": save_tiny,
    "skyreels": lambda home: tiny_skyreels().save_pretrained(home, safe_serialization=True),
    "videocrafter2": save_tiny_videocrafter,
    "latte-ucf": save_tiny_latte_ucf,
    "consisti2v": save_tiny_consisti2v,
    "open-sora": save_tiny_open_sora,
    "open-sora-plan": save_tiny_open_sora_plan,
}


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def broken(homes: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A folder of a family, to be spoilt."""

    def copied(family: str) -> Path:
        if not (homes / family).is_dir():
            MAKE[family](homes / family)
        return Path(shutil.copytree(homes / family, tmp_path / family, dirs_exist_ok=True))

    return copied


def rewritten(file: Path, **changes: Any) -> None:
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def refused(match: str, call: Callable[[], Any]) -> None:
    with pytest.raises(UsageError, match=match) as error:
        call()
    assert "\n" not in str(error.value) and len(str(error.value)) < 420


def planned(folder: Path, **more: Any) -> Any:
    return plan(Request("a dog", model=str(folder), method="plain", frames=3, **more))


@pytest.mark.parametrize("family, other", [("wan", "SkyReelsV2"), ("skyreels", "Wan")])
def test_networks_of_two_families_are_not_mixed_up(broken, family, other):
    """Their weights have the same names, so nothing else would tell."""
    home = broken(family)
    rewritten(home / "model_index.json", _class_name=f"{other}Pipeline")
    refused(f"is of class .*, and {other}Transformer3DModel is needed", lambda: load(home, num_steps=2))
    home = broken(family)
    rewritten(home / "transformer" / "config.json", _class_name="CogVideoXTransformer3DModel")
    refused("is of class CogVideoXTransformer3DModel, and", lambda: planned(home))
    (home / "transformer" / "config.json").write_text("{}")
    refused("is of class None, and", lambda: planned(home))


def test_a_part_whose_authors_called_it_otherwise_loads(broken):
    home = broken("wan")
    rewritten(home / "transformer" / "config.json", _class_name="WanModel")
    assert load(home, size="32x32", num_steps=2).family == "wan"


@pytest.mark.parametrize("family", ["wan", "videocrafter2", "consisti2v", "open-sora", "open-sora-plan"])
def test_a_tokenizer_without_its_words_is_told(broken, family):
    """CLIP's loads without them, and then every prompt is the same."""
    home = broken(family)
    for file in (home / "tokenizer").iterdir():
        if file.name != "tokenizer_config.json":
            file.unlink()
    refused("tokenizer holds no vocabulary", lambda: load(home, num_steps=2))
    (home / "tokenizer" / "vocab.json").write_text("{}")
    refused("vocab.json and merges.txt", lambda: load(home, num_steps=2))


def test_what_json_tells_is_told_by_a_plan(broken, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = broken("skyreels")
    (tmp_path / "notes").mkdir()
    (tmp_path / "lora.bin").write_bytes(b"x")
    for match, more in (
        ("unknown dtype 'soup'; known: float32", {"dtype": "soup"}),
        ("--lora none.safetensors: there is no such file", {"lora": ["none.safetensors"]}),
        ("--lora lora.bin is not a .safetensors file", {"lora": ["lora.bin:0.5"]}),
        (r"--guide-model .*: there is no such folder", {"guide_model": "./none"}),
        (r"--guide-model none: there is no such folder", {"guide_model": "none"}),
        (r"--guide-model .*notes has no model_index.json", {"guide_model": str(tmp_path / "notes")}),
    ):
        refused(match, lambda more=more: planned(home, **more))
    (home / "scheduler" / "scheduler_config.json").write_text("{")
    refused("scheduler_config.json is not readable JSON", lambda: planned(home))


SIZES = (
    ("videocrafter2", "unet", {"layers_per_block": "two"}, "not that of a VideoCrafter2 network"),
    ("videocrafter2", "unet", {"block_out_channels": 32}, "not that of a VideoCrafter2 network"),
    ("videocrafter2", "unet", {"down_block_types": 3}, "not that of a VideoCrafter2 network"),
    ("latte-ucf", "transformer", {"depth": "four"}, "depth is 'four', not like 28"),
    ("latte-ucf", "transformer", {"patch": 0}, "patch is 0, not like 2"),
    ("latte-ucf", "transformer", {"heads": 3}, "3 heads do not share 32"),
    ("consisti2v", "unet", {"norm_num_groups": 3}, "the sizes in config.json make no network of this family"),
    ("open-sora", "vae", {"temporal": 3}, "the sizes in config.json make no network of this family"),
    ("open-sora-plan", "transformer", {"patch_size_t": 2}, "patch_size_t 1"),
    ("open-sora-plan", "transformer", {"interpolation_scale_t": 0}, "interpolation scales must be above 0"),
)


@pytest.mark.parametrize("family, part, changes, match", SIZES)
def test_sizes_that_make_no_network_are_told(broken, family, part, changes, match):
    home = broken(family)
    rewritten(home / part / "config.json", **changes)
    refused(match, lambda: load(home, num_steps=2))


def test_weights_of_other_sizes_than_the_configuration_are_told(broken):
    home = broken("videocrafter2")
    (home / "text_encoder" / "config.json").write_text("{}")
    model = load(home, num_steps=2)
    refused("cannot load the text_encoder .*other shapes than its config.json says", lambda: model.prepare(["a dog"]))
