"""Prompts over time as people write them, and what becomes of them: scenes, timelines, refusals."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from longtake.apps.composing import latent_of, length_of, timeline_of
from longtake.apps.looking import LOOKS
from longtake.apps.planning import plan
from longtake.apps.prompts import Scene, is_story, parse_story, read_story, seconds_of, written
from longtake.apps.rewarding import REWARDS
from longtake.apps.settings import Request
from longtake.core.forecast import forecast
from longtake.core.schedule import flow
from longtake.errors import UsageError
from longtake.rewards.latent import LatentCosine
from longtake.rollouts.plain import Plain
from longtake.search.latsearch import LatSearch

EIGHT = Fraction(8)


def at(scenes: list[Scene]) -> list[tuple[int | None, str, bool]]:
    return [(scene.frame, scene.prompt, scene.cut) for scene in scenes]


def test_equal_parts():
    assert at(parse_story("a | b|c", EIGHT, 90)) == [(0, "a", False), (30, "b", False), (60, "c", False)]
    assert at(parse_story("a | b | c", EIGHT, 64)) == [(0, "a", False), (21, "b", False), (43, "c", False)]


def test_lengths_and_cuts():
    story = "a dog runs[5s] | a dog sleeps [10s#] | a cow"
    want = [(0, "a dog runs", False), (40, "a dog sleeps", True), (120, "a cow", False)]
    assert at(parse_story(story, EIGHT, None)) == want
    assert at(parse_story("a[12f] | b[#]", EIGHT, 40)) == [(0, "a", False), (12, "b", True)]
    assert seconds_of(story, EIGHT) is None and seconds_of("a[5s] | b[1.5s#]", EIGHT) == Fraction(13, 2)
    assert is_story(story) and is_story("a[5s]") and not is_story("a dog [brown] runs")


@pytest.mark.parametrize(("text", "want"), [
    ('{"0s": "a", "2.5s": "b", "40f#": "c"}', [(0, "a", False), (20, "b", False), (40, "c", True)]),
    ("0s: a\n\n3s: b\n", [(0, "a", False), (24, "b", False)]),
    ("[0s-3s] a\n[3s-5s#] b", [(0, "a", False), (24, "b", True)]),
    ("// a comment\n0: a\n1: b", [(0, "a", False), (8, "b", False)]),
    ("a | b", [(0, "a", False), (32, "b", False)]),
    ("a dog walks right", [(0, "a dog walks right", False)]),
])  # fmt: skip
def test_files(text: str, want: list, tmp_path: Path):
    path = tmp_path / "story.txt"
    path.write_text(text)
    assert at(read_story(path, EIGHT, 64)) == want


@pytest.mark.parametrize(("text", "says"), [
    ("", "empty"),
    ("{", "no JSON"),
    ('{"0s": 3}', "no times"),
    ('{"soon": "a"}', "no time"),
    ('{"1s": "a"}', "0s"),
    ('{"0s": "a", "0.01s": "b"}', "begin at frame 0"),
    ('{"0s": "a", "0s": "b"}', "two prompts begin at '0s'"),
    ('{"0s": "a", "9s": "b"}', "after the end"),
    ('{"0s": "a", "1s": " "}', "empty"),
    ("0s: a\nand then b", "does not begin with a time"),
    ("[0s-1s] a\n[1s-0.5s] b", "ends before it begins"),
    ("[0s-0f] a\n[1s-2s] b", "ends before it begins"),
    ("a | | b", "empty part"),
    ("a | b[0s]", "lasts no time"),
    ("a | b[2s] | c", "how long"),
    ("\x00", "no file of prompts"),
    ("[" * 5000, "time|empty|prompt"),
    ('{"a":' * 3000, "JSON"),
])  # fmt: skip
def test_files_that_are_none_are_refused_in_one_line(text: str, says: str, tmp_path: Path):
    path = tmp_path / "story.txt"
    path.write_text(text)
    try:
        scenes = read_story(path, EIGHT, 64)
        assert len(scenes) == 1  # one strange line is one strange prompt
    except UsageError as error:
        import re

        assert "\n" not in str(error) and re.search(says, str(error)), str(error)
    else:
        assert text.startswith("[")


def test_a_story_without_lengths_needs_an_end():
    with pytest.raises(UsageError, match="how long each lasts"):
        parse_story("a | b", EIGHT, None)


def test_scenes_written_in_one_line_read_the_same():
    for story in ("a[40f] | b[80f#] | c", "a[3f] | b[#]"):
        scenes = parse_story(story, EIGHT, 200)
        assert parse_story(written(scenes, EIGHT), EIGHT, 200) == scenes


def test_prompts_begin_at_the_latent_that_shows_their_frame():
    """Two sides: the timeline, and the pixel range of latent i, max(0, 4i - 3) to 4i."""
    story = "a dog walks right[3s] | a cow walks left[2s#] | a duck swims"
    settings, facts, notes = plan(Request(story, seconds=8, seed=1, set=("fade=3", "prompt_rule=start")))
    can = facts.can
    line = timeline_of(settings, can)
    assert [start for start, _ in line.entries] == [latent_of(settings, can, frame) for frame in (0, 24, 40)]
    for frame in range(64):
        latent = latent_of(settings, can, frame)
        assert max(0, 4 * latent - 3) <= frame <= 4 * latent
    assert line.fade == 3 and line.rule == "start" and line.cuts == (latent_of(settings, can, 24),)
    assert length_of(settings, can) == 17 and settings.prompt == story
    assert sum("begins at" in note for note in notes) == 2 and any("begins at 3.0 s" in note for note in notes)


def test_a_story_that_says_how_long_it_is_needs_no_length():
    settings, _, _ = plan(Request("a dog walks right[3s] | a cow walks left[2s]", seed=1))
    assert settings.frames == 40
    settings, _, _ = plan(Request("a dog walks right[3s] | a cow walks left[2s]", seconds=4, seed=1))
    assert settings.frames == 32


def test_prompts_shorter_than_a_latent_are_refused():
    with pytest.raises(UsageError, match="less than 4 frames"):
        plan(Request("a dog walks right[2f] | a cow walks left[1f] | a duck swims", seconds=4, seed=1))


def test_a_prompt_and_a_file_of_prompts_are_one_too_many(tmp_path: Path):
    path = tmp_path / "p.json"
    path.write_text('{"0s": "a dog walks right", "2s": "a cow walks left"}')
    settings, facts, _ = plan(Request("", prompt_file=path, seconds=4, seed=1))
    assert settings.prompt == "a dog walks right[16f] | a cow walks left"
    assert timeline_of(settings, facts.can).prompts == ("a dog walks right", "a cow walks left")
    again = plan(Request(settings.prompt, seconds=4, seed=1))[0]
    assert replace(again, prompt="") == replace(settings, prompt="")
    with pytest.raises(UsageError, match="give one"):
        plan(Request("a dog", prompt_file=path))


def test_presets_are_what_papers_say_and_what_is_typed_counts_more():
    plain = plan(Request("a dog walks right", preset="miga-wan", seconds=4, seed=1))[0]
    assert (plain.method, plain.steps, plain.search) == ("miga", 54, "reflect")
    assert plain.parameters["zigzag"] == 7 and plain.search_parameters == {"threshold": 0.01, "tries": 3}
    typed = Request("a dog walks right", preset="miga-wan", seconds=4, seed=1, steps=40, set=("miga.zigzag=2",))
    typed = plan(replace(typed, guidance=2.0, search="reflect"))[0]
    assert (typed.steps, typed.parameters["zigzag"], typed.guidance) == (40, 2, 2.0)
    other = plan(Request("a dog walks right", preset="miga-wan", method="chunk", seconds=4, seed=1))[0]
    assert other.method == "chunk" and other.search == "none" and "zigzag" not in other.parameters
    lab = {name: plan(Request("a dog walks right", preset="lab", method=name, seconds=4, seed=1))[0]
           for name in ("fifo", "progressive", "miga", "chunk", "windows")}  # fmt: skip
    assert {settings.steps for settings in lab.values()} == {24}
    assert lab["progressive"].parameters == {"window": 8, "chunk": 2, "prefix": 2}
    assert lab["miga"].parameters["handover"] == 3 and lab["fifo"].parameters["partitions"] == 2


def test_what_is_typed_beside_a_preset_counts_also_where_it_is_nothing():
    """Guidance 0, no search, the steps of a queue: each as if its part of the preset were not there."""

    def decided(preset: str | None, **typed: Any) -> Any:
        return plan(Request("a dog walks right", preset=preset, seconds=4, seed=1, **typed))

    unguided, facts, _ = decided("miga-paper", guidance=0)
    assert unguided.guidance == 0 and not facts.guided and decided("miga-paper")[1].guided, (
        "the plan knows what it costs"
    )
    for name in ("kstep-svd", "scalingnoise-vc2", "miga-vc2", "miga-wan"):
        bare = decided(name, search="none")[0]
        assert bare.search == "none" and not bare.search_parameters and decided(name)[0].search != "none"
    assert decided(None)[0].search == "none"
    for typed in ({"steps": 24}, {"set": ["fifo.partitions=2"]}):
        settings = decided("fifo-vc2", **typed)[0]
        assert (settings.steps, settings.parameters["eta"], settings.solver) == (24, 1.0, "ddim")
    other = decided("fifo-vc2", solver="unipc")[0]
    assert other.solver == "unipc" and other.parameters == {"partitions": 4}, "eta is of ddim alone"


def test_a_search_of_a_preset_is_one_that_can_be_changed():
    given = dict(preset="kstep-svd", frames=33, seed=1)
    typed = Request("a dog walks right", reward="motion", set=["k-step.candidates=3"], **given)
    settings = plan(typed)[0]
    assert settings == plan(replace(typed, search="k-step"))[0]
    assert settings.reward == "motion" and settings.search_parameters == {"candidates": 3, "preview_steps": 8}
    sizes = [plan(Request("a dog walks right", search_budget=budget, **given))[0].search_parameters["candidates"]
             for budget in ("2x", "6x")]  # fmt: skip
    assert sizes[0] < 10 < sizes[1], "a budget that was typed counts more than the preset's size"
    with pytest.raises(UsageError, match="add --search k-step"):
        plan(Request("a dog walks right", set=["k-step.candidates=3"], method="fifo", **given))


def test_the_preset_of_latsearch_scores_where_its_paper_does():
    """Steps 10, 15 and 20 of 50, counted from 0, are done: 39, 34 and 29 are left, which is where the search looks by
    itself, and six particles cost at most 6 * 21 + 29 window calls."""
    given = plan(Request("a dog walks right", preset="latsearch-wan", seed=1))[0]
    levels = given.search_parameters["levels"]
    assert levels == tuple(50 - done for done in (11, 16, 21))
    clip = Plain((1, 1, 1), flow(50))
    assert LatSearch(clip, LatentCosine()).marks == levels
    assert forecast(LatSearch(clip, LatentCosine(), levels=levels), 12).nfe == 6 * 21 + 29


@pytest.mark.parametrize(("name", "reward", "encoder"), [
    ("scalingnoise-vc2", "consistency", "dino-vitb16"), ("kstep-svd", "clip-min", "clip-vitb32"),
])  # fmt: skip
def test_a_preset_that_judges_otherwise_than_its_paper_says_so(name: str, reward: str, encoder: str):
    """These two take the usual reward, and the page tells how to ask for the paper's."""
    assert plan(Request("a dog walks right", preset=name, frames=33, seed=1))[0].reward is None
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    assert f"`--reward {reward} --set {reward}.encoder={encoder}`" in row
    assert reward in REWARDS and encoder in LOOKS
