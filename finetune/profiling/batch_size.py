"""Finds the largest batch that fits into memory, by trying."""

import gc
from collections.abc import Callable
from functools import partial

import torch

from finetune.profiling import memory

MEMORY_ERRORS = (
    "out of memory",  # CUDA, HIP, MPS
    "can't allocate memory",  # torch on the CPU
    "not enough memory",  # the same on Windows and macOS
    "std::bad_alloc",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",  # what is left of it in cuDNN: https://github.com/pytorch/pytorch/issues/4107
    "Unable to find a valid cuDNN algorithm",
)


def find_batch_size(
    try_step: Callable[[int], None], start: int = 2, limit: int = 1024, memory_limit: int | None = None
) -> int:
    """The largest batch size whose step fits into memory: doubled until one does not fit, then bisected.

    Training needs a little more than one step, because memory gets fragmented; leave some room.

    Args:
        try_step: runs a whole training step, optimizer included, on a batch of that many; an out-of-memory error
            says that it does not fit.
        start: first size. A single image is tried only if more do not fit: batch norm refuses it on pooled maps.
        limit: largest size that is tried.
        memory_limit: bytes that this process may hold in main memory, on Linux. Without it a search on the CPU can
            end by the system killing the process, for no error comes before. A size that is expected to exceed it is
            not tried.

    Raises:
        RuntimeError: not even one fits; with the last error.
        ValueError: a start or limit that cannot be tried, or memory that cannot be watched.
        Exception: any that `try_step` raises for another reason.
    """
    if not 1 <= start <= limit:
        raise ValueError(f"cannot search from {start} up to {limit} images; expected 1 <= start <= limit.")
    refusal = partial(_refusal, try_step) if memory_limit is None else _Watched(try_step, memory_limit).refusal
    fitting, failing, size, reason = 0, limit + 1, start, ""
    while fitting + 1 < failing:
        if said := refusal(size):
            failing, reason = size, said
        else:
            fitting = size
        size = min(2 * fitting, limit) if failing > limit else (fitting + failing) // 2
    if fitting == 0:
        raise RuntimeError(
            f"not even a batch of 1 fits into memory. Make the images smaller (data.size, augment.crop), take a "
            f"smaller model, or lower the precision. The last error was: {reason}"
        )
    return fitting


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up.

    >>> is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")), is_out_of_memory(ValueError())
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_ERRORS)


def free_memory() -> None:
    """Give unused memory back: what garbage holds, and what torch keeps for later on an accelerator."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


class _Watched:
    """A step whose main memory is watched; it is expected to go on growing as it did between the last two sizes."""

    def __init__(self, try_step: Callable[[int], None], limit: int) -> None:
        self.try_step = try_step
        self.limit = limit
        self.size = 0  # the last one that fitted, and its peak in bytes
        self.peak = _known(memory.resident() if memory.reset_peak() else None)  # raises at once where it cannot be told
        self.growth = 0.0  # bytes for each further image

    def refusal(self, size: int) -> str:
        """Why a batch of this size does not fit; nothing if it does."""
        expected = self.peak + self.growth * (size - self.size)
        if expected > self.limit:
            return f"a batch of {size} would take about {expected / 1e9:.2f} GB of {self.limit / 1e9:.2f}."
        memory.reset_peak()
        if said := _refusal(self.try_step, size):
            return said
        peak = _known(memory.peak())
        if peak > self.limit:
            return f"a batch of {size} takes {peak / 1e9:.2f} GB of {self.limit / 1e9:.2f}."
        self.growth = (peak - self.peak) / (size - self.size)
        self.size, self.peak = size, peak
        return ""


def _known(count: int | None) -> int:
    if count is None:
        raise ValueError("memory_limit needs Linux, to watch /proc/self. Leave it out, and lower limit.")
    return count


def _refusal(try_step: Callable[[int], None], size: int) -> str:
    """The out-of-memory error of a step, or nothing."""
    said = ""
    try:
        try_step(size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error) or type(error).__name__
    free_memory()  # only here: up to the end of the clause above, the error holds the step's tensors
    return said
