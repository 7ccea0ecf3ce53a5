"""Model cards of the weights that ship: prose from here, numbers from files of results, sizes from the weights.

    python benchmarks/world_cards.py [--to docs/cards]

Run it after new weights, or new rows in benchmarks/results. A weight that is not there gets no card.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ceiling
import drift_table
import reward_card
import world_rows
from card_parts import LICENCE, ROOT, WEIGHTS, curves, number, sizes

from longtake.metrics import judge as judging

BARS = {"vae_psnr": "27 dB", "vae_psnr_stills": "30 dB", "subject_accuracy": "90 %", "place_accuracy": "90 %",
        "motion_accuracy": "75 %"}  # fmt: skip


def world_table(row: dict[str, Any]) -> str:
    """The suite's numbers beside their bars and beside the judge's own."""
    lines = [
        "| | measured | n | bar | judge on truth | on truth through the autoencoder |",
        "|---|---|---|---|---|---|",
    ]
    for key, value in row.items():
        if not isinstance(value, dict) or "mean" not in value:
            continue
        short = key.removesuffix("_accuracy")
        own = [row["judge_accuracy"].get(f"{kind}_{short}") for kind in ("truth", "through_vae")]
        told = " | ".join(number(one, 100, 0) + " %" if one else "" for one in own)
        rate = key.endswith("_accuracy")
        shown = number(value, 100, 0) + " %" if rate else number(value) + (" dB" if "psnr" in key else "")
        lines.append(f"| {key} | {shown} | {value['n']} | {BARS.get(key, '')} | {told} |")
    return "\n".join(lines)


def speeds() -> str:
    """The last measured speeds beside their bars."""
    rows = world_rows.read(world_rows.RESULTS / "speed.jsonl")
    if not rows:
        return "Not measured yet: `python benchmarks/world_speed.py`."
    row = rows[-1]
    lines = ["| | seconds | bar |", "|---|---|---|"]
    lines += [f"| {key} | {value:.3f} | {row['bars'][key]:g} |" for key, value in row["seconds"].items()]
    told = f"{row['date']}, commit {row['commit']}, {row['threads']} threads, load before {row['load_before']:.1f}"
    return "\n".join([*lines, "", f"Medians on CPU: {told} (bars are for 2 quiet cores)."])


def newest(model: str) -> dict[str, Any] | None:
    """The last row of the world suite of a model."""
    rows = [row for row in world_rows.read(world_rows.RESULTS / "world.jsonl") if row.get("model", "pocket") == model]
    if not rows:
        return None
    row = rows[-1]
    found = row["judge"] if isinstance(row["judge"], dict) else row.get("judge_accuracy", {})
    return row | {"judge_accuracy": found}


def measured(model: str) -> str:
    """The section of numbers of a card."""
    row = newest(model)
    if row is None:
        return "Not measured yet: `longtake eval --suite world` prints the numbers."
    name = row.get("name", row["weights"])
    return f"Set {name}, {row['date']}, commit {row['commit']}, 95 % intervals.\n\n{world_table(row)}"


def pocket() -> str:
    """The card of the embedded model."""
    return f"""# pocket

Text, or a first picture, to 45 frames of 64 x 64 at 8 fps; longtake makes any length of it. A pipeline folder in stock
diffusers format: `WanPipeline.from_pretrained` loads and samples it. It exists so that everything in longtake can be
tried, tested and measured offline in seconds to minutes.

**Intended use.** Trying longtake, its tests, and comparing methods and searches in a world whose truth is known.
**Not for** people, text, realism, or anything outside its world of {len(judging.CLASSES["subject"])} subjects and
{len(judging.CLASSES["place"])} places: `longtake models pocket` lists its words.

## Data and licence

{LICENCE}
Captions tell subject, place, time of day, motion, camera and a prop; tint, size, height, ridges and speed are never
told, so that a long shot can lose them. An eighth of the combinations of subject, place and motion is held out; all
numbers below are of those. One noise level a clip, a quarter of the clips behind 1-4 clean latents; never progressive
levels, so the gap that queue methods suffer from is there.

## Sizes

{sizes(WEIGHTS / "pocket")}

## Training

Flow matching on cached latents with auxiliary heads (subject, place, motion, mask) that are dropped; Muon on matrices,
AdamW elsewhere, averaged weights. Two CPU cores.

{curves("*vae*")}

{curves("*pocket-[sl]*")}

## Numbers

{measured("pocket")}

What truth itself scores (rendered, and rendered and sent through the autoencoder):

{ceiling.table(world_rows.RESULTS / "ceiling.jsonl")}

## Speed

{speeds()}

## Drift

How far a minute drifts: [drift.svg](../figures/drift.svg), made by `benchmarks/drift.py`. The second half of a minute,
in brackets the difference to the arm it stands against, paired by caption, with 95 % intervals (`drift_table.py`):

{drift_table.table()}

`tuned` is `progressive` on pocket-progressive; `pixel` hands one decoded picture on where `chunk` hands two latents on.

## Limits

What turns as it moves (a rocket in an arc) is torn apart; limbs are vague; a subject is partly redrawn at every latent,
so its colour wavers; clouds come and go. LOG.md has the history of faults and what was tried against them.

## Again

    longtake train vae --stage stills --minutes 35
    longtake train vae --stage clips --minutes 50
    longtake train vae --stage joint --minutes 80
    longtake train balance
    longtake train pocket --stage stills --minutes 30
    longtake train pocket --stage short --minutes 30
    longtake train pocket --stage long --minutes 80
    python -m longtake.training.export --to longtake/models/weights/pocket
    longtake train preview --minutes 3

Each command resumes; each may be stopped. `--device cuda` where there is one.
"""


def judges_table(rows: dict[str, dict[str, Any]]) -> str:
    """What each set gets right, and what its features hold."""
    if not rows:
        return "Not measured yet: `python benchmarks/world_judges.py`."
    lines = ["| | " + " | ".join(rows) + " |", "|---|" + "---|" * len(rows)]
    for key in next(iter(rows.values()))["metrics"]:
        rate = key.startswith(("truth_", "through_vae_"))
        cells = [number(row["metrics"][key], 100, 1) + " %" if rate else number(row["metrics"][key], 1, 2)
                 for row in rows.values()]  # fmt: skip
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    last = list(rows.values())[-1]
    told = f"{last['caption']} clips, autoencoder of weights {last['weights']}, {last['date']}, 95 % intervals."
    below = """`near`: cosine of two pictures of one subject in two places (or of one place with two subjects);
`kind`: of two of the same kind that differ in what no caption tells; `far`: of two kinds."""
    return "\n".join([*lines, "", told, "", below])


def judge() -> str:
    """The card of the judges."""
    rows = {row["arm"]: row for row in world_rows.read(world_rows.RESULTS / "judges.jsonl")}
    now = {which: row for which, row in rows.items() if row["judge"] == judging.label(which)}
    return f"""# pocket-judge

Two independent sets of small networks that look at pocket's world: `measure` makes tables, `reward` may be followed by
a search. Each has features of the subject and of the place (one vector of {judging.FEATURES} numbers a picture), a
classifier of subject, place, time of day and motion, and an estimator of where the subject is and how fast the ground
passes. `longtake/metrics/judge.py` says how they work.

**Intended use.** Measuring and steering models of pocket's world. **Not for** any other picture: it names a subject
whatever it is shown.

## Data and licence

{LICENCE}
The two sets share no training scene, no seed, no architecture of the trunk and no augmentation. A part of the scenes
goes through pocket's autoencoder. Held-out combinations of subject, place and motion are never trained on.

## Sizes

{sizes(WEIGHTS / "pocket-judge")}

## Training

{curves("*judge-*")}

Curves show accuracy on 48 held-out clips: `truth_*` as rendered, `coded_*` through the autoencoder.

## Numbers

{judges_table(now)}

The bar is 97 % for subject and place through the autoencoder. Motion's own accuracy is printed beside every number.

## Limits

Features of a picture that shows no subject are of what else is there. Motion is read over 45 frames; floating, moving
up and down and circling slowly are confused first. Clips that were stopped are among the lessons, so that one that
stands still is named at random.

## Again

    longtake train judge --set measure --minutes 20
    longtake train judge --set reward --minutes 17
"""


def progressive() -> str:
    """The card of the fine-tune."""
    return f"""# pocket-progressive

pocket's transformer, fine-tuned to rising noise levels (PA-VDM, Xie et al. 2025, Sec. 3.5) for the methods that work on
queues. Its folder holds the transformer alone; everything else is read from pocket.

**Intended use.** `--model pocket-progressive --method progressive` (or fifo, miga): what a queue gains from a network
that was trained on one. **Not for** what pocket is not for.

## Data and licence

{LICENCE}
The clips are those that pocket's transformer was trained on.

## Sizes

{sizes(WEIGHTS / "pocket-progressive")}

## Training

{curves("*progressive*")}

`held` is the loss on fixed noise, levels and clips; step 0 is pocket itself.

## Numbers

{measured("pocket-progressive")}

These are clips of one noise level. Over a minute of `--method progressive` see `tuned` in pocket's card, against pocket
itself by the same method: a lower loss on queues is not by itself less drift.

## Again

    longtake train progressive --minutes 30 --to longtake/models/weights/pocket-progressive
"""


def main() -> None:
    """Write the cards of what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=ROOT / "docs/cards")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    for name, write in (("pocket", pocket), ("pocket-judge", judge), ("pocket-progressive", progressive),
                        ("pocket/reward", reward_card.card)):  # fmt: skip
        if any((WEIGHTS / name).rglob("*.safetensors")):
            name = name.replace("/", "-")
            (options.to / f"{name}.md").write_text(write())
            print(f"wrote {options.to / name}.md")


if __name__ == "__main__":
    main()
