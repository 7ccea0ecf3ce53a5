"""`longtake convert`: published files to safetensors, whole or not at all, and nothing in a file is ever run."""

from __future__ import annotations

import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longtake.apps import convert_command
from longtake.apps.convert_command import run_convert
from longtake.errors import UsageError
from longtake.rewards import features
from longtake.rewards.encoders import mobile
from tests.encoder_cases import fill, shapes_of


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    return features.cache()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileNetV2 with its classifier, as torchvision saves it."""
    weights = fill({**shapes_of(mobile.MobileNetV2()), "classifier.1.weight": (5, 1280), "classifier.1.bias": (5,)})
    path = tmp_path_factory.mktemp("published") / "mobilenet.pth"
    torch.save(weights, path)
    return path


def _wrapped(published: Path, folder: Path, how: str) -> Path:
    weights = torch.load(published, weights_only=True)
    if how == "safetensors":
        save_file(weights, folder / "m.safetensors")
        return folder / "m.safetensors"
    if how == "checkpoint":
        torch.save({"epoch": 3, "state_dict": weights}, folder / "m.ckpt")
        return folder / "m.ckpt"
    if how == "wheel":
        with zipfile.ZipFile(folder / "m.whl", "w") as archive:
            archive.write(published, "package/weights/m.pt")
            archive.writestr("package/__init__.py", "raise RuntimeError")
        return folder / "m.whl"
    if how == "tarball":
        with tarfile.open(folder / "m.tgz", "w:gz") as archive:
            archive.add(published, "../../m.pth")
        return folder / "m.tgz"
    if how == "folder":
        (folder / "deep").mkdir()
        (folder / "deep" / "m.bin").write_bytes(published.read_bytes())
        return folder / "deep"
    return published


@pytest.mark.parametrize("how", ["file", "safetensors", "checkpoint", "wheel", "tarball", "folder"])
def test_every_wrapping_gives_the_same_encoder(shelf: Path, tmp_path: Path, published: Path, how: str):
    folder = run_convert("mobilenetv2", _wrapped(published, tmp_path, how))
    assert folder == shelf / "mobilenetv2" and [path.name for path in shelf.iterdir()] == ["mobilenetv2"]
    kept = load_file(folder / "model.safetensors")
    wanted = {
        name: value for name, value in torch.load(published, weights_only=True).items() if "classifier" not in name
    }
    assert set(kept) == set(wanted) and all(torch.equal(kept[name], wanted[name]) for name in kept)
    assert features.load("mobilenetv2").name == "mobilenetv2"
    with pytest.raises(UsageError, match="is there already"):
        run_convert("mobilenetv2", published)


class Evil:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def _bad(published: Path, folder: Path, what: str) -> Path:
    path = folder / "bad.pth"
    if what == "code":
        path.write_bytes(pickle.dumps({"features.0.0.weight": Evil(folder / "ran")}))
    elif what == "cut":
        path.write_bytes(published.read_bytes()[:5000])
    elif what == "other":
        torch.save({"weight": torch.zeros(3)}, path)
    elif what == "empty":
        torch.save({"epoch": 3}, path)
    elif what == "program":
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    elif what == "two":
        path = folder / "two.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(published, "a.pth")
            archive.write(published, "b.pth")
    elif what == "text":
        path = folder / "bad.whl"
        path.write_text("no archive")
    return path


@pytest.mark.parametrize("what", ["code", "cut", "other", "empty", "program", "two", "text", "missing"])
def test_what_does_not_fit_leaves_nothing_behind(shelf: Path, tmp_path: Path, published: Path, what: str):
    with pytest.raises(UsageError) as error:
        run_convert("mobilenetv2", _bad(published, tmp_path, what))
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()
    assert not shelf.exists() or not list(shelf.iterdir())


def test_kinds_are_rows_whose_functions_exist():
    for name, kind in convert_command.KINDS.items():
        module, _, function = kind.call.partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function)), name
    encoders = {folder for known in features.KNOWN.values() for folder in known.folders}
    assert encoders <= set(convert_command.KINDS), "every folder that encoders ask for can be converted to"
    with pytest.raises(UsageError, match="did you mean rife-v4"):
        run_convert("rife", Path("x"))


def test_only_convert_unpickles():
    package = Path(convert_command.__file__).parent.parent
    for path in package.rglob("*.py"):
        words = ("torch.load(", "torch.save(", "pickle.load", "weights_only=False")
        found = [word for word in words if word in path.read_text()]
        assert not found or path.name == "convert_command.py", path
