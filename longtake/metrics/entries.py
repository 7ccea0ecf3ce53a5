"""The entries of all metrics of one video, from the folds that have seen all of it (see `measure` for the names)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from longtake.metrics import drift, seams, vbench, vbench_long
from longtake.metrics.aggregates import MIGA, SCALINGNOISE, overall
from longtake.metrics.alarms import alarmed
from longtake.metrics.drift import by_frame
from longtake.metrics.look import ACROSS, METRIC_OF, PUBLISHED, Look
from longtake.metrics.repetition import disorder, lag_distances, repetition
from longtake.metrics.vbench import average

Entry = dict[str, Any]
PIXELS = "pixels"


def entries(look: Look, joins: Sequence[int] = (), turns: Sequence[int] = ()) -> dict[str, Entry]:
    """Entries by name. `joins`: the first frame after each join, if there are any; `turns`: of each new prompt."""
    seen, told = look.scenes.cuts(), [turn for turn in turns if 0 < turn < look.num_frames]
    cuts = sorted({*seen, *_turning(told, look)})  # neither is a drift
    joins = [join for join in joins if join not in told]
    found: dict[str, Entry] = {}
    found |= _flicker(look, cuts)
    found["scene_count"] = {
        "value": look.scenes.result(),
        "encoder": "adaptive-detector",
        "n": look.num_frames,
        "cuts": seen,
    }
    found |= _motion(look, cuts)
    found |= _smoothness(look, cuts)
    for role in ("subject", "background"):
        found |= _consistency(look, role, cuts)
    for role in ("aesthetic", "imaging"):
        found |= _scores(look, role, cuts)
    found |= _overall(found, look.num_frames)
    return alarmed(found | _long_video(look, cuts, joins), look.fps)


def _turning(turns: Sequence[int], look: Look) -> set[int]:
    # a picture turns in about a second: no point of a slope fits between these
    second = max(1, round(look.fps))
    step = max(1, second // 4)
    near = (frame for turn in turns for frame in range(turn - second, turn + second + 1, step))
    return {frame for frame in near if 0 < frame < look.num_frames}


def _flicker(look: Look, cuts: list[int]) -> dict[str, Entry]:
    errors, name = look.flicker.errors, "temporal_flickering"
    values = {frame + 1: (255 - error) / 255 for frame, error in enumerate(errors)}
    series = by_frame(look.num_frames, values, cuts, before=1)
    whole = entry(look.flicker.result(), PIXELS, len(errors)) | over_time(series, look.fps, cuts)
    return {name: whole} | long_entry(
        name, vbench_long.in_clip_pairs(errors, look.num_frames, look.length), PIXELS, look
    )


def _motion(look: Look, cuts: list[int]) -> dict[str, Entry]:
    motion, name = look.motion, "dynamic_degree"
    if motion is None or look.eyes.flow is None:
        return {}
    series = by_frame(
        look.num_frames, {motion.seconds[i]: motion.means[i] for i in motion.pairs()}, cuts, before=look.interval
    )
    whole = entry(float(motion.moves() or False), look.eyes.flow.name, len(motion.pairs()))
    top = average([motion.tops[index] for index in motion.pairs()])
    whole |= {"flow": motion.mean(), "top_flow": top, "threshold": vbench.threshold(motion.side)}
    whole |= over_time(series, look.fps, cuts)
    return {name: whole} | long_entry(name, vbench_long.in_clip_motion(motion), look.eyes.flow.name, look, "flow")


def _smoothness(look: Look, cuts: list[int]) -> dict[str, Entry]:
    fold, name = look.smoothness, "motion_smoothness"
    if fold is None or not fold.errors:
        return {}
    encoder = fold.middle.name
    values = {2 * index + 1: (255 - error) / 255 for index, error in enumerate(fold.errors)}
    series = by_frame(look.num_frames, values, cuts, before=1, after=1)
    whole = entry(fold.result(), encoder, len(fold.errors)) | over_time(series, look.fps, cuts)
    long = vbench_long.in_clip_smoothness(fold, look.num_frames, look.length)
    return {f"{name}@{formula('vbench', 'middle', encoder)}": whole} | long_entry(name, long, encoder, look, "middle")


def _consistency(look: Look, role: str, cuts: list[int]) -> dict[str, Entry]:
    name = METRIC_OF[role]
    if name not in look.similar:
        return {}
    encoder, whole, long = look.similar[name]
    near, first = whole.to_previous, whole.to_first
    both = {i + 1: (max(0.0, a) + max(0.0, b)) / 2 for i, (a, b) in enumerate(zip(near, first, strict=True))}
    values = {"vbench": (whole.result(), both), "kstep": (vbench.consecutive(near), dict(enumerate(near, 1)))}
    found: dict[str, Entry] = {}
    for kind, (value, terms) in values.items():
        series = by_frame(look.num_frames, terms, cuts, before=1)
        made = entry(value, encoder.name, len(near)) | over_time(series, look.fps, cuts)
        found[f"{name}@{formula(kind, role, encoder.name)}"] = made
    found |= long_entry(name, long.scores, encoder.name, look, role)
    across, inside = long.clip_to_clip(), long.in_clip()
    if across is not None and inside is not None:
        found |= _fused(name, role, encoder.name, long, vbench_long.fused(name, inside, across, dev_flag=True))
    return found


def _fused(name: str, role: str, encoder: str, long: vbench_long.LongConsistency, value: float) -> dict[str, Entry]:
    # With the toolkit's flag the clips' first frames have a published encoder of their own
    across = encoder if long.across is None else long.across.name
    published = encoder in PUBLISHED[role] and across == ACROSS[role]
    names = encoder if across == encoder else f"{encoder} + {across}"
    made = entry(value, names, len(long.scores)) | {"clip_to_clip": long.clip_to_clip()}
    return {f"{name}@vbench-long-dev" + "-formula" * (not published): made}


def _scores(look: Look, role: str, cuts: list[int]) -> dict[str, Entry]:
    name = METRIC_OF[role]
    if name not in look.scores:
        return {}
    fold = look.scores[name]
    encoder, values = fold.scorer.name, fold.values
    whole = entry(fold.result(), encoder, len(values)) | over_time(values, look.fps, cuts)
    long = vbench_long.in_clip_frames(values, look.num_frames, look.length)
    return {f"{name}@{formula('vbench', role, encoder)}": whole} | long_entry(name, long, encoder, look, role)


def _overall(found: dict[str, Entry], num_frames: int) -> dict[str, Entry]:
    # MIGA's over VBench-Long where the video has clips; ScalingNoise's over VBench
    made = {}
    for paper, names, kinds in (("miga", MIGA, ("vbench-long", "vbench")), ("scalingnoise", SCALINGNOISE, ("vbench",))):
        for kind in kinds:
            keys = {name: _key(found, name, kind) for name in names}
            values = {name: found[key]["value"] for name, key in keys.items() if key}
            value = overall(values, names)
            if value is not None:
                stand_in = any(key and key.endswith("-formula") for key in keys.values())
                encoders = dict.fromkeys(found[key]["encoder"] for key in keys.values() if key)
                made[f"overall@{paper}" + "-formula" * stand_in] = entry(value, " + ".join(encoders), num_frames)
                break
    return made


def _long_video(look: Look, cuts: list[int], joins: Sequence[int]) -> dict[str, Entry]:
    distances = lag_distances(look.thumbnails.pictures())
    again = repetition(distances, look.fps)
    found = {
        "repetition": entry(again["value"], PIXELS, look.num_frames) | {"period": again["period"]},
        "disorder": entry(disorder(distances), PIXELS, look.num_frames),
    }
    colours = drift.colour_drift(look.colours.channels(), look.fps, cuts)
    if colours is not None:
        found["colour_drift"] = entry(colours.pop("value"), PIXELS, look.num_frames) | colours
    seam = seams.seam_visibility(look.flicker.errors, joins, look.fps)
    if seam is not None:
        found["seam_visibility"] = entry(seam["value"], PIXELS, int(seam["n"])) | {"chance": seam["chance"]}
    return found


def formula(kind: str, role: str, encoder: str) -> str:
    """What stands behind the @: the formula's name, `-formula` appended where the encoder is not the published one."""
    return kind if encoder in PUBLISHED[role] else f"{kind}-formula"


def entry(value: float | None, encoder: str, n: int) -> Entry:
    """An entry's three keys."""
    return {"value": value, "encoder": encoder, "n": n}


def over_time(series: Sequence[float], fps: float, cuts: list[int]) -> Entry:
    """A curve, and its slope where the video is long enough for one."""
    found: Entry = {"curve": drift.curve(series, fps)}
    slope = drift.slope(series, fps, cuts)
    return found if slope is None else found | {"slope": slope}


def long_entry(
    name: str, clips: Sequence[float], encoder: str, look: Look, role: str | None = None
) -> dict[str, Entry]:
    """VBench-Long's in-clip mean, of videos that have more than one clip."""
    value = average(clips)
    if value is None or look.num_frames <= look.length:
        return {}
    kind = "vbench-long" if role is None else formula("vbench-long", role, encoder)
    return {f"{name}@{kind}": entry(value, encoder, len(clips)) | {"curve": list(clips)}}


def _key(found: dict[str, Entry], name: str, kind: str) -> str | None:
    plain = [name] if kind == "vbench" else []
    return next((key for key in (f"{name}@{kind}", f"{name}@{kind}-formula", *plain) if key in found), None)
