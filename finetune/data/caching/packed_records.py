"""Records that take less than two hundred bytes each, and that loading processes share."""

import pickle
from collections.abc import Sequence
from typing import overload

import numpy as np

from finetune.data.records import Record

GROUP = 8  # records that are unpacked together, in a tenth of a millisecond; they share the names of folders
LARGEST = 2**15  # bytes of a group; one that takes more holds images, or all annotations


def pack_records(records: Sequence[Record]) -> Sequence[Record]:
    """Return the records in little memory; as a list if they are of a kind that cannot be packed, or not well."""
    try:
        first = pickle.dumps(records[:GROUP])
        return PackedRecords(records) if len(first) <= LARGEST else list(records)
    except Exception:  # pickling may raise anything, such as for a class inside a function
        return list(records)


class PackedRecords(Sequence[Record]):
    """Records in one array of bytes.

    A million records as objects take a gigabyte, which each loading process comes to copy: to look at an object is to
    write its reference count. Here they are pickled in groups, and unpacked when they are asked for.

    Args:
        records: to pack.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        groups = [pickle.dumps(records[start : start + GROUP]) for start in range(0, len(records), GROUP)]
        self._length = len(records)
        self._ends = np.cumsum([0, *map(len, groups)])
        self._bytes = b"".join(groups)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._length))]
        group, place = divmod(range(self._length)[index], GROUP)
        start, end = self._ends[group], self._ends[group + 1]
        record: Record = pickle.loads(memoryview(self._bytes)[start:end])[place]
        return record
