"""Read images ahead of a model, and write its predictions behind it, in threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import Tensor

from finetune.data.records import DataError

THREADS = 2  # to read, and as many to write: decoding and encoding run while the model computes
AHEAD = 8  # images that wait, read or predicted

T = TypeVar("T")


class Image(NamedTuple):
    """An image that has been read.

    Attributes:
        path: the file.
        pixels: (C, H, W), uint8.
        time: of a frame, in the time base of its video.
    """

    path: Path
    pixels: Tensor
    time: int = 0


def read_ahead(paths: Iterable[Path], read: Callable[[Path], Tensor], problems: list[str]) -> Iterator[Image]:
    """Yield each file with its image, in order; those that cannot be read are left out, and their problems added.

    Args:
        paths: of the files.
        read: returns an image (C, H, W), or raises DataError.
        problems: gets a line for each file that cannot be read.
    """
    pool = ThreadPoolExecutor(THREADS)
    try:
        for path, image in _in_order(pool, read, paths):
            try:
                yield Image(path, image.result())
            except DataError as error:
                problems.append(str(error))
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, read: Callable[[Path], Tensor], paths: Iterable[Path]
) -> Iterator[tuple[Path, Future[Tensor]]]:
    waiting: deque[tuple[Path, Future[Tensor]]] = deque()
    for path in paths:
        waiting.append((path, pool.submit(read, path)))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def ahead(items: Iterator[T]) -> Generator[T]:
    """Yield the items of an iterator that runs in a thread, a few items ahead."""
    pool = ThreadPoolExecutor(1)
    try:
        waiting = deque(pool.submit(next, items, None) for _ in range(AHEAD))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, items, None))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def batches(images: Iterable[Image], size: int) -> Iterator[list[Image]]:
    """Yield up to `size` images at a time, all of one shape; their order stays.

    >>> from torch import zeros
    >>> shapes = [(1, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 3)]
    >>> images = [Image(Path(str(number)), zeros(shape)) for number, shape in enumerate(shapes)]
    >>> [[image.path.name for image in batch] for batch in batches(images, 2)]
    [['0', '1'], ['2'], ['3']]
    """
    batch: list[Image] = []
    for image in images:
        if batch and (len(batch) == size or image.pixels.shape != batch[0].pixels.shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


class Writer:
    """Calls functions in threads; leaving the context waits for all of them, and raises their first error.

    Args:
        threads: 1 keeps the order of the calls.
    """

    def __init__(self, threads: int = THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> "Writer":
        return self

    def call(self, function: Callable[[], None]) -> None:
        """Call a function soon; raise the error of an earlier one."""
        self._waiting.append(self._pool.submit(function))
        if len(self._waiting) > AHEAD:
            self._waiting.popleft().result()

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._waiting:
                future.result()
