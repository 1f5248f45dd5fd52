"""Search for the largest batch size that fits into memory, by trial.

Lightning's `Tuner.scale_batch_size` does the same for a trainer. This search works on a single step, and on the CPU it
predicts the memory of the next size, where an allocation too large would end the process.
"""

import gc
from collections.abc import Callable
from functools import partial

import torch

from finetune.io.allocator import return_memory
from finetune.profiling import memory

MEMORY_ERRORS = (
    "out of memory",  # CUDA, HIP, MPS
    "can't allocate memory",  # torch on the CPU
    "not enough memory",  # the same on Windows and macOS
    "std::bad_alloc",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",  # cuDNN reports it like this: https://github.com/pytorch/pytorch/issues/4107
    "Unable to find a valid cuDNN algorithm",
)


def find_batch_size(
    try_step: Callable[[int], None], start: int = 2, limit: int = 1024, memory_limit: int | None = None
) -> int:
    """Return the largest batch size whose step fits into memory: doubled until one fails, then bisected.

    Training needs a little more memory than one step, because memory becomes fragmented; leave a margin.

    Args:
        try_step: function that runs a full training step, including the optimizer, on a batch of the given size. An
            out-of-memory error means that the size does not fit.
        start: first size. A single image is tried only if larger sizes fail, because batch norm on globally pooled
            features raises an error for it.
        limit: largest size that is tried.
        memory_limit: main memory that this process may use, in bytes; needs Linux. Without it the system may kill the
            process in a search on the CPU, where no error is raised first. A size that is predicted to exceed it is
            not tried.

    Raises:
        RuntimeError: not even a batch of 1 fits; the message includes the last error.
        ValueError: `start` or `limit` is out of range, or the memory of the process cannot be read.
        Exception: any other error of `try_step`.
    """
    if not 1 <= start <= limit:
        raise ValueError(f"cannot search from {start} up to {limit} images; expected 1 <= start <= limit.")
    failure_of = partial(_failure, try_step) if memory_limit is None else _LimitedStep(try_step, memory_limit).failure
    fitting, failing, size, reason = 0, limit + 1, start, ""
    while fitting + 1 < failing:
        if failure := failure_of(size):
            failing, reason = size, failure
        else:
            fitting = size
        size = min(2 * fitting, limit) if failing > limit else (fitting + failing) // 2
    if fitting == 0:
        raise RuntimeError(
            f"not even a batch of 1 fits into memory. Use smaller crops (augment.crop), a smaller model "
            f"or a lower precision. The last error was: {reason}"
        )
    return fitting


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory is exhausted.

    >>> is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")), is_out_of_memory(ValueError())
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_ERRORS)


def free_memory() -> None:
    """Release unused memory: objects in reference cycles, and what the C library or torch on an accelerator keeps."""
    gc.collect()
    return_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


class _LimitedStep:
    """A step with a limit of main memory, which is predicted to grow linearly, as between the last two sizes."""

    def __init__(self, try_step: Callable[[int], None], limit: int) -> None:
        self.try_step = try_step
        self.limit = limit
        self.size = 0  # last size that fitted, and its peak in bytes
        free_memory()
        self.peak = _require(memory.resident() if memory.reset_peak() else None)  # raises now if it cannot be read
        self.growth = 0.0  # bytes per additional image
        self.fitted = 0  # sizes

    def failure(self, size: int) -> str:
        """Return why a batch of this size does not fit; an empty string if it fits."""
        if self.fitted and size == self.size:
            return ""
        expected = self.peak + self.growth * (size - self.size)
        if expected > self.limit and self.fitted == 1 and size > self.size + 1:
            self.failure(self.size + 1)  # from the first size alone, what does not grow looks like growth
            expected = self.peak + self.growth * (size - self.size)
        if expected > self.limit:
            return f"a batch of {size} would need about {expected / 1e9:.2f} GB of {self.limit / 1e9:.2f} GB."
        memory.reset_peak()
        if failure := _failure(self.try_step, size):
            return failure
        peak = _require(memory.peak())
        if peak > self.limit:
            return f"a batch of {size} needs {peak / 1e9:.2f} GB of {self.limit / 1e9:.2f} GB."
        self.growth = (peak - self.peak) / (size - self.size)
        self.size, self.peak, self.fitted = size, peak, self.fitted + 1
        return ""


def _require(count: int | None) -> int:
    if count is None:
        raise ValueError("memory_limit needs Linux, to read /proc/self. Omit it and lower limit instead.")
    return count


def _failure(try_step: Callable[[int], None], size: int) -> str:
    """Return the out-of-memory error of a step; an empty string if there is none."""
    failure = ""
    try:
        try_step(size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failure = str(error) or type(error).__name__
    free_memory()  # not earlier: inside the except clause, the error still holds the tensors of the step
    return failure
