"""Records that take less than two hundred bytes each, and that loading processes share."""

import pickle
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from finetune.data.caching.columns import are_one, field_columns, path_texts
from finetune.data.records import Record
from finetune.io.garbage import no_collection

GROUP = 8  # records that are unpacked together
LARGEST = 2**15  # bytes of a group; one that takes more holds images, or all annotations
# how a value is made again: the value itself, a data class with the forms of its fields, or an entry of a column
Form = tuple[str, Any]


@no_collection()
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
    write its reference count. Here what differs between them is pickled in groups, and unpacked when it is asked for.

    Args:
        records: to pack, at least one.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        columns: list[Sequence[Any]] = []
        self._form = pickle.dumps(_take_apart(records, columns))
        starts = range(0, len(records), GROUP)
        groups = [pickle.dumps([column[start : start + GROUP] for column in columns]) for start in starts]
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
        columns = pickle.loads(memoryview(self._bytes)[start:end])
        record: Record = _put_together(self._common, (column[place] for column in columns))
        return record

    @cached_property
    def _common(self) -> Form:
        """What records have in common, unpacked once in each process: it may be a whole data set."""
        form: Form = pickle.loads(self._form)
        return form

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is unpacked."""
        return {name: value for name, value in vars(self).items() if name != "_common"}


def _take_apart(values: Sequence[Any], columns: list[Sequence[Any]]) -> Form:
    """Add what differs between values to the columns, and return their form."""
    if are_one(values):
        return "same", values[0]
    if (fields := field_columns(values)) is not None:
        return "fields", (fields[0], [_take_apart(column, columns) for column in fields[1]])
    texts = path_texts(values)
    columns.append(values if texts is None else texts)
    return "entry" if texts is None else "path", None


def _put_together(form: Form, entries: Iterator[Any]) -> Any:
    """Return a value of a form from its entries in the columns."""
    kind, what = form
    if kind == "fields":
        return what[0](*[_put_together(field, entries) for field in what[1]])
    if kind == "same":
        return what
    return Path(next(entries)) if kind == "path" else next(entries)
