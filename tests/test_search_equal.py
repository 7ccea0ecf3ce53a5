"""The tables of searches at equal cost: intervals over captions, costs of equal quality, and runs a budget picks."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import search
import search_equal
import search_equal_table as tables
import search_tables

METRICS = {"subject": 0.5, "place": 0.5, "flow": 0.1, "words": -1.0}


def rows(gain: dict[str, float], captions: int = 8, cost: float = 1.0) -> list[dict[str, Any]]:
    """Runs whose score is the caption's own plus a gain a doubling of the cost; captions differ by far more."""
    made = []
    for number in range(captions):
        for arm, each in {"once": 0.0, **gain}.items():
            for factor in (1,) if arm == "once" else (2, 4, 8):
                score = number + each * math.log2(factor) * (1 + 0.1 * (number % 2))
                name, nfe = ("once", 48) if arm == "once" else (f"{arm} {factor}x", 48 * factor * cost)
                made.append({"arm": name, "caption": f"{number}", "weights": "w", "judge": "j", "nfe": nfe, "judged": 3,
                             "size": {"candidates": factor}, "seconds": 1.0,
                             "metrics": {"score": score, **METRICS}})  # fmt: skip
    return made


def test_where_a_line_meets_an_aim():
    assert tables.crossing([1, 2, 4], [0.0, 1.0, 2.0], 1.0) == pytest.approx(2)
    assert tables.crossing([1, 2, 4], [0.0, 1.0, 2.0], 1.5) == pytest.approx(math.sqrt(8))  # halfway between logarithms
    assert tables.crossing([1, 4], [0.0, 1.0], 0.5) == pytest.approx(2)
    assert tables.crossing([1, 2], [0.0, 1.0], 1.1) == math.inf and tables.crossing([1, 2], [0.3, 1.0], 0.2) == 1


def test_equal_quality_costs_what_it_was_built_to_cost():
    found = tables.by_run(rows({"best-of-n": 0.2, "good": 0.4, "bad": 0.0}))
    assert tables.equal_quality(found, "best-of-n", ["2x", "4x", "8x"]) == "4.0 [4.0, 4.0]"
    assert tables.equal_quality(found, "good", ["2x", "4x", "8x"]) == "2.0 [2.0, 2.0]"
    assert tables.equal_quality(found, "bad", ["2x", "4x", "8x"]) == "above 8.0 [above 8.0, above 8.0]"
    cheap = tables.by_run(
        [*rows({"best-of-n": 0.2}), *(r for r in rows({"good": 0.2}, cost=0.75) if r["arm"] != "once")]
    )
    assert (
        tables.equal_quality(cheap, "good", ["2x", "4x", "8x"]) == "3.0 [3.0, 3.0]"
    )  # what it cost, not what it might


def test_a_run_is_held_against_best_of_n_at_its_own_cost_caption_by_caption():
    text = tables.part(rows({"best-of-n": 0.2, "good": 0.4}))
    lines = [line for line in text.splitlines() if line.startswith("| good |")]
    assert "(+0.210 [+0.2" in lines[0] and "(+0.420 [+0.4" in lines[0] and "(+0.630 [+0.6" in lines[0]
    assert (
        lines[1].startswith("| good | +0.420 [+0.4") and "| +0.840 [+0.8" in lines[1] and "| +1.260 [+1.2" in lines[1]
    )
    assert lines[2].count("not resolved") == 4  # what was not searched by is the same
    assert "8 held-out captions" in text and "scores 3.500" in text
    assert tables.part([]) == "" and tables.part(rows({"best-of-n": 0.1}, 3)) == ""


def test_a_search_that_pays_less_is_held_against_what_best_of_n_gets_for_that():
    """Three quarters of the cost: 3 instead of 4, where best-of-n lies halfway from 2 to 4."""
    cheap = [*rows({"best-of-n": 0.2}), *(r for r in rows({"good": 0.2}, cost=0.75) if r["arm"] != "once")]
    found = tables.by_run(cheap)
    assert tables.cost_of(found, "good 4x") == 3
    two, four = (tables.scores(found[f"best-of-n {factor}"]) for factor in ("2x", "4x"))
    halfway = [(a + b) / 2 for a, b in zip(two, four, strict=True)]
    assert tables.best_at(found, 3.0, ["2x", "4x", "8x"]) == pytest.approx(halfway)
    assert tables.best_at(found, 4.0, ["2x", "4x", "8x"]) == pytest.approx(four)
    once = tables.scores(found["once"])
    assert tables.best_at(found, 1.5, ["2x"]) == pytest.approx([(a + b) / 2 for a, b in zip(once, two, strict=True)])
    assert "at 3.0 (+0.105 [+0.1" in tables.part(cheap)


def test_captions_that_are_not_whole_are_left_out():
    cut = rows({"best-of-n": 0.2, "good": 0.4}, 9)[:-2]
    assert {len(there) for there in tables.by_run(cut).values()} == {8}


def test_runs_of_another_size_or_of_few_captions_do_not_spoil_a_table():
    made = rows({"best-of-n": 0.2, "good": 0.4})
    stale = [{**row, "size": {"candidates": 99}} for row in made if row["arm"] == "good 4x"]
    few = [{**row, "arm": "new 4x"} for row in made[:3]]
    assert tables.part([*stale, *few, *made]) == tables.part(made) != ""
    assert tables.part([row for row in made if row["arm"] != "once"]) == ""


def test_a_row_counts_as_made_at_its_own_size_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search_equal, "RESULTS", tmp_path / "rows.jsonl")
    row = {"arm": "k-step 4x", "caption": "a", "seed": 0, "weights": "w", "judge": "j", "model": "m",
           "size": {"population": (2, 1)}}  # fmt: skip
    assert not search_equal.there(row)
    search_equal.world_rows.append(search_equal.RESULTS, row)
    assert search_equal.there(row) and not search_equal.there({**row, "size": {"population": (2, 2)}})


def test_chance_counts_these_differences_too():
    shown = tables.part(rows({"best-of-n": 0.2, "good": 0.4}))
    assert "17 differences, of which 9 exclude 0" in search_tables.chance(shown)


def test_runs_keep_to_their_budgets():
    from longtake.core.check import check
    from longtake.core.forecast import forecast
    from longtake.core.schedule import flow
    from longtake.models.analytic import GaussianVideo
    from longtake.models.load import NAMES

    model: Any = SimpleNamespace(
        denoiser=GaussianVideo(flow(search.STEPS), (32, 8, 8), 12), solver="euler", codec=None, source=NAMES["pocket"],
        window=12,
    )  # fmt: skip
    every = search_equal.arms(model)
    once = forecast(search.rollout_of(every.pop("once"), model, 12), 12).nfe
    assert once == search.STEPS and {name.rpartition(" ")[0] for name in every} == set(search_equal.RUNS)
    for name, arm in every.items():
        rollout = search.rollout_of(arm, model, 12)
        assert check(rollout, model.denoiser) == []
        assert 0.6 * float(name.rpartition(" ")[2][:-1]) < forecast(rollout, 12).nfe / once <= float(name[-2])
