"""Tables of search rows: means, and differences to the run without a search, paired by caption."""

from __future__ import annotations

from typing import Any

import torch

BASE = {"chain": "chain", "fifo": "fifo", "beam": "fifo", "reward": "beam-3", "proposal": "beam-3", "clip": "clips",
        "clips": "clips"}  # fmt: skip
SHOWN = ("subject", "place", "flow", "words")


def paired(differences: list[float]) -> tuple[float, float, float]:
    """(mean, low, high) of paired differences: a 95 % bootstrap interval."""
    data = torch.tensor(differences, dtype=torch.float64)
    picks = torch.randint(0, len(data), (4000, len(data)), generator=torch.Generator().manual_seed(0))
    low, high = torch.quantile(data[picks].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(data.mean()), low, high


def cell(differences: list[float]) -> str:
    """A difference as it is printed: with its interval, or as not resolved."""
    mean, low, high = paired(differences)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" if low > 0 or high < 0 else f"{mean:+.3f} not resolved"


def tables(rows: list[dict[str, Any]]) -> str:
    """One table for each length, of the newest weights."""
    if not rows:
        return "no rows yet"
    newest = [row for row in rows if (row["weights"], row["judge"]) == (rows[-1]["weights"], rows[-1]["judge"])]
    lengths = sorted({length for row in newest for length in row["metrics"]}, key=int)
    parts = [f"pocket, weights {rows[-1]['weights']}, judge {rows[-1]['judge']}"]
    return "\n\n".join([*parts, *(table(newest, length) for length in lengths)])


def table(rows: list[dict[str, Any]], length: str) -> str:
    """Arms in the order of their rows: n, NFE, seconds, means, and paired differences to their base."""
    arms: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if length in row["metrics"]:
            arms.setdefault(row["arm"], {})[row["caption"]] = row
    heads = "arm", "n", "NFE", "seconds", *SHOWN, *(f"{key} against base" for key in SHOWN)
    lines = [f"{length} frames", " | ".join(heads)]
    for arm, by_caption in arms.items():
        base = arms.get(BASE[arm.split("-")[0]], {})
        found = list(by_caption.values())
        texts = [arm, str(len(found)), *(f"{average([row[key] for row in found]):.0f}" for key in ("nfe", "seconds"))]
        texts += [f"{average([row['metrics'][length][key] for row in found]):.3f}" for key in SHOWN]
        both = [caption for caption in by_caption if caption in base]
        for key in SHOWN:
            gaps = [by_caption[c]["metrics"][length][key] - base[c]["metrics"][length][key] for c in both]
            texts.append("base" if by_caption is base else cell(gaps) if len(gaps) > 1 else "-")
        lines.append(" | ".join(texts))
    return "\n".join(lines)


def average(values: list[float]) -> float:
    """A mean."""
    return sum(values) / len(values)
