"""A run: the engine loop's emissions decoded, filmed, traced and checkpointed, so that it can be stopped at any moment.

Everything that the rest of a run depends on is one frozen value, `Position`. A run that was interrupted or killed goes
on from the last one saved and makes the same frames as one that was not.

The end. The last emission is checkpointed before it is decoded (`Position.held`) and only then shown up to the last
frame asked for. So frames and latents past the end are in the state, not in the film, and a longer run decodes them
from there. Where the exact ending skips calls, the state before the first skip is kept too, under the name `open`.

Turns (output/turns). A run that has turns ahead makes each in the first state that has released the turn's latent, and
skips no calls before it. So a run may be sent back to an earlier position: it makes its way to the turn again, the same
frames come out, and only then does it leave the old way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

from torch import Tensor

from longtake.core.rollout import Emission
from longtake.core.stream import stream
from longtake.output import checkpoint
from longtake.output.directory import RunDir
from longtake.output.disk import DiskFullError
from longtake.output.job import Job, Position, Progress, chain, decoded, progressed
from longtake.output.latest import Latest
from longtake.output.resuming import resumable
from longtake.output.snapshots import Snapshots
from longtake.output.sound import Sound
from longtake.output.trace import Trace, judgements, prompts
from longtake.output.turns import Turn, directed, shifted, turned
from longtake.output.video import VideoWriter

log = logging.getLogger("longtake")

SAVE_SECONDS = 10.0
SAVE_SHARE = 0.05  # of the time may go into checkpoints: big states are saved less often


class Runner:
    """Makes the film of `job` in `folder`, from its checkpoint if it has one.

    The folder has to be locked by the caller for as long as the runner is used. `clock` (seconds) is for tests.
    """

    def __init__(
        self,
        job: Job,
        folder: RunDir,
        comment: str | None = None,
        save_seconds: float = SAVE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job, self.folder, self.clock, self.save_seconds = job, folder, clock, save_seconds
        self.comment, self.position = comment, resumable(job, folder)
        start = self.position or Position(None)
        self.snapshots = Snapshots(folder.snapshots, job.form.fps)
        self.latest = Latest(folder.latest, clock)
        self._started, self._start_nfe = clock(), start.nfe
        self._mark, self._saved, self._save_cost = self._started, self._started, 0.0
        self._differs, self._batch = False, job.engine.batch

    def run(self) -> Iterator[Progress]:
        """Work until the film is complete, yielding after every tick. However it ends, what was made is saved.

        Raises DiskFullError when there is no room: the folder is then whole as it was at its last checkpoint, or newer.
        """
        if self.folder.finished is not None:
            return
        full = False
        self._take_up()
        try:
            yield from self._play()
        except DiskFullError:
            full = True
            raise
        finally:
            if self.position is not None and self.folder.finished is None:
                # there may be room for a state where a film had none
                with suppress(*([DiskFullError] if full else [])):
                    self.save()

    def _take_up(self) -> None:
        # Film and trace as they were at the checkpoint; not before a run goes on, since a finished one stays as it is
        start = self.position or Position(None)
        sound = Sound(self.folder.sound) if self.folder.sound.exists() else None
        self.writer = VideoWriter(self.folder.video, self.job.form, start.tail, self.comment, sound)
        self.trace = Trace(self.folder.trace, start.trace_bytes)

    def save(self) -> None:
        """Checkpoint, then show the frames that wait for a whole segment."""
        began = self.clock()
        self.trace.sync()
        checkpoint.save(self.position, self.folder.path)
        self.writer.flush()
        self._saved = self.clock()
        self._save_cost = self._saved - began

    def _play(self) -> Iterator[Progress]:
        job, position = self.job, self.position
        if position is None:
            position, new = self._open()
            self.snapshots.begin(position)
            yield self._progress(position, new)
        else:
            self.snapshots.begin(position)
            if position.held is not None:  # the end was near; by now a longer film may be wanted
                if self._is_last(position.held):
                    yield self._end(position, position.held)
                    return
                position, new = self._show(position, position.held)
                yield self._progress(position, new)
        self.position = position
        if job.num_frames is not None and position.frames >= job.num_frames:
            self._finish(position)
            return
        while True:
            turn = self._turn_ahead(position)
            if turn is not None and position.released >= turn.latent:
                position = self.position = self._turned(position, turn)
                self.save()
            elif (position := (yield from self._stretch(position, turn))) is None:
                return

    def _stretch(self, position: Position, turn: Turn | None) -> Iterator[Progress]:
        # Ticks up to the turn, or to the end: returns the position at the turn, None at the end
        job = self.job
        until = None if turn is not None or job.num_latents is None else job.num_latents - position.offset
        with closing(stream(job.rollout, job.engine, position.state, until)) as ticks:  # type: ignore[type-var]
            for state, emission in ticks:
                emission = replace(emission, start=emission.start + position.offset)
                position = self._booked(position, state, emission)
                if self._is_last(emission):
                    yield self._end(position, emission)
                    return None
                position, new = self._show(position, emission)
                self.position = position
                if new and position.pruned_for is None:
                    self.snapshots.offer(position)
                if self.clock() - self._saved > max(self.save_seconds, self._save_cost / SAVE_SHARE):
                    self.save()
                yield self._progress(position, new)
                if turn is not None and position.released >= turn.latent:
                    return position
        log.warning("the method ended after %d latents", position.latents)
        self._finish(position)
        return None

    def _is_last(self, emission: Emission) -> bool:
        return self.job.num_latents is not None and emission.stop >= self.job.num_latents

    def _turn_ahead(self, position: Position) -> Turn | None:
        turns = self.job.turns
        return turns[position.turns] if position.turns < len(turns) else None

    def _turned(self, position: Position, turn: Turn) -> Position:
        timeline = directed(self.job.timeline, self.job.turns[: position.turns + 1])
        state = turned(self.job.rollout, position.state, turn, shifted(timeline, position.offset))
        return replace(position, state=state, turns=position.turns + 1)

    def _open(self) -> tuple[Position, list[Tensor]]:
        # The first state, and the picture that opens the film
        job, meter = self.job, self.job.engine.meter
        nfe, frame_nfe = meter.nfe, meter.frame_nfe
        state = job.engine.drive(job.rollout.init(job.seed, job.timeline, job.context))
        self._note_batch(0)
        nfe, frame_nfe = meter.nfe - nfe, meter.frame_nfe - frame_nfe
        position = Position(state, nfe=nfe, frame_nfe=frame_nfe, owed_nfe=nfe, owed_frame_nfe=frame_nfe,
                            owed_seconds=self._lap(), past=job.context[-job.memory :])  # fmt: skip
        shown: list[Tensor] = []
        for made, cache in decoded(job.codec, job.opening):
            position = replace(position, cache=cache)
            shown.append(made)
        if not (job.shows_context and shown):
            shown = []
        for frames in shown:
            self.writer.write(frames)
            position = replace(position, frames=position.frames + len(frames), digest=chain(position.digest, frames))
        self.position = position = replace(position, tail=self.writer.tail)
        self.save()  # from here on neither picture nor clip is needed again
        return position, shown

    def _booked(self, position: Position, state: Any, emission: Emission) -> Position:
        # The tick in the books; before the first that skips calls, the last state good for a longer film is kept
        info = emission.info
        self._note_batch(position.frames)
        if info.skipped and position.pruned_for is None:
            self.trace.sync()
            checkpoint.save(position, self.folder.path, "open")
        return replace(
            position,
            state=state,
            nfe=position.nfe + info.nfe,
            frame_nfe=position.frame_nfe + info.frame_nfe,
            owed_nfe=position.owed_nfe + info.nfe,
            owed_frame_nfe=position.owed_frame_nfe + info.frame_nfe,
            owed_seconds=position.owed_seconds + self._lap(),
            pruned_for=self.job.num_latents if info.skipped else position.pruned_for,
        )

    def _note_batch(self, frame: int) -> None:
        # where memory ran out the engine goes on with less at once, and so shall a resumed run
        if (batch := self.job.engine.batch) != self._batch:
            self.folder.shrunk(batch, self._batch, frame)
            self._batch = batch

    def _show(self, position: Position, emission: Emission, last: bool = False) -> tuple[Position, list[Tensor]]:
        # Frames past the end asked for are hashed and traced, not filmed
        new: list[Tensor] = []
        if not emission.latents:
            return position, new
        total, places, digest, cache = hashlib.sha256(), [position.frames], position.digest, position.cache
        for made, after in decoded(self.job.codec, emission, position.cache, self.job.num_latents):
            total.update(made.numpy().tobytes())
            shown = made if self.job.num_frames is None else made[: max(self.job.num_frames - places[-1], 0)]
            digest, cache = chain(digest, shown), after
            places.append(places[-1] + len(made))
            self.writer.write(shown)
            if len(shown):
                new.append(shown)
        if new:
            self.latest.show(new[-1][-1], last)
        seconds = self._traced(position, emission, places, total.hexdigest())
        after_all = replace(
            position,
            cache=cache,
            tail=self.writer.tail,
            held=None,
            frames=position.frames + sum(map(len, new)),
            latents=emission.stop if self.job.num_latents is None else min(emission.stop, self.job.num_latents),
            owed_nfe=0,
            owed_frame_nfe=0,
            owed_seconds=0.0,
            seconds=position.seconds + seconds,
            digest=digest,
            trace_bytes=self.trace.size,
            past=(*position.past, *emission.latents)[-self.job.memory :],
        )
        return after_all, new

    def _traced(self, position: Position, emission: Emission, places: list[int], sha256: str) -> float:
        # Writes the line of an emission, whose latents are seen at `places`; returns the seconds since the one before
        seconds = position.owed_seconds + self._lap()
        line = {
            "latents": [emission.start, emission.stop],
            "frames": [position.frames, places[-1]],
            "nfe": position.owed_nfe,
            "frame_nfe": position.owed_frame_nfe,
            "seconds": round(seconds, 4),
            **prompts(directed(self.job.timeline, self.job.turns[: position.turns]), emission.start, places),
            **judgements(emission.info, position.offset),
            **({"turn": position.turns} if self.job.turns else {}),
            "sha256": sha256,
        }
        if not self.trace.add(line) and not self._differs:
            self._differs = True
            self.folder.remark(position.frames, ["frames made again differ"])
            log.warning(
                "not bit-exact from frame %d: frames made again differ (other machine, batch or versions?)",
                position.frames,
            )
        return seconds

    def _end(self, position: Position, emission: Emission) -> Progress:
        # The checkpoint holds the last emission undecoded, so that a longer film can show all of it
        self.position = replace(position, held=emission)
        self.save()
        last, new = self._show(self.position, emission, last=True)
        self.writer.flush(last=True)
        self._write_end(last)
        return self._progress(last, new)

    def _finish(self, position: Position) -> None:
        self.position = position
        self.save()
        self.writer.flush(last=True)
        self._write_end(position)

    def _write_end(self, position: Position) -> None:
        self.trace.sync()
        names = ("frames", "latents", "nfe", "frame_nfe", "seconds")
        content = {name: round(getattr(position, name), 3) for name in names} | {"sha256": position.digest}
        checkpoint.write_atomic(self.folder.end, json.dumps(content) + "\n")

    def _progress(self, position: Position, new: list[Tensor]) -> Progress:
        speed = (position.nfe - self._start_nfe) / max(self.clock() - self._started, 1e-9)
        return progressed(self.job, position, new, speed)

    def _lap(self) -> float:
        # Seconds since the last time that was asked
        before, self._mark = self._mark, self.clock()
        return self._mark - before
