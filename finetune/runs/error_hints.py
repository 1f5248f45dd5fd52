"""What to do about an error that ended a training and does not say so itself."""

import errno
import shutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.io.messages import format_bytes
from finetune.profiling import memory
from finetune.profiling.batch_size import is_out_of_memory

SHARED = Path("/dev/shm")  # where workers put the batches that they hand over
WORKERS = ("loading worker", "DataLoader worker", "shared memory", "</torch_")  # the last are torch's files in there
GONE = ("Connection closed by peer", "Connection reset by peer", "ncclRemoteError", "remote process exited")
ACCELERATORS = ("CUDA", "HIP", "MPS", "XPU", "CUBLAS", "CUDNN", "cuDNN")
UNSETTLED = "does not have a deterministic implementation"
REFUSALS = {
    errno.ENOSPC: "no room is left",
    errno.EDQUOT: "your quota is used up",
    errno.EROFS: "the file system can only be read",
    errno.EACCES: "you have no permission",
}
PLENTY = 2**30  # bytes; a disk with so much free space is not full


def advice(error: BaseException, config: Mapping[str, Any]) -> list[str]:
    """Lines to show below an error: what was tried, what there is, what to change; none for what explains itself.

    Args:
        error: that ended a training.
        config: of the training.
    """
    if isinstance(error, RuntimeError) and any(words in str(error) for words in WORKERS):
        return worker_advice(config)
    if isinstance(error, RuntimeError) and any(words in str(error) for words in GONE):
        return ["look: another process of this training ended first; its own error is further up, or in its log"]
    if isinstance(error, RuntimeError) and UNSETTLED in str(error):
        return ["try: trainer.deterministic=warn, which says so and goes on; or another head or loss"]
    if is_out_of_memory(error):
        return memory_advice(error, config)
    refused = next((cause for cause in _causes(error) if getattr(cause, "errno", None) in REFUSALS), None)
    if isinstance(refused, OSError) and isinstance(error, OSError | RuntimeError):
        return disk_advice(refused, config)
    return []


def memory_advice(error: BaseException, config: Mapping[str, Any]) -> list[str]:
    """What to do where a batch does not fit."""
    data, augment, trainer = (config.get(group) or {} for group in ("data", "augment", "trainer"))
    key = "augment.crop" if augment.get("crop") else "data.size"
    size, precision = augment.get("crop") or data.get("size"), str(trainer.get("precision", "32-true"))
    scoring = _is_scoring(error)
    on_device = any(word in str(error) for word in ACCELERATORS)
    alone = trainer.get("devices", 1) in (1, "1")
    pixels = "their own size" if scoring or not size else " x ".join(map(str, _sides(size))) + " pixels"
    lines = [
        f"tried: {data.get('batch_size')} images of {pixels}{' in a validation or test' if scoring else ''}, "
        f"{'on one device' if alone else 'on each device'}, trainer.precision={precision}"
    ]
    if not on_device and (free := memory.available()) is not None:
        lines.append(f"memory: {format_bytes(free)} available now")
    lines += _smaller_batch(data, trainer)
    if scoring:
        return [*lines, "try: smaller images to validate and test on, or a smaller backbone"]
    lines.append(f"try: {key}={_halved(size)}" if size else "try: augment.crop=320, which cuts training images")
    if on_device and "16" not in precision:
        lines.append("try: trainer.precision=bf16-mixed")
    if alone:
        lines.append("try: data.batch_size=auto, which searches the largest that fits")
    return [*lines, "try: a smaller backbone"]


def _smaller_batch(data: Mapping[str, Any], trainer: Mapping[str, Any]) -> list[str]:
    batch, steps = data.get("batch_size"), trainer.get("accumulate_grad_batches", 1)
    if not isinstance(batch, int) or batch < 2:
        return []
    same = "as many" if batch % 2 == 0 else "about as many"
    return [f"try: data.batch_size={batch // 2} trainer.accumulate_grad_batches={2 * steps}, {same} images a step"]


def worker_advice(config: Mapping[str, Any]) -> list[str]:
    """What there is for processes that load, and how to do without them."""
    data = config.get("data") or {}
    lines = [f"tried: data.num_workers={data.get('num_workers')} with data.batch_size={data.get('batch_size')}"]
    if (free := memory.available()) is not None:
        lines.append(f"memory: {format_bytes(free)} available now")
    if SHARED.is_dir():
        shared = shutil.disk_usage(SHARED)
        lines.append(f"shared memory: {format_bytes(shared.free)} of {format_bytes(shared.total)} free in {SHARED}")
    return [*lines, "try: data.num_workers=0, which loads in the training process and needs neither"]


def disk_advice(error: OSError, config: Mapping[str, Any]) -> list[str]:
    """What could not be written, how much room there is, and where to go."""
    output = Path(config.get("output") or ".").absolute()
    path = Path(str(error.filename)).absolute() if error.filename else output
    place = next(folder for folder in (path, *path.parents) if folder.is_dir())
    reason = REFUSALS[error.errno or errno.ENOSPC]
    lines = [f"disk: {reason} for '{path}'"]
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        room = shutil.disk_usage(place)
        full = error.errno == errno.ENOSPC and room.free > PLENTY
        hint = "; it may be the number of files that is used up, see df -i" if full else ""
        lines.append(f"disk: {format_bytes(room.free)} of {format_bytes(room.total)} free in '{place}'{hint}")
        lines.append("try: remove what you no longer need there, or output=FOLDER on another disk")
    elif path.is_relative_to(output) or output.is_relative_to(path):
        lines.append("try: output=FOLDER where you may write")
    return lines


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, as a traceback would show them."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _is_scoring(error: BaseException) -> bool:
    """Whether it happened in a validation or test, where images are not cropped."""
    frames = (frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__))
    return not {"validation_step", "test_step"}.isdisjoint(frames)


def _sides(size: int | Sequence[int]) -> list[int]:
    """Height and width."""
    return [size, size] if isinstance(size, int) else list(size)


def _halved(size: int | Sequence[int]) -> str:
    """About half of it, in steps that suit most networks, as one types it.

    >>> _halved(320), _halved(40), _halved([480, 640])
    ('160', '32', '[224,320]')
    """
    sides = [max(32, side // 2 // 32 * 32) for side in _sides(size)]
    return str(sides[0]) if isinstance(size, int) else f"[{sides[0]},{sides[1]}]"
