"""What `--set`, `--method` and `--preset` may say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from longtake.apps.facts import Facts as Facts
from longtake.apps.methods import METHODS
from longtake.apps.methods import Materials as Materials
from longtake.apps.methods import Method as Method
from longtake.apps.parameters import Parameter, choose
from longtake.apps.stored import BOUNDS
from longtake.errors import UsageError

FIFO_VC2: dict[str, Any] = {
    "method": "fifo", "solver": "ddim", "guidance": 12.0, "methods": {"fifo": {"partitions": 4, "eta": 1.0}},
}  # fmt: skip
MIGA_WAN: dict[str, Any] = {
    "method": "miga", "steps": 54, "guidance": 5.0,
    "methods": {"miga": {"zigzag": 7, "handover": 9, "anchors": 4, "side": "after"}},
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    # the setting of all search tables
    "lab": {
        "steps": 24,
        "methods": {
            "fifo": {"partitions": 2},
            "miga": {"handover": 3},
            "progressive": {"window": 8, "chunk": 2, "prefix": 2},
        },
    },
    # FIFO-Diffusion's released defaults, on VideoCrafter2
    "fifo-vc2": FIFO_VC2,
    # ScalingNoise Sec. 4.1 on the same, all four proposals
    "scalingnoise-vc2": FIFO_VC2 | {"search": "beam", "searches": {"beam": {"width": 3, "candidates": 5}}},
    # MIGA Sec. 4.1: T = 64, groups of 4, e = 10, 6 guides
    "miga-vc2": {
        "method": "miga", "steps": 64, "solver": "ddim", "guidance": 12.0, "search": "reflect",
        "methods": {"miga": {"zigzag": 4, "handover": 9, "anchors": 6, "side": "after", "eta": 1.0}},
        "searches": {"reflect": {"threshold": 0.01, "tries": 5}},
    },
    # the same for Wan2.1-1.3B: 54 steps, groups of 7, 4 guides
    "miga-wan": MIGA_WAN | {"search": "reflect", "searches": {"reflect": {"threshold": 0.01, "tries": 3}}},
    "miga-paper": MIGA_WAN,
    # as its released code runs it, but for writing in place
    "miga-code-jacobi": MIGA_WAN | {"methods": {"miga": {**MIGA_WAN["methods"]["miga"], "rotate": True, "refine": 10}}},
    # PA-VDM Sec. 4 on Open-Sora 1.2, whose longtake.json has "window": 35
    "pa-opensora": {
        "method": "progressive", "steps": 30, "guidance": 7.0,
        "methods": {"progressive": {"window": 30, "chunk": 5, "prefix": 5}},
    },
    # the k-step paper, Sec. 4.1
    "kstep-svd": {
        "method": "chunk", "steps": 50, "search": "k-step", "methods": {"chunk": {"join": "pixel"}},
        "searches": {"k-step": {"candidates": 10, "preview_steps": 8}},
    },
    # LatSearch's released defaults: scored when its steps 10, 15 and 20 of 50, counted from 0, are done
    "latsearch-wan": {
        "method": "plain", "steps": 50, "guidance": 5.0, "search": "latsearch",
        "searches": {"latsearch": {"particles": 6, "levels": (39, 34, 29), "correlation": 0.1}},
    },
}  # fmt: skip
"""Named settings; what is typed beside them counts more. `methods` and `searches` hold their parameters."""

GENERAL = (
    Parameter("batch", int, "most windows in one forward", 1, BOUNDS["batch"][1]),
    Parameter("ending", ("exact", "shrink"), "skip what nothing reads, or let the queue run empty"),
    Parameter("prompt_rule", ("majority", "start", "queue_switch"), "which prompt a window with several is told"),
    Parameter("fade", int, "latents over which a prompt gives way to the next", 0),
)
"""Bare keys of --set."""

MODEL_OPTIONS = (
    Parameter("allow_unsound", bool, "run methods that a model is known to be bad at"),
    Parameter("riflex", int, "latents of one window, up to twice the model's own (RIFLEx)", 1),
    Parameter("shift", float, "of the noise schedule to high noise (Wan: 3 at 480p, 5 at 720p; SkyReels-V2: 8)", 0.01),
    Parameter("freelong", str, "true, or the frames of a longer window (FreeLong, on layers over time)"),
    Parameter("freepca", str, "true, or the frames of a longer window (FreePCA, on layers over time)"),
    Parameter("scale", str, "how the data were scaled in training (VideoCrafter2)"),
    Parameter("noise", ("own", "mixed", "progressive"), "what the first noise of a clip's frames shares (ConsistI2V)"),
    Parameter("frameinit", bool, "begin a clip from the low frequencies of its standing picture (ConsistI2V)"),
    Parameter("guidance_image", float, "guidance towards the picture, a third evaluation (ConsistI2V)", 1),
    Parameter("causal_block", int, "latents that see each other and those before, 1 for all (SkyReels-V2)", 1),
    Parameter("tiling", bool, "decode pictures in tiles, for less memory"),
)
"""Bare keys of --set that a model reads."""


def method(name: str, flag: str = "--method") -> Method:
    """The row of a method by name or alias. UsageError lists the known ones."""
    aliases = {alias: row.name for row in METHODS.values() for alias in row.aliases}
    return METHODS[choose("method", aliases.get(name, name), METHODS, flag)]


def parse_sets(
    texts: Iterable[str], row: Method, others: Iterable[Parameter] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of `--set` as (those of the method, bare ones). UsageError lists the known names.

    `others`: parameters by their whole names, such as those of a search; they come back with the bare ones.
    """
    own = {f"{row.name}.{parameter.name}": parameter for parameter in row.parameters}
    bare = {parameter.name: parameter for parameter in (*GENERAL, *MODEL_OPTIONS, *others)}
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
