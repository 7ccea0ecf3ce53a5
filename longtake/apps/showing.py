"""The command `show`: a run told from its files, without its model; and the tree of what its search judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from longtake.apps import session as sessions
from longtake.apps.choosing import told
from longtake.apps.generate import Console
from longtake.apps.progress import clock
from longtake.apps.search_costs import effective, judged, told_judged
from longtake.apps.settings import Settings
from longtake.apps.stories import corrections, film_fits, told_corrections
from longtake.errors import UsageError
from longtake.output.directory import RunDir, typed
from longtake.output.takes import takes_of
from longtake.output.trace import candidates_of, is_score, read_trace

ROWS = 20
"""Lines of a timeline at most."""


def run_show(path: Path, tree: bool, console: Console) -> None:
    """Print the story of a run, or the tree of its search."""
    console.listen()
    folder = RunDir(path)
    settings, _ = sessions.reopen(folder)
    film_fits(settings, folder)
    lines = read_trace(folder.trace)
    if tree:
        found = [candidate for line in lines for candidate in candidates_of(line)]
        if not found:
            raise UsageError(f"{path} has no tree: its search is {settings.search}, which judged nothing")
        print(json.dumps(found) if console.json else "\n".join(drawn(lines, settings)), flush=True)
        return
    value = summary(folder, settings, lines)
    print(json.dumps(value, ensure_ascii=False) if console.json else "\n".join(text_of(value)), flush=True)


def summary(folder: RunDir, settings: Settings, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """All that `show` tells, as JSON."""
    end, rate = folder.finished, float(settings.rate)
    frames = end["frames"] if end else lines[-1]["frames"][1] if lines else 0
    seeds = [{"latent": one["latent"], "seed": one.get("seed"), "key": one["key"]} for one in settings.turns]
    return {
        "run": str(folder.path),
        "finished": end is not None,
        "frames": frames,
        "wanted": settings.frames,
        "seconds_of_video": round(frames / rate, 3),
        "fps": rate,
        "size": [settings.width, settings.height],
        "model": settings.model_name or settings.model,
        "method": settings.method,
        "search": settings.search,
        "steps": settings.steps,
        "seed": settings.seed,
        "derived": [one for one in seeds if one["key"]],
        "branch": settings.branch,
        "nfe": sum(line["nfe"] for line in lines),
        "seconds": round(sum(line["seconds"] for line in lines), 3),
        "reflect": corrections(settings, lines),
        "judged": judged(lines),
        "prompts": list(prompts_of(lines, rate)),
        "timeline": [stretch(part, rate) for part in parts(lines)],
        "takes": [told(folder, number).__dict__ for number in takes_of(folder)],
        "not_bit_exact": folder.remarks,
    }


def prompts_of(lines: list[dict[str, Any]], rate: float) -> Iterator[dict[str, Any]]:
    """Each prompt with the second from which it was the prompt of what was released."""
    found = []
    for line in lines:
        found.append((line["frames"][0], line["latents"][0], line["prompt"]))
        later = line.get("changes")
        found += [one for one in map(_change, later) if one] if isinstance(later, list) else []
    for prompt, group in groupby(found, lambda one: one[2]):
        frame, latent, _ = next(group)
        yield {"from": round(frame / rate, 3), "latent": latent, "prompt": prompt}


def _change(one: Any) -> tuple[int, int, str] | None:
    # a prompt that begins inside an emission; None for what is none
    if not isinstance(one, dict) or not isinstance(one.get("prompt"), str):
        return None
    frame, latent = one.get("frame"), one.get("latent")
    if type(frame) is not int or type(latent) is not int or not 0 <= frame < 2**53:
        return None
    return frame, latent, one["prompt"]


def parts(lines: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The trace in at most ROWS stretches of equal length."""
    size = max(1, -(-len(lines) // ROWS))
    return [lines[start : start + size] for start in range(0, len(lines), size)]


def stretch(lines: list[dict[str, Any]], rate: float) -> dict[str, Any]:
    """Some lines of a trace as one: its place, its cost, the mean score of what was chosen."""
    known = [score for score in map(_chosen, lines) if score is not None]
    return {
        "from": round(lines[0]["frames"][0] / rate, 3),
        "to": round(lines[-1]["frames"][1] / rate, 3),
        "latents": [lines[0]["latents"][0], lines[-1]["latents"][1]],
        "nfe": sum(line["nfe"] for line in lines),
        "seconds": round(sum(line["seconds"] for line in lines), 3),
        "score": round(sum(known) / len(known), 6) if known else None,
        "candidates": sum(len(candidates_of(line)) for line in lines),
    }


def _chosen(line: dict[str, Any]) -> float | None:
    # the score of what was chosen; None without a search, or of a line that was changed
    scores, place = line.get("scores"), line.get("chosen")
    if not isinstance(scores, list) or type(place) is not int or not 0 <= place < len(scores):
        return None
    return scores[place] if is_score(scores[place]) else None


def text_of(value: dict[str, Any]) -> Iterator[str]:
    """The summary as lines of text."""
    state = "finished" if value["finished"] else f"not finished: longtake resume {typed(value['run'])}"
    width, height = value["size"]
    yield f"{value['run']}  {state}"
    yield f"  {value['frames']} frames, {value['seconds_of_video']:.1f} s, {width}x{height} at {value['fps']:g} fps"
    yield f"  model {value['model']}, {value['method']}, {value['steps']} steps, search {value['search']}"
    yield f"  {value['nfe']} NFE in {clock(value['seconds'])}"
    if value["judged"]:
        yield f"  {told_judged(value['judged'])}"
    if value["reflect"]:
        yield f"  {told_corrections(value['reflect'])}"
    yield f"  seed {value['seed']}"
    for one in value["derived"]:
        yield f"    from latent {one['latent']}: seed {one['seed']}, key {one['key']}"
    yield "prompts"
    for one in value["prompts"]:
        yield f"  {one['from']:7.1f} s  {one['prompt']}"
    yield "timeline"
    for one in value["timeline"]:
        score = "" if one["score"] is None else f"  score {one['score']:.4g}"
        judged = f"  {one['candidates']} judged" if one["candidates"] else ""
        yield (f"  {one['from']:7.1f} s  latents {one['latents'][0]}-{one['latents'][1] - 1}  {one['nfe']} NFE  "
               f"{one['seconds']:.1f} s{score}{judged}")  # fmt: skip
    if value["takes"]:
        yield "takes"
    for one in value["takes"]:
        score = "" if one["score"] is None else f", score {one['score']:.4g}"
        yield f"  {one['take']:>3}  from {one['start']:.1f} s, {one['method']}{score}: {one['prompt']}"
    for one in value["not_bit_exact"]:
        yield f"not bit-exact from frame {one['from_frame']}: {', '.join(one['why'])}"


# -- the tree --------------------------------------------------------------------------------------------------------


def drawn(lines: list[dict[str, Any]], settings: Settings) -> Iterator[str]:
    """A block for every decision: which branches forked, from whom, their scores, who stayed.

    ◆ on the way to the end, ● kept for a while, ○ dropped.
    """
    rate = float(settings.rate)
    found = [(line, one) for line in lines for one in candidates_of(line)]
    way = lineage([one for _, one in found], bool(settings.search_parameters.get("cumulative")))
    yield f"{len(found)} branches judged; ◆ on the way to the end, ● kept for a while, ○ dropped"
    for tick, group in groupby(found, lambda item: item[1]["tick"]):
        block = list(group)
        rows = block[0][1].get("rows") or [0, 0]
        ess = effective(block[0][0]).get(tick)
        many = "" if ess is None else f", {ess:.2f} effective particles of {len(block)}"
        yield f"{block[0][0]['frames'][0] / rate:7.1f} s  tick {tick}, noise of latents {rows[0]}-{rows[1] - 1}{many}"
        for parent, siblings in groupby(sorted(block, key=lambda item: item[1]["parent"]), lambda i: i[1]["parent"]):
            yield from _family(parent, [one for _, one in siblings], way)


def lineage(found: list[dict[str, Any]], cumulative: bool = False) -> set[str]:
    """The names on the way from the first branch to the best that was kept last.

    That is of an earlier tick where a later generation was no better. `cumulative`: the best by the sum of its scores.
    """
    kept = [one for one in found if one["verdict"] == "kept"]
    last = [one for one in kept if one["tick"] == kept[-1]["tick"]]
    parents, totals = {one["name"]: one["parent"] for one in found}, dict[str, float]()
    for one in found if cumulative else ():
        totals[one["name"]] = totals.get(one["parent"], 0.0) + _score(one)
    name = max(last, key=lambda one: totals.get(one["name"], _score(one)))["name"] if last else None
    way: set[str] = set()
    while name is not None and name not in way:
        way.add(name)
        name = parents.get(name)
    return way


def _family(parent: str, siblings: list[dict[str, Any]], way: set[str]) -> Iterator[str]:
    for place, one in enumerate(siblings):
        stem = f"{parent[-6:]:>8} " if place == 0 else " " * 9
        only, last = len(siblings) == 1, place == len(siblings) - 1
        fork = "───" if only else "─┬─" if place == 0 else " └─" if last else " ├─"
        mark = "◆" if one["name"] in way else "●" if one["verdict"] == "kept" else "○"
        score = "     no" if one.get("score") is None else f"{one['score']:10.4g}"
        yield f"{stem}{fork} {mark} {one['name'][-6:]} {score}  {one.get('proposal', '')}"


def _score(one: dict[str, Any]) -> float:
    return float("-inf") if one.get("score") is None else one["score"]
