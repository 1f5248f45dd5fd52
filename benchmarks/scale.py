"""Measure what an index of many records costs: memory, and the time until the first batch.

    python benchmarks/scale.py [--records 100000] [--files] [--workers 2]

The records name files that do not exist, and what is known of them is in the cache as after an earlier run with
`data.verify=none`; `--files` makes links to two real files instead, and looks at them as `data.verify=changed` does.
All is an unchanged collection, but for `file by file`, which is from what is known of each image, as after a change of
one. Prints seconds of this process on a core for each part, bytes for each record, and how much memory of its own a
loading process gains while it looks at records in random order.
"""

import argparse
import gc
import os
import pickle
import random
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Any

from PIL import Image

from finetune.data.caching.facts import _key, _Stamps
from finetune.data.caching.file_cache import FileCache
from finetune.data.caching.fingerprint import fingerprints
from finetune.data.caching.known_facts import hash_fact, reading_fact
from finetune.data.dataset import SegmentationDataset
from finetune.data.files import ImageFile, MaskFile
from finetune.data.mistakes import Reading
from finetune.data.module import SegmentationData
from finetune.data.processes import init_worker
from finetune.data.records import Record
from finetune.data.splitting.split_file import assign_splits
from finetune.data.splitting.splits import seeded_split
from finetune.data.statistics import inspect


def make_records(root: Path, count: int) -> list[Record]:
    """Return records of pairs in folders of a thousand."""
    return [
        Record(
            f"{n // 1000:04d}/{n:07d}",
            ImageFile(root / f"images/{n // 1000:04d}/{n:07d}.jpg"),
            MaskFile(root / f"masks/{n // 1000:04d}/{n:07d}.png"),
        )
        for n in range(count)
    ]


def link_files(records: list[Record]) -> None:
    """Make the files of records: links to one image and one mask."""
    first = records[0]
    for index, record in enumerate(records):
        for path in record.paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        if index == 0:
            Image.new("RGB", (64, 64)).save(first.image.paths[0])
            Image.new("L", (64, 64)).save(first.paths[1])
            for path in first.paths:
                os.utime(path, (1e9, 1e9))
        else:
            for path, target in zip(record.paths, first.paths, strict=True):
                os.link(target, path)


def fill_cache(records: list[Record], cache: FileCache) -> None:
    """Put in what an earlier run would have of each file."""
    fact, stamps = reading_fact(3), _Stamps()
    plain = fact.to_json(Reading(records[0], (64, 64), (64, 64), {0: 4000, 1: 96}))
    text, size = str(plain).replace("None", "null").replace(" ", ""), 4096
    for start in range(0, len(records), size):
        rows: dict[bytes, tuple[str, str]] = {}
        for record in records[start : start + size]:
            stamp = stamps.of(record.paths) or ""
            rows[_known(_key(fact, record, record.paths))] = (stamp, text)
            rows[_known(_key(hash_fact, record, record.paths))] = (stamp, '"0123456789abcdef"')
        cache.save(rows)


def _known(key: bytes | None) -> bytes:
    assert key is not None
    return key


@contextmanager
def timed(name: str, times: dict[str, float]) -> Iterator[None]:
    """Note the seconds that a block takes on a core."""
    start = process_time()
    yield
    times[name] = process_time() - start


def held(make: Callable[[], Any], count: int) -> float:
    """Return the bytes that the result of a call holds, for each of so many records."""
    tracemalloc.start()
    result = make()
    size = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    del result
    return size


def private_memory() -> float:
    """Return the memory that this process shares with no other, megabytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1000


def look_at(records: Any, steps: int) -> list[float]:
    """Return the private memory of a loading process before and after it looks at records, and half way."""
    init_worker(0)
    chosen = random.Random(0).choices(range(len(records)), k=steps)
    memory = [private_memory()]
    for part in (chosen[: steps // 2], chosen[steps // 2 :]):
        for index in part:
            assert records[index].paths
        memory.append(private_memory())
    return memory


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Cost of an index of many records.")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--files", action="store_true", help="link real files and look at each")
    parser.add_argument("--steps", type=int, default=20_000, help="records that the loading process looks at")
    options = parser.parse_args()
    folder, count = Path(tempfile.mkdtemp(prefix="scale-")), options.records
    try:
        measure(folder, count, options.files, options.steps)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, count: int, has_files: bool, steps: int) -> None:
    """Print what records in a folder cost."""
    plain = make_records(folder / "data", count)
    verify: Any = "changed" if has_files else "none"
    if has_files:
        link_files(plain)
    else:  # files that do not exist count as read, to be known of as those of an earlier run
        _Stamps.of = lambda stamps, files: ""  # type: ignore[method-assign]  # of this benchmark only
    fill_cache(plain, FileCache(verify, folder / "cache"))
    times: dict[str, float] = {}
    with timed("split", times):
        names = [record.name for record in plain]
        records = assign_splits(plain, seeded_split(names, seed=0))
    file_by_file: dict[str, float] = {}
    for measured in (file_by_file, times):
        with timed("statistics", measured):
            cache = FileCache(verify, folder / "cache")
            inspect(records, 2, cache=cache)
            assert cache.taken == count, "not everything was in the cache"
        with timed("fingerprints", measured):
            fingerprints(records, cache)
    with timed("datasets", times):
        sets = {s: SegmentationDataset([r for r in records if r.split == s]) for s in ("train", "val", "test")}
    with timed("first batch", times):
        data = SegmentationData(sets["train"], sets["val"], batch_size=4)
        order = next(iter(data.train_dataloader().batch_sampler))  # type: ignore[arg-type]
        assert [sets["train"].records[key.index].paths for key in order]
    print(f"{count:,} records, data.verify={verify}")
    by_file = {f"{name}, file by file": seconds for name, seconds in file_by_file.items()}
    for name, seconds in {**times, "together": sum(times.values()), **by_file}.items():
        print(f"  {name:26s} {seconds:8.2f} s {1e6 * seconds / count:8.1f} us a record")
    some = min(count, 20_000)
    as_list = held(lambda: make_records(folder / "data", some), some)
    print(f"  a list of records        {as_list:8.0f} bytes each")
    print(f"  a dataset                {len(pickle.dumps(sets['train'])) / len(sets['train']):8.0f} bytes each")
    plain.clear()  # as a training does
    records.clear()
    gc.collect()
    with get_context("fork").Pool(1) as pool:
        begin, middle, end = pool.apply(look_at, (sets["train"].records, steps))
    half = f"{steps // 2:,} records"
    print(f"  a loading process gains {middle - begin:.1f} MB in {half}, and {end - middle:.1f} MB in as many more")


if __name__ == "__main__":
    main()
