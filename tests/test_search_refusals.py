"""Settings that cannot help, or that nothing would look at, are refused in one line that says what to type instead."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longtake.apps.budget import Blank
from longtake.apps.rewarding import REWARDS, Supplies, make_reward, parse_reward, parse_reward_sets
from longtake.apps.searches import MOST, SEARCHES, make_search
from longtake.core.solvers import Solver
from longtake.errors import UsageError
from longtake.models.load import NAMES
from tests.cases import equal, rollouts, run
from tests.search_cases import Drift
from tests.test_cli import PROMPT, cli, one_thread, tiny  # noqa: F401
from tests.test_rewards import Pixels

USELESS: list[tuple[str, str, dict[str, Any], str]] = [
    ("best-of-n", "fifo", {"scope": "horizon", "horizon": 15}, "shorter than the queue.*give 16 or more"),
    ("best-of-n", "chunk", {"scope": "horizon", "horizon": 3}, "give 16 or more, or use --search beam"),
    ("best-of-n", "fifo", {"horizon": 20}, "add --set best-of-n.scope=horizon"),
    ("beam", "fifo", {"width": 3, "candidates": 1}, r"give beam.candidates=2 or more, or beam\.width=1"),
    ("latsearch", "chunk", {"jitter": 0.2}, r"mode=unique makes none; use --set latsearch\.mode=systematic"),
    ("latsearch", "chunk", {"jitter": 0.2, "mode": "prune"}, "mode=prune makes none"),
    ("latsearch", "chunk", {"jitter": 2.0, "mode": "systematic"}, "0..1, such as .2; got 2"),
    ("latsearch", "chunk", {"temperature": 0.0}, "above 0, such as 1; got 0"),
    ("latsearch", "chunk", {"temperature": float("inf")}, "such as 1; got inf"),
    ("latsearch", "chunk", {"correlation": 0.0}, r"such as \.1; got 0"),
    ("latsearch", "chunk", {"correlation": 1.5}, r"such as \.1; got 1\.5"),
    ("evolve", "chunk", {"mutation": 2.0}, r"such as \.2; got 2"),
    ("reflect", "fifo", {"judge": 1.5}, "below 1; got 1.5"),
    ("reflect", "fifo", {"threshold": float("nan")}, "a number such as .01"),
    ("reflect", "fifo", {"threshold": float("inf")}, "or --search none"),
]


@pytest.mark.parametrize(("name", "method", "values", "words"), USELESS, ids=str)
def test_settings_that_cannot_help_are_refused(name: str, method: str, values: dict[str, Any], words: str):
    with pytest.raises(UsageError, match=words) as said:
        make_search(SEARCHES[name], rollouts()[method], Blank(), values, 20)
    assert "\n" not in str(said.value)


def test_what_is_nearly_the_same_and_can_help_is_not():
    base = rollouts()
    for name, method, values in (
        ("best-of-n", "fifo", {"scope": "horizon", "horizon": 16}),
        ("best-of-n", "fifo", {"scope": "horizon"}),
        ("beam", "fifo", {"width": 3, "candidates": 2}),
        ("beam", "fifo", {"width": 1, "candidates": 1}),
        ("latsearch", "chunk", {"jitter": 0.2, "mode": "systematic"}),
        ("reflect", "fifo", {"threshold": -9.0}),
    ):
        make_search(SEARCHES[name], base[method], Blank(), values, 20)
    make_search(SEARCHES["latsearch"], rollouts(Solver("ddim", 1.0))["chunk"], Blank(), {"mode": "systematic"}, 20)


def test_the_shortest_horizon_that_is_taken_judges_what_the_decision_became():
    """The other side of the refusal: every candidate's first decided latent is finished when it is scored."""
    seen = []

    class Watched(Drift):
        def __call__(self, views: list[Any]) -> list[float]:
            seen.extend(len(view.before) + view.recent for view in views)
            return super().__call__(views)

    inner = rollouts()["fifo"]
    made = make_search(
        SEARCHES["best-of-n"], inner, Watched(), {"scope": "horizon", "horizon": 16, "candidates": 2}, 20
    )
    got, _ = run(made, 3)
    assert len(got) == 3 and min(seen) >= 1
    assert not equal(got, run(inner, 3)[0])


def test_searches_between_two_steps_need_two_steps():
    from longtake.rollouts.chunk import Chunk
    from tests.cases import SHAPE, WINDOW, grid

    one, two = (Chunk(SHAPE, grid(steps=steps), Solver(), WINDOW, overlap=2) for steps in (1, 2))
    for name, values in (("latsearch", {}), ("local", {"mode": "paths"})):
        with pytest.raises(UsageError, match="give --steps 2 or more"):
            make_search(SEARCHES[name], one, Blank(), values)
        for rounds in (1, 2):
            more = {**values, "rounds": rounds} if values else {}
            assert make_search(SEARCHES[name], two, Blank(), more).marks == (1,)
    with pytest.raises(UsageError, match="between a quarter and three quarters of 2 steps there are 1; give that"):
        make_search(SEARCHES["local"], two, Blank(), {"mode": "paths", "rounds": 5})


@pytest.mark.parametrize(
    ("name", "parameter"),
    [(row.name, one.name) for row in SEARCHES.values() for one in row.parameters
     if one.name in ("candidates", "width", "particles", "population", "rounds", "tries", "iterations")],
)  # fmt: skip
def test_more_branches_than_can_live_are_refused_before_their_cost_is_reckoned(name: str, parameter: str):
    (one,) = [item for item in SEARCHES[name].parameters if item.name == parameter]
    assert one.parse(f"{name}.", str(MOST)) in (MOST, (MOST,))
    for text in (str(MOST + 1), "100000", "0", "-1", "two", "nan", ""):
        with pytest.raises(UsageError, match=rf"{name}\.{parameter}={text} is not possible: .*1\.\.{MOST}"):
            one.parse(f"{name}.", text)


# -- rewards ---------------------------------------------------------------------------------------------------


def test_rewards_look_only_with_what_looks():
    for name, words in (
        ("opencv-dis", "unknown consistency.encoder 'opencv-dis'; known: dino-vitb16"),  # it is optical flow
        ("rife-v4", "unknown consistency.encoder"),
        ("dino-vitb61", "did you mean dino-vitb16"),
        ("pocket-judge/measure/subject", "use pocket-judge/reward/subject"),
        ("", "it takes dino-vitb16|"),
    ):
        with pytest.raises(UsageError, match=words):
            parse_reward_sets([f"consistency.encoder={name}"])
    assert parse_reward_sets(["clip-min.encoder=colour-histogram"])[0] == {"clip-min": {"encoder": "colour-histogram"}}
    with pytest.raises(UsageError, match="unknown encoder 'opencv-dis'"):
        make_reward([("clip-min", 1.0)], Supplies(Pixels(), None, 4), {"clip-min": {"encoder": "opencv-dis"}})


def test_weights_that_are_not_here_are_missed_when_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"no weights of dino-vitb16 .* type: longtake convert dino-vitb16 FILE"):
        parse_reward_sets(["consistency.encoder=dino-vitb16"])


def test_parameters_that_nothing_looks_at_are_refused():
    store = Supplies(Pixels(), None, 4)
    for reward, values, words in (
        ("motion", {"consistency": {"anchor": "first"}}, r"consistency\.anchor has no effect: the reward is motion"),
        ("latent-cosine", {"motion": {"of": "latents"}}, r"motion\.of has no effect.* add --set motion\.floor"),
        ("consistency", {"consistency": {"lag": 5}}, r"add --set consistency\.anchor=lag"),
        ("latent-cosine", {"motion": {"floor": float("inf")}}, r"motion\.floor must be a number above 0, such as \.01"),
    ):
        with pytest.raises(UsageError, match=words):
            make_reward(parse_reward(reward), store, values)  # type: ignore[arg-type]
    for reward, values in (
        ("latent-cosine", {"motion": {"of": "latents", "floor": 0.1}}),
        ("latent-cosine", {"motion": {"floor": 0.0}}),  # none, where the usual reward has one
        ("latent-cosine+motion", {"motion": {"of": "latents"}}),
        ("consistency", {"consistency": {"lag": 5, "anchor": "lag"}}),
    ):
        make_reward(parse_reward(reward), store, values)  # type: ignore[arg-type]
    assert set(REWARDS) >= {"consistency", "clip-min", "latent-cosine", "text", "motion", "latent-reward"}


def test_the_command_refuses_before_weights_run_and_leaves_nothing(cli: Any, tiny: Path, tmp_path: Path):
    asked = ("generate", PROMPT, "--model", tiny, "--frames", 17, "--seed", 5, "--method", "fifo", "--out", "no")
    for more, words in (
        (("--search", "best-of-n", "--set", "best-of-n.candidates=100000"), "1..256"),
        (("--search", "best-of-n", "--set", "best-of-n.scope=horizon", "--set", "best-of-n.horizon=2"), "12 or more"),
        (("--search", "beam", "--set", "beam.width=5", "--set", "beam.candidates=1"), "beam.candidates=2"),
        (("--search", "beam", "--reward", "consistency", "--set", "consistency.encoder=opencv-dis"), "unknown"),
        (("--search", "beam", "--reward", "motion", "--set", "consistency.anchor=first"), "add --reward"),
        (("--search", "beam", "--reward", "latent-cosine", "--set", "motion.floor=inf"), "a number of at least 0"),
    ):
        said = cli(*asked, *more)
        assert said.code == 2 and words in said.err and said.out == "", said.err
        assert said.err.splitlines()[-1].startswith("longtake: ") and not (tmp_path / "no").exists()


NOT_HERE: list[tuple[str, list[str], str]] = [
    ("chunk", ["--search", "freeinit", "--reward", "text"], "judges nothing, so --reward text has no effect"),
    ("chunk", ["--search", "freeinit", "--set", "motion.floor=.1"], "judges nothing, so --set motion.floor=0.1"),
    (
        "fifo",
        ["--search", "k-step", "--set", "beam.width=2"],
        "the search is k-step; leave it out, or use --search beam",
    ),
    ("fifo", ["--search", "beam", "--reward", "text", "--set", "text.encoder=none"], "no folder of a CLIP model"),
    ("fifo", ["--search", "beam", "--reward", "text", "--set", "text.encoder=~nobody/x"], "no folder of a CLIP model"),
    (
        "fifo",
        ["--search", "beam", "--reward", "text", "--set", f"text.encoder={NAMES['pocket'] / 'vae'}"],
        "CLIP model",
    ),
    (
        "fifo",
        ["--search", "beam", "--set", "rgrp.particles=2"],
        "the search is beam; leave it out, or use --search latse",
    ),
    ("fifo", ["--search", "beam", "--reward", "motion", "--set", "motion.see=preview"], "use see=decode"),
    ("chunk", ["--search", "latsearch", "--reward", "latent-reward"], "longtake train reward"),
    ("fifo", ["--search", "beam", "--reward", "text", "--set", "consistency.lag=3"], "add --reward text+consistency"),
]


@pytest.mark.parametrize(("method", "more", "words"), NOT_HERE, ids=lambda v: " ".join(v) if isinstance(v, list) else v)
def test_what_judges_is_missed_on_paper(
    cli: Any, tiny: Path, monkeypatch: Any, method: str, more: list[str], words: str
):
    def load(*args: Any) -> Any:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("longtake.models.load.load", load)
    asked = ("generate", PROMPT, "--model", tiny, "--frames", 17, "--seed", 5, "--method", method)
    for dry in (["--dry-run"], ["--out", "no"]):
        said = cli(*asked, *more, *dry)
        assert said.code == 2 and words in said.err and said.out == "", said.err
    assert "weights were loaded" in cli(*asked, "--out", "no").err  # which is what a run would meet


def test_the_judge_of_words_is_missed_on_paper(cli: Any, tiny: Path, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr("longtake.metrics.judge.WEIGHTS", tmp_path / "gone")
    asked = ("generate", PROMPT, "--frames", 17, "--search", "beam", "--dry-run", "--reward", "text")
    assert "not part of this installation" in cli(*asked).err
    said = cli(*asked, "--model", tiny)
    assert said.code == 2 and "reads the pictures of pocket's own world; for this model give --set text." in said.err
    said = cli(*asked, "--model", tiny, "--set", "text.encoder=pocket-judge")
    assert "not part of this installation" in said.err, "whoever names it is not stopped"


def test_a_dry_run_says_what_will_judge(cli: Any, tiny: Path):
    asked = ("generate", PROMPT, "--frames", 17, "--seed", 5, "--method", "fifo", "--search", "beam", "--dry-run")
    assert "reward latent-cosine with motion.floor=0.2 (the default" in cli(*asked, "--model", tiny).err
    assert "reward consistency with motion.floor=0.01 (the default" in (told := cli(*asked, "--model", "pocket").err)
    assert "consistency looks with pocket-judge/reward/subject (another: --set consistency.encoder=)" in told
    named = cli(*asked, "--reward", "consistency", "--set", "consistency.encoder=colour-histogram").err
    assert "looks with" not in named
    said = cli(*asked[:-1], "--model", tiny, "--out", "made")  # a run says it once
    assert said.code == 0 and said.err.count("reward latent-cosine with motion.floor=0.2") == 1


def test_a_fine_tune_is_seen_through_the_preview_of_its_base(tmp_path: Path):
    from longtake.models import preview

    pocket, tuned = NAMES["pocket"], NAMES["pocket-progressive"]
    assert preview.home(pocket) == pocket and preview.home(tuned) == pocket and Supplies(None, tuned, 12).has_preview
    own = tmp_path / "own"  # with an autoencoder of its own, whose latents the base's preview cannot read
    (own / "vae").mkdir(parents=True)
    (own / "longtake.json").write_text((tuned / "longtake.json").read_text())
    assert preview.home(own) is None and not Supplies(None, own, 12).has_preview
    with pytest.raises(UsageError, match="use see=decode"):
        Supplies(None, own, 12).kind({"see": "preview"})
