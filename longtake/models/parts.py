"""What all families share: where a model comes from, its device, dtype, size and defaults, and loading one part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from longtake.core.noise import normal, root
from longtake.core.schedule import NoiseSchedule
from longtake.errors import UsageError
from longtake.models import folder as folders
from longtake.models.families import COMMON_KEYS, FAMILIES, LoadOptions, Source, family_of

T = TypeVar("T")

LOADING = RLock()
"""Held while networks are made: diffusers and transformers patch torch's modules for all threads meanwhile, and two
at once leave them patched, so that whatever the process makes later has no weights."""

WEIGHTS = Path(__file__).parent / "weights"
NAMES: dict[str, Path] = {
    name: WEIGHTS / name
    for name in ("pocket", "pocket-progressive")
    if name == "pocket" or (WEIGHTS / name / "transformer").is_dir()
}
"""Models that have names, by folder; the families' bare names come on top (`known`)."""

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
}  # fmt: skip


CLASSES = (
    "WanTransformer3DModel", "SkyReelsV2Transformer3DModel", "CogVideoXTransformer3DModel", "LatteTransformer3DModel",
    "UNetSpatioTemporalConditionModel", "AutoencoderKLWan", "AutoencoderKLCogVideoX", "AutoencoderKL",
    "AutoencoderKLTemporalDecoder",
)  # fmt: skip
"""The classes of diffusers that parts are of; each loads the weights of its own alone, even where names agree."""


VOCABULARIES = (
    ("tokenizer.json",), ("spiece.model",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("vocab.txt",),
)  # fmt: skip
"""The files that hold the words of a tokenizer, by kind."""


def known() -> dict[str, Path | str | None]:
    """Every name that `--model` takes."""
    return {**NAMES, **{row.name: row.hub for row in FAMILIES.values() if row.name not in NAMES}}


def source_of(model: Any, weights: bool = True) -> Source:
    """The source of a name, a folder, a hub id or a live pipeline. UsageError if it is none.

    Without `weights` a hub id is asked for its JSON alone.
    """
    if not isinstance(model, (str, Path)):
        return _live(model)
    folder = folders.resolve(model, known(), weights)
    here = Path(model).expanduser().is_dir() or str(model) in NAMES
    settings = folders.settings(folder)
    base = base_of(folder, settings)
    name = folder.resolve().name if Path(model).expanduser().is_dir() else str(model)
    source = Source(name, folder, None, folders.index_of(folder), settings, base, weights or here)
    _check_keys(source)
    return source


def _live(pipe: Any) -> Source:
    config = getattr(pipe, "config", {})
    origin = Path(str(config.get("_name_or_path") or "live"))
    source = Source(origin.name, None, pipe, dict(config), folders.settings(origin))
    _check_keys(source)
    return source


def base_of(folder: Path, settings: Mapping[str, Any]) -> Path | None:
    """The model folder that has what a fine-tune, which holds its transformer only, does not; None for other models."""
    given = settings.get("base")
    if given is None:
        return None
    home = NAMES.get(str(given), folder.parent / str(given))
    if not home.is_dir():
        raise UsageError(
            f"{folder / 'longtake.json'} builds on {given!r}, which is not here; known: {', '.join(NAMES)}"
        )
    return home


def _check_keys(source: Source) -> None:
    allowed = {*COMMON_KEYS, *family_of(source).keys}
    unknown = sorted(set(source.settings) - allowed)
    if unknown:
        place = "longtake.json" if source.folder is None else source.folder / "longtake.json"
        raise UsageError(f"{place} has an unknown key {unknown[0]!r}; known: {', '.join(sorted(allowed))}")


def check_folder(source: Source, parts: Iterable[str], weighted: Iterable[str]) -> None:
    """UsageError unless every part is there, and (where the weights should be) those of `weighted` are whole."""
    parts = tuple(parts)
    for part in parts:
        try:
            source.path(part)
        except UsageError:
            if source.whole:
                raise UsageError(f"{source.folder} has no folder {part!r}; it needs {', '.join(parts)}") from None
    for part in weighted:
        if source.whole:
            folders.check_part(source.path(part))
        library, named = (*(source.index.get(part) or ()), None, None)[:2]
        found = folders.read_json(source.path(part) / "config.json").get("_class_name")
        if library == "diffusers":
            _check_class(source.path(part), found, named)
    if "tokenizer" in parts and source.whole:
        _check_vocabulary(source.path("tokenizer"))
    if "scheduler" in parts and source.index:
        folders.read_json(source.path("scheduler") / "scheduler_config.json")


def _check_vocabulary(folder: Path) -> None:
    # some tokenizers load without their words, and would read nothing of a prompt
    if not any(all((folder / file).is_file() for file in files) for files in VOCABULARIES):
        files = ", ".join(" and ".join(files) for files in VOCABULARIES)
        raise UsageError(f"{folder} holds no vocabulary (one of: {files}); download the model again")


def _check_class(folder: Path, found: str | None, wanted: str) -> None:
    # some published parts carry a name that their authors' code had; only one that another part has is wrong
    if found is None or (found != wanted and found in CLASSES):
        raise UsageError(f"{folder / 'config.json'} is of class {found}, and {wanted} is needed; copy the folder again")


def usual(defaults: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """The family's defaults with those of the model's `longtake.json` on top."""
    return {**defaults, **source.settings}


def license_of(source: Source) -> str | None:
    """The licence that `longtake.json` or the model card states."""
    if source.settings.get("license"):
        return source.settings["license"]
    return folders.license_of(source.folder) if source.folder else None


def stretched_window(window: int, options: LoadOptions) -> int:
    """The window, or the longer one that the option `riflex` asks for."""
    longer = options.extras.get("riflex")
    if longer is None:
        return window
    if not isinstance(longer, int) or longer <= window:
        raise UsageError(f"riflex={longer} is no longer than the window; give {window + 1} to {2 * window} latents")
    if longer > 2 * window:  # what RIFLEx itself holds up to without training
        raise UsageError(f"riflex={longer} is more than twice the window; give {window + 1} to {2 * window} latents")
    return longer


def pick(given: T | None, default: T) -> T:
    """`given` unless it is None."""
    return default if given is None else given


def pick_device(device: str = "auto") -> torch.device:
    """The device of that name; auto is cuda, then mps, then cpu."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        raise UsageError(f"device {device!r} cannot be used here; try auto, cpu, cuda or mps") from problem
    return torch.device(device)


def dtype_of(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of that name; by default bfloat16 on cuda and float32 elsewhere."""
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    return DTYPES[dtype]


def fit_size(size: str | tuple[int, int] | list[int], multiple: int) -> tuple[int, int]:
    """(width, height) if both are multiples of `multiple`; UsageError names the nearest size that works."""
    try:
        sides = size.lower().split("x") if isinstance(size, str) else size
        width, height = (int(side) for side in sides)
    except (ValueError, TypeError) as problem:
        raise UsageError(f"size {size!r} is not WIDTHxHEIGHT, such as {4 * multiple}x{4 * multiple}") from problem
    near = [max(multiple, int(side / multiple + 0.5) * multiple) for side in (width, height)]
    if near != [width, height]:
        raise UsageError(
            f"size {width}x{height} does not fit this model: sides must be multiples of {multiple}; "
            f"the nearest that works is {near[0]}x{near[1]}"
        )
    return width, height


def load_part(kind: Any, path: Path, owner: Any, **options: Any) -> Any:
    """`kind.from_pretrained(path)` from local files; UsageError names the part and its owner."""
    try:
        with LOADING, no_progress_bars():
            return kind.from_pretrained(path, local_files_only=True, **options)
    except Exception as problem:  # diffusers and transformers raise many types; the user needs the part's name
        said = " ".join(str(problem).split())[:200]
        if "ignore_mismatched_sizes" in said:  # how to go on all the same, which nobody should
            said = "its weights have other shapes than its config.json says; copy the folder again"
        raise UsageError(f"cannot load the {path.name} of {owner}: {said}") from problem


def load_module(source: Source, part: str, kind: Any, device: torch.device, **options: Any) -> nn.Module:
    """The weights of a part, from safetensors, frozen, on `device`; UsageError if some are missing."""
    if kind.__name__ in CLASSES:
        written = folders.read_json(source.path(part) / "config.json")
        _check_class(source.path(part), written.get("_class_name"), kind.__name__)
    module = load_part(kind, source.path(part), source.folder, use_safetensors=True, **options)
    if any(weight.is_meta for weight in module.parameters()):
        raise UsageError(f"cannot load the {part} of {source.folder}: its safetensors lack some of the weights")
    return module.eval().requires_grad_(False).to(device)


def check_live(pipe: Any, module: nn.Module, options: LoadOptions) -> None:
    """UsageError where options ask a live pipeline to be other than it is: its device and dtype stay its own."""
    device = next(module.parameters()).device
    if options.device != "auto" and torch.device(options.device).type != device.type:
        raise UsageError(f"the pipeline is on {device}; call pipe.to({options.device!r}) before loading")
    dtype = next(module.parameters()).dtype
    if options.dtype is not None and dtype_of(options.dtype, device) != dtype:
        raise UsageError(f"the pipeline's transformer is {dtype}; a live pipeline keeps its own dtype")


def weights_hash(source: Source, parts: Iterable[str]) -> str:
    """The name of a model's weights: of the folders of these parts, or of a live pipeline's modules by these names."""
    if source.folder is not None:
        return folders.folder_hash([source.path(part) for part in parts])
    modules = [getattr(source.pipe, part, None) for part in parts]
    return folders.module_hash([module for module in modules if module is not None])


def noised_prefix(x: Tensor, levels: Tensor, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """(rows as a network without levels per row may see them, one level a window) of x (B, F, C, H, W), levels (B, F).

    Rows at level 0 are noised to the level that the others share, with noise that is always the same, as if they had
    come down from it with a perfect estimate (RePaint, Lugmayr et al. 2022, Eq. 8a). ValueError if levels differ.
    """
    top = levels.amax(dim=1)
    if not bool(((levels == top[:, None]) | (levels == 0)).all()):
        raise ValueError(f"rows of one window must share one level here, got {levels.tolist()}")
    clean = (levels < top[:, None]).nonzero().tolist()
    if not clean:
        return x, top
    shown = x.clone()
    for window, row in clean:
        level = int(top[window])
        eps = normal(x.shape[2:], root(0), "known row", row).to(x)
        shown[window, row] = schedule.alphas[level] * x[window, row] + schedule.sigmas[level] * eps
    return shown, top


class Remembered:
    """A function of one tensor (and hashable others) whose last few results are kept, by the tensor's content."""

    def __init__(self, function: Callable[..., Any], size: int = 4) -> None:
        self._function, self._size = function, size
        self._known: dict[Any, Any] = {}

    def __call__(self, x: Tensor, *others: Any) -> Any:
        """The result for `x`, computed once."""
        key = (x.detach().float().cpu().contiguous().numpy().tobytes(), tuple(x.shape), *others)
        if key not in self._known:
            while len(self._known) >= self._size:
                self._known.pop(next(iter(self._known)))
            self._known[key] = self._function(x, *others)
        return self._known[key]


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """No bars from transformers, which draws one for every set of weights, however small."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
