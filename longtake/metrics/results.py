"""Results of the official VBench, VBench-Long and VBench-2.0 as they write them, and the totals that papers print.

A file `*_eval_results.json` is {dimension: [score, [{"video_path", "video_results"}, ...], ...]}. VBench-Long's fused
dimensions add `inclip_score`, `clip2clip_score`, `mapped_clip2clip_score` to each video; temporal flickering has a
third entry. Papers print the raw score in percent; the totals of the leaderboard are made of normalised scores:

    VBench      (score - low) / (high - low), times a weight (dynamic degree 0.5, others 1);
                quality = sum over 7 dimensions / 6.5, semantic = sum over 9 / 9, total = (4 quality + semantic) / 5
    VBench-2.0  mean of five means: creativity, commonsense, controllability, human fidelity, physics

The leaderboard counts a dimension that was not measured as 0. Here a total with a missing dimension is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longtake.errors import UsageError

# low, high of the leaderboard's normalisation
QUALITY = {
    "subject_consistency": (0.1462, 1.0), "background_consistency": (0.2615, 1.0), "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975), "dynamic_degree": (0.0, 1.0), "aesthetic_quality": (0.0, 1.0),
    "imaging_quality": (0.0, 1.0),
}  # fmt: skip
SEMANTIC = {
    "object_class": (0.0, 1.0), "multiple_objects": (0.0, 1.0), "human_action": (0.0, 1.0), "color": (0.0, 1.0),
    "spatial_relationship": (0.0, 1.0), "scene": (0.0, 0.8222), "appearance_style": (0.0009, 0.2855),
    "temporal_style": (0.0, 0.364), "overall_consistency": (0.0, 0.364),
}  # fmt: skip
VBENCH2 = {
    "creativity": ("Composition", "Diversity"),
    "commonsense": ("Instance_Preservation", "Motion_Rationality"),
    "controllability": ("Camera_Motion", "Complex_Landscape", "Complex_Plot", "Dynamic_Attribute",
                        "Dynamic_Spatial_Relationship", "Human_Interaction", "Motion_Order_Understanding"),
    "human_fidelity": ("Human_Anatomy", "Human_Clothes", "Human_Identity"),
    "physics": ("Material", "Mechanics", "Multi-View_Consistency", "Thermotics"),
}  # fmt: skip
PARTS = ("inclip_score", "clip2clip_score", "mapped_clip2clip_score")


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Per dimension: value (0..1), n (videos or clips), videos {file name: value}, parts {file name: {...}} of
    VBench-Long, and encoder "official". A folder: all results in it, where no dimension may come twice. UsageError if
    it is no such file."""
    files = sorted(path.rglob("*_eval_results.json")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path} holds no *_eval_results.json; give a file or folder that VBench wrote")
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, entry in _content(file).items():
            if name in found:
                raise UsageError(f"{path} has {name} twice; give the results of one evaluation")
            found[name] = _dimension(file, name, entry)
    return found


def totals(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The leaderboard's totals, those whose dimensions are all there."""
    made: dict[str, float] = {}
    scores = {name: float(entry["value"]) for name, entry in found.items()}
    for total, ranges in (("quality", QUALITY), ("semantic", SEMANTIC)):
        if ranges.keys() <= scores.keys():
            weights = {name: 0.5 if name == "dynamic_degree" else 1.0 for name in ranges}
            parts = [weights[name] * (scores[name] - low) / (high - low) for name, (low, high) in ranges.items()]
            made[total] = sum(parts) / sum(weights.values())
    if {"quality", "semantic"} <= made.keys():
        made["total"] = (4 * made["quality"] + made["semantic"]) / 5
    for total, names in VBENCH2.items():
        if set(names) <= scores.keys():
            made[total] = sum(scores[name] for name in names) / len(names)
    if VBENCH2.keys() <= made.keys():
        made["vbench2_total"] = sum(made[total] for total in VBENCH2) / len(VBENCH2)
    return made


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read as JSON; give a *_eval_results.json that VBench wrote") from error
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{file} is no result of VBench: it holds no dimensions")
    return content


def _dimension(file: Path, name: str, entry: Any) -> dict[str, Any]:
    score = entry[0] if isinstance(entry, list) and entry else None
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise UsageError(f"{file} is no result of VBench: {name} does not begin with a score")
    rows = entry[1] if len(entry) > 1 and isinstance(entry[1], list) else []
    rows = [row for row in rows if isinstance(row, dict) and "video_path" in row and "video_results" in row]
    made: dict[str, Any] = {"value": float(score), "encoder": "official", "n": len(rows)}
    made["videos"] = {_name(row): row["video_results"] for row in rows}
    parts = {_name(row): {part: row[part] for part in PARTS if part in row} for row in rows}
    if any(parts.values()):
        made["parts"] = parts
    return made


def _name(row: Mapping[str, Any]) -> str:
    return Path(str(row["video_path"])).name
