"""The one table of names: methods with their parameters, presets. A new method is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from longtake.apps.parameters import Parameter, choose
from longtake.core.model import Capabilities
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.errors import UsageError
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.plain import Plain

Values = Mapping[str, Any]
"""Parameters of one method that were set, by their short names."""


@dataclass(frozen=True)
class Materials:
    """What a rollout is made of besides its own parameters. `shape` is (C, H, W) of a latent."""

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver
    window: int
    codec: Any = None


@dataclass(frozen=True)
class Method:
    """A row of the table.

    make     builds the rollout
    steps    (window, steps of the model, --steps or None, parameters) -> the number of steps
    context  (window, parameters) -> latents of a user's clip that are read

    needs_rows: windows hold rows of different levels; one_level: of 0 and one other at most.
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


def _model_steps(window: int, usual: int, given: int | None, values: Values) -> int:
    return usual if given is None else given


def _fifo_steps(window: int, usual: int, given: int | None, values: Values) -> int:
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


def _fifo(materials: Materials, values: Values) -> Fifo:
    named = {name: values[name] for name in ("lookahead", "stride", "side", "history") if name in values}
    solver = materials.solver
    if values.get("eta"):
        if solver.name not in ("euler", "ddim"):
            raise UsageError(f"fifo.eta is a parameter of --solver ddim, not of {solver.name}; add --solver ddim")
        solver = Solver("ddim", values["eta"])
    start = values.get("init", "fanout")
    return Fifo(materials.shape, materials.schedule, solver, materials.window, start=start, **named)


def _chunk(materials: Materials, values: Values) -> Chunk:
    join = values.get("join", "latent")
    overlap = values.get("overlap", 1 if join == "pixel" else CHUNK_OVERLAP)
    codec = materials.codec if join == "pixel" else None
    return Chunk(materials.shape, materials.schedule, materials.solver, materials.window, overlap, join, codec)


FIFO_PARTITIONS = 3
CHUNK_OVERLAP = 2

METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            "plain",
            "one clip, as the model makes it",
            "",
            lambda m, values: Plain(m.shape, m.schedule, m.solver, m.window),
            _model_steps,
            lambda window, values: CHUNK_OVERLAP,
            streams=False,
            needs_rows=False,
        ),
        Method(
            "chunk",
            "clip after clip, each continuing the end of the one before",
            "",
            _chunk,
            _model_steps,
            lambda window, values: values.get("overlap", 1 if values.get("join") == "pixel" else CHUNK_OVERLAP),
            (
                Parameter("join", ("latent", "pixel"), "hand over latents, or the last picture"),
                Parameter("overlap", int, "latents that guide the next clip", 0),
            ),
            one_level=True,
        ),
        Method(
            "fifo",
            "a queue of rising noise: one latent out, one in at every tick",
            "FIFO-Diffusion, Kim et al. 2024",
            _fifo,
            _fifo_steps,
            lambda window, values: values.get("history", window // 2 if values.get("lookahead", True) else 1) or 1,
            (
                Parameter("partitions", int, "windows side by side; steps = partitions x window", 1),
                Parameter("lookahead", bool, "read cleaner rows in front of those that move"),
                Parameter("stride", int, "rows that a window moves", 1),
                Parameter("side", ("before", "after"), "where a window reads beyond what it moves"),
                Parameter("history", int, "finished rows still read", 0),
                Parameter("init", ("fanout", "replicate"), "fill the queue row by row, or from a base clip"),
                Parameter("eta", float, "noise of each step, 0 to 1, with --solver ddim", 0),
            ),
        ),
    )
}

PRESETS: dict[str, dict[str, Any]] = {
    # CONTRACT 4: the setting of all search tables
    "lab": {"steps": 24, "methods": {"fifo": {"partitions": 2}}},
}

MODEL_OPTIONS = (
    Parameter("allow_unsound", bool, "run methods that a model is known to be bad at"),
    Parameter("riflex", int, "latents of one window, up to twice the model's own (RIFLEx)", 1),
    Parameter("freelong", str, "true, or the frames of a longer window (FreeLong, on layers over time)"),
    Parameter("freepca", str, "true, or the frames of a longer window (FreePCA, on layers over time)"),
    Parameter("scale", str, "how the data were scaled in training (VideoCrafter2)"),
    Parameter("tiling", bool, "decode pictures in tiles, for less memory"),
)
"""Bare keys of --set that a model reads."""

GENERAL = (Parameter("batch", int, "most windows in one forward", 1), *MODEL_OPTIONS)
"""Bare keys of --set."""


def method(name: str, flag: str = "--method") -> Method:
    """The row of a method by name or alias. UsageError lists the known ones."""
    aliases = {alias: row.name for row in METHODS.values() for alias in row.aliases}
    return METHODS[choose("method", aliases.get(name, name), METHODS, flag)]


def parse_sets(texts: Iterable[str], row: Method) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of `--set` as (those of the method, bare ones). UsageError lists the known names."""
    own = {f"{row.name}.{parameter.name}": parameter for parameter in row.parameters}
    bare = {parameter.name: parameter for parameter in GENERAL}
    values: dict[str, Any] = {}
    general: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        key = key.strip()
        if not sign or not key:
            raise UsageError(f"--set {text} is not NAME=VALUE, such as --set fifo.partitions=3")
        for alias in row.aliases:
            key = key.replace(f"{alias}.", f"{row.name}.", 1) if key.startswith(f"{alias}.") else key
        owner = key.partition(".")[0]
        if "." in key and owner in METHODS and owner != row.name:
            raise UsageError(
                f"--set {text} has no effect: the method is {row.name}; add --method {owner} or leave it out"
            )
        choose("name for --set", key, [*own, *bare])
        if key in bare:
            general[key] = bare[key].parse("", value)
        else:
            values[own[key].name] = own[key].parse(f"{row.name}.", value)
    return values, general


def options_of(texts: Iterable[str]) -> dict[str, Any]:
    """The values of `--set` that are options of the model, whatever the method."""
    known = {parameter.name: parameter for parameter in MODEL_OPTIONS}
    pairs = (text.partition("=") for text in texts)
    return {key.strip(): known[key.strip()].parse("", value) for key, _, value in pairs if key.strip() in known}


@dataclass(frozen=True)
class Facts:
    """What is known of a model before its weights are loaded.

    source    what to load it by, also from another folder
    size      (width, height) of the run, in pixels, known to fit the model
    window    latent frames of one call
    factor    pixels of a latent's side; `compression` pixel frames of a latent after the first
    guided    whether a window costs two network evaluations, times `experts` at most
    """

    name: str
    source: str
    family: str
    window: int
    channels: int
    factor: int
    fps: float
    steps: int
    size: tuple[int, int]
    vocabulary: str | None
    per_row_levels: str
    image_first: bool
    guided: bool
    experts: int = 1
    compression: int = 4
    first_is_image: bool = True
    image_only: bool = False
    last_image: bool = False
    clean_rows: bool = False
    latent_group: int = 1
    latents_at_once: int = 1
    frames_behind: int = 0

    def clip_frames(self, context: int = 0) -> int:
        """Pixel frames of one clip, behind `context` latents that are read and not shown."""
        return (self.window - context) * self.compression if context else self.can.num_frames(self.window)

    def num_latents(self, num_frames: int, after: bool) -> int:
        """Latents that decode to `num_frames` frames, behind others or (not `after`) from the start of a video."""
        return self.can.num_latents(num_frames, after)

    @property
    def can(self) -> Capabilities:
        """The same as the loaded model will say it."""
        names = {item.name for item in fields(Capabilities)} & {item.name for item in fields(self)}
        return Capabilities(
            latent_shape=self.shape(self.size),
            temporal_compression=self.compression,
            **{name: getattr(self, name) for name in names},
        )

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, H, W) of a latent of pictures of `size`."""
        return self.channels, size[1] // self.factor, size[0] // self.factor
