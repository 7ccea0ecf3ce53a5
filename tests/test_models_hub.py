"""Where models come from: hub ids, the local cache, own layouts, keys of longtake.json. No network anywhere."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from longtake.apps.lookup import look_up
from longtake.apps.settings import Request
from longtake.errors import UsageError
from longtake.models import families, parts
from longtake.models import folder as folders
from longtake.models.load import load
from longtake.models.tiny import tiny_wan, tiny_wan_image
from longtake.models.tiny_cogvideox import tiny_cogvideox
from longtake.models.tiny_own import tiny_latte, tiny_svd
from longtake.models.tiny_skyreels import tiny_skyreels
from tests.wan_cases import SIZE

pytest_plugins = ("tests.wan_fixtures",)
HUB = "owner/tiny-wan"


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub with one repository: writes down what is asked for and hands out only what the patterns allow."""
    asked: list[tuple[str, tuple[str, ...]]] = []

    def snapshot_download(repo: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((repo, tuple(allow_patterns)))
        if repo != HUB:
            raise FileNotFoundError("404. there is no such repository")
        home = tmp_path / "snapshot"
        for path in folder.rglob("*"):
            if path.is_file() and any(fnmatch(str(path.relative_to(folder)), pattern) for pattern in allow_patterns):
                place = home / path.relative_to(folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)
        return str(home)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked, tmp_path / "snapshot"


def test_weights_are_fetched_once():
    """Stable Video Diffusion lies on the hub in parts, in halves of them, and twice whole: 9.6 GB each."""
    from huggingface_hub.utils import filter_repo_objects

    parts_of_it = [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/model-00001-of-00002.safetensors",
    ]
    others = ["svd.safetensors", "svd_image_decoder.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
              "text_encoder/model.fp16-00001-of-00002.safetensors", "unet/diffusion_pytorch_model.bin"]  # fmt: skip
    fetched = filter_repo_objects(
        [*parts_of_it, *others], allow_patterns=list(folders.PATTERNS), ignore_patterns=list(folders.VARIANTS)
    )
    assert list(fetched) == parts_of_it


def test_a_plan_fetches_json_alone_and_loading_fetches_safetensors(hub):
    asked, home = hub
    facts = look_up(Request("a dog", HUB, size=SIZE))
    assert asked == [(HUB, folders.JSON)]
    fetched = {path.name for path in home.rglob("*") if path.is_file()}
    assert fetched == {"model_index.json", "config.json", "scheduler_config.json"}
    assert (facts.name, facts.source, facts.window, facts.channels, facts.factor) == (HUB, HUB, 21, 6, 8)
    model = load(HUB, size=SIZE)
    assert asked[1:] == [(HUB, folders.PATTERNS)] and not any(
        "bin" in pattern or "pt" in pattern for pattern in asked[1][1]
    )
    can = model.denoiser.can
    assert (can.window, can.latent_shape) == (facts.window, facts.shape(facts.size))


MAKE = {
    "wan, two experts": lambda: tiny_wan(boundary=0.7),
    "wan from a picture": tiny_wan_image,
    "skyreels": tiny_skyreels,
    "cogvideox": tiny_cogvideox,
    "latte": tiny_latte,
    "svd": tiny_svd,
}


@pytest.mark.parametrize("name", list(MAKE))
def test_configurations_alone_tell_what_a_whole_folder_tells(name: str, tmp_path, monkeypatch):
    MAKE[name]().save_pretrained(tmp_path / "whole", safe_serialization=True)
    options = families.LoadOptions(size=(48, 32))
    whole = families.facts(parts.source_of(tmp_path / "whole"), options)

    def snapshot_download(repo: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        for path in (tmp_path / "whole").rglob("*"):
            relative = path.relative_to(tmp_path / "whole")
            if path.is_file() and any(fnmatch(str(relative), pattern) for pattern in allow_patterns):
                (tmp_path / "json" / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, tmp_path / "json" / relative)
        return str(tmp_path / "json")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert families.facts(parts.source_of("owner/model", weights=False), options) == whole


def test_a_family_s_bare_name_is_its_checkpoint(hub, monkeypatch):
    asked, _ = hub
    for family in families.FAMILIES.values():
        if family.hub is None:
            with pytest.raises(UsageError, match="convert one"):
                look_up(Request("a dog", family.name))
            continue
        with pytest.raises(UsageError, match="could be fetched"):
            look_up(Request("a dog", family.name))
        assert asked[-1] == (family.hub, folders.JSON)
    with pytest.raises(UsageError, match=r"'nobody/nothing' is neither a folder here nor a model .*: 404"):
        load("nobody/nothing")


def test_the_local_cache_is_used_without_a_network(folder, tmp_path, monkeypatch):
    """The layout that the hub's client keeps: snapshots of links into blobs, found by the name of the commit."""
    import huggingface_hub.constants as constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--owner--tiny-wan"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repo / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: real(*a, cache_dir=tmp_path, **k))
    assert look_up(Request("a dog", HUB, size=SIZE)).name == HUB
    assert load(HUB, size=SIZE).source == repo / "snapshots" / commit


def copied(folder: Path, target: Path, **settings: Any) -> Path:
    shutil.copytree(folder, target)
    (target / "longtake.json").write_text(json.dumps(settings))
    return target


def test_unknown_keys_of_longtake_json_are_refused_by_name(folder, tmp_path):
    wrong = copied(folder, tmp_path / "wrong", window=12, widnow=12)
    for act in (load, lambda path: look_up(Request("a dog", path))):
        with pytest.raises(UsageError, match=r"unknown key 'widnow'; known: .*window") as error:
            act(wrong)
        assert "\n" not in str(error.value)


def test_a_family_may_be_named_and_must_be_known(folder, tmp_path):
    assert load(copied(folder, tmp_path / "named", family="wan"), size=SIZE).family == "wan"
    with pytest.raises(UsageError, match="is of family 'ltx'; known: wan"):
        load(copied(folder, tmp_path / "strange", family="ltx"))


def test_a_fine_tune_reads_the_parts_it_lacks_from_its_base(folder, tmp_path):
    copied(folder, tmp_path / "whole")
    tuned = copied(folder, tmp_path / "tuned", base="whole", window=5)
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(tuned / part)
    model = load(tuned, size=SIZE)
    assert model.window == 5 and model.weights_hash == load(folder, size=SIZE).weights_hash
    assert look_up(Request("a dog", tuned, size=SIZE)).channels == 6
    (tuned / "longtake.json").write_text(json.dumps({"base": "elsewhere"}))
    with pytest.raises(UsageError, match="builds on 'elsewhere', which is not here"):
        load(tuned)


def test_every_row_of_the_table_has_its_module():
    from importlib import import_module

    for family in families.FAMILIES.values():
        module = import_module(family.module)
        assert callable(module.facts) and callable(module.load_family)
    assert len(families.classes()) == sum(len(family.classes) for family in families.FAMILIES.values())
    assert set(parts.known()) >= {"pocket", *families.FAMILIES}


def test_the_page_of_models_is_the_tables():
    """docs/models.md: one row a family, and its table of methods is what the program says."""
    from longtake.apps.listing import describe_family
    from longtake.apps.tables import METHODS

    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text().splitlines()
    start = next(number for number, line in enumerate(page) if line.startswith("| | plain"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page[start:]]
    names = cells[0][1:]
    assert names == list(METHODS)
    rows = {row[0]: row[1:] for row in cells[2 : 2 + len(families.FAMILIES)]}
    assert sorted(rows) == sorted(families.FAMILIES)
    for family, row in rows.items():
        able = describe_family(family)["methods"]
        assert row == ["yes" if name in able else "no" for name in names], family
        assert any(f"| {family}" in line or f", {family} |" in line for line in page[:start]), family
