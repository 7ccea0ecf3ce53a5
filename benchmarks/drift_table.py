"""How far a minute drifts, as a table: the second half of each film, and differences paired by caption.

python benchmarks/drift_table.py             # of the rows of the newest weights in results/drift.jsonl
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import world_rows
from search_tables import average, difference

PATH = world_rows.RESULTS / "drift.jsonl"
SHOWN = {"subject_similarity": "the subject is itself", "place_similarity": "the place is itself",
         "motion_quality": "moves as told", "colour_shift": "colour shift, of 255"}  # fmt: skip
AGAINST = {"pixel": "chunk", "fifo": "chunk", "progressive": "chunk", "tuned": "progressive"}
"""What each arm is compared with."""


def late(row: dict[str, Any], key: str) -> float:
    """The mean over the second half of the film."""
    values = row["metrics"][key]
    return average(values[len(values) // 2 :])


def table(path: Path = PATH) -> str:
    """A line an arm: n, NFE, means, and differences to what it is compared with."""
    rows = world_rows.read(path)
    arms: dict[str, dict[str, Any]] = {}
    for row in rows:
        if (row["judge"], row["weights"]) == (rows[-1]["judge"], rows[-1]["weights"]):
            arms.setdefault(row["arm"], {})[row["caption"]] = row
    lines = [" | ".join(["| arm", "n", "NFE", "against", *SHOWN.values()]) + " |", "|---" * (4 + len(SHOWN)) + "|"]
    for arm, found in arms.items():
        other = arms.get(AGAINST.get(arm, ""), {})
        both = [caption for caption in found if caption in other]
        texts = [arm, str(len(found)), f"{average([row['nfe'] for row in found.values()]):.0f}"]
        texts.append(AGAINST[arm] if len(both) > 1 else "")
        for key in SHOWN:
            gaps = [late(found[caption], key) - late(other[caption], key) for caption in both]
            mean = f"{average([late(row, key) for row in found.values()]):.3f}"
            texts.append(f"{mean} ({difference(gaps)})" if len(gaps) > 1 else mean)
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
