"""Named faults of searches and rewards; tests/mutations.py lists them with the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longtake.core.rollout import Emission, View
from longtake.rewards.eyes import Decoded
from longtake.search import branch, latsearch
from longtake.search.branch import Member
from longtake.search.population import Population

Patch = Any  # pytest.MonkeyPatch


def shared_anchor(patch: Patch) -> None:
    """The anchor is that of whichever beam was visited last, as in ScalingNoise's released code."""
    settle, latest = branch.settled, {}

    def shared(reward: Any, member: Member) -> Any:
        after, cost = settle(reward, member)
        before = latest.get("memory", after.memory)
        latest["memory"] = after.memory
        return replace(after, memory=before if before and before[1] == after.memory[1] else after.memory), cost

    patch.setattr(branch, "settled", shared)


def grafted_tails(patch: Patch) -> None:
    """The survivors' names stay and their states change places, as in a fifth of ScalingNoise's released steps."""
    rank = Population._ranked

    def grafted(self: Population, *given: Any) -> Any:
        kept, info = rank(self, *given)
        states = [member.state for member in kept]
        return [replace(m, state=s) for m, s in zip(kept, states[1:] + states[:1], strict=True)], info

    patch.setattr(Population, "_ranked", grafted)


def emits_without_agreement(patch: Patch) -> None:
    """The best beam's latents come out at once, whether or not it lives on."""

    def hasty(self: Population, members: list[Member]) -> tuple[list[Member], list[Emission]]:
        out = [pending.emission for pending in members[0].pending]
        return [replace(member, pending=()) for member in members], out

    patch.setattr(Population, "_release", hasty)


def decoder_cache_reset(patch: Patch) -> None:
    """Every candidate is decoded as if it began a video."""

    def cold(self: Decoded, view: View, span: int | None) -> Any:
        return self.follow(None, Emission(0, view.clip, guide=view.guide))[0]

    patch.setattr(Decoded, "_one", cold)


def nested_alike(patch: Patch) -> None:
    """A search around a search forks with the keys of the one inside."""
    patch.setattr(branch, "depth", lambda rollout: 0)


def jitter_adds(patch: Patch) -> None:
    """A copy's new noise is added to the old, so that it has more than its level says (EvoSearch's released code)."""
    patch.setattr(latsearch, "correlated", lambda centre, fresh, amount: centre + amount * fresh)


def forgets_the_fork(patch: Patch) -> None:
    """A reward judges all that a branch ever finished, not what its candidate made."""
    look = branch.look

    def all_of_it(*given: Any) -> View:
        view = look(*given)
        return replace(view, recent=len(view.past))

    patch.setattr(branch, "look", all_of_it)
