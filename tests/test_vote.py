"""`vote`: the page holds what it must and says no names; counts and intervals against hand computation."""

from __future__ import annotations

import base64
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from py_mini_racer import MiniRacer

from longtake.apps.sources import Source
from longtake.apps.vote_command import QUESTIONS, paired, run_count, run_vote
from longtake.errors import UsageError
from longtake.metrics.embed import page, video_uri
from longtake.metrics.votes import Ballot, Vote, bootstrap, count, read_ballots, wilson
from longtake.output.video import probe, read_frames
from tests.small_runs import picture_frames, save_run, save_video

PROMPTS = ["a dog walks </script><b>right", "a cow swims"]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("vote")
    for number, prompt in enumerate(PROMPTS):
        save_run(folder / "fifo-runs" / str(number), prompt, seed=number)
        save_run(folder / "chunk-runs" / str(9 - number), prompt, seed=number)
    save_run(folder / "fifo-runs" / "5", "a pig alone")
    return folder / "fifo-runs", folder / "chunk-runs"


def data_of(text: str) -> dict[str, Any]:
    (inside,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    return json.loads(inside)


# -- the page --------------------------------------------------------------------------------------------------------


def test_the_page_is_whole_and_blind(sides: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = run_vote(*sides, out=tmp_path / "vote.html").read_text()
    data = data_of(text)
    assert [row["prompt"] for row in data["pairs"]] == PROMPTS and data["questions"] == list(QUESTIONS)
    assert re.findall(r"left out.*: (.*)", capsys.readouterr().err) == [str(sides[0] / "5" / "video.mp4")]
    shown = re.sub(r'<script id="data".*?</script>', "", text, flags=re.DOTALL)
    assert "fifo" not in shown and "chunk" not in shown
    assert not re.findall(r'(?:src|href)\s*=\s*["\']?(?:https?:)?//', text), "nothing comes from elsewhere"
    for row, seed in zip(data["pairs"], (0, 1), strict=True):
        for arm in ("first", "second"):
            kind, _, inside = data["videos"][row[arm]].partition(";base64,")
            (tmp_path / "v.mp4").write_bytes(base64.b64decode(inside))
            frames = list(read_frames(tmp_path / "v.mp4"))
            assert kind == "data:video/mp4" and len(frames) == 40
            error = abs(frames[0].astype(int) - picture_frames(seed=seed)[0].numpy()).mean()
            assert error < 6, "each pair shows its own seed"


def test_what_stands_in_data_cannot_end_the_script(sides: tuple[Path, Path], tmp_path: Path):
    text = run_vote(*sides, out=tmp_path / "vote.html").read_text()
    assert text.count("</script>") == 2 and data_of(text)["pairs"][0]["prompt"] == PROMPTS[0]
    assert "<b>&amp;" in page("vote.html", "x", {}) or "&lt;b&gt;&amp;" in page("vote.html", "<b>&", {})


def test_the_comparison_is_bound_to_its_videos_and_questions(sides: tuple[Path, Path], tmp_path: Path):
    one = data_of(run_vote(*sides, out=tmp_path / "1.html").read_text())
    again = data_of(run_vote(*sides, out=tmp_path / "2.html").read_text())
    asked = data_of(run_vote(*sides, out=tmp_path / "3.html", questions=["Which?"]).read_text())
    turned = data_of(run_vote(*sides[::-1], out=tmp_path / "4.html").read_text())
    assert one == again
    assert len({data["comparison"] for data in (one, asked, turned)}) == 3


BROWSER = """
const element = () => {
  const self = {children: [], dataset: {}, value: "", append(...all) { self.children.push(...all); },
    setAttribute() {}, insertRow() { const row = element(); self.children.push(row); return row; },
    insertCell() { const cell = element(); self.children.push(cell); return cell; },
    querySelectorAll() { return buttons(self); }, load() {}, play() { return Promise.resolve(); }, pause() {}};
  const text = {get() { return self.text || ""; }, set(value) { self.text = value; self.children = []; }};
  Object.defineProperty(self, "textContent", text);
  return self;
};
const buttons = node => node.children.filter(child => child.children)
  .flatMap(child => (child.dataset.choice ? [child] : []).concat(buttons(child)));
const stored = {}, draws = [];
const found = {data: {textContent: given.data}};
globalThis.document = {getElementById: id => found[id] ||= element(), createElement: element};
globalThis.localStorage = {getItem: key => stored[key] || given.stored[key] || null,
  setItem(key, value) { stored[key] = value; }};
globalThis.crypto = {getRandomValues(out) { out[0] = given.draws[draws.length % given.draws.length]; draws.push(out[0]);
  return out; }};
(0, eval)(given.script);
const at = () => ({prompt: found.prompt.textContent, left: found.left.src, right: found.right.src});
const press = label => buttons(found.questions).filter(button => button.textContent === label)
  .forEach(button => button.onclick());
const asked = [];
while (!found.main.hidden && asked.length < given.presses.length) {
  const locked = found.next.disabled;
  press(given.presses[asked.length]);
  asked.push({...at(), locked, open: !found.next.disabled});
  found.next.onclick();
}
if (given.back) {
  found.again.onclick(); asked.push(at()); press("the same"); found.next.onclick(); found.back.onclick();
  asked.push(at()); found.next.onclick(); while (!found.main.hidden) found.next.onclick();
}
JSON.stringify({ballot: found.main.hidden ? JSON.parse(found.text.value) : null, asked, stored});
"""


def browsed(path: Path, presses: list[str], draws: list[int], stored: Any = None, back: bool = False) -> dict[str, Any]:
    """What the page's own script does for a person who presses these buttons, where chance draws these numbers."""
    text = path.read_text()
    data, script = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
    told = json.loads(data)
    told["videos"] = [f"video {number}" for number in range(len(told["videos"]))]  # their own frames are alike
    given = {"data": json.dumps(told), "script": script, "presses": presses, "draws": draws}
    given |= {"stored": stored or {}, "back": back}
    return json.loads(MiniRacer().eval(f"const given = {json.dumps(given)};" + BROWSER))  # type: ignore[arg-type]


@pytest.mark.parametrize("draws", [[0], [1], [1, 0, 3], [7, 2, 5, 4]])
@pytest.mark.parametrize("press", ["left", "right", "the same"])
def test_what_is_pressed_is_the_vote(sides: tuple[Path, Path], tmp_path: Path, press: str, draws: list[int]):
    """Videos stand on the sides that the votes name, and a press counts for the video of that side."""
    path = run_vote(*sides, out=tmp_path / "vote.html")
    said, data = browsed(path, [press] * 2, draws), data_of(path.read_text())
    by_prompt = {row["prompt"]: row for row in data["pairs"]}
    left = {vote["pair"]: vote["left"] for vote in said["ballot"]["votes"]}
    assert sorted(one["prompt"] for one in said["asked"]) == sorted(PROMPTS)
    wanted = {"first": 0, "second": 0, "tie": 0}
    for one in said["asked"]:
        row = by_prompt[one["prompt"]]
        arms = ("first", "second") if left[row["id"]] == "first" else ("second", "first")
        assert [one["left"], one["right"]] == [f"video {row[arm]}" for arm in arms] and one["left"] != one["right"]
        assert one["locked"] and one["open"], "the next pair waits for all answers"
        wanted["tie" if press == "the same" else arms[press == "right"]] += 1
    (tmp_path / "votes.json").write_text(json.dumps(said["ballot"]))
    for found in count(read_ballots([tmp_path / "votes.json"])).values():
        assert (found["wins"], found["ties"], found["losses"]) == (wanted["first"], wanted["tie"], wanted["second"])


def test_order_and_sides_are_drawn_and_kept(sides: tuple[Path, Path], tmp_path: Path):
    """Every order and every side comes up; a page that is opened again goes on where it was; answers may be changed."""
    path = run_vote(*sides, out=tmp_path / "vote.html")
    drawn = [browsed(path, ["left"] * 2, [a, *[0] * 8, b, c]) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    shown = {tuple((one["prompt"], one["left"]) for one in said["asked"]) for said in drawn}
    assert len(shown) == 8
    begun = browsed(path, ["right"], [1, 0])
    assert begun["ballot"] is None and len(begun["asked"]) == 1
    said = browsed(path, ["left"], [0], begun["stored"], back=True)
    (first, again, _), rater = (
        (said["asked"][0], said["asked"][1], said["asked"][2]),
        json.loads(next(iter(begun["stored"].values())))["rater"],
    )
    assert first["prompt"] != begun["asked"][0]["prompt"] and said["ballot"]["rater"] == rater
    assert again["prompt"] == begun["asked"][0]["prompt"] and again["left"] == begun["asked"][0]["left"]
    choices = [vote["choice"] for vote in said["ballot"]["votes"]]
    assert choices[: len(QUESTIONS)] == ["tie"] * len(QUESTIONS) and "tie" not in choices[len(QUESTIONS) :]


def test_the_script_asks_for_elements_that_are_there(sides: tuple[Path, Path], tmp_path: Path):
    text = run_vote(*sides, out=tmp_path / "vote.html").read_text()
    wanted = set(re.findall(r'\$\("([\w-]+)"\)', text))
    assert len(wanted) > 10 and wanted <= set(re.findall(r'id="([\w-]+)"', text))


@pytest.mark.parametrize("what", ["folder", "nothing", "same", "empty"])
def test_mistakes_write_no_page(sides: tuple[Path, Path], tmp_path: Path, what: str):
    arguments: dict[str, Any] = {"first": sides[0], "second": sides[1], "out": tmp_path / "vote.html"}
    if what == "folder":
        arguments["out"] = tmp_path
    elif what == "nothing":
        arguments["second"] = save_run(tmp_path / "other", "another prompt").parent
        save_run(tmp_path / "another", "a third prompt")
    elif what == "same":
        arguments["questions"] = ["Which?", "Which?"]
    else:
        arguments["questions"] = [" "]
    with pytest.raises(UsageError):
        run_vote(**arguments)
    assert not (tmp_path / "vote.html").exists()


def test_pairs_by_prompt_and_seed():
    def source(name: str, prompt: str, seed: int | None) -> Source:
        return Source(Path(name), (prompt,), seed)

    first = [source("a", "x", 1), source("b", "x", 2), source("c", "y", None), source("d", "z", 0)]
    second = [source("e", "x", 2), source("f", "y", 7), source("g", "x", 5)]
    pairs, alone = paired(first, second)
    assert {(a.video.name, b.video.name) for a, b in pairs} == {("b", "e"), ("a", "g"), ("c", "f")}
    assert [source.video.name for source in alone] == ["d"]
    named, _ = paired([source("p", "one", None)], [source("q", "two", None)])
    assert len(named) == 1


# -- counting --------------------------------------------------------------------------------------------------------


def test_wilson_by_hand():
    """7 of 10 with z = 1.959964: centre (.7 + z2/20) / (1 + z2/10), z2 = 3.841459."""
    z2 = 3.841459
    middle, scale = (0.7 + z2 / 20) / (1 + z2 / 10), 1 + z2 / 10
    half = math.sqrt(z2) * math.sqrt(0.7 * 0.3 / 10 + z2 / 400) / scale
    low, high = wilson(7, 10)
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert (low, high) == pytest.approx((0.3968, 0.8922), abs=1e-4)
    assert wilson(0, 0) == (0, 1) and wilson(0, 5)[0] == 0 and wilson(5, 5)[1] == 1


def test_the_bootstrap_of_equal_values_is_a_point_and_of_a_coin_is_normal():
    assert bootstrap([0.5] * 7) == (0.5, 0.5)
    low, high = bootstrap([0.0, 1.0] * 50)
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.05, 0.5 + 1.96 * 0.05), abs=0.015)


def ballot(*rows: tuple[str, str, str, str]) -> Ballot:
    votes = tuple(Vote(rater, pair, "q", choice, left) for rater, pair, choice, left in rows)
    return Ballot("c", ("A", "B"), ("q",), votes)


def test_counts_by_hand():
    found = count(
        ballot(
            ("r1", "p1", "first", "first"), ("r2", "p1", "tie", "second"),
            ("r1", "p2", "second", "second"), ("r1", "p3", "first", "second"),
        )
    )["q"]  # fmt: skip
    assert (found["wins"], found["ties"], found["losses"], found["n"]) == (2, 1, 1, 4)
    assert (found["pairs"], found["raters"]) == (3, 2)
    assert found["preferred"]["value"] == pytest.approx((0.75 + 0 + 1) / 3)
    assert found["won"]["value"] == pytest.approx(2 / 3) and found["left"] == pytest.approx(2 / 3)
    assert found["resolved"] is False


def test_many_votes_on_one_pair_resolve_nothing():
    """The control for pairs as the unit: 100 votes for the first arm, all of the same pair of videos."""
    one = count(ballot(*((f"r{i}", "p", "first", "first") for i in range(100))))["q"]
    many = count(ballot(*(("r", f"p{i}", "first", "first") for i in range(100))))["q"]
    assert one["resolved"] is False and many["resolved"] is True
    assert count(ballot())["q"] == {"wins": 0, "ties": 0, "losses": 0, "n": 0, "pairs": 0, "raters": 0}


def saved(path: Path, rater: str, choice: str, **more: Any) -> Path:
    vote = {"pair": "p", "question": "q", "choice": choice, "left": "first"}
    content = {"format": 1, "comparison": "c", "arms": ["A", "B"], "questions": ["q"], "rater": rater, "votes": [vote]}
    path.write_text(json.dumps({**content, **more}))
    return path


def test_a_later_vote_of_the_same_person_replaces_the_earlier(tmp_path: Path):
    files = [saved(tmp_path / f"{i}.json", rater, choice) for i, (rater, choice) in enumerate(
        [("r1", "first"), ("r2", "tie"), ("r1", "second")])]  # fmt: skip
    row = count(read_ballots(files))["q"]
    assert (row["wins"], row["ties"], row["losses"]) == (0, 1, 1)
    assert "B wins 1" in run_count(files, False) and json.loads(run_count(files, True))["arms"] == ["A", "B"]


@pytest.mark.parametrize(
    "change", [{"format": 9}, {"comparison": "d"}, {"arms": ["A"]}, {"votes": [{}]}, {"questions": ["z"]}, {"votes": 3}]
)
def test_other_files_are_no_votes(tmp_path: Path, change: dict[str, Any]):
    good = saved(tmp_path / "good.json", "r", "first")
    bad = saved(tmp_path / "bad.json", "r", "first", **change)
    with pytest.raises(UsageError, match=r"bad\.json"):
        read_ballots([good, bad])


# -- videos inside pages ---------------------------------------------------------------------------------------------


def test_what_browsers_do_not_play_is_encoded_again(tmp_path: Path):
    plain = save_video(tmp_path / "plain.mp4")
    other = plain.rename(tmp_path / "other.mkv")
    again = base64.b64decode(video_uri(other).partition(";base64,")[2])
    (tmp_path / "again.mp4").write_bytes(again)
    clip = probe(tmp_path / "again.mp4")
    assert (clip.width, clip.height, clip.fps) == (32, 32, 8) and again != other.read_bytes()
    assert len(list(read_frames(tmp_path / "again.mp4"))) == 40
    same = save_video(tmp_path / "same.mp4")
    assert base64.b64decode(video_uri(same).partition(";base64,")[2]) == same.read_bytes()
