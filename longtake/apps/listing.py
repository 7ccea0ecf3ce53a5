"""The commands `methods` and `models`: the table of names, with what can be computed of each."""

from __future__ import annotations

import json
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from longtake.apps.planning import cost
from longtake.apps.settings import Request
from longtake.apps.tables import GENERAL, METHODS, MODEL_OPTIONS, Materials, Method, method
from longtake.core.plan import level_gaps
from longtake.core.schedule import flow
from longtake.core.solvers import Solver

WINDOW, STEPS = 12, 24  # pocket's, at which reach and cost are shown
LENGTH = 48  # of methods of fixed length
SHAPE = (1, 2, 2)
REAL = "real weights"

show = partial(print, flush=True)


def list_methods(name: str | None, as_json: bool) -> None:
    """Print all methods, or one with its parameters."""
    rows = [method(name, "")] if name else list(METHODS.values())
    found = [describe_method(row) for row in rows]
    if as_json:
        show(json.dumps(found, ensure_ascii=False))
        return
    for row, facts in zip(rows, found, strict=True):
        length = "endless" if facts["streams"] else "of fixed length" if row.fixed else "one clip"
        gap = facts["level_gap"]
        show(f"{row.name:<11} {row.help}" + (f" ({row.paper})" if row.paper else ""))
        show(
            f"{'':<11} {length}, {facts['nfe_per_latent']:g} NFE per latent without guidance, reach {facts['reach']}, "
            f"levels in a call {gap['mean']:g} apart ({gap['largest']} at most), first latent after "
            f"{facts['first_latent_nfe']} NFE"
        )
        for parameter in row.parameters if name else ():
            key = f"{row.name}.{parameter.name}"
            usual = f"; default {_typed(facts['defaults'][key])}" if key in facts["defaults"] else ""
            show(f"{'':<11} --set {key}=  {parameter.help} ({parameter.allowed}{usual})")
    if name:
        show(f"defaults are those at a window of {WINDOW} and {STEPS} steps; with every method:")
        for parameter in GENERAL:
            show(f"{'':<11} --set {parameter.name}=  {parameter.help} ({parameter.allowed})")


def describe_method(row: Method) -> dict[str, Any]:
    """A method with its defaults at a window of 12: reach in latents, NFE per latent in the long run."""
    steps = row.steps(WINDOW, STEPS, None, {})
    rollout = row.make(Materials(SHAPE, flow(steps), Solver(), WINDOW, num_latents=LENGTH), {})
    if row.streams:
        cycle = max(getattr(rollout, "cycle", 1), 1)
        base = 2 * rollout.in_flight
        near, far = cost(rollout, base), cost(rollout, base + 4 * cycle)
        per_latent = (far.nfe - near.nfe) / (4 * cycle)
    else:
        many = LENGTH if row.fixed else WINDOW
        per_latent = cost(rollout, many).nfe / many
    mean, largest = level_gaps(rollout)
    return {
        "name": row.name,
        "aliases": list(row.aliases),
        "help": row.help,
        "paper": row.paper,
        "streams": row.streams,
        "reach": rollout.reach,
        "nfe_per_latent": round(per_latent, 3),
        "level_gap": {"mean": round(mean, 2), "largest": largest},
        "first_latent_nfe": cost(rollout, 1).first_nfe,
        "rows_held": rollout.in_flight,
        "steps": steps,
        "per_row_levels": row.needs_rows,
        "parameters": {f"{row.name}.{item.name}": item.allowed for item in row.parameters},
        "defaults": _defaults(row, rollout),
    }


def _defaults(row: Method, rollout: Any) -> dict[str, Any]:
    # what a rollout has when nothing is set; what follows from other integers stands in its `line`
    line, solver = getattr(rollout, "line", None), rollout.solver
    found: dict[str, Any] = {}
    for parameter in row.parameters:
        name = {"init": "start"}.get(parameter.name, parameter.name)
        holders = (rollout, line, getattr(line, "grid", None), solver)
        values = (getattr(holder, name, None) for holder in holders)
        value = next((value for value in values if value is not None), None)
        if value is not None:
            found[f"{row.name}.{parameter.name}"] = int(value) if isinstance(value, Fraction) else value
    return found


def _typed(value: Any) -> str:
    # as it is typed behind --set
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def list_models(name: str | None, as_json: bool) -> None:
    """Print the models that have names, or one (a name, a folder, a hub id)."""
    from longtake.models.families import FAMILIES
    from longtake.models.parts import NAMES

    if name:
        rows = [describe_family(name) if name in FAMILIES else describe_model(name)]
    else:
        rows = [*map(describe_model, NAMES), *map(describe_family, FAMILIES)]
    if as_json:
        show(json.dumps(rows, ensure_ascii=False))
        return
    for facts in rows:
        show(f"{facts['name']:<19} {facts['family']:<16} {facts['status']:<46} {facts['path']}")
        if name:
            rest = {key: value for key, value in facts.items() if key not in ("name", "family", "status", "path")}
            for key, value in rest.items():
                show(f"{'':<19} {key}: {', '.join(value) if isinstance(value, list) else _typed(value)}")
            known = FAMILIES[facts["family"]].options
            for parameter in (one for one in MODEL_OPTIONS if known is None or one.name in known):
                show(f"{'':<19} --set {parameter.name}=  {parameter.help} ({parameter.allowed})")
    if not name:
        show("--model takes any of these names, a folder, or a hub id; details: longtake models NAME")


def describe_model(name: str) -> dict[str, Any]:
    """A model's row; of one that is not installed, what is known without it."""
    from longtake.apps.lookup import look_up
    from longtake.models.families import FAMILIES
    from longtake.models.parts import NAMES

    home = NAMES.get(name)
    if isinstance(home, Path) and not home.is_dir():
        return {"name": name, "family": "wan", "path": str(home), "status": "not installed",
                "per_row_levels": "native", "methods": list(METHODS)}  # fmt: skip
    facts = look_up(Request("", name))
    return {
        "name": facts.name,
        "family": facts.family,
        "path": str(home or facts.source),
        "status": REAL if home else FAMILIES[facts.family].status,
        "per_row_levels": facts.per_row_levels,
        "methods": _able(facts.per_row_levels, facts.clean_rows),
        "window": facts.window,
        "size": f"{facts.size[0]}x{facts.size[1]}",
        "fps": facts.fps,
        "steps": facts.steps,
        "image_first": facts.image_first,
        **(_world() if facts.vocabulary == "world" else {}),
    }


def describe_family(name: str) -> dict[str, Any]:
    """A family's row: the checkpoint that its name stands for, and what it was run with here."""
    from longtake.models.families import FAMILIES

    row = FAMILIES[name]
    return {
        "name": row.name,
        "family": row.name,
        "path": row.hub or "a folder made by longtake convert",
        "status": row.status,
        "per_row_levels": row.per_row_levels,
        "methods": _able(row.per_row_levels, row.clean_rows),
    }


def _able(per_row_levels: str, clean_rows: bool) -> list[str]:
    return [
        row.name
        for row in METHODS.values()
        if per_row_levels != "no" or not row.needs_rows or (row.one_level and clean_rows)
    ]


def _world() -> dict[str, list[str]]:
    """What a model of the embedded world knows, in its own words."""
    from longtake.world.captions import vocabulary
    from longtake.world.grammar import MOTIONS, PLACES, SUBJECTS, TIMES

    parts = {"subjects": SUBJECTS, "places": PLACES, "times": TIMES, "motions": MOTIONS, "words": vocabulary()}
    return {name: [str(word) for word in words] for name, words in parts.items()}
