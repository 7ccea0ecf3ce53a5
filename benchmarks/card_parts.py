"""What model cards are put together from: sizes of weights, tables of training runs, numbers with their intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import world_rows
from safetensors import safe_open

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "longtake/models/weights"
CURVES = world_rows.RESULTS / "training"
LICENCE = """The weights are Apache-2.0, as longtake is. They were trained on scenes rendered by `longtake/world` from
Microsoft's Fluent Emoji (MIT; longtake/world/NOTICE.txt); no other data, no photograph and no person was seen."""


def size_of(folder: Path) -> tuple[int, float]:
    """Parameters and MiB of the safetensors below a folder."""
    count, total = 0, 0
    for path in sorted(folder.rglob("*.safetensors")):
        total += path.stat().st_size
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                sides = file.get_slice(name).get_shape()
                number = 1
                for side in sides:
                    number *= side
                count += number
    return count, total / 2**20


def sizes(folder: Path) -> str:
    """A table of the parts."""
    lines = ["| part | parameters | MiB (float16) |", "|---|---|---|"]
    for part in sorted({path.parent for path in folder.rglob("*.safetensors")}):
        count, mib = size_of(part)
        lines.append(f"| {part.relative_to(WEIGHTS)} | {count / 1e6:.2f} M | {mib:.1f} |")
    return "\n".join(lines)


def curves(pattern: str) -> str:
    """A table of the training runs whose files match: length and where they ended."""
    lines = ["| run | minutes | steps | end |", "|---|---|---|---|"]
    for path in sorted(CURVES.glob(pattern)):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        last: dict[str, Any] = {}
        for row in rows:
            last |= row
        told = ", ".join(f"{k} {v:.3g}" for k, v in last.items() if k not in ("step", "minutes", "norm", "kl", "stage"))
        lines.append(f"| [{path.stem}](../../benchmarks/results/training/{path.name}) | {last['minutes']:.0f} | "
                     f"{last['step']} | {told} |")  # fmt: skip
    return "\n".join(lines)


def number(value: dict[str, float], scale: float = 1.0, digits: int = 3) -> str:
    """A mean with its interval."""
    return " ".join((f"{scale * value['mean']:.{digits}f}",
                     f"[{scale * value['low']:.{digits}f}, {scale * value['high']:.{digits}f}]"))  # fmt: skip
