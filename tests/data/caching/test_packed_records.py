"""Records in little memory are the same records."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.data.caching.packed_records import GROUP, PackedRecords, pack_records
from finetune.data.files import ClassMaskFiles, ImageFile, MaskFile
from finetune.data.records import Record
from finetune.data.sources import SyntheticSource

ROOT = Path("/data/projects/street")


def records(count: int) -> list[Record]:
    return [
        Record(f"{n:06d}", ImageFile(ROOT / f"images/{n:06d}.jpg"), MaskFile(ROOT / f"masks/{n:06d}.png", (0, (1, 2))))
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [1, GROUP, GROUP + 1, 3 * GROUP - 1])
def test_packed_records_are_a_sequence_of_the_same_records(count: int) -> None:
    plain = [*records(count - 1), Record("c", ImageFile(Path("c.png")), ClassMaskFiles(Path("c.png"), (None,)), "val")]
    packed = pack_records(plain)
    assert isinstance(packed, PackedRecords)
    assert (list(packed), len(packed), packed[-1], packed[1:9:3]) == (plain, count, plain[-1], plain[1:9:3])
    with pytest.raises(IndexError):
        packed[count]


def test_a_record_takes_less_than_two_hundred_bytes() -> None:
    packed = pack_records(records(2_000))
    assert len(pickle.dumps(packed)) / len(packed) < 200  # it holds nothing but arrays
    assert all(isinstance(value, int | bytes | np.ndarray) for value in vars(packed).values())


def test_records_that_cannot_be_packed_stay_as_they_are() -> None:
    @dataclass(frozen=True)
    class Inside(ImageFile):
        pass

    assert pack_records([Record("a", Inside(Path("a.png")))]) == [Record("a", Inside(Path("a.png")))]
    large = [Record("a", ImageFile(Path("a.png")), MaskFile(Path("a.png"), list(range(100_000))))]
    assert pack_records(large)[0] is large[0]


def test_synthetic_records_are_packed() -> None:
    plain = SyntheticSource(9, 32).records()
    assert list(pack_records(plain)) == plain
    assert isinstance(pack_records(plain), PackedRecords)


class Opened:
    """Something that all records share, and that takes long to unpickle."""

    times = 0

    def __reduce__(self) -> tuple[object, ...]:
        return open_it, ()


def open_it() -> Opened:
    Opened.times += 1
    return Opened()


def test_what_all_records_share_is_unpacked_once() -> None:
    shared: Any = Opened()
    packed = pack_records([Record(str(n), ImageFile(Path("a.png")), MaskFile(Path("a.png"), shared)) for n in range(9)])
    assert isinstance(packed, PackedRecords)
    Opened.times = 0
    assert [record.name for record in packed] == [str(n) for n in range(9)]
    assert Opened.times == 1
    assert "_common" not in vars(pickle.loads(pickle.dumps(packed)))
