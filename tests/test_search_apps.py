"""The tables of searches and rewards: what may be typed, what a budget buys, and that all of it works on pocket."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from longtake.apps.budget import Blank, afford, parse_budget, told
from longtake.apps.rewarding import (
    REWARDS,
    Supplies,
    make_reward,
    parse_reward,
    parse_reward_sets,
    usual_reward,
)
from longtake.apps.searches import SEARCHES, make_search, search
from longtake.apps.worth import CLIPS, QUEUES, gain, looks
from longtake.core.check import check
from longtake.core.forecast import forecast
from longtake.core.schedule import flow
from longtake.errors import UsageError
from longtake.models.load import NAMES
from longtake.rewards.reward_model import FOLDER, Panel, Scorer
from longtake.rewards.sums import Floored, Weighted
from longtake.search.population import Population
from longtake.training.reward import export
from tests.cases import equal, oracle, rollouts, run
from tests.test_rewards import Pixels

ROOT = Path(__file__).parents[1]


def value(row: Any, name: str, text: str) -> Any:
    (parameter,) = [item for item in row.parameters if item.name == name]
    return parameter.parse(f"{row.name}.", text)


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_runs_with_its_defaults_and_its_parameters_are_taken(name: str):
    row, clips = SEARCHES[name], rollouts()["fifo" if name == "reflect" else "chunk"]
    made = make_search(row, clips, Blank(), {})
    assert made.num > 1
    check(made, oracle(clips))
    for parameter in row.parameters:  # each reaches the search: what it may be says what changes it
        text = {"scope": "horizon", "proposals": "fft", "levels": "16,8,4", "mode": "prune", "horizon": "17",
                "population": "5", "temperature": ".3", "jitter": ".1", "correlation": ".3", "mutation": ".4",
                "cumulative": "true", "elite": "1", "max_lag": "3", "width": "3",
                "threshold": ".2", "judge": ".4", "cutoff": ".4"}.get(parameter.name, "2")  # fmt: skip
        if name == "local" and parameter.name == "mode":
            text = "paths"
        if name == "latsearch" and parameter.name == "levels":
            text = "9,8"
        values: dict[str, Any] = {parameter.name: value(row, parameter.name, text)}
        if parameter.name in ("eval", "ref"):  # the toy queue holds few latents to compare
            values = {"eval": 1, "ref": 1, parameter.name: 2}
            assert getattr(make_search(row, clips, Blank(), values), parameter.name) == 2
            continue
        if parameter.name == "horizon":
            values["scope"] = "horizon"
        if parameter.name == "rounds":
            values["mode"] = "zero-order"
        if parameter.name == "jitter":
            values["mode"] = "systematic"
        changed = make_search(row, clips, Blank(), values)
        rest = {key: v for key, v in values.items() if key != parameter.name}
        base = make_search(row, clips, Blank(), {**rest, "jitter": 0.3} if parameter.name == "jitter" else rest)
        if name == "reflect" and parameter.name == "tries":
            changed = make_search(row, clips, Blank(), {"tries": 5})
        one, other = (re.sub(r"Blank object at \w+", "", repr(made)) for made in (changed, base))
        assert one != other or (parameter.name == "rounds" and len(base.sizes) == 2), parameter.name


def test_names_are_those_of_the_papers_too():
    assert search("scalingnoise").name == "beam" and search("rgrp").name == "latsearch"
    assert search("brute-force").name == "best-of-n" and search("evosearch").name == "evolve"
    with pytest.raises(UsageError, match=r"unknown search 'beams'.*did you mean --search beam"):
        search("beams")


def test_what_cannot_work_is_told_in_one_line():
    clips, queue = rollouts()["chunk"], rollouts()["fifo"]
    with pytest.raises(UsageError, match="give --seconds"):
        make_search(SEARCHES["best-of-n"], clips, Blank(), {"scope": "video"})
    with pytest.raises(UsageError, match=r"levels must fall from below 16"):
        make_search(SEARCHES["latsearch"], clips, Blank(), {"levels": (16, 3)})
    with pytest.raises(UsageError, match="levels begin at 16"):
        make_search(SEARCHES["evolve"], clips, Blank(), {"levels": (12, 8, 4)})
    with pytest.raises(UsageError, match="3 generations need as many levels"):
        make_search(SEARCHES["evolve"], clips, Blank(), {"levels": (16, 8)})
    with pytest.raises(UsageError, match=r"whole numbers in 1\.\.256"):
        value(SEARCHES["evolve"], "population", "4,x")
    with pytest.raises(UsageError, match=r"names one twice"):
        value(SEARCHES["beam"], "proposals", "fft+fft")
    with pytest.raises(UsageError, match=r"unknown name in beam\.proposals 'ftt'"):
        value(SEARCHES["beam"], "proposals", "ftt")
    for name, values, words in (
        ("latsearch", {"mode": "systematic"}, "set latsearch.jitter"),
        ("evolve", {"mutation": 0.0}, "evolve.mutation=0"),
    ):
        with pytest.raises(UsageError, match=words):
            make_search(SEARCHES[name], clips, Blank(), values)
    with pytest.raises(UsageError, match="freeinit makes whole clips again, and fifo never has one"):
        make_search(SEARCHES["freeinit"], queue, Blank(), {})
    with pytest.raises(UsageError, match=r"k-step\.preview_steps must be in 1\.\.16"):
        make_search(SEARCHES["k-step"], queue, Blank(), {"preview_steps": 17})
    with pytest.raises(UsageError, match=r"beam\.preview_steps must be in 1\.\.16"):
        make_search(SEARCHES["beam"], queue, Blank(), {"preview_steps": 17})
    with pytest.raises(UsageError, match="cannot be previewed"):
        make_search(SEARCHES["beam"], Population(queue, Blank(), 2), Blank(), {"preview_steps": 3})


@pytest.mark.parametrize("name", SEARCHES)
def test_a_budget_is_used_and_kept(name: str):
    row, inner = SEARCHES[name], rollouts()["fifo" if name == "reflect" else "chunk"]
    factor = 64.0 if name == "reflect" else 4.0
    values, reached = afford(row, inner, {}, factor, 20)
    assert 1 < reached <= factor
    sizes = next(list(sizes) for sizes in row.sizes({}, list(looks(inner))) if values in sizes)
    if values != sizes[-1]:  # the next larger one is too dear
        following = make_search(row, inner, Blank(), sizes[sizes.index(values) + 1], 20)
        assert forecast(following, 20).nfe > factor * forecast(inner, 20).nfe
    made = make_search(row, inner, Blank(), values)
    _, engine = run(make_search(row, inner, Near16(), values), 20)
    assert engine.meter.nfe <= factor * forecast(inner, 20).nfe
    assert forecast(made, 20).nfe == pytest.approx(reached * forecast(inner, 20).nfe)
    line = told(row, values, reached)
    assert line.startswith(f"search {name}: ") and line.endswith(f"at most {reached:.2f}x the cost without it")


@pytest.mark.parametrize("factor", [1.4, 2.0, 4.0, 12.0])
def test_a_budget_is_shared_between_candidates_and_the_steps_of_their_looks(factor: float):
    # k-step costs m k + S a clip: of all pairs that fit, the one whose best candidate, drawn at random, is best
    inner, steps = rollouts()["chunk"], 16
    values, reached = afford(SEARCHES["k-step"], inner, {}, factor, 12)
    assert reached == 1 + values["candidates"] * values["preview_steps"] / steps
    draw = torch.Generator().manual_seed(0)
    final, error = torch.randn(2, 20_000, 64, generator=draw)

    def simulated(many: int, look: int) -> float:
        r = CLIPS[look]
        seen = r * final + (1 - r * r) ** 0.5 * error
        return float(final.gather(1, seen[:, :many].argmax(1, keepdim=True)).mean())

    pairs = [(min(int((factor - 1) * steps) // look, 64), look) for look in CLIPS if look < steps]
    best = max(simulated(many, look) for many, look in pairs if many > 1)
    chosen = simulated(values["candidates"], values["preview_steps"])
    assert chosen == pytest.approx(best, abs=0.02) and chosen > simulated(min(int((factor - 1) * steps), 64), 1)


def test_the_best_of_many_lies_where_chance_puts_it():
    drawn = torch.randn(200_000, 16, generator=torch.Generator().manual_seed(0))
    for many in (1, 2, 3, 5, 9, 16):
        want = float(drawn[:, :many].amax(1).mean())
        assert gain({"candidates": many}, CLIPS) == pytest.approx(want, abs=0.02)
        for worth in (CLIPS, QUEUES):
            seen = gain({"width": many, "candidates": 1, "preview_steps": 4}, worth)
            assert seen == pytest.approx(worth[4] * want, abs=0.02)


@pytest.mark.parametrize(("name", "table"), [("previews", CLIPS), ("queue_previews", QUEUES)])
def test_what_looks_are_worth_is_what_was_measured(name: str, table: dict[int, float]):
    rows = [json.loads(line) for line in (ROOT / f"benchmarks/results/{name}.jsonl").read_text().splitlines()]
    newest = [row["metrics"]["rank_correlation"] for row in rows if row["weights"] == rows[-1]["weights"]]
    assert {str(look) for look in table} == set(newest[0]["text"])
    for look, worth in table.items():
        scores = [score[str(look)] for row in newest for score in row.values()]
        assert worth == pytest.approx(max(sum(scores) / len(scores), 0.01), abs=0.0051)


def test_looks_on_queues_are_weighed_by_what_was_measured_on_queues():
    inners = rollouts()
    for name in ("fifo", "progressive", "miga", "rolling"):
        assert looks(inners[name]) == {look: worth for look, worth in QUEUES.items() if look < 16}
    for name in ("plain", "chunk", "replace", "windows", "freenoise"):
        assert looks(inners[name]) == {look: worth for look, worth in CLIPS.items() if look < 16}
    nested = make_search(SEARCHES["best-of-n"], inners["fifo"], Blank(), {"candidates": 2})
    assert looks(nested) == looks(inners["fifo"])
    # a budget at which what is spent on longer looks is worth it on clips alone, tried one by one
    for name in ("fifo", "chunk"):
        inner = inners[name]
        values, _ = afford(SEARCHES["beam"], inner, {"width": 1}, 12.0, 20)
        found = {}
        for look, worth in looks(inner).items():
            many, _ = afford(SEARCHES["beam"], inner, {"width": 1, "preview_steps": look}, 12.0, 20)
            found[look] = gain(many, {look: worth})
        assert values["preview_steps"] == max(found, key=lambda look: found[look])


def test_a_beam_of_one_clip_gets_what_k_step_gets_for_a_budget():
    inner = rollouts()["chunk"]
    for factor in (2.0, 4.0, 12.0):  # candidates of one branch, judged by looks: the same search at the same cost
        wide, _ = afford(SEARCHES["beam"], inner, {}, factor, 12)
        assert wide == {"width": 1, **afford(SEARCHES["k-step"], inner, {}, factor, 12)[0]}
    assert afford(SEARCHES["beam"], inner, {"candidates": 4}, 12.0, 20)[0]["width"] > 1


def test_what_is_too_dear_is_told_by_the_smallest_alone(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def counted(*args: Any, **named: Any) -> Any:
        asked.append(args)
        return forecast(*args, **named)

    monkeypatch.setattr("longtake.apps.budget.forecast", counted)
    with pytest.raises(UsageError, match="its smallest costs 5x"):  # 64 candidates of one step, and the 16 of the clip
        afford(SEARCHES["k-step"], rollouts()["chunk"], {"candidates": 64}, 4.0, 12)
    assert len(asked) == 2  # without the search, and the smallest


def test_a_budget_leaves_what_was_set_and_says_when_it_is_too_little():
    inner = rollouts()["chunk"]
    values, _ = afford(SEARCHES["beam"], inner, {"width": 1}, 2.0, 20)
    assert values["width"] == 1 and values["candidates"] > 2
    values, _ = afford(SEARCHES["beam"], inner, {"width": 1, "preview_steps": 1}, 2.0, 20)
    assert values["preview_steps"] == 1 and values["candidates"] > 8
    with pytest.raises(UsageError, match="its smallest costs 2x"):
        afford(SEARCHES["best-of-n"], inner, {}, 1.5, 20)
    assert parse_budget("4x") == parse_budget(" 4.0 ") == 4
    for bad in ("1x", "x", "nan", "-3x", "inf"):
        with pytest.raises(UsageError, match="above 1, such as 4x"):
            parse_budget(bad)


class Near16:
    """Prefers estimates near 0."""

    needs = frozenset({"x0", "past"})

    def __call__(self, views: Any) -> list[float]:
        return [-sum(float(x.square().mean()) for x in view.clip) for view in views]


# -- rewards ---------------------------------------------------------------------------------------------------


def test_rewards_are_typed_as_sums():
    assert parse_reward("consistency+0.5*motion") == (("consistency", 1.0), ("motion", 0.5))
    assert parse_reward(" 2*text ") == (("text", 2.0),)
    for bad in ("", "consistency+", "x*motion", "0*motion", "-1*motion", "nan*motion"):
        with pytest.raises(UsageError, match=r"write it like a\+0.5\*b"):
            parse_reward(bad)
    with pytest.raises(UsageError, match="did you mean --reward consistency"):
        parse_reward("consistancy")
    values, rest = parse_reward_sets(["consistency.anchor=first", "fifo.partitions=2", "motion.floor=.02", "batch=4"])
    assert values == {"consistency": {"anchor": "first"}, "motion": {"floor": 0.02}}
    assert rest == ["fifo.partitions=2", "batch=4"]
    with pytest.raises(UsageError, match=r"unknown name for --set 'consistency.ancor'"):
        parse_reward_sets(["consistency.ancor=first"])


def supplies() -> Supplies:
    return Supplies(Pixels(), NAMES["pocket"], 12)


def test_every_reward_is_made_and_scores_pocket_latents(tmp_path):
    from longtake.testing.laws import check_reward
    from tests.test_rewards import view

    x = [torch.randn(32, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(10)]
    net, schedule = tmp_path / "pocket", flow(8, 3.0)
    net.mkdir()
    for path in NAMES["pocket"].iterdir():
        if path.name != FOLDER:  # written below, and not through a link
            (net / path.name).symlink_to(path)
    with pytest.raises(UsageError, match="no latent reward model"):
        make_reward([("latent-reward", 1.0)], Supplies(None, net, 4, schedule), {})
    export(Panel([Scorer(width=16)]), [], net)
    assert usual_reward(Supplies(None, net, 4, schedule), True)[0] != "latent-reward"  # nothing says that it ranks well
    told = {"level": 3, "trained": True, "n": 9, "model": 0.5, "latent-cosine": 0.2}
    export(Panel([Scorer(width=16)]), [told], net)
    assert usual_reward(Supplies(None, net, 4, schedule), True)[0] == "latent-reward"
    assert usual_reward(Supplies(None, net, 4, schedule))[0] != "latent-reward"
    export(Panel([Scorer(width=16)]), [{**told, "model": 0.1}], net)
    assert usual_reward(Supplies(None, net, 4, schedule), True)[0] != "latent-reward"
    store = Supplies(None, net, 4, schedule)
    for name in REWARDS:
        reward = make_reward([(name, 1.0)], store, {})
        memory = reward.follow(None, emission(x[:1])) if hasattr(reward, "follow") else None  # type: ignore[attr-defined]
        views = [view((x[0],), (x[3 * n + 1], x[3 * n + 2], x[3 * n + 3]), memory=memory, prompt=DOG) for n in range(3)]
        check_reward(reward, views)
        assert len(set(reward(views))) == 3, name


DOG = "a dog walks right across green hills at noon"


def emission(latents: Any) -> Any:
    from longtake.core.rollout import Emission

    return Emission(0, tuple(latents))


def test_a_floor_goes_around_any_reward_and_terms_share_their_eyes():
    store = supplies()
    made = make_reward(parse_reward("consistency+0.5*clip-min"), store, {"motion": {"floor": 0.1}})
    assert isinstance(made, Floored) and isinstance(made.reward, Weighted)
    eyes = {id(reward.eyes) for _, reward in made.reward.terms} | {id(made.motion.eyes)}  # type: ignore[attr-defined]
    assert len(eyes) == 1 and len(store.eyes) == 1


def test_rewards_never_look_with_the_eyes_of_metrics():
    with pytest.raises(UsageError, match="must not be searched by"):
        make_reward([("consistency", 1.0)], supplies(), {"consistency": {"encoder": "pocket-judge/measure/subject"}})
    made: Any = make_reward([("consistency", 1.0)], supplies(), {})
    assert "/measure/" not in made.encoder.name


@pytest.mark.parametrize("name", ["consistency", "clip-min"])
def test_pockets_judge_looks_at_pockets_pictures_alone(name: str, tmp_path):
    """It knows the subjects of one world, and names one of them whatever it is shown."""
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "longtake.json").write_text('{"vocabulary": "world", "base": "pocket"}')
    for folder, wanted in ((NAMES["pocket"], "pocket-judge/reward/subject"), (tuned, "pocket-judge/reward/subject"),
                          (tmp_path, "colour-histogram"), (None, "colour-histogram")):  # fmt: skip
        made: Any = make_reward([(name, 1.0)], Supplies(Pixels(), folder, 12), {})
        assert made.encoder.name == wanted
    said = {name: {"encoder": "pocket-judge/reward/place"}}
    named: Any = make_reward([(name, 1.0)], Supplies(Pixels(), None, 12), said)
    assert named.encoder.name == "pocket-judge/reward/place"


def test_without_a_preview_decoder_pictures_are_decoded_and_the_usual_reward_reads_latents(tmp_path):
    bare = Supplies(Pixels(), tmp_path, 12)
    assert usual_reward(bare)[0] == "latent-cosine" and usual_reward(supplies())[0] == "consistency"
    for store in (bare, supplies()):
        name, values = usual_reward(store)
        assert isinstance(make_reward([(name, 1.0)], store, values), Floored)
    assert type(bare.see({})).__name__ == "Decoded"
    with pytest.raises(UsageError, match="use see=decode"):
        bare.see({"see": "preview"})
    with pytest.raises(UsageError, match="no folder of a CLIP model"):
        make_reward([("text", 1.0)], bare, {"text": {"encoder": str(tmp_path)}})


def test_a_search_by_the_usual_reward_changes_a_run():
    row, inner = SEARCHES["beam"], rollouts()["fifo"]
    reward = make_reward([("latent-cosine", 1.0)], Supplies(None, None, 8), {"motion": {"floor": 0.1, "of": "latents"}})
    made = make_search(row, inner, reward, {"candidates": 2})
    assert not equal(run(made, 12)[0], run(inner, 12)[0])
