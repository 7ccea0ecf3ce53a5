"""A pretended accelerator, "farside": tensors that compute on the CPU and refuse to be mixed with the host's.

What breaks a run on an accelerator is mostly one of few things: a tensor of the host in a network call, a generator of
the host asked for numbers there, `.numpy()` of something that is not here. All of them raise here as they do there, so
that `device=` is tested on machines without one. Not covered: kernels, `torch.compile`, speed and memory.

`Far` is a wrapper subclass; every operation unwraps, computes and wraps again. Rules, as of torch: a number without
dimensions may come from the host; tensors of the host may index; copies go both ways; all else stays on one side.
A backend lasts as long as its process, so tests use this in one of their own (test_device.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "farside"
COPIES = ("aten._to_copy", "aten.copy_", "aten.copy", "aten.set_", "aten._local_scalar_dense")
INDEXING = ("aten.index", "aten.index_put_", "aten.index_put", "aten._index_put_impl_", "aten._unsafe_index")
JOINING = ("aten.cat", "aten.stack")


class Far(Tensor):
    """A tensor on the pretended device; `here` holds its values."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Far:
        made = Tensor._make_wrapper_subclass(
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            layout=here.layout, device=torch.device(NAME, 0), requires_grad=False,
        )  # fmt: skip
        made.here = here
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Far({self.here})"

    def tolist(self) -> Any:
        return self.here.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.here.detach().__reduce_ex__(protocol)  # files know no side

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class _Made(TorchDispatchMode):
    """Tensors that are made there are `Far`, and what mixes sides is noticed whatever comes first."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        far = any(isinstance(value, Far) for value in pytree.tree_leaves((args, kwargs)))
        return compute(func, args, kwargs) if far or _asked(kwargs) else func(*args, **kwargs)


def _asked(kwargs: dict[str, Any]) -> bool:
    return kwargs.get("device") is not None and torch.device(kwargs["device"]).type == NAME


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the values, its results where they belong; RuntimeError where devices are mixed."""
    name = str(func).rsplit(".", 1)[0]
    flat = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    if name not in COPIES:
        check(name, args, flat)
    far = any(isinstance(value, Far) for value in flat)
    there = _asked(kwargs) if kwargs.get("device") is not None else far
    there = isinstance(args[0], Far) if name == "aten.copy_" else there
    generator = kwargs.get("generator")
    if there and generator is not None and generator.initial_seed() not in _SEEDS:
        raise RuntimeError(f"{name}: Expected a '{NAME}' device type for generator but found 'cpu'")
    if name == "aten._fused_sdp_choice":
        return 0  # plain arithmetic: the fused kernels are each device's own
    inner = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
    if kwargs.get("device") is not None:
        inner["device"] = torch.device("cpu")
    out = func(*pytree.tree_map(_near, args), **pytree.tree_map(_near, inner))
    return _returned(out, args, there)


def check(name: str, args: Any, flat: list[Tensor]) -> None:
    """RuntimeError if tensors of the host and of the device meet where torch does not allow it."""
    if name in INDEXING and any(isinstance(value, Far) for value in flat):
        if not isinstance(args[0], Far):
            raise RuntimeError(f"{name}: indices should be on the host as the indexed tensor is")
        flat = [args[0], *(value for value in args[2:3] if isinstance(value, Tensor))]  # indices may be anywhere
    near = [value for value in flat if not isinstance(value, Far)]
    if len(near) < len(flat) and any(value.ndim > 0 or name in JOINING for value in near):
        shapes = [(tuple(value.shape), value.device.type) for value in flat]
        raise RuntimeError(f"{name}: Expected all tensors to be on the same device, but found {shapes}")


def _near(value: Any) -> Any:
    return value.here if isinstance(value, Far) else value


def _returned(out: Any, args: Any, there: bool) -> Any:
    """Results wrapped; what an operation changed in place is the tensor that it was given."""
    known = {id(_near(value)): value for value in pytree.tree_leaves(args) if isinstance(value, Tensor)}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in known:
            return known[id(value)]
        return Far(value) if there and not isinstance(value, Far) else value

    return pytree.tree_map(wrapped, out)


_KEPT: list[Any] = []
_SEEDS: set[int] = set()


def _register() -> None:
    if torch._C._get_privateuse1_backend_name() == NAME:
        return
    told: dict[str, Any] = {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
        "is_initialized": lambda: True, "_is_in_bad_fork": lambda: False, "_lazy_init": lambda: None,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16], "synchronize": lambda *_: None,
    }  # fmt: skip
    module = ModuleType(NAME)
    module.__dict__.update(told)
    backend_registration._setup_privateuseone_for_python_backend(NAME, module)
    rules = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    rules.fallback(torch.library.fallthrough_kernel)  # autocast does nothing here
    _KEPT.append(rules)


class _Generator(torch.Generator):
    """A generator that knows its side, told apart by its seed later on; all of them compute on the host."""

    there: bool

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls, "cpu")
        made.there = torch.device(device).type == NAME
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass

    def manual_seed(self, seed: int) -> torch.Generator:
        if self.there:
            _SEEDS.add(seed)
        return super().manual_seed(seed)


def _no_grad(mode: bool = True) -> Any:
    """Inference mode and wrapper subclasses do not go together; what it forbids is not what is looked for."""
    return torch.no_grad() if mode else nullcontext()


@contextmanager
def pretended() -> Iterator[str]:
    """While open, a device of the returned name works."""
    _register()
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device=)` is made on the host and then copied
    try:
        with (
            _Made(),
            mock.patch.object(torch, "inference_mode", _no_grad),
            mock.patch.object(torch, "Generator", _Generator),
        ):
            yield NAME
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
