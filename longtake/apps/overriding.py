"""What is typed beside the settings of a video: it counts more, and what it takes the ground from goes with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longtake.apps.methods import METHODS
from longtake.apps.parameters import choose
from longtake.apps.rewarding import REWARDS, parse_reward
from longtake.apps.screening import beside
from longtake.apps.searches import SEARCHES, search
from longtake.apps.settings import Request
from longtake.apps.tables import PRESETS, method


def over(request: Request, given: dict[str, Any]) -> Request:
    """The request with what was typed in the place of what was restored; None: not typed.

    Of the restored `--set` only those go that have lost their owner: nobody typed them, so nobody has to hear of them.
    """
    typed = {name: value for name, value in given.items() if value is not None}
    new = replace(request, **(_unsaid(request, typed) | typed))
    meant = beside(new)
    if _judge(meant) == "":
        new = replace(new, reward=typed.get("reward"))
    kept = [text for text in request.set if _stays(text, request, meant, typed)]
    return replace(new, set=(*kept, *typed.get("set", ())))


def _unsaid(request: Request, typed: dict[str, Any]) -> dict[str, Any]:
    """What was restored and does not go together with what was typed, as if it had never been said."""
    found: dict[str, Any] = {}
    if "frames" in typed or "seconds" in typed:
        found |= {"frames": None, "seconds": None}
    if "prompt_file" in typed:
        found["prompt"] = ""
    partitions = any(text.partition("=")[0].strip() == "fifo.partitions" for text in typed.get("set", ()))
    if "preset" in typed or partitions or ("method" in typed and method(typed["method"]).name != request.method):
        found["steps"] = None
    if "preset" in typed:
        preset = PRESETS[choose("preset", typed["preset"], PRESETS, "--preset")]
        found |= {name: None for name in ("method", "solver", "guidance", "search") if name in preset}
    return found


def _stays(text: str, request: Request, new: Request, typed: dict[str, Any]) -> bool:
    """Whether a restored `--set` still has its owner, and nothing typed says what it said."""
    key, _, value = text.partition("=")
    owner, _, name = key.partition(".")
    preset = PRESETS[typed["preset"]] if "preset" in typed else {}
    row = method(new.method) if new.method else None
    if owner in METHODS:
        said = (name == "partitions" and "steps" in typed) or (name == "eta" and new.solver not in (None, "ddim"))
        return row is not None and owner == row.name and owner not in preset.get("methods", {}) and not said
    if owner in SEARCHES:
        sized = SEARCHES[owner].sizes({}, [1])[0][0] if "search_budget" in typed else {}
        wanted = None if new.search in (None, "none") else search(str(new.search)).name
        return owner == wanted and owner not in preset.get("searches", {}) and name not in sized
    if owner in REWARDS:
        judge = _judge(new)
        return judge == _judge(request) or bool(judge and owner in dict(parse_reward(judge)))
    return key != "ending" or value == "exact" or row is None or row.shrinks


def _judge(request: Request) -> str | None:
    """The reward by which the request's search judges; None: the best at hand, "": it judges nothing."""
    if request.search is None or request.search == "none":
        return ""
    row = search(request.search)
    return "" if row.reward == "" else request.reward or row.reward
