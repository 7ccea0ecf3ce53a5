"""Tables of search rows: means, and differences to the run without a search, paired by caption.

python benchmarks/search_tables.py           # docs/search-evidence.md again, of the rows that are there
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import world_rows
from world_plot import Panel, draw

BASE = {"chain": "chain", "fifo": "fifo", "beam": "fifo", "reward": "beam-2", "proposal": "beam-2", "clip": "clips",
        "clips": "clips"}  # fmt: skip
SHOWN = {"subject": "subject agrees", "place": "place agrees", "flow": "motion, pixels a frame", "words": "text"}
PARTS = {
    "Chains of clips": ("chain",),
    "The queue": ("fifo", "beam"),
    "Clips at about four times the cost": ("clips",),
    "One step, ten steps, all steps": ("clip",),
    "What the beam's reward is made of": ("reward",),
    "Where the beam's candidates come from": ("proposal",),
}
"""Tables by the first word of their arms' names."""
DOCS = Path(__file__).parent.parent / "docs"
FEWEST = 8
"""Captions below which no difference is printed: intervals of fewer are nonsense."""
NEWEST = ("weights", "judge")
DRAWN = re.compile(r"beam|reward-|clip-(one|ten)|proposal-(renoise|neighbour)|clips-latsearch|latsearch|evolve 8x")
"""Arms whose search draws what it tries or keeps (search.draws says the same of its own)."""


def paired(differences: list[float]) -> tuple[float, float, float]:
    """(mean, low, high) of paired differences: a 95 % bootstrap interval."""
    data = torch.tensor(differences, dtype=torch.float64)
    picks = torch.randint(0, len(data), (4000, len(data)), generator=torch.Generator().manual_seed(0))
    low, high = torch.quantile(data[picks].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(data.mean()), low, high


def difference(values: list[float]) -> str:
    """A difference as it is printed: with its interval, or as not resolved."""
    mean, low, high = paired(values)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" if low > 0 or high < 0 else f"{mean:+.3f} not resolved"


def newest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the weights and the judge of the last row."""
    return [row for row in rows if all(row[key] == rows[-1][key] for key in NEWEST)]


def tables(rows: list[dict[str, Any]], heading: str = "##") -> str:
    """A table for each part and length, of the newest weights."""
    if not rows:
        return "no rows yet"
    kept, parts = newest(rows), [f"{rows[-1]['model']}, weights {rows[-1]['weights']}, judge {rows[-1]['judge']}"]
    for title, words in PARTS.items():
        chosen = [row for row in kept if row["arm"].split("-")[0] in words]
        bases = [row for row in kept if row["arm"] in {BASE[row["arm"].split("-")[0]] for row in chosen}]
        for length in sorted({length for row in chosen for length in row["metrics"]}, key=int):
            parts.append(f"{heading} {title}, {length} frames\n\n{table(chosen, bases, length)}")
    return "\n\n".join(parts)


def table(rows: list[dict[str, Any]], bases: list[dict[str, Any]], length: str) -> str:
    """The base, then arms by their cost: n, NFE, seconds, means, and paired differences to the base."""
    arms = dict(sorted(by_arm([*bases, *rows], length).items(), key=lambda arm: _order(*arm)))
    lines = [" | ".join(["| run", "n", "NFE", "seconds", *SHOWN.values()]) + " |", "|---" * (4 + len(SHOWN)) + "|"]
    for arm, by_caption in arms.items():
        base = arms.get(BASE[arm.split("-")[0]], {})
        found = list(by_caption.values())
        costs = (average([row[key] * clips(length) / clips(row) for row in found]) for key in ("nfe", "seconds"))
        texts = [arm, str(len(found)), *(f"{cost:.0f}" for cost in costs)]
        both = [caption for caption in by_caption if caption in base]
        for key in SHOWN:
            mean = f"{average([row['metrics'][length][key] for row in found]):.3f}"
            gaps = [by_caption[c]["metrics"][length][key] - base[c]["metrics"][length][key] for c in both]
            told = by_caption is not base and len(gaps) >= FEWEST
            texts.append(f"{mean} ({difference(gaps)})" if told else mean)
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def clips(of: dict[str, Any] | str) -> float:
    """Clips of a row, or of so many frames, up to a factor: the beginning of a chain costs as many clips as it has."""
    longest = max(of["metrics"], key=int) if isinstance(of, dict) else of
    return (int(longest) + 3) / 4 - 2  # clips of 12 latents, 2 of them the end of the clip before


def _order(arm: str, rows: dict[str, dict[str, Any]]) -> tuple[bool, float]:
    return arm not in BASE.values(), average([row["nfe"] for row in rows.values()])


def by_arm(rows: list[dict[str, Any]], length: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The row of each caption of each arm."""
    arms: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if length in row["metrics"]:
            arms.setdefault(row["arm"], {})[row["caption"]] = row
    return arms


def average(values: list[float]) -> float:
    """A mean."""
    return sum(values) / len(values)


def previews(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """(table, plot) of what previews of k steps know, over captions."""
    kept = [row["metrics"] for row in newest(rows)]
    names = list(kept[0]["rank_correlation"])
    like = ["like the finished clip"] if "similarity" in kept[0] else []
    grid = list(kept[0]["rank_correlation"][names[0]])
    heads = ["| steps", *like, *(f"ranks {name} alike" for name in names)]
    lines = [" | ".join(heads) + " |", "|---" * len(heads) + "|"]
    curves: dict[str, list[dict[str, float]]] = {name: [] for name in (*like, *names)}
    for steps in grid:
        found = [[row["similarity"][steps] for row in kept]] if like else []
        found += [[row["rank_correlation"][name][steps] for row in kept] for name in names]
        points = [dict(zip(("mean", "low", "high"), paired(values), strict=True)) for values in found]
        for curve, point in zip(curves.values(), points, strict=True):
            curve.append(point)
        told = (f"{point['mean']:.3f} [{point['low']:.3f}, {point['high']:.3f}]" for point in points)
        lines.append(f"| {steps} | {' | '.join(told)} |")
    return "\n".join(lines), curves_of(curves, grid, len(kept))


def curves_of(curves: dict[str, list[dict[str, float]]], steps: list[str], many: int) -> str:
    """One panel a curve."""
    titles = [name if name == "like the finished clip" else f"ranks {name} alike" for name in curves]
    panels = [Panel(name, {f"n = {many}": curve}) for name, curve in zip(titles, curves.values(), strict=True)]
    return draw(panels, 1.0, "against the steps of the preview; 95 % intervals over captions", 2, steps)


def spread(rows: list[dict[str, Any]]) -> str:
    """How much seeds differ: the range and the standard deviation of finished scores, averaged over captions."""
    kept = [row["metrics"]["spread"] for row in newest(rows)]
    lines = ["| score | worst seed | best seed | standard deviation |", "|---|---|---|---|"]
    for name in kept[0]:
        told = (f"{average([row[name][key] for row in kept]):.3f}" for key in ("least", "most", "std"))
        lines.append(f"| {name} | {' | '.join(told)} |")
    return "\n".join(lines)


PAGE = """# What searches buy, measured

Made by `python benchmarks/search_tables.py` of the rows in `benchmarks/results`: `search.jsonl`, `equal.jsonl`,
`previews.jsonl` and `queue_previews.jsonl`, which the scripts search.py, search_equal.py, search_previews.py and
search_queue_previews.py add to. Not written by hand.

{dates}

Rewards look with the judge's set for rewards, metrics with its set for measuring. In brackets: the difference to the
same captions and seeds without the search, with its 95 % bootstrap interval over captions; where that holds 0 it is
*not resolved*, and of fewer than 8 captions none is printed. Text is the log probability of the caption's words. NFE
are network evaluations (a guided call counts two), of a chain's beginning those of its clips. Seconds are of one thread
beside other work: compare NFE.

{chance}

n is to be 24, and 12 for the beam's reward and for one, ten and all steps; where it is less, not all rows have been
made yet. Results of 8, 12, 14, 16 and 22 captions were looked at on the way; no row is left out but those of
best-of-n on the queue and of freeinit that two faults had made worthless (LOG.md tells of them, and the order in which
rows were made).

{tables}
"""
LOOKS = """
## What a preview knows

{table}

A *preview* is the clip that k steps make of the same noise; *alike* is the rank correlation of its score with that of
the finished clip, over 10 seeds of a caption.

![the same as curves](figures/previews.svg)

{queue}## How much seeds differ

{spread}
"""


QUEUE = """On the queue (FIFO, two of its ticks, {many} captions, 10 noises of the row that enters, each copy made
until the row is out, what enters later the same in all):

{table}

There the newest row of a window is another and its neighbours follow it, so what is ranked is smaller: final scores of
consistency have a standard deviation of {std:.4f}, where those of clips have {clips:.4f}.

"""


def on_the_queue(rows: list[dict[str, Any]], clips: list[dict[str, Any]]) -> str:
    """What looks at the newest row of a queue know; nothing of too few captions."""
    if not rows or len(newest(rows)) < FEWEST:
        return ""
    near, far = (
        average([row["metrics"]["spread"]["consistency"]["std"] for row in newest(of)]) for of in (rows, clips)
    )
    return QUEUE.format(many=len(newest(rows)), table=previews(rows)[0], std=near, clips=far)


def chance(shown: str) -> str:
    """How many differences tables print and resolve, and how many would seem resolved if no search did anything."""
    many = len(re.findall(r"[+-]\d+\.\d{3} (?:\[|not resolved)", shown))
    open_ones = shown.count(" not resolved")
    return textwrap.fill(
        f"These tables print {many} differences, of which {many - open_ones} exclude 0. If no two runs differed, "
        f"about {0.05 * many:.0f} would, or a little more, since bootstrap intervals of few captions are too narrow. "
        f"Nothing is corrected for that: a single one is a hint, not a finding.",
        120,
    )


def alike(rows: list[dict[str, Any]]) -> str:
    """What is to be known of rows whose searches drew alike for every seed; nothing once all are made again."""
    last = {(row["arm"], row["caption"], str(row.get("size"))): row for row in rows}
    many = sum(DRAWN.match(row["arm"]) is not None and "draws" not in row for row in last.values())
    if not many:
        return ""
    return "\n\n" + textwrap.fill(
        f"In {many} of these rows, of beams, latsearch and evolve, the same proposals and survivors were drawn for "
        f"every seed: intervals do not hold how much those differ. They are being made again with draws that hold the "
        f"seed (`draws` in a row says so) and stand until then.",
        120,
    )


def page() -> tuple[str, str | None]:
    """(the page, its figure if previews were measured), of the rows that are there."""
    from search_equal_table import part  # which reads from here

    names = ("search", "previews", "equal", "queue_previews")
    rows, looks, equal, queue = (world_rows.read(world_rows.RESULTS / f"{name}.jsonl") for name in names)
    kept = [row for made in (rows, looks, equal, queue) if made for row in newest(made)]
    told = {key: sorted({str(row.get(key, "")) for row in kept} - {""}) for key in ("date", "commit", "machine")}
    dates = f"Rows of {', '.join(told['date'])}, commits {', '.join(told['commit'])}, on {', '.join(told['machine'])}."
    shown = tables(rows) + "\n" + part(equal)
    notes = chance(shown) + alike([*newest(rows), *(newest(equal) if equal else [])])
    text = PAGE.format(dates=textwrap.fill(dates, 120), tables=shown, chance=notes)
    if not looks:
        return text, None
    found, plot = previews(looks)
    return text + LOOKS.format(table=found, spread=spread(looks), queue=on_the_queue(queue, looks)), plot


def write() -> None:
    """Write the page and its figure."""
    text, plot = page()
    (DOCS / "search-evidence.md").write_text(text)
    if plot:
        (DOCS / "figures/previews.svg").write_text(plot)
    print(f"wrote {DOCS / 'search-evidence.md'}")


if __name__ == "__main__":
    write()
