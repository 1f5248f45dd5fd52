"""Compare the cost of counting a validation batch with the argmax before it.

python benchmarks/metrics.py        # 10 s on one CPU thread
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

from finetune.metrics.confusion import confusion_matrix

BATCH, CLASSES, SIZE, ROUNDS = 8, 11, 512, 9


def milliseconds(work: Callable[[], object]) -> float:
    """Return the wall-clock time of one call."""
    start = perf_counter()
    work()
    return (perf_counter() - start) * 1e3


def main() -> None:
    """Measure both in turns, so that a busy machine slows both equally."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(BATCH, CLASSES, SIZE, SIZE, generator=generator)
    blocks = torch.randint(0, CLASSES, (BATCH, SIZE // 64, SIZE // 64), generator=generator)
    target = blocks.repeat_interleave(64, 1).repeat_interleave(64, 2)
    target[:, : SIZE // 10] = 255
    prediction = logits.argmax(1)
    channels_last, small = logits.contiguous(memory_format=torch.channels_last), target.byte()

    jobs: dict[str, Callable[[], object]] = {
        "argmax, NCHW logits": lambda: logits.argmax(1),
        "argmax, channels_last logits": lambda: channels_last.argmax(1),
        "confusion_matrix, int64 target": lambda: confusion_matrix(prediction, target, CLASSES),
        "confusion_matrix, uint8 target": lambda: confusion_matrix(prediction, small, CLASSES),
    }
    rounds = [{name: milliseconds(job) for name, job in jobs.items()} for _ in range(ROUNDS)]
    times = {name: median(each[name] for each in rounds) for name in jobs}

    print(f"logits ({BATCH}, {CLASSES}, {SIZE}, {SIZE}), median of {ROUNDS} rounds, 1 thread")
    for name, ms in times.items():
        print(f"{name:32} {ms:8.1f} ms   {ms / times['argmax, NCHW logits']:6.1%} of the argmax (NCHW)")


if __name__ == "__main__":
    main()
