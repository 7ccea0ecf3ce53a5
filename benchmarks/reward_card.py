"""The card of pocket's latent reward model: how it ranks at each level, beside what needs no training."""

from __future__ import annotations

import json
from typing import Any

from card_parts import LICENCE, WEIGHTS, curves, sizes

HOME = WEIGHTS / "pocket" / "reward"


def ranking(rows: list[dict[str, Any]]) -> str:
    """A row a level: over all prompts, and within one."""
    names = [name for name in rows[0] if name not in ("level", "trained", "n", "within")]
    heads = [f"{name}{where}" for where in ("", ", within a prompt") for name in names]
    lines = [" | ".join(["| level", "trained on", *heads]) + " |", "|---" * (2 + len(heads)) + "|"]
    for row in rows:
        told = [f"{part[name]:+.3f}" for part in (row, row["within"]) for name in names]
        lines.append(" | ".join([f"| {row['level']}", "yes" if row["trained"] else "no", *told]) + " |")
    means = [sum(part[name] for part in table) / len(rows)
             for table in (rows, [row["within"] for row in rows]) for name in names]  # fmt: skip
    return "\n".join([*lines, " | ".join(["| mean", "", *(f"{mean:+.3f}" for mean in means)]) + " |"])


def card() -> str:
    """The card."""
    told = json.loads((HOME / "config.json").read_text())
    rows = told["rank_correlation"]
    prompts = rows[0]["n"] // 4
    error = (1 / 3 / prompts) ** 0.5  # ranks of 4 by chance have a correlation of variance 1 / (4 - 1)
    verdict = (
        "It ranks better than all of them, over all prompts and within one, so `latsearch` takes it when none is given."
        if told["wins"]
        else "It does not beat all of them in both, so no search takes it unless `--reward latent-reward` asks for it."
    )
    return f"""# pocket's latent reward model

Reads latents of pocket as they are, noisy, beside the sampler's estimates of them, and says how good the finished video
will be: visual quality, motion quality, agreement with the text (LatSearch, Zhao et al. 2026). It lies in `reward/`
beside pocket's weights.

**Intended use.** `--reward latent-reward`: searches that judge halfway and decode nothing. **Not for** any other model:
`longtake train reward` makes one for each.

## Data and licence

{LICENCE}
Labels are those of the judge's set for rewards on videos that pocket itself made.

## Sizes

{sizes(HOME)}

## Training

{curves("*pocket-*reward*")}

`watched` is the rank correlation on prompts that are never fed, over all and within a prompt; the best moments of three
beginnings ship, and their mean is the score.

## Numbers

Rank correlation with the final reward on {rows[0]["n"]} videos of prompts that were neither fed nor watched, at levels
of {rows[0]["level"] + 1} steps. Within a prompt is among its four videos, which is what a search asks for.
`latent-cosine` is MIGA's, of the noisy latents; `preview-distance` is how near the estimate is to what it came from;
the usual reward is what searches take otherwise, of the estimate's pictures. With {prompts} prompts held out, the
standard error within a prompt is about {error:.2f}. These prompts fed and watched no network, but its design (what it
reads, how many are averaged) was settled with their numbers in sight, among half a dozen variants: they flatter it.

{ranking(rows)}

{verdict}

## Again

    longtake train reward --minutes 110
"""
