"""`eval FILE|DIR...`: which videos are meant, their numbers, and how these are printed.

A file is itself; a run's folder is its video, with the joins, the turns and the story that its trace tells; any other
folder is the videos and runs in it. One file or run gives an object of entries (see `metrics.measure`); a folder or
several give {"files": {path: entries}, "mean": entries}, whose entries also have min, max, range and std over videos.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtake.errors import UsageError
from longtake.output.directory import RunDir, read_json, typed
from longtake.output.trace import read_trace
from longtake.output.video import probe

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif")
FEW = 20
"""Videos that are told and listed one by one."""

Entries = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """A video to measure: what it is called, its file, the first frame after each join and of each new prompt."""

    name: str
    path: Path
    joins: tuple[int, ...] = ()
    turns: tuple[int, ...] = ()


def run_videos(inputs: Sequence[Path], as_json: bool, report: Path | None = None) -> None:
    """Measure videos, print the numbers and write the report, if one is wanted. UsageError before anything is measured
    if an input is none."""
    found = sources(inputs)
    from longtake.metrics.look import Eyes

    eyes = Eyes.at_hand()
    _tell_encoders(eyes)
    each = measured(found, eyes, alone=_is_one(inputs))
    if report:
        _report(report, found, each)
    if _is_one(inputs):
        entries = next(iter(each.values()))
        print(json.dumps(entries) if as_json else one_table(entries), flush=True)
    else:
        result = {"files": each, "mean": mean(list(each.values()))}
        print(json.dumps(result) if as_json else many_table(result), flush=True)


def _report(out: Path, found: Sequence[Source], each: dict[str, Entries]) -> None:
    from longtake.metrics.report import Measured, write_report

    shown = [
        Measured(source.name, source.path, each[source.name], _told(source)) for source in found if source.name in each
    ]
    write_report(out, shown, mean(list(each.values())) if len(shown) > 1 else None)
    _say(f"report: {out}")


def _told(source: Source) -> dict[str, Any]:
    # What a run says of itself; of other files nothing is known
    run = _run_of(source.path)
    if run is None:
        return {}
    settings = run.settings()
    return {name: settings.get(key) for name, key in
            (("prompt", "prompt"), ("model", "model_name"), ("method", "method"), ("seed", "seed"))}  # fmt: skip


def sources(inputs: Sequence[Path]) -> list[Source]:
    """The videos that are meant, each once, in order. UsageError names the first input that is no video."""
    found: dict[Path, Source] = {}
    for given in inputs:
        if not given.exists():
            raise UsageError(f"there is no {given}; give video files, folders of videos, or run directories")
        for source in _sources_of(given):
            found.setdefault(source.path.resolve(), source)
    return list(found.values())


def measured(found: Sequence[Source], eyes: Any, alone: bool) -> dict[str, Entries]:
    """The entries of every video. Of several, those that cannot be read are told on stderr and left out."""
    from longtake.metrics.measure import measure

    each: dict[str, Entries] = {}
    for number, source in enumerate(found):
        if len(found) > 1 and (len(found) <= FEW or number % (len(found) // FEW) == 0):
            _say(f"{number + 1} of {len(found)}: {source.name}")
        try:
            entries = measure(source.path, eyes, source.joins, source.turns)
            each[source.name] = entries | _story(source, entries["scene_count"]["n"])
        except UsageError as error:
            if alone:
                raise
            _say(f"left out: {error}")
    if not each:
        raise UsageError(f"none of the {len(found)} files is a video that can be read")
    return each


def mean(each: Sequence[Entries]) -> Entries:
    """Entries over videos: VBench's means, n the number of videos that have the metric."""
    from longtake.metrics.aggregates import mean_curve, spread
    from longtake.metrics.vbench import mean_over_videos

    found: Entries = {}
    for name in dict.fromkeys(name for entries in each for name in entries):
        having = [entries[name] for entries in each if name in entries]
        values, counts = [entry["value"] for entry in having], [entry["n"] for entry in having]
        found[name] = {
            "value": mean_over_videos(name, values, counts),
            "encoder": having[0]["encoder"],
            "n": len(having),
            **spread(values),
        }
        curves = [entry["curve"] for entry in having if "curve" in entry]
        if curves:
            found[name]["curve"] = mean_curve(curves)
        if name == "dynamic_degree":
            found[name]["flow"] = sum(entry["flow"] for entry in having) / len(having)
    return found


def one_table(entries: Entries) -> str:
    """The numbers of one video for people."""
    from longtake.metrics.alarms import alarms

    width = max(map(len, entries))
    lines = [f"{'metric':<{width}}  {'value':>8}  {'n':>6}  encoder"]
    for name, entry in entries.items():
        lines.append(f"{name:<{width}}  {entry['value']:8.4f}  {entry['n']:6d}  {entry['encoder']}{_more(entry)}")
    return "\n".join([*lines, *(f"! {said}" for said in alarms(entries).values())])


def many_table(result: dict[str, Any]) -> str:
    """The numbers of several videos for people: over all, and what stands out in each."""
    from longtake.metrics.alarms import alarms

    means, files = result["mean"], result["files"]
    width = max(map(len, means))
    lines = [f"{'metric':<{width}}  {'mean':>8}  {'min':>8}  {'max':>8}  {'std':>8}  {'n':>5}  encoder"]
    for name, entry in means.items():
        numbers = "  ".join(f"{entry[key]:8.4f}" for key in ("value", "min", "max", "std"))
        lines.append(f"{name:<{width}}  {numbers}  {entry['n']:5d}  {entry['encoder']}")
    told = [f"! {path}: {'; '.join(said.values())}" for path, entries in files.items() if (said := alarms(entries))]
    rest = [f"! and {len(told) - FEW} more; --format json has them all"] if len(told) > FEW else []
    return "\n".join([*lines, *told[:FEW], *rest])


def _more(entry: dict[str, Any]) -> str:
    said = []
    if "flow" in entry:
        said.append(f"flow {entry['flow']:.2f} px")
    if "slope" in entry:
        slope = entry["slope"]
        said.append(f"{slope['value']:+.4f} a minute [{slope['low']:+.4f}, {slope['high']:+.4f}]")
    return "".join(f"  {part}" for part in said)


def _is_one(inputs: Sequence[Path]) -> bool:
    return len(inputs) == 1 and (inputs[0].is_file() or RunDir(inputs[0]).manifest.is_file())


def _sources_of(given: Path) -> list[Source]:
    if given.is_file():
        probe(given)
        return [_source(given)]
    if RunDir(given).manifest.is_file():
        if not RunDir(given).video.is_file():
            raise UsageError(f"{given} is a run without a video yet; go on with it: longtake resume {typed(given)}")
        return [_source(RunDir(given).video, str(given))]
    inside = []
    for path in sorted(given.iterdir()):
        if path.is_file() and path.suffix.lower() in SUFFIXES:
            inside.append(_source(path))
        elif path.is_dir() and RunDir(path).manifest.is_file() and RunDir(path).video.is_file():
            inside.append(_source(RunDir(path).video, str(path)))
    if not inside:
        raise UsageError(f"{given} holds no video ({', '.join(SUFFIXES)}) and no run; give one that does")
    return inside


def _source(path: Path, name: str | None = None) -> Source:
    run = _run_of(path)
    return Source(name or str(path), path, _joins(run), _turns(run)) if run else Source(name or str(path), path)


def _run_of(path: Path) -> RunDir | None:
    run = RunDir(path.parent)
    return run if path.name == run.video.name and run.manifest.is_file() else None


def _story(source: Source, num_frames: int) -> Entries:
    # Of runs in pocket's world with several prompts, which its judge can tell apart
    run = _run_of(source.path)
    if run is None or not str(read_json(run.manifest).get("model_name", "")).startswith("pocket"):
        return {}
    from longtake.metrics import run_story

    told = run_story.events(_scenes(run), num_frames)
    return run_story.entries(source.path, told) if told else {}


JOINED = ("chunk", "replace", "rolling", None)
"""Methods that make clip after clip; what a run made by hand or by others does not say is taken to be one."""


def _joins(run: RunDir) -> tuple[int, ...]:
    # Where one clip meets the next. Queues have none, however many latents they let out at once
    settings = read_json(run.manifest)
    if settings.get("method") not in JOINED:
        return ()
    lines = [line for line in read_trace(run.trace) if len(line.get("latents", ())) == 2]
    if settings.get("method") == "rolling":  # its clips come out block by block
        first, cycle = _windows(settings)
        begins = [line for line in lines if cycle and line["latents"][0] >= first and not
                  (line["latents"][0] - first) % cycle]  # fmt: skip
    else:
        begins = [line for line in lines if line["latents"][1] - line["latents"][0] > 1]
    return tuple(line["frames"][0] for line in begins if line["frames"][0] > 0)


def _windows(content: dict[str, Any]) -> tuple[int, int]:
    # (latents of a run's first window, new ones of each that follows), 0 if its model is not known here
    from longtake.apps.lookup import look_up
    from longtake.apps.planning import cycle_of, dry_rollout
    from longtake.apps.settings import Request, Settings
    from longtake.apps.stored import sets_of
    from longtake.search.branch import leaf

    try:
        settings = Settings.from_json(content)
        size = settings.width, settings.height
        facts = look_up(Request(settings.prompt, settings.model, size=size, set=sets_of(settings)))
        rollout = dry_rollout(settings, facts.can)
    except (UsageError, TypeError, KeyError):
        return 0, 0
    return leaf(rollout).window, cycle_of(rollout)


def _turns(run: RunDir) -> tuple[int, ...]:
    # Where another prompt begins, as far as the trace tells: the first frame of what was made under it
    scenes = [scene for scene in _scenes(run) if scene["frames"][1] > scene["frames"][0]]
    pairs = zip(scenes, scenes[1:], strict=False)
    return tuple(scene["frames"][0] for before, scene in pairs if scene["prompt"] != before["prompt"])


def _scenes(run: RunDir) -> list[dict[str, Any]]:
    # What the trace says of prompts; a line that holds several, as of a clip or of a whole video, in parts
    found = []
    for line in read_trace(run.trace):
        changes = line.get("changes", ())
        edges = [line["frames"][0], *(change["frame"] for change in changes), line["frames"][1]]
        said = [line.get("prompt"), *(change["prompt"] for change in changes)]
        parts = zip(edges, edges[1:], said, strict=False)
        found += [{"frames": [start, stop], "prompt": prompt} for start, stop, prompt in parts]
    return found


def _tell_encoders(eyes: Any) -> None:
    missing, instead = eyes.missing(), eyes.stand_ins()
    if instead:
        _say("stand-ins for the published encoders: " + ", ".join(f"{name} by {by}" for name, by in instead.items()))
    if missing:
        _say(f"left out, no encoder on this machine: {', '.join(missing)} (see: longtake convert --help)")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
