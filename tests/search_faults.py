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


def waits_for_an_ancestor(patch: Patch) -> None:
    """Latents on which all beams agree wait until the beams have an ancestor in common."""
    patch.setattr(Population, "_agree", lambda self, one, other: one.lineage == other.lineage)


def waits_for_ever(patch: Patch) -> None:
    """Two lineages that both live on hold latents back without end."""
    release = Population._release
    patch.setattr(Population, "_release", lambda self, members: release(replace(self, max_lag=1 << 20), members))


def low_band_as_it_is(patch: Patch) -> None:
    """`fft` takes the low band of an inverted latent with all the power that it has there."""
    from longtake.search import proposals

    blend = proposals.blend
    patch.setattr(proposals, "blend", lambda *given, even=False, **rest: blend(*given, **rest))


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


def one_frame_reward(patch: Patch) -> None:
    """Eq. 7's sum is over the newest picture alone, as in ScalingNoise's released code."""
    from longtake.rewards import consistency

    score = consistency.Consistency._score
    patch.setattr(consistency.Consistency, "_score", lambda self, d, anchor: score(self, d[-1:], anchor))


def totals_forgotten(patch: Patch) -> None:
    """A beam that is asked for the sum of scores ranks by the last."""
    rank = Population._ranked

    def last(self: Population, members: list[Member], *rest: Any) -> Any:
        return rank(self, [replace(member, total=0.0) for member in members], *rest)

    patch.setattr(Population, "_ranked", last)


def scored_a_level_late(patch: Patch) -> None:
    """Particles are looked at one level below those that were asked for."""
    level = branch.level_of
    patch.setattr(branch, "level_of", lambda *given: level(*given) + 1)


def global_noise(patch: Patch) -> None:
    """What candidates are drawn with is no function of the seed and the place, but of what was drawn before."""
    from itertools import count

    numbers, key = count(1), branch.fork_key
    patch.setattr(branch, "fork_key", lambda inner, tick, number: number and key(inner, tick + next(numbers), number))


def generations_restart(patch: Patch) -> None:
    """Every generation starts at pure noise, as EvoSearch's released code restarts at the first of its levels."""
    from longtake.search.generations import Generations

    children = Generations._children

    def again(self: Generations, state: Any) -> Any:
        return self._first(state.base, state.tick) if state.generation else children(self, state)

    patch.setattr(Generations, "_children", again)


def copies_touch_what_was_decided(patch: Patch) -> None:
    """A copy's jitter goes into every row in flight, also those that an earlier decision was about."""
    patch.setattr(branch, "altered", lambda inner, state, key, mix, start: inner.fork(state, key, mix, "flight"))


def first_out_of_many(patch: Patch) -> None:
    """Latents of the first particle come out while others may still win."""

    def hasty(self: latsearch.LatSearch, member: Member, state: Any, emission: Emission) -> Member:
        after = branch.moved(member, state, emission, 16)
        if emission.latents:
            after = replace(after, pending=(branch.Pending(member.name, emission),))  # and those before are gone
        return after

    patch.setattr(latsearch.LatSearch, "_moved", hasty)


def preview_from_other_noise(patch: Patch) -> None:
    """A preview begins from other noise than the clip that is made (the k-step paper keeps noise and seed)."""
    from longtake.rollouts.diagonal import Diagonal

    look = Diagonal.preview
    patch.setattr(Diagonal, "preview", lambda self, state, steps: look(self, self.fork(state, 99), steps))


def worst_wins(patch: Patch) -> None:
    """Scores are sorted the wrong way round."""
    patch.setattr(branch, "ranked", lambda values: sorted(range(len(values)), key=lambda place: values[place]))


def judged_by_what_nobody_sees(patch: Patch) -> None:
    """Finished candidates are judged by the newest window of a queue, which of a finished video lies behind its end."""
    patch.setattr(branch, "became", lambda inner, member, timeline, out=False: branch.look(inner, member, timeline))


def seeds_draw_alike(patch: Patch) -> None:
    """What a search draws by itself is the same for every seed."""
    patch.setattr(branch, "begun", lambda inner, seed: 0)


def freeinit_forgets_its_clip(patch: Patch) -> None:
    """The clip is noised to the highest level that keeps anything of it, which on some grids is a millionth."""
    from longtake.search import freeinit

    patch.setattr(freeinit, "kept", lambda schedule: (schedule.alphas[-1], schedule.sigmas[-1]))


def long_clips_lose_their_beginning(patch: Patch) -> None:
    """A branch keeps so many latents and no more, however many it has finished since it forked."""
    move = branch.moved

    def cut(member: Member, state: Any, emission: Emission, keep: int) -> Member:
        after = move(member, state, emission, keep)
        return replace(after, past=after.past[-keep:])

    patch.setattr(branch, "moved", cut)


def prompt_of_most_that_is_there(patch: Patch) -> None:
    """A reward is told the prompt of most rows in flight, of which it reads the newest."""
    look = branch.look

    def told(inner: Any, member: Member, timeline: Any, view: View | None = None) -> View:
        seen = look(inner, member, timeline, view)
        return replace(seen, prompt=str(timeline.cond(seen.index))) if seen.index else seen

    patch.setattr(branch, "look", told)
