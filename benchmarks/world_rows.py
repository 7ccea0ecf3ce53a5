"""Rows of results that append and resume: one JSON object a line, never rewritten."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
KEY = ("arm", "model", "caption", "seed", "weights", "judge", "frames", "draws")
"""`draws`: what a search draws by (proposals, survivors); rows without it drew alike for every seed."""


def read(path: Path) -> list[dict[str, Any]]:
    """Every row of a file; a last line that was cut off does not count."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def done(path: Path) -> set[tuple[Any, ...]]:
    """What need not be made again."""
    return {key_of(row) for row in read(path)}


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a row the same as another."""
    return tuple(str(row.get(name)) for name in KEY)


def append(path: Path, row: dict[str, Any]) -> None:
    """Write a row with the date, the commit and the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"date": datetime.date.today().isoformat(), "commit": commit(), "machine": machine()} | row
    with path.open("a") as file:
        file.write(json.dumps(rounded(whole)) + "\n")


def commit() -> str:
    """The short hash of what is checked out; $COMMIT where the files came without git."""
    if os.environ.get("COMMIT") or shutil.which("git") is None:
        return os.environ.get("COMMIT", "")
    asked = ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()


def machine() -> str:
    """Cores and the name that the processor gives itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} x {named[0] if named else platform.processor() or platform.machine()}"


def rounded(value: Any) -> Any:
    """Numbers to 5 digits behind the point: what is measured here is no better."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value
