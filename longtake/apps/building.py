"""How the methods of the table (apps/methods) are built from what a model and its user give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from longtake.apps.parameters import Parameter
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.errors import UsageError
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.miga import Miga
from longtake.rollouts.progressive import Progressive, fits, fitting_steps

Values = Mapping[str, Any]
"""Parameters of one method that were set, by their short names."""


@dataclass(frozen=True)
class Materials:
    """What a rollout is made of besides its own parameters.

    shape        (C, H, W) of a latent
    num_latents  how many are wanted, None: endless; only methods of fixed length and `shrink` read it
    shrink       end by letting no more rows in (`--set ending=shrink`)
    begin        how frames that enter together begin, where that is a model's own (`models/seam.Begin`)
    at_once      latents after the first that decoding takes at a time (`core.model.Capabilities.latents_at_once`)
    """

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver
    window: int
    codec: Any = None
    num_latents: int | None = None
    shrink: bool = False
    begin: Any = None
    at_once: int = 1

    @property
    def basics(self) -> tuple[tuple[int, int, int], NoiseSchedule, Solver, int]:
        """The first four, which every rollout begins with."""
        return self.shape, self.schedule, self.solver, self.window

    def end(self, name: str) -> int | None:
        """The last row of a method that can shrink."""
        if self.shrink and self.num_latents is None:
            raise UsageError(f"--set ending=shrink needs to know the end of {name}; give --seconds or --frames")
        return self.num_latents if self.shrink else None

    def length(self, name: str) -> int:
        """The length of a method that needs one."""
        if self.num_latents is None:
            raise UsageError(f"{name} makes a video of fixed length and cannot go on for ever; use --method fifo")
        return self.num_latents


@dataclass(frozen=True)
class Method:
    """A row of the table.

    make     builds the rollout
    steps    (window, steps of the model, --steps or None, parameters) -> the number of steps
    context  (window, parameters) -> latents of a user's clip that are read

    streams: latents come out as they are made, for ever. fixed: of any length, which has to be known. needs_rows:
    windows hold rows of different levels; one_level: of 0 and one other at most. shrinks: `ending=shrink` works.
    """

    name: str
    help: str
    paper: str
    make: Callable[[Materials, Values], Any]
    steps: Callable[[int, int, int | None, Values], int]
    context: Callable[[int, Values], int]
    parameters: tuple[Parameter, ...] = ()
    aliases: tuple[str, ...] = ()
    streams: bool = True
    needs_rows: bool = True
    one_level: bool = False
    fixed: bool = False
    shrinks: bool = False


FIFO_PARTITIONS = 3
OVERLAP = 2


def model_steps(window: int, usual: int, given: int | None, values: Values) -> int:
    """As many as the model's, unless given."""
    return usual if given is None else given


def fifo_steps(window: int, usual: int, given: int | None, values: Values) -> int:
    """A multiple of the window."""
    partitions = values.get("partitions")
    if given is None:
        return (partitions or FIFO_PARTITIONS) * window
    if given % window or (partitions and partitions * window != given):
        below = max(given // window, 1) * window
        above = below + window
        wanted = f"--steps {given}" + (f" with fifo.partitions={partitions}" if partitions else "")
        raise UsageError(
            f"{wanted} does not fit: fifo needs steps = partitions x {window} (the model's window); "
            f"use --steps {below} ({below // window} partitions) or --steps {above} ({above // window} partitions)"
        )
    return given


def noisy_rows(window: int, values: Values) -> int:
    """progressive.window: the model's less the clean prefix, cut to whole chunks, unless given."""
    clean, chunk = prefix(values), values.get("chunk", 1)
    most = window - clean
    rows = values.get("window", most // chunk * chunk)
    if not 1 <= rows <= most:
        raise UsageError(
            f"progressive.window={rows} with a prefix of {clean} is not possible: the model reads {window} latents, "
            f"so progressive.window goes up to {most}"
        )
    return rows


def prefix(values: Values) -> int:
    """progressive.prefix: a chunk unless given."""
    return values.get("prefix", values.get("chunk", 1))


def progressive_steps(window: int, usual: int, given: int | None, values: Values) -> int:
    """Such that chunks enter at whole ticks."""
    rows = noisy_rows(window, values)
    if given is None:
        return FIFO_PARTITIONS * rows
    chunk = values.get("chunk", 1)
    if rows % chunk == 0 and not fits(given, rows, chunk):
        below, above = fitting_steps(given, rows, chunk)
        raise UsageError(
            f"--steps {given} does not fit: chunks of {chunk} would not enter a window of {rows} at whole ticks; "
            f"use --steps {below} or --steps {above}"
        )
    return given


def miga_steps(window: int, usual: int, given: int | None, values: Values) -> int:
    """At least three windows, and above the hand-over."""
    steps = max(usual, FIFO_PARTITIONS * window) if given is None else given
    handover = values.get("handover", 5)
    if steps < handover:
        raise UsageError(f"--steps {steps} is below miga.handover={handover}; use --steps {handover + 1} or more")
    return steps


def make_fifo(materials: Materials, values: Values) -> Fifo:
    """FIFO."""
    named = {name: values[name] for name in ("lookahead", "stride", "side", "history") if name in values}
    shape, schedule, solver, window = materials.basics
    start = values.get("init", "fanout")
    return Fifo(
        shape, schedule, _noisy(solver, values, "fifo"), window, start=start, end=materials.end("fifo"), **named
    )


def make_chunk(materials: Materials, values: Values) -> Chunk:
    """Chunks. Joined through pixels they are decoded one by one, so each is one latent and whole groups after it."""
    join = values.get("join", "latent")
    shape, schedule, solver, window = materials.basics
    if join == "pixel" and window > materials.at_once:
        window -= (window - 1) % materials.at_once
    shared = values.get("overlap", 1 if join == "pixel" else OVERLAP)
    codec = materials.codec if join == "pixel" else None
    colours, lead = values.get("color_match", "none"), values.get("lead", "last")
    return Chunk(shape, schedule, solver, window, shared, join, codec, colours, lead)


def make_progressive(materials: Materials, values: Values) -> Progressive:
    """PA-VDM."""
    shape, schedule, solver, window = materials.basics
    rows, chunk, end = noisy_rows(window, values), values.get("chunk", 1), materials.end("progressive")
    lead = values.get("lead", "last")
    return Progressive(shape, schedule, solver, rows, chunk, prefix(values), end, lead)


def make_miga(materials: Materials, values: Values) -> Miga:
    """MIGA."""
    end = materials.length("miga with miga.stage2=batch") if values.get("stage2") == "batch" else None
    shape, schedule, solver, window = materials.basics
    named = {name: value for name, value in values.items() if name != "eta"}
    # a short window has less room beside what it moves than the paper's four guides take
    room = window - values.get("stride", max(window // 2, 1))
    named.setdefault("anchors", max(min(Miga.anchors, room), 0))
    return Miga(shape, schedule, _noisy(solver, values, "miga"), window, **named, end=end)


def _noisy(solver: Solver, values: Values, name: str) -> Solver:
    """The solver with the noise that METHOD.eta asks for."""
    if not values.get("eta"):
        return solver
    if solver.name not in ("euler", "ddim"):
        raise UsageError(f"{name}.eta is a parameter of --solver ddim, not of {solver.name}; add --solver ddim")
    return Solver("ddim", values["eta"])


def overlap(window: int, values: Values) -> int:
    """Latents of a clip that the next one reads."""
    return values.get("overlap", OVERLAP)


def half(window: int, values: Values) -> int:
    """Half a window."""
    return window // 2
