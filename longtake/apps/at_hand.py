"""Whether what a search judges by is at hand, found out before anything is loaded."""

from __future__ import annotations

from longtake.apps.composing import judged_by
from longtake.apps.facts import Facts
from longtake.apps.homes import home_of_judge, home_of_reward
from longtake.apps.rewarding import Supplies, heeded, parse_reward
from longtake.apps.searches import search
from longtake.apps.settings import Settings
from longtake.apps.stored import reward_sets
from longtake.errors import UsageError
from longtake.rewards.text import clip_folder


def judgeable(settings: Settings, facts: Facts) -> list[str]:
    """Lines on what a search will judge by. UsageError for a reward that has no effect or that cannot be had here."""
    if settings.search == "none":
        return []
    unjudged(settings)
    supplies = Supplies(None, facts.folder, facts.window)
    text, values, lines = judged_by(settings, supplies)
    if not text:
        return lines
    terms = parse_reward(text)
    heeded(terms, values)
    for given in values.values():
        supplies.kind(given)
    if any(name == "latent-reward" for name, _ in terms):
        home_of_reward(supplies.folder)
    if any(name == "text" for name, _ in terms):
        given = values.get("text", {})
        named = given.get("encoder", "pocket-judge")
        home_of_judge(given, supplies.folder) if named == "pocket-judge" else clip_folder(named)
    return lines


def unjudged(settings: Settings) -> None:
    """UsageError for a reward under a search that judges nothing."""
    row = search(settings.search)
    given = [f"--reward {settings.reward}"] if settings.reward else []
    given += [f"--set {text}" for text in reward_sets(settings)]
    if row.reward == "" and given:
        raise UsageError(f"{row.name} judges nothing, so {' '.join(given)} has no effect; leave it out")
