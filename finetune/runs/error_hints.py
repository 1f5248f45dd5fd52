"""What to change after an error that ended a training and does not say so itself."""

import errno
import shutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.io.messages import format_bytes
from finetune.profiling import memory
from finetune.profiling.batch_size import is_out_of_memory

SHARED_MEMORY = Path("/dev/shm")  # loading workers hand batches over in it
WORKER_ERRORS = ("loading worker", "DataLoader worker", "shared memory", "</torch_")  # the last: torch's files in there
LOST_RANK_ERRORS = ("Connection closed by peer", "Connection reset by peer", "ncclRemoteError", "remote process exited")
ACCELERATORS = ("CUDA", "HIP", "MPS", "XPU", "CUBLAS", "CUDNN", "cuDNN")
NOT_DETERMINISTIC = "does not have a deterministic implementation"
DISK_ERRORS = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
}
FREE_ENOUGH = 2**30  # bytes; a disk with so much free space is not full


def error_hints(error: BaseException, config: Mapping[str, Any], resumable: bool = False) -> list[str]:
    """Return lines to show below an error: what was tried, what is available, what to change.

    Args:
        error: the exception that ended a training.
        config: of the training.
        resumable: whether the training has left a checkpoint, with which other settings would not fit.

    Returns:
        No lines for errors that explain themselves.
    """
    if isinstance(error, RuntimeError) and any(text in str(error) for text in WORKER_ERRORS):
        return worker_hints(config)
    if isinstance(error, RuntimeError) and any(text in str(error) for text in LOST_RANK_ERRORS):
        return ["look: another process of this training ended first; its own error is further up, or in its log"]
    if isinstance(error, RuntimeError) and NOT_DETERMINISTIC in str(error):
        return ["try: trainer.deterministic=warn, which warns and continues; or another head or loss"]
    if is_out_of_memory(error):
        lines = memory_hints(error, config)
        return [line.replace("try: ", "try, in a new training: ") for line in lines] if resumable else lines
    cause = next((cause for cause in _causes(error) if getattr(cause, "errno", None) in DISK_ERRORS), None)
    if isinstance(cause, OSError) and isinstance(error, OSError | RuntimeError):
        return disk_hints(cause, config)
    return []


def memory_hints(error: BaseException, config: Mapping[str, Any]) -> list[str]:
    """Return what to change when a batch does not fit into memory."""
    data, augment, trainer = (config.get(group) or {} for group in ("data", "augment", "trainer"))
    key = "augment.crop" if augment.get("crop") else "data.size"
    size, precision = augment.get("crop") or data.get("size"), str(trainer.get("precision", "32-true"))
    in_evaluation = _is_in_evaluation(error)
    on_device = any(name in str(error) for name in ACCELERATORS)
    single = trainer.get("devices", 1) in (1, "1")
    pixels = "their own size" if in_evaluation or not size else " x ".join(map(str, _sides(size))) + " pixels"
    lines = [
        f"tried: {data.get('batch_size')} images of {pixels}{' in a validation or test' if in_evaluation else ''}, "
        f"{'on one device' if single else 'on each device'}, trainer.precision={precision}"
    ]
    if not on_device and (free := memory.available()) is not None:
        lines.append(f"memory: {format_bytes(free)} available now")
    lines += _smaller_batch(data, trainer)
    if in_evaluation:
        return [*lines, "try: smaller images to validate and test on, or a smaller backbone"]
    lines.append(f"try: {key}={_halved(size)}" if size else "try: augment.crop=320, which crops training images")
    if on_device and "16" not in precision:
        lines.append("try: trainer.precision=bf16-mixed")
    if single:
        lines.append("try: data.batch_size=largest, which searches the largest that fits")
    return [*lines, "try: a smaller backbone"]


def _smaller_batch(data: Mapping[str, Any], trainer: Mapping[str, Any]) -> list[str]:
    batch, steps = data.get("batch_size"), trainer.get("accumulate_grad_batches", 1)
    if not isinstance(batch, int) or batch < 2:
        return []
    same = "as many" if batch % 2 == 0 else "about as many"
    return [f"try: data.batch_size={batch // 2} trainer.accumulate_grad_batches={2 * steps}, {same} images a step"]


def worker_hints(config: Mapping[str, Any]) -> list[str]:
    """Return what loading workers have to share, and how to do without them."""
    data = config.get("data") or {}
    lines = [f"tried: data.num_workers={data.get('num_workers')} with data.batch_size={data.get('batch_size')}"]
    if (free := memory.available()) is not None:
        lines.append(f"memory: {format_bytes(free)} available now")
    if SHARED_MEMORY.is_dir():
        shared = shutil.disk_usage(SHARED_MEMORY)
        lines.append(
            f"shared memory: {format_bytes(shared.free)} of {format_bytes(shared.total)} free in {SHARED_MEMORY}"
        )
    return [*lines, "try: data.num_workers=0, which loads in the training process and needs neither"]


def disk_hints(error: OSError, config: Mapping[str, Any]) -> list[str]:
    """Return what could not be written, how much space there is, and where to write instead."""
    output = Path(config.get("output") or ".").absolute()
    path = Path(str(error.filename)).absolute() if error.filename else output
    folder = next(folder for folder in (path, *path.parents) if folder.is_dir())
    reason = DISK_ERRORS[error.errno or errno.ENOSPC]
    lines = [f"disk: {reason} for '{path}'"]
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        usage = shutil.disk_usage(folder)
        out_of_files = error.errno == errno.ENOSPC and usage.free > FREE_ENOUGH
        hint = "; the number of files may be used up, see df -i" if out_of_files else ""
        lines.append(f"disk: {format_bytes(usage.free)} of {format_bytes(usage.total)} free in '{folder}'{hint}")
        lines.append("try: remove files you no longer need there, or output=FOLDER on another disk")
    elif path.is_relative_to(output) or output.is_relative_to(path):
        lines.append("try: output=FOLDER where you may write")
    return lines


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, as a traceback shows them."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _is_in_evaluation(error: BaseException) -> bool:
    """Return whether the error was raised in a validation or test, where images are not cropped."""
    frames = (frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__))
    return not {"validation_step", "test_step"}.isdisjoint(frames)


def _sides(size: int | Sequence[int]) -> list[int]:
    """Return height and width."""
    return [size, size] if isinstance(size, int) else list(size)


def _halved(size: int | Sequence[int]) -> str:
    """Return about half of a size, in multiples of 32, as an override.

    >>> _halved(320), _halved(40), _halved([480, 640])
    ('160', '32', '[224,320]')
    """
    sides = [max(32, side // 2 // 32 * 32) for side in _sides(size)]
    return str(sides[0]) if isinstance(size, int) else f"[{sides[0]},{sides[1]}]"
