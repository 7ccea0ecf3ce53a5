"""The families of models, and the seam that each is written against.

A family is one row of `FAMILIES` and one module that is imported when a model of it is asked for. The module has

    def facts(source: Source, options: LoadOptions) -> ModelFacts     # JSON only: what a dry run needs
    def load_family(source: Source, options: LoadOptions) -> Model    # weights

Both are handed a `Source`: a local folder (diffusers layout, or one of ours whose `longtake.json` names the family) or
a live pipeline. Both raise UsageError, one line, for what cannot work; `facts` refuses all that JSON can tell.

What `load_family` has to return. `Model.denoiser` implements `core.model.Denoiser` (x0 from noisy rows, one level a
row) and `Prompted` (models/seam). `Model.codec` implements `core.model.Codec` and, where a picture may open a video,
`encode_image(picture, size) -> latents`. Defaults come from the folder's `longtake.json`, else from the family
(`parts.usual`); `options` override both. `models/parts.py` has the shared work: devices, dtypes, sizes, loading a part
with one-line errors. `models/wan_family.py` is the example to follow.

Clean rows. Rollouts put known latents (a picture, the end of the clip before) into a window as leading rows at level
0, and the denoiser returns them as they are. How a network is told is the family's affair:
- networks with a level a row (`per_row_levels` native, hook or own) read them at time 0;
- networks that take a picture by channels or tokens (`image_first`, whatever `per_row_levels` says) build that
  condition from the first row: `decode` it, make what the network wants, keep it by content (`parts.Remembered`);
- networks whose rows must all share one level ("no", with `clean_rows` True) are shown the known rows noised to the
  level of the others (`parts.noised_prefix`), as RePaint does.
So a condition is a function of the rows, and a run that is resumed needs no picture.

Codecs that decode several latents together (`Capabilities.latent_group`, `latents_at_once`) return no frames until the
last of them is there and keep those that wait in their cache; asked-for lengths are rounded up.

Tests of a family, on a tiny random model in its real format: equal levels = the stock forward; each row depends on
its own level; plain = the stock pipeline (<= 1e-4 of the standard deviation); streamed = whole decode where
`exact_streaming`; `longtake.testing.check_denoiser`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from longtake.errors import UsageError
from longtake.models.seam import LoadOptions as LoadOptions
from longtake.models.seam import Model as Model
from longtake.models.seam import ModelFacts as ModelFacts
from longtake.models.seam import Prompted as Prompted
from longtake.models.seam import Source as Source

TINY = "tiny random weights in the published format"


@dataclass(frozen=True)
class Family:
    """A row of the table.

    module   imported lazily; has `facts` and `load_family`
    classes  `_class_name`s of diffusers pipelines that it loads; none for own layouts, which `longtake.json` names
    hub      the checkpoint that the family's bare name stands for, None if it has to be converted first
    status   what the family was run with: TINY unless published weights were seen here
    keys     what its `longtake.json` may hold besides `COMMON_KEYS`
    options  which `LoadOptions.extras` it has; None: its module says
    adapts   whether LoRAs, offloading, compiling and attention backends are at hand (models/adapt)
    reads    whether prompts decide what it shows
    alone    why rows cannot have levels of their own, where `per_row_levels` is "no"

    per_row_levels and clean_rows are those of `core.model.Capabilities`.
    """

    name: str
    module: str
    classes: tuple[str, ...] = ()
    hub: str | None = None
    status: str = TINY
    keys: tuple[str, ...] = ()
    per_row_levels: str = "native"
    clean_rows: bool = False
    options: tuple[str, ...] | None = None
    adapts: bool = False
    reads: bool = True
    alone: str = ""


FAMILIES: dict[str, Family] = {
    row.name: row
    for row in (
        Family(
            "wan",
            "longtake.models.wan_family",
            ("WanPipeline", "WanImageToVideoPipeline"),
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
            keys=("guidance_2", "shift"),
            options=("riflex", "shift", "tiling"),
            adapts=True,
        ),
        Family(
            "skyreels",
            "longtake.models.skyreels_family",
            (
                "SkyReelsV2DiffusionForcingPipeline",
                "SkyReelsV2DiffusionForcingImageToVideoPipeline",
                "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
                "SkyReelsV2Pipeline",
                "SkyReelsV2ImageToVideoPipeline",
            ),
            "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers",
            keys=("shift",),
            options=("riflex", "shift", "tiling", "causal_block"),
            adapts=True,
        ),
        Family(
            "videocrafter2",
            "longtake.models.videocrafter",
            keys=("fps_condition", "scale", "solver"),
            options=("freelong", "freepca", "scale", "tiling"),
            adapts=True,
            per_row_levels="own",
        ),
        Family(
            "cogvideox",
            "longtake.models.cogvideox_family",
            ("CogVideoXPipeline", "CogVideoXImageToVideoPipeline"),
            "zai-org/CogVideoX-5b",
            per_row_levels="no",
            clean_rows=True,
            options=("riflex", "allow_unsound", "tiling"),
            adapts=True,
            alone="its text tokens share one time with its video tokens, so a level a row is not defined for them",
        ),
        Family(
            "latte",
            "longtake.models.latte",
            ("LattePipeline",),
            "maxin-cn/Latte-1",
            keys=("solver",),
            options=("tiling",),
            adapts=True,
            per_row_levels="own",
        ),
        Family(
            "latte-ucf",
            "longtake.models.latte_ucf",
            keys=("solver",),
            options=("tiling",),
            adapts=True,
            per_row_levels="own",
        ),
        Family(
            "svd",
            "longtake.models.svd_family",
            ("StableVideoDiffusionPipeline",),
            "stabilityai/stable-video-diffusion-img2vid",
            keys=("min_guidance", "motion_bucket", "picture_noise", "decode_context", "solver"),
            options=("freelong", "freepca", "tiling"),
            adapts=True,
            reads=False,
            per_row_levels="hook",
        ),
        Family(
            "consisti2v",
            "longtake.models.consisti2v",
            keys=("frame_stride", "guidance_image", "noise", "frameinit"),
            options=("freelong", "freepca", "noise", "frameinit", "guidance_image", "tiling"),
            adapts=True,
            per_row_levels="own",
        ),
        Family("open-sora", "longtake.models.opensora", options=("freelong", "freepca", "tiling"), adapts=True),
        Family(
            "open-sora-plan", "longtake.models.opensoraplan", options=("tiling",), adapts=True, per_row_levels="own"
        ),
    )
}
COMMON_KEYS = (
    "family", "base", "window", "fps", "steps", "guidance", "size", "max_sequence_length", "vocabulary", "preview",
    "license", "judge",
)  # fmt: skip
"""What any `longtake.json` may hold. `base` names a model whose folder has the parts that this one lacks."""


def classes() -> dict[str, Family]:
    """The families by the pipeline classes that they load."""
    return {name: row for row in FAMILIES.values() for name in row.classes}


def family_of(source: Source) -> Family:
    """The family of a folder or a live pipeline. UsageError names those that are supported."""
    known = classes()
    able = ", ".join(dict.fromkeys(row.name for row in known.values()))
    if source.pipe is not None:
        kind = type(source.pipe).__name__
        if isinstance(source.pipe, Model):  # its steps, size and guidance are in it, and a run brings its own
            raise UsageError(f"model is one that longtake.load made; give what it was loaded from: "
                             f"{source.pipe.source or 'the pipeline'}")  # fmt: skip
        if kind not in known:
            raise UsageError(f"{kind} pipelines are not supported; supported: those of {able}")
        return known[kind]
    named, kind = source.settings.get("family"), source.index.get("_class_name")
    if named is not None:
        if named not in FAMILIES:
            raise UsageError(f"{source.folder} is of family {named!r}; known: {', '.join(FAMILIES)}")
        return FAMILIES[named]
    if kind not in known:
        raise UsageError(f"{source.folder} holds a {kind or 'nameless pipeline'}; supported: those of {able}")
    return known[kind]


def facts(source: Source, options: LoadOptions) -> ModelFacts:
    """What can be known of a model from its JSON."""
    return import_module(_fit(source, options).module).facts(source, options)


def load_family(source: Source, options: LoadOptions) -> Model:
    """The model, by its family."""
    return import_module(_fit(source, options).module).load_family(source, options)


def _fit(source: Source, options: LoadOptions) -> Family:
    """The family, once it is known to have what is asked for."""
    row = family_of(source)
    strange = sorted(set(options.extras) - set(row.options)) if row.options is not None else []
    if strange:
        has = f"it has {', '.join(row.options)}" if row.options else "it has none"
        raise UsageError(f"{strange[0]} is no option of {row.name}; {has}")
    asked = [flag for flag, value in (("--lora", options.lora), ("--offload", options.offload != "none"),
                                      ("--compile", options.compile), ("--attention", options.attention))
             if value]  # fmt: skip
    if asked and not row.adapts:
        raise UsageError(f"{asked[0]} is not at hand for {row.name}; leave it out")
    import_module("longtake.models.adapt").check_options(source, options)
    if options.attention is not None:
        import_module("longtake.models.attention").check_attention(options.attention)
    return row
