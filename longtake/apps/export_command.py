"""The command `export-vbench`: videos under the names that the official benchmark tools read, unmodified.

DIR/vbench/videos, DIR/vbench-long/videos, DIR/vbench-2.0/videos and DIR/narrlv/videos each hold nothing but videos (one
copy on disk, linked four times where the disk can), beside a `prompts.json` of file name to prompt. DIR/README.txt says
what to type for each tool.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from longtake.apps.sources import Source, find_sources, fps_of
from longtake.errors import UsageError
from longtake.metrics import official

README = """Videos for official benchmark tools; each runs in its own environment, from its own checkout.

VBench        vbench evaluate --mode custom_input --videos_path {here}/vbench/videos \\
                --prompt_file {here}/vbench/prompts.json --dimension subject_consistency
VBench-Long   python vbench2_beta_long/eval_long.py --mode long_custom_input --videos_path {here}/vbench-long/videos \\
                --dimension subject_consistency   (add --dev_flag for scores from clip to clip)
VBench-2.0    vbench2 evaluate --mode custom_input --videos_path {here}/vbench-2.0/videos --dimension Human_Identity
NarrLV        copy {here}/narrlv/prompt_suit to resource/prompt_suit, then
              python answer_gen.py --evaluated_model_videos_path {here}/narrlv/videos

With prompts of the benchmarks themselves, leave out --mode and --prompt_file: the names are those that the standard
modes look for, if all samples of every prompt are there.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("export-vbench")
    def export_vbench(
        runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="runs, videos, or folders of them")],
        out: Annotated[Path, typer.Option(help="a new folder")],
        suite: Annotated[
            Path | None, typer.Option(metavar="DIR", help="NarrLV's prompt_suite, if the videos show its prompts")
        ] = None,
    ) -> None:
        """Lay out videos for VBench, VBench-Long, VBench-2.0 and NarrLV."""
        print(run_export(runs, out, suite))


def run_export(paths: Sequence[Path], out: Path, suite: Path | None = None) -> Path:
    """Write the folder, whole or not at all."""
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UsageError(f"--out {out} is there already; give a new folder")
    sources = find_sources(paths)
    for source in sources:
        if source.video.suffix.lower() != ".mp4":
            raise UsageError(f"{source.video} is no .mp4, and the benchmark tools read nothing else; convert it first")
    suites = _suites(suite, sources)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as scratch:
        fresh = Path(scratch) / "export"
        _write(fresh, sources, suites)
        (fresh / "README.txt").write_text(README.format(here=shlex.quote(str(out.absolute()))), encoding="utf-8")
        if out.is_dir():
            out.rmdir()
        fresh.rename(out)
    for line in _advice(sources, suites):
        print(line, file=sys.stderr)
    return out


def _write(folder: Path, sources: list[Source], suites: dict[str, Any]) -> None:
    prompts = [source.prompt for source in sources]
    tools = {
        "vbench": official.vbench(prompts),
        "vbench-long": official.vbench_long(prompts),
        "vbench-2.0": official.vbench2(prompts),
        "narrlv": official.narrlv(prompts, suites),
    }
    first: dict[int, Path] = {}
    for tool, placed in tools.items():
        videos = folder / tool / "videos"
        videos.mkdir(parents=True)
        for item in placed:
            target = videos / item.folder / item.name
            target.parent.mkdir(exist_ok=True)
            _place(sources[item.video].video, target, first.setdefault(item.video, target))
        names = {str(Path(item.folder) / item.name): prompts[item.video] for item in placed}
        _json(folder / tool / "prompts.json", names)
    for name, scenes in suites.items():
        (folder / "narrlv" / "prompt_suit").mkdir(exist_ok=True)
        _json(folder / "narrlv" / "prompt_suit" / f"{name}.json", official.readable(scenes))


def _place(video: Path, target: Path, first: Path) -> None:
    # the first is a copy: a run that goes on must not change what was exported
    if target == first:
        shutil.copyfile(video, target)
        return
    try:
        os.link(first, target)
    except OSError:
        shutil.copyfile(first, target)


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _suites(suite: Path | None, sources: list[Source]) -> dict[str, Any]:
    if suite is None:
        return {official.SUITE: official.own_suite(list(dict.fromkeys(source.prompts for source in sources)))}
    files = sorted(suite.glob("*.json")) if suite.is_dir() else []
    if not files:
        raise UsageError(f"--suite {suite} holds no JSON; give the folder resource/prompt_suite of NarrLV")
    found = {}
    for file in files:
        try:
            found[file.stem] = json.loads(file.read_text(encoding="utf-8"))
            _ = [item["prompt_gen"] for items in found[file.stem].values() for item in items]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{file} is no prompt suite of NarrLV: no prompt_gen by scene") from error
    return found


def _advice(sources: list[Source], suites: dict[str, Any]) -> list[str]:
    """What the tools will make of these videos that a user might not expect."""
    lines = [f"not finished: {source.video}" for source in sources if not source.finished]
    rates = [fps_of(source) for source in sources]
    if any(rate.denominator != 1 for rate in rates):
        lines.append(
            "VBench-Long drops the fraction of a rate such as 23.976 frames a second: give --fps a whole number"
        )
    counts: dict[str, int] = {}
    for source in sources:
        counts[source.prompt] = counts.get(source.prompt, 0) + 1
    for tool, wanted in official.SAMPLES.items():
        short = sum(count < wanted for count in counts.values())
        if short:
            lines.append(
                f"{tool}: {short} of {len(counts)} prompts have fewer than the {wanted} samples of its standard mode"
            )
    found = len(official.narrlv([source.prompt for source in sources], suites))
    if found < len(sources):
        left = f"{len(sources) - found} of {len(sources)}"
        lines.append(f"NarrLV: {left} videos left out (not its prompts, or a second sample of one)")
    return lines
