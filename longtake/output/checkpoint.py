"""Any frozen state <-> `<name>.json` + `<name>.safetensors`. JSON and safetensors only, never pickle.

The JSON holds the shape of the value, the safetensors file its tensors. What the state holds twice is one object after
loading: the engine recognises equal calls by identity, so sharing is part of the value.

Crash safety. `save` writes `<name>.safetensors.new`, then renames the JSON (the commit: it carries the SHA-256 of its
tensor file), then renames `.new` to `<name>.safetensors`. A kill before the commit leaves the old pair; a kill after
it leaves the new pair, its tensors still called `.new`, which `load` and the next `save` put in place.

Classes are written as "module:qualname". On load they are looked up among the modules already imported, and have to
be frozen dataclasses or NamedTuples: a checkpoint can neither import nor run anything.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from dataclasses import fields, is_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.errors import UsageError
from longtake.output.disk import DiskFullError, room

VERSION = 1
"""Format of the pair of files. Another number is refused."""


os.umask(UMASK := os.umask(0))
"""Permissions that new files of this process lack; it can only be asked for by setting it."""


class CheckpointError(UsageError):
    """A checkpoint that cannot be read; the message is one line and says what to do."""


def save(value: Any, folder: Path, name: str = "state") -> None:
    """Write `value` to `folder` under `name`, atomically: a kill at any moment leaves the old pair or the new one.

    Raises TypeError, before anything is written, for what a checkpoint cannot hold; DiskFullError if there is no room.
    """
    packer = _Packer()
    root = packer.pack(value)
    _settle(folder, name)
    fresh = folder / f"{name}.safetensors.new"
    with room(folder / f"{name}.safetensors", sum(tensor.nbytes for tensor in packer.tensors.values())):
        try:
            save_file(packer.tensors, fresh)
            fresh.chmod(0o666 & ~UMASK)  # safetensors leaves a file that nobody else may read
            sync(fresh)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    total = file_sha256(fresh)
    body = {"version": VERSION, "tensors": total, "nodes": packer.nodes, "root": root}
    path = folder / f"{name}.json"
    try:
        write_atomic(path, json.dumps({**body, "sha256": _sum(body)}, separators=(",", ":")))
    except DiskFullError:
        if not path.exists() or _read(path)["tensors"] != total:  # not committed
            fresh.unlink()
        raise
    os.replace(fresh, folder / f"{name}.safetensors")
    sync(folder)


def load(folder: Path, name: str = "state", device: torch.device | str | None = None) -> Any:
    """The value saved in `folder` under `name`. Tensors that were not on the CPU go to `device`, if one is given."""
    path = folder / f"{name}.json"
    body = _read(path)
    _settle(folder, name)
    tensors = folder / f"{name}.safetensors"
    if not tensors.exists() or file_sha256(tensors) != body["tensors"]:
        raise CheckpointError(f"{tensors} is not the file that {path.name} was written with (cut off or changed)")
    try:
        return _Unpacker(body["nodes"], load_file(tensors), device).value(body["root"])
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, StopIteration,
            SafetensorError) as error:  # fmt: skip
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error


def exists(folder: Path, name: str = "state") -> bool:
    """Whether a checkpoint of this name has been committed."""
    return (folder / f"{name}.json").exists()


def write_atomic(path: Path, text: str) -> None:
    """Replace the file at `path`, so that a reader or a kill sees the old text or the new one."""
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data` as a whole. DiskFullError, with the old file in place, if it has no room."""
    fresh = path.with_name(path.name + ".new")
    with room(path, len(data)):
        try:
            with open(fresh, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        os.replace(fresh, path)
        sync(path.parent)


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # folders cannot be opened on Windows, where renames are durable by themselves
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read in constant memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settle(folder: Path, name: str) -> None:
    # Finish a save that was killed between its two renames: only tensors that the JSON vouches for may move in
    fresh, path = folder / f"{name}.safetensors.new", folder / f"{name}.json"
    if fresh.exists() and path.exists() and file_sha256(fresh) == _read(path)["tensors"]:
        os.replace(fresh, folder / f"{name}.safetensors")


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        version, total = body["version"], body.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no checkpoint of longtake, or was cut off") from error
    if version != VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {version!r}, this longtake reads version {VERSION}; "
            "use the longtake that run.json names"
        )
    if total != _sum(body):
        raise CheckpointError(f"{path} was changed after it was written; its checksum does not fit")
    return body


def _sum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class _Packer:
    """Turns a value into nodes that refer to each other by number; each object becomes one node."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.tensors: dict[str, Tensor] = {}
        self._known: dict[int, int] = {}
        self._kept: list[Any] = []  # keeps ids valid while packing

    def pack(self, value: Any) -> Any:
        """A plain value as it is, any other as {"@": node}."""
        if value is None or isinstance(value, (bool, str)) or type(value) is int:
            return value
        if type(value) is float and math.isfinite(value):
            return value
        if id(value) not in self._known:
            node = self._node(value)  # children first, so that nodes only refer backwards
            self._known[id(value)] = len(self.nodes)
            self._kept.append(value)
            self.nodes.append(node)
        return {"@": self._known[id(value)]}

    def _node(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Tensor):
            key = str(len(self.tensors))
            self.tensors[key] = value.detach().to("cpu", copy=True).contiguous()
            return {"tensor": key, "device": value.device.type}
        if is_dataclass(value) and not isinstance(value, type):
            parts = {f.name: self.pack(getattr(value, f.name)) for f in fields(value) if f.init}
            return {"dataclass": _name(type(value)), "fields": parts}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {"named": _name(type(value)), "items": [self.pack(item) for item in value]}
        kind: Any = type(value)
        if kind in (tuple, list, frozenset, set):
            items: Any = value
            if kind in (frozenset, set):
                items = sorted(items, key=repr)
            return {kind.__name__: [self.pack(item) for item in items]}
        if isinstance(value, dict):
            return {"dict": [[self.pack(key), self.pack(item)] for key, item in value.items()]}
        if isinstance(value, range):
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, Fraction):
            return {"fraction": [value.numerator, value.denominator]}
        if isinstance(value, float):
            return {"float": repr(value)}
        raise TypeError(f"a checkpoint cannot hold {kind.__module__}.{kind.__qualname__}; use tensors, numbers, text, "
                        "tuples, dicts, frozen dataclasses or NamedTuples")  # fmt: skip


class _Unpacker:
    """Builds every node once, in order; a node refers only to earlier ones."""

    def __init__(self, nodes: list[dict[str, Any]], tensors: dict[str, Tensor], device: Any) -> None:
        self.tensors, self.device = tensors, device
        self.built: list[Any] = []
        for node in nodes:
            self.built.append(self._build(node))

    def value(self, packed: Any) -> Any:
        return self.built[packed["@"]] if isinstance(packed, dict) else packed

    def _build(self, node: dict[str, Any]) -> Any:
        kind = next(iter(node))
        content = node[kind]
        if kind == "tensor":
            tensor = self.tensors[content]
            return tensor.to(self.device) if self.device is not None and node["device"] != "cpu" else tensor
        if kind == "dataclass":
            return _class(content)(**{name: self.value(part) for name, part in node["fields"].items()})
        if kind == "named":
            return _class(content)(*(self.value(item) for item in node["items"]))
        if kind == "dict":
            return {self.value(key): self.value(item) for key, item in content}
        makers: dict[str, Any] = {"tuple": tuple, "list": list, "frozenset": frozenset, "set": set}
        if kind in makers:
            return makers[kind](self.value(item) for item in content)
        return {"range": range, "fraction": Fraction}[kind](*content) if kind != "float" else float(content)


def _name(kind: type) -> str:
    if "<locals>" in kind.__qualname__:
        raise TypeError(f"a checkpoint cannot hold {kind.__qualname__}: define the class at the top of its module")
    if is_dataclass(kind) and not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(f"a checkpoint holds frozen dataclasses only; freeze {kind.__qualname__}")
    return f"{kind.__module__}:{kind.__qualname__}"


def _class(name: str) -> type:
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise ValueError(
            f"it holds a {name}, which nothing loaded defines; load the model and method it belongs to first"
        )
    frozen = is_dataclass(found) and found.__dataclass_params__.frozen  # type: ignore[attr-defined]
    if not frozen and not (issubclass(found, tuple) and hasattr(found, "_fields")):
        raise ValueError(f"it names {name}, which is neither a frozen dataclass nor a NamedTuple")
    return found
