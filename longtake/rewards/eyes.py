"""How rewards see latents: through the preview decoder, or through the autoencoder with each branch's own cache.

A reward judges a *clip*: what a branch has finished since it forked, then the estimates of its rows in flight
(`View.clip`). Eyes turn clips into pictures and decode only latents that are asked for.

`Previews` draws one picture a latent from that latent alone: no cache, cheap. `Decoded` is exact: a causal autoencoder
needs what came before, so each branch carries its decoder cache, and a clip decodes behind it. Where only the end of a
long queue is read, decoding begins one latent earlier with an empty cache, and what that latent became (a picture that
stands for one frame) is thrown away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import UInt8
from torch import Tensor

from longtake.core.model import Codec
from longtake.core.rollout import Emission, View
from longtake.core.tree import walk

Pictures = UInt8[Tensor, "T H W 3"]
KEPT = 1 << 29
"""Bytes of decoded pictures and caches that are kept, so that a winner is not decoded twice. At 832x480 one
cache of Wan is more than that, and not worth the memory: there a winner is."""


class PreviewNet(Protocol):
    """A preview decoder: `pictures` takes latents (N, C, H, W)."""

    def pictures(self, latents: Tensor) -> Tensor: ...


class Eyes(Protocol):
    """`follow` turns finished latents into pictures and returns the branch's cache; `look` does a clip, for no keeps.

    `span`: of unfinished clips only that many latents at the end are looked at, None: all (`View.judged`). `decodes`
    counts latents decoded.
    """

    needs: frozenset[str]
    decodes: int

    def follow(self, cache: Any, emission: Emission) -> tuple[Pictures, Any]: ...

    def look(self, views: Sequence[View], span: int | None = None) -> list[Pictures]: ...


class Previews:
    """One picture a latent, by a preview decoder. A latent that several branches share is drawn once."""

    needs = frozenset({"x0", "past", "picture"})

    def __init__(self, net: PreviewNet) -> None:
        self.net, self.decodes = net, 0
        self._last: tuple[tuple[int, ...], list[Any], list[Pictures]] = ((), [], [])

    def follow(self, cache: Any, emission: Emission) -> tuple[Pictures, Any]:
        """A picture of each latent; there is nothing to remember."""
        return self._drawn(emission.latents), None

    def look(self, views: Sequence[View], span: int | None = None) -> list[Pictures]:
        """A picture of each latent of each clip."""
        clips = [view.judged(span) for view in views]
        key = tuple(id(latent) for clip in clips for latent in clip)
        if key != self._last[0] or not key:  # the terms of a sum look at the same clips one after the other
            distinct = {id(latent): latent for clip in clips for latent in clip}
            drawn = dict(zip(distinct, self._drawn(list(distinct.values())), strict=True))
            made = [_stacked([drawn[id(latent)] for latent in clip]) for clip in clips]
            self._last = (key, clips, made)  # the clips are held, so that their ids stay theirs
        return self._last[2]

    def _drawn(self, latents: Sequence[Tensor]) -> Pictures:
        self.decodes += len(latents)
        return self.net.pictures(torch.stack(list(latents))) if latents else _stacked([])


class Decoded:
    """Pictures by the autoencoder: the last frame of each latent, or with `every` all of them."""

    needs = frozenset({"x0", "past", "pixels", "picture"})

    def __init__(self, codec: Codec, every: bool = False) -> None:
        self.codec, self.every, self.decodes = codec, every, 0
        self._known: OrderedDict[tuple[int, ...], tuple[Any, Pictures, Any]] = OrderedDict()

    def follow(self, cache: Any, emission: Emission) -> tuple[Pictures, Any]:
        """Frames of the latents behind `cache`, and the cache after them."""
        if emission.guide and emission.latents:
            _, cache = self._decode(emission.guide, None)
        return self._decode(emission.latents, cache)

    def look(self, views: Sequence[View], span: int | None = None) -> list[Pictures]:
        """Frames of each clip behind its branch's cache, or from an empty one where only its end is read."""
        return [self._one(view, span) for view in views]

    def _one(self, view: View, span: int | None) -> Pictures:
        clip, many = view.clip, len(view.judged(span))
        if many < len(clip):
            pictures, _ = self._decode(clip[-many - 1 :], None)
            return pictures[1:]
        cache = view.memory.cache if view.memory is not None else None
        return self.follow(cache, Emission(0, clip, guide=view.guide))[0]

    def _decode(self, latents: Sequence[Tensor], cache: Any) -> tuple[Pictures, Any]:
        key = (id(cache), *map(id, latents))
        if key not in self._known:
            held, parts = (cache, tuple(latents)), []
            for latent in latents:
                frames, cache = self.codec.decode(latent[None], cache)
                parts.append(frames if self.every else frames[-1:])
            self.decodes += len(latents)
            self._known[key] = (held, torch.cat(parts) if parts else _stacked([]), cache)
        self._known.move_to_end(key)
        while len(self._known) > 1 and sum(map(_size, self._known.values())) > KEPT:
            self._known.popitem(last=False)
        return self._known[key][1:]


def _size(value: Any) -> int:
    return sum(item.nbytes for item in walk(value) if isinstance(item, Tensor))


def _stacked(pictures: Sequence[Tensor]) -> Pictures:
    return torch.stack(list(pictures)) if pictures else torch.zeros((0, 1, 1, 3), dtype=torch.uint8)
