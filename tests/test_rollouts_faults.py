"""Named faults of long-video methods, most of them those of released code or of printed algorithms. Each is applied to
the running code, and the law beside it must then fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from longtake.core import plan
from longtake.core import step as core_step
from longtake.core.rows import Queue
from longtake.core.solvers import Solver
from longtake.rewards import latent
from longtake.rollouts import diagonal, fixed, freenoise, miga, progressive, rolling, wavefront
from longtake.rollouts import replace as replacement
from longtake.search import branch, freeinit
from tests import test_reflect, test_rollouts, test_rollouts_cost, test_rollouts_given

Patch = Any  # pytest.MonkeyPatch


def _guides_nearer(patch: Patch) -> None:
    own = miga.Miga.guides
    patch.setattr(miga.Miga, "guides", lambda *given: tuple(index + 1 for index in own(*given)))


def _leaves_a_level_early(patch: Patch) -> None:
    own = miga._leaves
    patch.setattr(miga, "_leaves", lambda queue, handover: own(queue, handover + 1))


def _in_place(patch: Patch) -> None:
    def gauss_seidel(queue: Queue, windows: Any, *rest: Any) -> Any:
        for window in windows:
            queue = yield from core_step.denoise(queue, [window], *rest)
        return queue

    patch.setattr(miga, "denoise", gauss_seidel)


def _steps_too_long_behind(patch: Patch) -> None:
    patch.setattr(wavefront.Front, "back", property(lambda self: 0))


def _cells_begin_behind_pictures(patch: Patch) -> None:
    patch.setattr(wavefront.Front, "cell", lambda self, row, level: row)


def _held_by_one_noise(patch: Patch) -> None:
    own = replacement.normal
    patch.setattr(replacement, "normal", lambda shape, path, purpose, index, level: own(shape, path, purpose, index))


def _chunks_enter_as_if_f_were_s(patch: Patch) -> None:
    patch.setattr(progressive.Progressive, "period", property(lambda self: self.chunk))


def _nothing_kept_in_front(patch: Patch) -> None:
    own = progressive.Progressive.line.fget  # type: ignore[attr-defined]
    patch.setattr(progressive.Progressive, "line", property(lambda self: replace(own(self), history=0)))


def _first_latent_stays_in_the_queue(patch: Patch) -> None:
    patch.setattr(progressive, "unled", lambda state, following: following)


def _led_by_the_second(patch: Patch) -> None:
    own = progressive.noted
    patch.setattr(
        progressive, "noted",
        lambda following, emission: own(following, replace(emission, latents=emission.latents[-1:])),
    )  # fmt: skip


def _regrown_from_the_same_noise(patch: Patch) -> None:
    own = diagonal.regrow
    patch.setattr(diagonal, "regrow", lambda line, state, first, key, guides: own(line, state, first, key + 1, guides))


def _guides_are_not_read(patch: Patch) -> None:
    own = diagonal.regrow
    patch.setattr(diagonal, "regrow", lambda line, state, first, key, guides: own(line, state, first, key, 0))


def _takes_the_worst(patch: Patch) -> None:
    own = branch.ranked
    patch.setattr(branch, "ranked", lambda scores: own([-score for score in scores]))


def _mixes_the_wrong_bands(patch: Patch) -> None:
    own = freeinit.low_pass_mix
    patch.setattr(freeinit, "low_pass_mix", lambda slow, fast, cutoff: own(fast, slow, cutoff))


def _one_map_of_all_latents(patch: Patch) -> None:
    # what MIGA's released code for VideoCrafter2 does: channels and frames averaged together
    def one(judged: Sequence[torch.Tensor], before: Sequence[torch.Tensor]) -> float:
        maps = [torch.cat(list(part)).mean(0).flatten() for part in (judged, before)]
        return float(torch.nn.functional.cosine_similarity(*maps, dim=0))

    patch.setattr(test_reflect, "latent_cosine", one)
    patch.setattr(latent, "latent_cosine", one)


def _even_weights(patch: Patch) -> None:
    patch.setattr(fixed, "weights", lambda fuse, size, overlap: (1.0,) * size)


def _blocks_counted_from_the_window(patch: Patch) -> None:
    patch.setattr(
        rolling.Rolling, "_moves",
        lambda self, row, state: (row.index - state.queue.start) // self.block * self.delay <= state.age,
    )  # fmt: skip


def _not_shuffled(patch: Patch) -> None:
    own = freenoise.fold
    patch.setattr(
        freenoise, "fold",
        lambda path, *parts: parts[-1] if parts[0] == "shuffle" else own(path, *parts),
    )  # fmt: skip


def _versions_told_apart_by_level_alone(patch: Patch) -> None:
    def touched(self: Any, index: int, level: int, x: torch.Tensor) -> bool:
        return self.known.setdefault((index, level), self.written.get((index, level), index in self.clean))

    patch.setattr(plan._Versions, "_touched", touched)


MIGA = (3, 4, 2, 4)
FAULTS: dict[str, tuple[Callable[[Patch], None], Callable[[], None]]] = {
    "guides one row nearer": (_guides_nearer, lambda: test_rollouts.test_miga_equals_an_independent_loop(*MIGA)),
    "a level early out of stage 1": (
        _leaves_a_level_early, lambda: test_rollouts.test_miga_equals_an_independent_loop(*MIGA),
    ),
    "versions told apart by level alone": (
        _versions_told_apart_by_level_alone,
        test_rollouts_cost.test_the_reach_counts_levels_that_are_passed_twice,
    ),
    "windows write in place": (_in_place, lambda: test_rollouts.test_miga_equals_an_independent_loop(*MIGA)),
    "old versions dropped too soon": (
        _steps_too_long_behind,
        lambda: test_rollouts.test_the_wavefront_is_the_batch_form(test_rollouts.FRONTS[0], Solver()),
    ),
    "cells begin behind pictures": (
        _cells_begin_behind_pictures,
        lambda: test_rollouts_given.test_the_wavefront_is_the_batch_form_past_a_picture(test_rollouts_given.FRONTS[1]),
    ),
    "held latents keep one noise": (
        _held_by_one_noise, lambda: test_rollouts.test_replacement_with_noise_equals_an_independent_loop(2),
    ),
    "chunks enter as if F were S": (
        _chunks_enter_as_if_f_were_s, lambda: test_rollouts.test_progressive_equals_an_independent_loop(4, 2, 0),
    ),
    "no clean chunk in front": (
        _nothing_kept_in_front, lambda: test_rollouts.test_progressive_equals_an_independent_loop(8, 2, 2),
    ),
    "the exchanged row stays": (
        _first_latent_stays_in_the_queue,
        lambda: test_rollouts.test_progressive_led_by_the_first_latent_equals_an_independent_loop(8, 2, 3),
    ),
    "led by another latent": (
        _led_by_the_second,
        lambda: test_rollouts.test_progressive_led_by_the_first_latent_equals_an_independent_loop(8, 2, 3),
    ),
    "regrown by another key": (
        _regrown_from_the_same_noise,
        lambda: test_rollouts.test_growing_the_whole_queue_again_is_a_run_with_other_noise(
            lambda: progressive.Progressive(test_rollouts.SHAPE, test_rollouts.S16, Solver("unipc"), 8, 2, 0)
        ),
    ),
    "guides not read": (
        _guides_are_not_read, test_rollouts.test_growing_a_tail_again_leaves_the_rest_and_sees_its_guides,
    ),
    "the worst regrowth is kept": (_takes_the_worst, test_reflect.test_a_correction_is_kept_only_if_it_is_better),
    "bands mixed the other way": (
        _mixes_the_wrong_bands, test_reflect.test_freeinit_makes_its_noise_as_the_paper_says,
    ),
    "one map of all latents": (_one_map_of_all_latents, test_reflect.test_the_latent_cosine_is_equation_7),
    "overlaps weighed evenly": (_even_weights, lambda: test_rollouts.test_windows_equal_an_independent_loop("pyramid")),
    "blocks counted from the window": (
        _blocks_counted_from_the_window, lambda: test_rollouts.test_rolling_equals_an_independent_loop(3, 5, 2),
    ),
    "noise that is not shuffled": (
        _not_shuffled, test_rollouts.test_freenoise_repeats_the_noise_of_the_first_window_in_shuffled_groups,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch):
    fault, law = FAULTS[name]
    with monkeypatch.context() as patch:
        fault(patch)
        with pytest.raises(Exception):  # noqa: B017  a fault may show as a failed assertion or as a crash
            law()
    law()
