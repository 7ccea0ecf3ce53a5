"""The commands `searches` and `rewards`: the tables of names."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from longtake.apps.parameters import choose
from longtake.apps.rewarding import REWARDS, RewardRow
from longtake.apps.searches import SEARCHES, Search, search

show = partial(print, flush=True)


def list_searches(name: str | None, as_json: bool) -> None:
    """Print all searches, or one with its parameters."""
    rows = [search(name)] if name else list(SEARCHES.values())
    if as_json:
        show(json.dumps([describe_search(row) for row in rows], ensure_ascii=False))
        return
    for row in rows:
        aliases = f", also {', '.join(row.aliases)}" if row.aliases else ""
        show(f"{row.name:<10} {row.help}" + (f" ({row.paper}{aliases})" if row.paper else aliases))
        for parameter in row.parameters if name else ():
            show(f"{'':<10} --set {row.name}.{parameter.name}=  {parameter.help} ({parameter.allowed})")
    if not name:
        show("a search wraps a method: longtake generate ... --search beam; its cost is told by --dry-run")


def describe_search(row: Search) -> dict[str, Any]:
    """A search as JSON: what it works on, and what it takes."""
    return {
        "name": row.name,
        "aliases": list(row.aliases),
        "help": row.help,
        "paper": row.paper,
        "works_on": ["chunk", "fifo"] if row.queues else ["chunk"],
        "reward": row.reward,
        "parameters": {f"{row.name}.{item.name}": item.allowed for item in row.parameters},
    }


def list_rewards(name: str | None, as_json: bool) -> None:
    """Print all rewards, or one with its parameters."""
    rows = [REWARDS[choose("reward", name, REWARDS)]] if name else list(REWARDS.values())
    if as_json:
        show(json.dumps([describe_reward(row) for row in rows], ensure_ascii=False))
        return
    for row in rows:
        show(f"{row.name:<14} {row.help}" + (f" ({row.paper})" if row.paper else ""))
        show(f"{'':<14} reads {row.reads}")
        for parameter in row.parameters if name else ():
            show(f"{'':<14} --set {row.name}.{parameter.name}=  {parameter.help} ({parameter.allowed})")
    if not name:
        show(
            "sums with weights: --reward consistency+0.5*motion; a floor under motion for any: --set motion.floor=0.01"
        )


def describe_reward(row: RewardRow) -> dict[str, Any]:
    """A reward as JSON."""
    return {
        "name": row.name,
        "help": row.help,
        "paper": row.paper,
        "reads": row.reads,
        "parameters": {f"{row.name}.{item.name}": item.allowed for item in row.parameters},
    }
