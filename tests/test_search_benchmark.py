"""The tables of the search benchmark: paired by caption, and honest about what they do not resolve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import search
import search_plan
import search_tables


def rows(gain: float, noise: list[float]) -> list[dict[str, Any]]:
    made = []
    for number, value in enumerate(noise):
        for arm, extra in (("clips", 0.0), ("clips-k-step", gain * (1 + 0.1 * (number % 3)))):
            metrics = {"subject": value + extra, "place": value, "flow": 0.1, "words": -1.0 + (-1) ** number * extra}
            made.append({"arm": arm, "caption": f"{number}", "weights": "w", "judge": "j", "model": "m", "nfe": 10,
                         "seconds": 1.0, "metrics": {"101": metrics}})  # fmt: skip
    return made


def test_differences_are_paired_so_captions_do_not_hide_them():
    table = search_tables.tables(rows(0.02, [0.1 * n for n in range(8)]))  # captions differ by 30 times the gain
    line = next(line for line in table.splitlines() if line.startswith("| clips-k-step"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "8" and cells[4].startswith("0.372 (+0.022 [+0.0") and cells[7].endswith("not resolved)")
    bare = next(line for line in table.splitlines() if line.startswith("| clips |"))
    assert bare == "| clips | 8 | 10 | 1 | 0.350 | 0.350 | 0.100 | -1.000 |"


def test_only_the_newest_weights_are_in_a_table():
    old = [{**row, "weights": "old"} for row in rows(5.0, [0.0] * 4)]
    table = search_tables.tables([*old, *rows(0.0, [0.5] * 4)])
    assert "weights w" in table and "+5" not in table and search_tables.tables([]) == "no rows yet"


def test_an_interval_by_hand():
    mean, low, high = search_tables.paired([0.5] * 6)
    assert (mean, low, high) == pytest.approx((0.5, 0.5, 0.5))
    mean, low, high = search_tables.paired([-1.0, 1.0] * 10)
    assert mean == 0 and low < 0 < high


@pytest.mark.parametrize("name", search.ARMS)
def test_every_arm_can_be_built_and_says_what_it_costs(name: str):
    from types import SimpleNamespace

    from longtake.core.check import BLIND, check
    from longtake.core.forecast import forecast
    from longtake.core.schedule import flow
    from longtake.models.analytic import GaussianVideo
    from longtake.models.load import NAMES

    arm = search.ARMS[name]
    model: Any = SimpleNamespace(
        denoiser=GaussianVideo(flow(search.STEPS), (32, 8, 8), 12), solver="euler", codec=None, source=NAMES["pocket"]
    )
    rollout = search.rollout_of(arm, model, search.QUEUE)
    if arm.search != "none":
        assert set(check(rollout, model.denoiser)) <= {BLIND}
    if name.startswith("clips-"):  # at the same cost
        times = forecast(rollout, search.QUEUE).nfe / forecast(rollout.inner, search.QUEUE).nfe
        assert 3.5 < times <= 4.1


@pytest.mark.parametrize("name", ["clips-k-step-4x", "beam-4x"])
def test_the_arms_of_a_budget_are_what_the_budget_picks(name: str):
    from longtake.apps.budget import afford
    from longtake.apps.searches import SEARCHES
    from longtake.core.schedule import flow
    from longtake.core.solvers import Solver

    arm = search.ARMS[name]
    method = {"fifo": search.Fifo, "chunk": search.Chunk}[arm.method]
    inner = method((32, 8, 8), flow(search.STEPS), Solver("euler"), 12)
    assert afford(SEARCHES[arm.search], inner, {}, 4.0, search.QUEUE)[0] == arm.values


def test_a_plan_counts_what_a_run_costs():
    """The other side is a run: its evaluations and whom its reward was shown."""
    from longtake.core.forecast import forecast
    from longtake.search.best_of import best_of
    from longtake.search.k_step import k_step
    from tests.cases import rollouts, run
    from tests.search_cases import Drift

    class Counting(Drift):
        seen = 0

        def __call__(self, views: Any) -> list[float]:
            Counting.seen += len(views)
            return super().__call__(views)

    for made in (k_step, best_of):
        Counting.seen, rollout = 0, made(rollouts()["chunk"], Counting(), 3)
        _, engine = run(rollout, 20, cost=2)
        cost = search_plan.cost_of("arm", rollout, 2, 20, 4)
        assert cost.nfe == engine.meter.nfe == forecast(rollout, 20, cost=2).nfe and cost.judged == Counting.seen
        speed = search_plan.Speed(0.5, 0.25, 0.125)
        want = 4 * (cost.nfe * 0.5 + 20 * 0.25 + cost.judged * 0.125)
        assert cost.seconds(speed) == pytest.approx(want)
        table = search_plan.told([cost], speed).splitlines()
        assert table[-2].startswith(f"arm | 4 | {cost.nfe} | {cost.judged} | ")
        assert table[-1] == f"4 films, at most {want / 60:.0f} minutes"
    bare = search_plan.cost_of("base", rollouts()["chunk"], 2, 20, 1)
    assert bare.judged == 0 and bare.nfe == forecast(rollouts()["chunk"], 20, cost=2).nfe


def test_a_table_of_an_ablation_has_its_base_in_it_and_lengths_stand_apart():
    made = rows(0.5, [0.0] * search_tables.FEWEST)
    short = [{**row, "arm": "beam-2" if row["arm"] == "clips" else "reward-local"} for row in made]
    longer = [{**row, "metrics": {"205": row["metrics"]["101"]}} for row in made]
    told = search_tables.tables([*short, *made, *longer])
    ablation = told.split("What the beam's reward is made of, 101 frames")[1].split("##")[0]
    assert "| beam-2 |" in ablation and "| reward-local |" in ablation and "(+0.544" in ablation
    assert told.count("Clips at about four times the cost, 101") == told.count("four times the cost, 205") == 1


def test_the_beginning_of_a_chain_costs_the_clips_that_it_has():
    made = [{**row, "arm": "chain", "metrics": {str(end): row["metrics"]["101"] for end in (205, 405, 805)}, "nfe": 960}
            for row in rows(0.0, [0.5] * 8) if row["arm"] == "clips"]  # fmt: skip
    made.append({**made[0], "caption": "short", "metrics": {"205": made[0]["metrics"]["205"]}, "nfe": 240})
    told = [line for line in search_tables.tables(made).splitlines() if line.startswith("| chain |")]
    assert [[cell.strip() for cell in line.split("|")][2:4] for line in told] == [
        ["9", "240"], ["8", "480"], ["8", "960"]
    ]  # fmt: skip


def test_the_page_of_previews_has_a_row_a_step_and_the_spread_of_seeds():
    look = {"similarity": {"1": 0.5, "4": 0.9}, "rank_correlation": {"text": {"1": 0.0, "4": 1.0}},
            "spread": {"text": {"least": -2.0, "most": -1.0, "std": 0.25}}}  # fmt: skip
    made = [{"weights": "w", "judge": "j", "metrics": look}] * 3
    told, plot = search_tables.previews(made)
    assert told.splitlines()[2:] == [
        "| 1 | 0.500 [0.500, 0.500] | 0.000 [0.000, 0.000] |", "| 4 | 0.900 [0.900, 0.900] | 1.000 [1.000, 1.000] |"
    ]  # fmt: skip
    queue = {**look, "spread": {"consistency": {"std": 0.01}}}
    del queue["similarity"]
    part = search_tables.on_the_queue([{**made[0], "metrics": queue}] * 8, [{**made[0], "metrics": {
        "spread": {"consistency": {"std": 0.5}}}}])  # fmt: skip
    assert "| 4 | 1.000 [1.000, 1.000] |" in part and "deviation of 0.0100" in part and "have 0.5000" in part
    assert search_tables.on_the_queue([], made) == search_tables.on_the_queue([made[0]] * 7, made) == ""
    assert ">4</text>" in plot and search_tables.spread(made).endswith("| text | -2.000 | -1.000 | 0.250 |")


def test_the_page_is_what_its_script_makes_of_the_rows():
    text, plot = search_tables.page()
    assert (search_tables.DOCS / "search-evidence.md").read_text() == text
    assert plot and (search_tables.DOCS / "figures/previews.svg").read_text() == plot


def test_arms_that_need_a_latent_reward_model_wait_for_one(tmp_path):
    from types import SimpleNamespace

    from longtake.models.load import NAMES

    arm = search.ARMS["clips-latsearch-latent"]
    shipped, fresh = SimpleNamespace(source=NAMES["pocket"]), SimpleNamespace(source=tmp_path)
    assert search.possible(arm, shipped) and not search.possible(arm, fresh)
    assert search.possible(search.ARMS["clips-latsearch"], fresh)


def test_the_page_says_how_many_differences_chance_would_resolve():
    shown = "a (+0.100 [+0.050, +0.150]) | " * 2 + "b (-0.100 not resolved) | " * 58
    assert "60 differences, of which 2 exclude 0" in search_tables.chance(shown)
    assert "about 3 would" in search_tables.chance(shown)


def test_rows_that_drew_alike_for_every_seed_are_told_of_until_they_are_made_again():
    for name, arm in search.ARMS.items():
        assert (search_tables.DRAWN.match(name) is not None) == bool(search.draws(arm)), name
    old = [{"arm": "beam-2", "caption": str(number)} for number in range(3)] + [{"arm": "clips", "caption": "0"}]
    assert search_tables.alike(old).strip().startswith("In 3 of these rows")
    new = [{"arm": "beam-2", "caption": str(number), "draws": "seed"} for number in range(3)]
    assert search_tables.alike([*old, *new[:2]]).strip().startswith("In 1 of") and not search_tables.alike([*old, *new])


def test_rows_that_drew_alike_are_made_again():
    import world_rows

    old = {"arm": "beam-2", "model": "pocket", "caption": "a", "seed": 0, "weights": "w", "judge": "j", "frames": 101}
    assert world_rows.key_of({**old, **search.draws(search.ARMS["beam-2"])}) != world_rows.key_of(old)
    assert world_rows.key_of({**old, **search.draws(search.ARMS["clips-best-of-4"])}) == world_rows.key_of(old)
