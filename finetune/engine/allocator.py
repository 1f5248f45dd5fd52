"""The memory that a training on a CPU takes and gives back in every step."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from malloc.h of glibc
NEVER = -1


def keep_memory() -> None:
    """Keep freed memory for the next step instead of giving it back to the system, which would have to clear it again.

    It does nothing without glibc. The process keeps its peak memory to its end.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)
