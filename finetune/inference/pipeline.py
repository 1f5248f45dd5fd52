"""Read images ahead of a model, and write its predictions behind it, in threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from finetune.data.records import DataError

THREADS = 2  # to read, and as many to write: decoding and encoding run beside the model
AHEAD = 8  # images that wait, read or predicted

Image = tuple[Path, Tensor]


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
                yield path, image.result()
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


def batches(images: Iterable[Image], size: int) -> Iterator[list[Image]]:
    """Yield up to `size` images at a time, all of one shape; their order stays.

    >>> from torch import zeros
    >>> shapes = [(1, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 3)]
    >>> images = [(Path(str(number)), zeros(shape)) for number, shape in enumerate(shapes)]
    >>> [[path.name for path, _ in batch] for batch in batches(images, 2)]
    [['0', '1'], ['2'], ['3']]
    """
    batch: list[Image] = []
    for path, image in images:
        if batch and (len(batch) == size or image.shape != batch[0][1].shape):
            yield batch
            batch = []
        batch.append((path, image))
    if batch:
        yield batch


class Writer:
    """Calls functions in threads; leaving the context waits for all of them, and raises their first error."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS)
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
