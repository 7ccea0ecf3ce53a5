"""Named faults. Each is applied to the running code; the test named beside it must then fail (test_mutations.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from longtake.core import rows as core_rows
from longtake.core import step as core_step
from longtake.core import stream as core_stream
from longtake.core.rollout import Timeline, View
from longtake.core.rows import Queue, Row
from longtake.core.schedule import flow_unipc
from longtake.core.solvers import Memory, Solver
from longtake.core.window import Grid
from longtake.rollouts import diagonal
from longtake.rollouts.diagonal import Diagonal, LineState
from longtake.search import branch
from longtake.search.population import Member, Population
from tests import (
    output_faults,
    search_faults,
    test_laws,
    test_output,
    test_rewards,
    test_runs_books,
    test_search_branches,
    test_search_judged,
    test_search_laws,
    test_search_methods,
    test_search_previews,
    test_search_release,
)

Patch = Any  # pytest.MonkeyPatch


@dataclass(frozen=True)
class Fault:
    """What is broken, and the test that must notice."""

    name: str
    apply: Callable[[Patch], None]
    test: Callable[[], None]


def _wrong_side(patch: Patch) -> None:
    sweep = diagonal.sweep

    def swapped(rows: range, grid: Grid, *rest: Any) -> Any:
        return sweep(rows, replace(grid, side="after" if grid.side == "before" else "before"), *rest)

    patch.setattr(diagonal, "sweep", swapped)


def _off_by_one(patch: Patch) -> None:
    enter = diagonal.entering
    patch.setattr(diagonal, "entering", lambda line, shape, level, *rest: enter(line, shape, level - 1, *rest))


def _in_place(patch: Patch) -> None:
    jacobi = core_step.denoise

    def gauss_seidel(queue: Queue, windows: Any, *rest: Any) -> Any:
        for window in windows:
            queue = yield from jacobi(queue, [window], *rest)
        return queue

    patch.setattr(diagonal, "denoise", gauss_seidel)


def _unkeyed(patch: Patch) -> None:
    patch.setattr(core_rows, "normal", lambda shape, *key: torch.empty(tuple(shape)).normal_())


def _draws_forget_the_level(patch: Patch) -> None:
    keyed = core_rows.normal
    patch.setattr(
        core_rows, "normal", lambda shape, path, purpose, index=0, level=0: keyed(shape, path, purpose, index)
    )


def _lost_memory(patch: Patch) -> None:
    admit = Diagonal._admit

    def forgetful(self: Diagonal, state: LineState) -> LineState:
        if self.period == 1:
            rows = tuple(replace(row, memory=Memory()) for row in state.queue.rows)
            state = replace(state, queue=Queue(rows))
        return admit(self, state)

    patch.setattr(Diagonal, "_admit", forgetful)


def _stale_memory(patch: Patch) -> None:
    fork = diagonal._forked

    def keeps(row: Row, *rest: Any) -> Row:
        return replace(fork(row, *rest), memory=row.memory, seen=row.seen)

    patch.setattr(diagonal, "_forked", keeps)


def _wrong_parent(patch: Patch) -> None:
    select = Population._select

    def worst(self: Population, members: list[Member], *rest: Any) -> Any:
        kept, info = select(self, members, *rest)
        return ([members[-1 - info.chosen]], info) if info.scores else (kept, info)

    patch.setattr(Population, "_select", worst)


def _first_candidate_forked(patch: Patch) -> None:
    fork = Population._spawn

    def spawn(self: Population, state: Any, *rest: Any) -> list[Member]:
        branches = fork(self, state, *rest)
        return [replace(b, state=self.inner.fork(b.state, 99)) for b in branches] if len(branches) > 1 else branches

    patch.setattr(Population, "_spawn", spawn)


def _keys_without_the_tick(patch: Patch) -> None:
    key = branch.fork_key
    patch.setattr(branch, "fork_key", lambda inner, tick, number: key(inner, 0, number))


def _unseen_in_view(patch: Patch) -> None:
    def shows_all(rows: Any, timeline: Timeline) -> View:
        shown = [row for row in rows if row.level > 0]
        tensors = tuple(row.x for row in shown)
        levels = tuple(row.level for row in shown)
        return View(tuple(r.index for r in shown), tensors, tensors, levels, tuple("" for _ in shown))

    patch.setattr(diagonal, "view_of", shows_all)


def _knows_the_end(patch: Patch) -> None:
    run = test_laws.run

    def shrinks(rollout: Any, until: int, *rest: Any, **options: Any) -> Any:
        admit = Diagonal._admit

        def closed(self: Diagonal, state: LineState) -> LineState:
            following = admit(self, state)
            rows = tuple(row for row in following.queue.rows if row.index < until)
            return replace(following, queue=Queue(rows))

        Diagonal._admit = closed  # type: ignore[method-assign]
        try:
            return run(rollout, until, *rest, **options)
        finally:
            Diagonal._admit = admit  # type: ignore[method-assign]

    patch.setattr(test_laws, "run", shrinks)


def _too_many_dead(patch: Patch) -> None:
    plan = core_stream.dead_calls
    patch.setattr(core_stream, "dead_calls", lambda *given: [dead | {1} for dead in plan(*given)])


def _prompt_of_the_first_row(patch: Patch) -> None:
    patch.setattr(Timeline, "cond", lambda self, indices: self.at(max(indices)))


def _solver_forgets_order(patch: Patch) -> None:
    remember = Solver.remember
    patch.setattr(Solver, "remember", lambda *given: remember(*given)._replace(levels=(), x0s=()))


FAULTS = [
    Fault("wrong commit side", _wrong_side, test_laws.test_fifo_equals_an_independent_loop),
    Fault("off-by-one level", _off_by_one, test_laws.test_fifo_equals_an_independent_loop),
    Fault("in-place sweep", _in_place, test_laws.test_fifo_equals_an_independent_loop),
    Fault("unkeyed noise", _unkeyed, lambda: test_laws.test_more_frames_never_change_earlier_ones("fifo")),
    Fault(
        "draws forget the level",
        _draws_forget_the_level,
        lambda: test_laws.test_steps_of_a_row_draw_independent_noise(),
    ),
    Fault(
        "lost solver memory",
        _lost_memory,
        lambda: test_laws.test_on_the_separable_oracle_every_method_is_plain("fifo", Solver("unipc")),
    ),
    Fault("stale solver memory", _stale_memory, test_laws.test_a_replaced_row_forgets_what_it_was),
    Fault("wrong parent", _wrong_parent, test_laws.test_the_chosen_chunk_is_the_best_of_its_candidates),
    Fault("first candidate forked", _first_candidate_forked, test_laws.test_candidate_0_is_the_run_without_a_search),
    Fault("keys without the tick", _keys_without_the_tick, test_laws.test_relatives_never_draw_alike),
    Fault("unseen rows in a view", _unseen_in_view, test_laws.test_unseen_rows_never_reach_a_reward),
    Fault("state knows the end", _knows_the_end, lambda: test_laws.test_more_frames_never_change_earlier_ones("fifo")),
    Fault(
        "too many dead calls",
        _too_many_dead,
        lambda: test_laws.test_exact_ending_skips_calls_and_changes_nothing("fifo"),
    ),
    Fault(
        "a window's prompt from one row",
        _prompt_of_the_first_row,
        lambda: test_laws.test_a_window_takes_the_prompt_of_most_rows_it_commits(),
    ),
    Fault(
        "anchor shared by beams",
        search_faults.shared_anchor,
        lambda: test_search_laws.test_each_branch_is_judged_by_its_own_memory("chunk"),
    ),
    Fault(
        "tails grafted onto other beams",
        search_faults.grafted_tails,
        lambda: test_search_laws.test_what_comes_out_is_one_lineage_from_its_root("beam"),
    ),
    Fault(
        "emission without agreement",
        search_faults.emits_without_agreement,
        lambda: test_search_laws.test_what_comes_out_is_one_lineage_from_its_root("beam chunk"),
    ),
    Fault(
        "agreed latents wait for an ancestor",
        search_faults.waits_for_an_ancestor,
        lambda: test_search_release.test_latents_come_out_when_beams_agree_and_at_the_latest_after_max_lag("fifo", 1),
    ),
    Fault(
        "latents wait without end",
        search_faults.waits_for_ever,
        lambda: test_search_release.test_latents_come_out_when_beams_agree_and_at_the_latest_after_max_lag("chunk", 8),
    ),
    Fault(
        "low band of what is not white",
        search_faults.low_band_as_it_is,
        lambda: test_search_methods.test_noise_that_follows_an_inversion_is_a_draw_of_unit_variance_too("gaussian", 2),
    ),
    Fault(
        "decoder cache reset",
        search_faults.decoder_cache_reset,
        test_rewards.test_a_clip_is_decoded_behind_its_own_branch,
    ),
    Fault(
        "nested searches draw alike",
        search_faults.nested_alike,
        test_search_methods.test_a_search_around_a_search_tries_other_noise_than_the_search_inside,
    ),
    Fault("jitter adds noise", search_faults.jitter_adds, test_search_methods.test_jitter_keeps_a_state_at_its_level),
    Fault(
        "judges what came before the fork",
        search_faults.forgets_the_fork,
        test_search_methods.test_what_is_judged_is_what_the_candidate_made,
    ),
    Fault("reward of one frame", search_faults.one_frame_reward, test_rewards.test_equation_7_by_hand),
    Fault(
        "sums of scores forgotten",
        search_faults.totals_forgotten,
        test_search_branches.test_beams_by_their_sums_are_ranked_by_their_sums,
    ),
    Fault(
        "judged by what nobody sees",
        search_faults.judged_by_what_nobody_sees,
        lambda: test_search_judged.test_whole_videos_are_judged_by_all_that_came_out_and_nothing_else("fifo"),
    ),
    Fault(
        "seeds draw alike",
        search_faults.seeds_draw_alike,
        test_search_judged.test_draws_of_a_search_depend_on_the_seed,
    ),
    Fault(
        "freeinit forgets its clip",
        search_faults.freeinit_forgets_its_clip,
        lambda: test_search_judged.test_freeinit_knows_the_clip_before_on_every_grid(flow_unipc(24, 3.0)),
    ),
    Fault(
        "long clips lose their beginning",
        search_faults.long_clips_lose_their_beginning,
        lambda: test_search_judged.test_no_latent_of_a_long_clip_escapes_its_judge("best-of-n"),
    ),
    Fault(
        "prompt of most that is there",
        search_faults.prompt_of_most_that_is_there,
        test_search_judged.test_the_prompt_that_is_told_is_that_of_what_is_judged,
    ),
    Fault(
        "particles scored a level late",
        search_faults.scored_a_level_late,
        lambda: test_search_methods.test_searches_on_chunks_cost_what_their_headers_say(16, 3, 4, 2),
    ),
    Fault(
        "candidates by a global count",
        search_faults.global_noise,
        lambda: test_search_laws.test_a_search_changes_something_repeats_itself_and_passes_the_check("best-of chunk"),
    ),
    Fault(
        "every generation begins anew",
        search_faults.generations_restart,
        lambda: test_search_methods.test_searches_on_chunks_cost_what_their_headers_say(16, 3, 4, 2),
    ),
    Fault(
        "copies change what was decided before",
        search_faults.copies_touch_what_was_decided,
        test_search_branches.test_copies_change_nothing_that_was_decided_before,
    ),
    Fault(
        "latents lost while particles live",
        search_faults.first_out_of_many,
        lambda: test_search_branches.test_on_a_queue_all_of_the_winner_comes_out_and_nothing_else("latsearch fifo"),
    ),
    Fault(
        "a preview from other noise",
        search_faults.preview_from_other_noise,
        lambda: test_search_previews.test_a_preview_of_all_steps_is_the_clip("chunk"),
    ),
    Fault(
        "the worst wins",
        search_faults.worst_wins,
        lambda: test_search_methods.test_clips_with_a_planted_candidate_are_found("best-of chunk"),
    ),
    Fault(
        "decoder cache not in the checkpoint",
        output_faults.cache_not_saved,
        lambda: output_faults.beside_a_whole_run(
            test_output.test_interrupted_anywhere_and_resumed_is_uninterrupted, 20
        ),
    ),
    Fault(
        "a trace line lost at a resume",
        output_faults.line_lost,
        lambda: output_faults.beside_a_whole_run(
            test_output.test_interrupted_anywhere_and_resumed_is_uninterrupted, 20
        ),
    ),
    Fault(
        "wrong parent snapshot on reroll",
        output_faults.wrong_parent_snapshot,
        lambda: output_faults.in_a_folder(test_runs_books.test_a_branch_is_its_parent_up_to_its_moment),
    ),
]
