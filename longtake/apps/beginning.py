"""Methods whose frames begin as a model's authors begin a clip: noise that they share, a picture in its low band.

Such a law (`models/seam.Begin`) needs to see the frames of a clip together, so it goes with the methods below, where
all rows of a clip or a film enter at once; in a queue they enter one after the other, and FreeNoise is a law itself.
It acts on rows whose own noise is in the queue and that no network has read, just before the first step reads them.
So until then a row holds its own noise: forks, proposals and checkpoints are what they are without it, and it costs
no network call.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from longtake.apps.facts import Facts
from longtake.apps.settings import Settings
from longtake.core.rollout import View
from longtake.core.step import Step
from longtake.errors import UsageError
from longtake.rollouts import chunk, plain, rolling, windows
from longtake.rollouts import replace as replacement
from longtake.search.branch import leaf

OPTIONS = ("noise", "frameinit")


class _Begun:
    """A rollout whose rows begin by the law `begin`, also when it is looked at before."""

    begin: Any

    def step(self, state: Any) -> Any:
        """A tick, its fresh rows begun first."""
        return super().step(self._opened(state))  # type: ignore[misc]

    def _opened(self, state: Any) -> Any:
        rows = self.fresh(state)  # type: ignore[attr-defined]
        if not rows or self.begin is None or not state.queue.rows[0].x.numel():
            return state
        return replace(state, queue=self.begin(state.queue, rows))

    def preview(self, state: Any, steps: int) -> Step[View]:
        """A look at the clip, its fresh rows begun first."""
        return super().preview(self._opened(state), steps)  # type: ignore[misc]


@dataclass(frozen=True)
class Plain(_Begun, plain.Plain):
    """One clip."""

    begin: Any = None


@dataclass(frozen=True)
class Chunk(_Begun, chunk.Chunk):
    """Clip after clip."""

    begin: Any = None


@dataclass(frozen=True)
class Replace(_Begun, replacement.Replace):
    """Clip after clip, the last latents noised along."""

    begin: Any = None


@dataclass(frozen=True)
class Rolling(_Begun, rolling.Rolling):
    """Clip after clip, in blocks."""

    begin: Any = None


@dataclass(frozen=True)
class Windows(_Begun, windows.Windows):
    """A film of fixed length."""

    begin: Any = None


KINDS: dict[type, Any] = {
    plain.Plain: Plain, chunk.Chunk: Chunk, replacement.Replace: Replace, rolling.Rolling: Rolling,
    windows.Windows: Windows,
}  # fmt: skip
"""The methods where a clip's frames enter together."""


def begun(rollout: Any, begin: Any) -> Any:
    """The rollout with its clips begun by `begin`; as it is where there is no such law, or no clips."""
    kind = KINDS.get(type(rollout))
    if begin is None or kind is None:
        return rollout
    return kind(**{item.name: getattr(rollout, item.name) for item in fields(rollout)}, begin=begin)


def how_frames_begin(settings: Settings, facts: Facts, rollout: Any) -> list[str]:
    """A line where a model's own way to begin clips has no clip to act on. UsageError if it was asked for."""
    asked = [name for name in OPTIONS if settings.options.get(name) not in (None, False, "own")]
    if not facts.begins:
        return []
    if settings.search == "freeinit":
        why, instead = "freeinit makes the noise of every round itself", "leave out --search freeinit"
    elif settings.method == "freenoise":
        why, instead = "freenoise says itself what noise frames begin from", "use --method windows"
    elif type(leaf(rollout)) not in KINDS:
        why, instead = f"{settings.method} lets frames in one after the other", "use --method chunk"
    else:
        return []
    if asked:
        raise UsageError(
            f"--set {asked[0]}= needs a clip whose frames begin together, and {why}; {instead}, or leave it out"
        )
    return [f"frames begin from noise of their own: {why}"]
