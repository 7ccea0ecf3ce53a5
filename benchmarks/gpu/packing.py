"""What goes home from an accelerator's machine: few files, none above 15 MiB, and back again."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import world_rows

PIECE = 15 * 2**20
MODELS = ("pocket", "pocket-progressive", "pocket-judge")
SMALL = 2 * 2**20


def row(work: Path, part: str, device: str, values: dict[str, Any]) -> None:
    """Append a row to results.jsonl, with the device's name, the commit and the date."""
    name = (work / "device").read_text() if device == "cuda" and (work / "device").exists() else device
    world_rows.append(work / "results.jsonl", {"part": part, "device": name, **values})


def tail(work: Path, part: str, lines: int = 4) -> str:
    """The last lines that a part printed."""
    path = work / "logs" / f"{part}.log"
    text = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(f"   | {line[:200]}" for line in text[-lines:])


def pack(work: Path, out: Path) -> None:
    """Write OUT anew."""
    for path in out.glob("weights.tar.*"):
        path.unlink()
    logs = sorted((work / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
    text = "".join(f"== {path.stem}\n{path.read_text(errors='replace')[-200_000:]}\n" for path in logs)
    (out / "log.txt").write_text(text[-4_000_000:])
    if (work / "results.jsonl").exists():
        shutil.copyfile(work / "results.jsonl", out / "results.jsonl")
    with tarfile.open(out / "report.tar.gz", "w:gz") as tar:
        for path in sorted(work.rglob("*")):
            small = path.is_file() and path.suffix in (".jsonl", ".json") and path.stat().st_size < SMALL
            if small and path.relative_to(work).parts[0] not in MODELS:
                tar.add(path, path.relative_to(work))
        for path in sorted((work / "done").glob("*")):
            tar.add(path, path.relative_to(work))
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for name in MODELS:
            if (work / name).is_dir():
                tar.add(work / name, name)
    data = whole.getvalue() if any((work / name).is_dir() for name in MODELS) else b""
    for number, start in enumerate(range(0, len(data), PIECE)):
        (out / f"weights.tar.{number:02d}").write_bytes(data[start : start + PIECE])


def unpack(out: Path, work: Path) -> None:
    """Put an OUT of before back: markers, rows and models. Trainings that were under way begin again."""
    with tarfile.open(out / "report.tar.gz") as tar:
        tar.extractall(work, filter="data")
    if (out / "results.jsonl").exists():
        shutil.copyfile(out / "results.jsonl", work / "results.jsonl")
    pieces = b"".join(path.read_bytes() for path in sorted(out.glob("weights.tar.*")))
    if pieces:
        with tarfile.open(fileobj=io.BytesIO(pieces)) as tar:
            tar.extractall(work, filter="data")
    if not (work / "pocket").is_dir():  # what trains it lives in checkpoints, which stay behind
        for name in ("vae-stills", "vae-clips", "data", "pocket-stills", "pocket-short", "pocket-long"):
            (work / "done" / name).unlink(missing_ok=True)


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
