"""How much memory is in use, exactly: unlike the resident size it is the same on a busy machine and on an idle one."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import ClassVar

import torch

FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Info(ctypes.Structure):
    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in FIELDS]


def in_use() -> int:
    """Bytes that were asked of the allocator and not given back: tensors, arrays, and all else above 512 bytes.

    glibc's own account, and beside it the blocks of Python's small objects. The resident size would hold besides what
    the allocator keeps for later, which depends on the order of threads and on the size of the kernel's pages. Where
    the C library keeps no account (glibc before 2.33, others), it is tensors and small objects alone.
    """
    gc.collect()
    small, account = 64 * sys.getallocatedblocks(), getattr(ctypes.CDLL(None), "mallinfo2", None)
    if account is None:
        return small + sum(one.untyped_storage().nbytes() for one in gc.get_objects() if isinstance(one, torch.Tensor))
    account.restype = _Info
    info = account()
    return info.uordblks + info.hblkhd + small
