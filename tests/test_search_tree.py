"""The tree of a search redrawn from its trace: who won, by how much, and what the judging took."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from longtake.apps.showing import lineage
from longtake.output.trace import read_trace
from tests.test_cli import PROMPT, cli, one_thread, tiny  # noqa: F401


def one(tick: int, name: str, parent: str, score: float, verdict: str) -> dict[str, Any]:
    return {"tick": tick, "name": name, "parent": parent, "score": score, "verdict": verdict, "rows": [0, 2]}


def test_a_later_generation_that_is_no_better_leaves_the_way_where_it_was():
    first = [one(1, "a1", "0", 1.0, "dropped"), one(1, "a2", "0", 3.0, "kept")]
    second = [one(2, "b1", "a2", 2.0, "dropped"), one(2, "b2", "a1", 1.5, "dropped")]
    assert lineage(first + second) == {"a2", "0"}
    assert lineage([one(1, "a1", "0", 1.0, "dropped")]) == set()


def test_beams_by_their_sums_are_followed_by_their_sums():
    """5 + 1 against 0 + 2: the last score alone would follow the other."""
    found = [one(1, "a1", "0", 5.0, "kept"), one(1, "a2", "0", 0.0, "kept"),
             one(2, "b1", "a1", 1.0, "kept"), one(2, "b2", "a2", 2.0, "kept")]  # fmt: skip
    assert lineage(found, cumulative=True) == {"b1", "a1", "0"} and lineage(found) == {"b2", "a2", "0"}


@pytest.mark.parametrize("search", ["evolve", "local", "k-step"])
def test_the_way_of_a_run_goes_through_the_best_of_every_clip(cli: Any, tiny: Path, tmp_path: Path, search: str):
    """The other side: of all that was judged for a clip, in whatever generation, the best is what it became."""
    more = ("--set", "local.mode=zero-order") if search == "local" else ()
    made = cli("generate", PROMPT, "--model", tiny, "--seed", 5, "--frames", 33, "--method", "chunk", "--out", "run",
               "--search", search, *more)  # fmt: skip
    assert made.code == 0, made.err
    lines = read_trace(tmp_path / "run" / "trace.jsonl")
    found = [candidate for line in lines for candidate in line["candidates"]]
    clips: dict[Any, list[dict[str, Any]]] = {}
    for candidate in found:
        clips.setdefault(tuple(candidate["rows"]), []).append(candidate)
    best = {max(clip, key=lambda candidate: candidate["score"])["name"] for clip in clips.values()}
    assert len(clips) >= 2 and best <= lineage(found)
    value = cli("show", "run", "--format", "json").json["judged"]
    assert value["branches"] == value["reward_calls"] == len(found) and value["decodes"] >= 0
    told = f"{len(found)} branches judged: {len(found)} reward calls, {value['decodes']} latents decoded"
    assert told in cli("show", "run").out and told in made.err


def test_effective_particles_stand_beside_their_scores(cli: Any, tiny: Path, tmp_path: Path):
    """By hand from the scores: a softmax of scores in units of their spread, and 1 over the sum of squares."""
    made = cli("generate", PROMPT, "--model", tiny, "--seed", 5, "--frames", 33, "--method", "chunk", "--out", "run",
               "--search", "latsearch", "--set", "latsearch.correlation=.9")  # fmt: skip
    assert made.code == 0, made.err
    scores: dict[int, list[float]] = {}
    for line in read_trace(tmp_path / "run" / "trace.jsonl"):
        for candidate in line["candidates"]:
            scores.setdefault(candidate["tick"], []).append(candidate["score"])
    want = []
    for values in scores.values():
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        powers = [math.exp((value - max(values)) / spread) if spread else 1.0 for value in values]
        want.append((sum(powers) ** 2 / sum(power**2 for power in powers), len(values)))
    text = cli("show", "run", "--tree").out
    told = [(float(ess), int(many)) for ess, many in re.findall(r"([\d.]+) effective particles of (\d+)", text)]
    assert len(told) == len(want) >= 4
    for (ess, many), (other, count) in zip(told, want, strict=True):
        assert ess == pytest.approx(other, abs=0.006) and many == count


def test_the_floor_that_was_given_is_the_floor_that_is_told_and_keeps_its_scale(cli: Any, tiny: Path, tmp_path: Path):
    """This model has no preview decoder, so that the usual reward reads latents, and so does its floor."""
    run = ("generate", PROMPT, "--model", tiny, "--seed", 5, "--frames", 17, "--method", "chunk", "--search", "k-step")
    told = {}
    for number, sets in enumerate(((), ("--set", "motion.floor=.3"), ("--set", "motion.floor=0"))):
        said = cli(*run, *sets, "--out", f"run{number}")
        assert said.code == 0, said.err
        told[sets] = float(re.findall(r"reward latent-cosine with motion\.floor=([\d.]+)", said.err)[0])
        lines = read_trace(tmp_path / f"run{number}" / "trace.jsonl")
        assert sum(line["decodes"] for line in lines) == 0
    assert list(told.values()) == [0.2, 0.3, 0.0]
