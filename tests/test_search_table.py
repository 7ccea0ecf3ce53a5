"""The table search x method of the documentation: its yes cells run on the oracle, its no cells are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from longtake.apps.budget import Blank
from longtake.apps.searches import SEARCHES, make_search
from longtake.apps.tables import METHODS
from longtake.core.check import check
from longtake.core.engine import Engine
from longtake.core.forecast import forecast
from longtake.errors import UsageError
from longtake.search.branch import leaf
from longtake.testing.laws import resumed
from tests.cases import equal, oracle, rollouts, run, wanted
from tests.search_cases import Drift

PAGE = (Path(__file__).parent.parent / "docs" / "search.md").read_text()
CASES = {
    "plain": ("plain",), "chunk": ("chunk", "chunk led"), "replace": ("replace",), "fifo": ("fifo", "fifo replicate"),
    "progressive": ("progressive", "progressive chunked"), "miga": ("miga", "miga stage 2"), "rolling": ("rolling",),
    "windows": ("windows",), "freenoise": ("freenoise",),
}  # fmt: skip
"""The rows of the documentation's table, by methods at toy size; gen-l-video is windows."""


def table() -> dict[tuple[str, str], str]:
    """(search, method) -> "yes", or the word that a refusal has."""
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    start = next(place for place, line in enumerate(lines) if line.startswith("| on | "))
    heads = [cell.strip().strip("`") for cell in lines[start].strip("|").split("|")][1:]
    found = {}
    for line in lines[start + 2 :]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = cells[0].strip("`")
        if name not in CASES:
            break
        found |= {(search, name): cell for search, cell in zip(heads, cells[1:], strict=True)}
    return found


def small(name: str, steps: int) -> dict[str, Any]:
    """Parameters that make a search cheap and still a search."""
    return {
        "best-of-n": {"candidates": 2}, "k-step": {"candidates": 2, "preview_steps": 2},
        "beam": {"width": 2, "candidates": 2, "max_lag": 4},
        "latsearch": {"particles": 3, "levels": (max(steps * 3 // 4, 1), max(steps // 2, 1)), "correlation": 0.8},
        "evolve": {"population": (2, 1), "levels": (steps, max(steps // 2, 1)), "mutation": 0.6},
        "local": {"mode": "zero-order", "candidates": 2, "rounds": 2},
        "reflect": {"threshold": -9.0, "tries": 1, "eval": 2, "ref": 2}, "freeinit": {"iterations": 2},
    }[name]  # fmt: skip


ONE: dict[str, dict[str, Any]] = {
    "best-of-n": {"candidates": 1}, "k-step": {"candidates": 1}, "beam": {"width": 1, "candidates": 1},
    "latsearch": {"particles": 1}, "evolve": {"population": (1,), "levels": ()},
    "local": {"candidates": 1, "rounds": 1}, "freeinit": {"iterations": 1}, "reflect": {"max_corrections": 0},
}  # fmt: skip


def test_the_table_has_every_search_and_every_method():
    searches, methods = ({pair[side] for pair in table()} for side in (0, 1))
    assert searches == set(SEARCHES)
    assert methods == set(CASES) == set(METHODS)


# what the text below the table says of reflection and `miga stage 2` is a test of tests/test_reflect.py
CELLS = [(search, case, cell) for (search, method), cell in table().items() for case in CASES[method]
         if (search, case) != ("reflect", "miga stage 2")]  # fmt: skip


@pytest.mark.parametrize(("search", "case", "cell"), [c for c in CELLS if c[2] == "yes"], ids=lambda value: str(value))
def test_a_yes_runs_keeps_to_its_plan_and_one_candidate_is_none(search: str, case: str, cell: str):
    inner = rollouts()[case]
    many, row = wanted(case, 4), SEARCHES[search]
    steps = leaf(inner).schedule.num_steps
    want, _ = run(inner, many)
    single = make_search(row, inner, Drift(), ONE[search], many)
    assert equal(run(single, many)[0], want)  # bit for bit
    made = make_search(row, inner, Drift(), small(search, steps), many)
    check(made, oracle(inner))
    got, engine = run(made, many)
    assert len(got) == len(want)
    plan = forecast(made, many)
    assert engine.meter.nfe == plan.nfe if plan.exact else engine.meter.nfe <= plan.nfe


@pytest.mark.parametrize(("search", "case", "cell"), [c for c in CELLS if c[2] != "yes"], ids=lambda value: str(value))
def test_a_no_is_refused_with_its_reason(search: str, case: str, cell: str):
    reasons = dict(re.findall(r"^- `(\w+)`: (.*)$", PAGE, re.MULTILINE))
    assert cell.removeprefix("no: ") in reasons
    words = {"regrow": "cannot regrow", "clip": "makes whole clips again"}[cell.removeprefix("no: ")]
    with pytest.raises(UsageError, match=words):
        make_search(SEARCHES[search], rollouts()[case], Blank(), {}, 8)


QUEUES = [
    (search, case) for search in ("best-of-n", "k-step", "latsearch", "evolve", "local") for case in ("fifo", "miga")
] + [("beam", "miga"), ("beam", "rolling"), ("latsearch", "windows"), ("k-step", "freenoise"), ("evolve", "replace")]


@pytest.mark.slow
@pytest.mark.parametrize(("search", "case"), QUEUES)
def test_stopping_at_every_tick_inside_any_of_them_changes_nothing(search: str, case: str, tmp_path):
    inner = rollouts()[case]
    many, steps = wanted(case, 3), leaf(inner).schedule.num_steps
    made = make_search(SEARCHES[search], inner, Drift(), small(search, steps), many)
    want, _ = run(made, many)
    got = resumed(made, Engine(oracle(made), 4), many, tmp_path, seed=7, prompt="a")
    assert equal(got[:many], want)
