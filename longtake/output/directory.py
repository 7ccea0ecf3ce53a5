"""The run directory: which files it has, who may write there, and what `run.json` says.

run.json             all settings, versions, model hash, seed, batch, device, dtype
video.mp4            playable at any moment
state.*              the latest checkpoint
open.*               the last state that skipped no call: an `extend` goes on from there (only after exact ending)
snapshots/           earlier states, for `reroll`: at most 32
trace.jsonl          one line per non-empty emission
latest.webp          the newest frame
audio.m4a            the sound, if there is any
ending.png           the picture that it ends on, if there is one
takes/<n>/           other ways to go on, each laid out like this folder
FINISHED             written last: frames and their SHA-256
.lock                held while a process writes here
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from longtake.errors import UsageError
from longtake.output.checkpoint import write_atomic
from longtake.output.disk import FULL

FORMAT = 1
"""Version of run.json and trace.jsonl."""

LEFT = ("audio.m4a", "audio.m4a.new", "ending.png", "run.json.new", ".lock")
"""What a kill may leave of a run that has no run.json yet."""

PACKAGES = ("longtake", "torch", "diffusers", "transformers", "av", "numpy")


@dataclass(frozen=True)
class RunDir:
    """The paths of one run."""

    path: Path

    @property
    def video(self) -> Path:
        """The film so far."""
        return self.path / "video.mp4"

    @property
    def trace(self) -> Path:
        """One JSON line per non-empty emission."""
        return self.path / "trace.jsonl"

    @property
    def snapshots(self) -> Path:
        """Earlier states."""
        return self.path / "snapshots"

    @property
    def takes(self) -> Path:
        """Other ways to go on."""
        return self.path / "takes"

    @property
    def sound(self) -> Path:
        """The sound track, where there is one."""
        return self.path / "audio.m4a"

    @property
    def latest(self) -> Path:
        """The newest frame."""
        return self.path / "latest.webp"

    @property
    def manifest(self) -> Path:
        """All settings."""
        return self.path / "run.json"

    @property
    def end(self) -> Path:
        """Present once the run is complete."""
        return self.path / "FINISHED"

    @property
    def finished(self) -> dict[str, Any] | None:
        """What FINISHED says, or None. UsageError if it was changed."""
        if not self.end.exists():
            return None
        said = read_json(self.end)
        for name in ("frames", "latents", "nfe", "seconds"):
            value: Any = said.get(name)
            if type(value) not in ((int, float) if name == "seconds" else (int,)) or not 0 <= value < 2**53:
                raise UsageError(f"{self.end} was changed: {name} is no count; remove it and resume to make it anew")
        return said

    def settings(self) -> dict[str, Any]:
        """The content of run.json. UsageError if this is no run or one of another format."""
        if not self.manifest.is_file():
            raise UsageError(
                f"{self.path} is not a run directory: it has no run.json; give the folder that generate printed"
            )
        content = read_json(self.manifest)
        if content.get("format") != FORMAT:
            known = content.get("versions")
            maker = known.get("longtake") if isinstance(known, dict) else None
            raise UsageError(
                f"{self.manifest} has format {str(content.get('format'))[:20]}, this longtake reads {FORMAT}; "
                f"use longtake {str(maker or 'of that version')[:40]}"
            )
        return content

    @property
    def remarks(self) -> list[dict[str, Any]]:
        """Where the run need not be bit-exact: `from_frame` and `why`, a list of texts."""
        found = self.settings().get("not_bit_exact")
        return [one for one in found if _is_remark(one)] if isinstance(found, list) else []

    def describe(self, settings: dict[str, Any]) -> None:
        """Write run.json."""
        content = {"format": FORMAT, **settings, "versions": versions(), "platform": platform.platform()}
        write_atomic(self.manifest, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def amend(self, **changes: Any) -> None:
        """Change some entries of run.json and leave the others."""
        write_atomic(self.manifest, json.dumps({**self.settings(), **changes}, indent=1, ensure_ascii=False) + "\n")

    def remark(self, frame: int, reasons: list[str]) -> None:
        """Note in run.json that frames from `frame` on need not equal those of an uninterrupted run, and why."""
        if self.manifest.is_file():
            known = self.remarks
            entry = {"from_frame": frame, "why": reasons}
            if entry not in known:
                self.amend(not_bit_exact=[*known, entry])

    def shrunk(self, batch: int, before: int, frame: int) -> None:
        """Note in run.json that memory holds `batch` windows at once and not `before`, so that a resume begins so."""
        if self.manifest.is_file():
            self.amend(batch=batch)
            self.remark(frame, [f"batch {before} -> {batch}: out of memory"])

    def refuse_if_busy(self) -> None:
        """UsageError if another process writes here: said before a model is loaded, not after."""
        with self.locked():
            pass

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run; UsageError if another process does. The lock goes with the process, also after kill -9."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(f"{self.path} is in use by another longtake; wait for it or stop it") from error
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written to: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()


def _is_remark(one: Any) -> bool:
    if not isinstance(one, dict) or type(one.get("from_frame")) is not int or not isinstance(one.get("why"), list):
        return False
    return all(isinstance(reason, str) for reason in one["why"])


def typed(path: str | Path) -> str:
    """A path as it is typed in a shell, quoted where it has spaces: for commands that are told to a user."""
    return shlex.quote(str(path))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. UsageError if it holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as JSON; it was cut off or changed") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no JSON object")
    return content


def plan_directory(out: str | Path | None, prompt: str, seed: int, root: str | Path = "runs") -> Path:
    """Where a new run goes, nothing made yet: `out`, or `runs/<slug>-<seed>`, `-2`, `-3` if taken.

    UsageError for an `out` that is taken: runs are never overwritten.
    """
    if out is None:
        base, number = Path(root) / f"{slug(prompt)}-{seed}", 1
        while (path := base if number == 1 else base.with_name(f"{base.name}-{number}")).exists():
            number += 1
        return path
    try:
        return _unused(Path(out))
    except OSError as error:
        raise UsageError(f"--out {out} cannot be used: {error.strerror}; give a folder that is new or empty") from error


def _unused(path: Path) -> Path:
    if path.is_file():
        raise UsageError(f"--out {path} is a file; give a folder that is new or empty")
    if (path / "run.json").exists():
        raise UsageError(f"--out {path} holds a run already; continue it with: longtake resume {typed(path)}")
    if path.exists() and any(inner.name not in LEFT for inner in path.iterdir()):
        raise UsageError(f"--out {path} is not empty and holds no run; give a new folder")
    return path


def cleared(folder: RunDir) -> None:
    """Make a folder that `plan_directory` allowed, now locked, ready for a run. UsageError if another came first."""
    plan_directory(folder.path, "", 0)
    for name in LEFT[:-1]:
        (folder.path / name).unlink(missing_ok=True)


def probe_directory(path: Path) -> None:
    """UsageError unless the folder of a run can be made and written to; nothing stays of the try.

    It is tried under a name of its own inside what is there already: commands that begin at once do not meet.
    """
    known = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    try:
        if known == path:
            with tempfile.TemporaryFile(dir=path):
                return
        with tempfile.TemporaryDirectory(prefix=".longtake-", dir=known) as room:
            tried = Path(room) / path.relative_to(known)
            tried.mkdir(parents=True, exist_ok=True)
            (tried / "run.json").touch()
    except OSError as error:
        if error.errno in FULL:
            return  # that may pass: whoever writes waits for it
        raise UsageError(f"{path} cannot be written to: {error.strerror}; choose another folder with --out") from error


def make_directory(path: Path, fixed: bool) -> RunDir:
    """Make the folder. Unless its name is `fixed` by the user, one that was taken meanwhile makes way for the next."""
    number, chosen = 1, path
    while True:
        try:
            chosen.mkdir(parents=True, exist_ok=fixed)
            return RunDir(chosen)
        except FileExistsError:
            number += 1
            chosen = path.with_name(f"{path.name}-{number}")
        except OSError as error:
            raise UsageError(f"cannot make the folder {chosen}: {error.strerror}; choose another with --out") from error


def slug(prompt: str, length: int = 40) -> str:
    """A prompt as the name of a folder: ASCII letters, digits and single dashes, at most `length` of them."""
    ascii_only = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-")
    return words[:length].rstrip("-") or "video"


def versions() -> dict[str, str]:
    """The versions on which bit-equality depends."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package == "longtake":
                found[package] = "0+unknown"
    return found
