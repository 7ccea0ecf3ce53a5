"""The table of methods: names and parameters. A new method is one file and one row here."""

from __future__ import annotations

from longtake.apps.building import (
    OVERLAP,
    fifo_steps,
    half,
    make_chunk,
    make_fifo,
    make_miga,
    make_progressive,
    miga_steps,
    model_steps,
    overlap,
    prefix,
    progressive_steps,
)
from longtake.apps.building import (
    Materials as Materials,
)
from longtake.apps.building import (
    Method as Method,
)
from longtake.apps.parameters import Parameter
from longtake.rollouts.freenoise import FreeNoise
from longtake.rollouts.plain import Plain
from longtake.rollouts.replace import Replace
from longtake.rollouts.rolling import Rolling
from longtake.rollouts.windows import Windows

FUSE = Parameter("fuse", ("pyramid", "uniform", "linear"), "how estimates are averaged where windows overlap")

METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            "plain",
            "one clip, as the model makes it",
            "",
            lambda m, values: Plain(*m.basics),
            model_steps,
            lambda window, values: OVERLAP,
            streams=False,
            needs_rows=False,
        ),
        Method(
            "chunk",
            "clip after clip, each continuing the end of the one before",
            "",
            make_chunk,
            model_steps,
            lambda window, values: values.get("overlap", 1 if values.get("join") == "pixel" else OVERLAP),
            (
                Parameter("join", ("latent", "pixel"), "hand over latents, or the last picture"),
                Parameter("overlap", int, "latents that guide the next clip", 0),
                Parameter(
                    "lead", ("last", "first"), "first latent of later windows: their oldest guide, or the video's"
                ),
                Parameter("color_match", ("none", "adain"), "bring later clips to the colours of the first"),
            ),
            one_level=True,
        ),
        Method(
            "replace",
            "clip after clip, the last latents noised along with the next clip",
            "PA-VDM Eq. 5-6, Xie et al. 2025",
            lambda m, values: Replace(*m.basics, **values),
            model_steps,
            overlap,
            (
                Parameter("noise", bool, "hold them noised to the level of the rest, or clean"),
                Parameter("overlap", int, "latents that are held", 0),
            ),
            needs_rows=False,
        ),
        Method(
            "fifo",
            "a queue of rising noise: one latent out, one in at every tick",
            "FIFO-Diffusion, Kim et al. 2024",
            make_fifo,
            fifo_steps,
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
            shrinks=True,
        ),
        Method(
            "progressive",
            "the window is the queue: rising noise behind a clean chunk, one call a tick",
            "PA-VDM, Xie et al. 2025",
            make_progressive,
            progressive_steps,
            lambda window, values: prefix(values) or 1,
            (
                Parameter("window", int, "noisy rows; the network reads these and the prefix", 1),
                Parameter("chunk", int, "rows that share a level", 1),
                Parameter("prefix", int, "clean rows kept in front", 0),
                Parameter("lead", ("last", "first"), "what the oldest of them is: itself, or the video's first latent"),
            ),
            ("pa-vdm",),
            shrinks=True,
        ),
        Method(
            "miga",
            "a queue whose neighbours share a level, the last levels in unified sweeps, guides from far ahead",
            "MIGA, Feng et al. 2026",
            make_miga,
            miga_steps,
            lambda window, values: window,
            (
                Parameter("zigzag", int, "rows that share a level", 1),
                Parameter("handover", int, "level at which rows go on to unified sweeps; 0: never", 0),
                Parameter("anchors", int, "rows far in front that every window reads", 0),
                Parameter("stride", int, "rows that a window moves", 1),
                Parameter("side", ("after", "before"), "where a window reads beyond what it moves"),
                Parameter("rotate", bool, "move the windows with every sweep"),
                Parameter("stage2", ("stream", "batch"), "unified sweeps as rows come, or at the end over all"),
                Parameter("eta", float, "noise of each step, 0 to 1, with --solver ddim", 0),
                Parameter("refine", int, "levels of noise put back and removed once more", 0),
            ),
        ),
        Method(
            "rolling",
            "clips in blocks, each some steps behind the one before",
            "diffusion forcing; SkyReels-V2, Chen et al. 2025",
            lambda m, values: Rolling(*m.basics, **values),
            model_steps,
            overlap,
            (
                Parameter("block", int, "rows that share a level", 1),
                Parameter("delay", int, "steps between blocks", 0),
                Parameter("overlap", int, "latents that guide the next clip", 0),
            ),
        ),
        Method(
            "windows",
            "a video of fixed length in overlapping windows, fused at every step",
            "Gen-L-Video, Wang et al. 2023 (uniform)",
            lambda m, values: Windows(*m.basics, m.length("windows"), **values),
            model_steps,
            half,
            (Parameter("overlap", int, "rows that two windows share", 0), FUSE),
            ("gen-l-video",),
            streams=False,
            needs_rows=False,
            fixed=True,
        ),
        Method(
            "freenoise",
            "context windows over noise that repeats, shuffled",
            "FreeNoise, Qiu et al. 2023",
            lambda m, values: FreeNoise(*m.basics, m.length("freenoise"), **values),
            model_steps,
            half,
            (
                Parameter("overlap", int, "rows that two windows share", 0),
                FUSE,
                Parameter("shuffle", int, "rows whose noise is shuffled among them", 1),
            ),
            streams=False,
            needs_rows=False,
            fixed=True,
        ),
    )
}
