"""The facts of files that are kept between runs, as plain data that is checked when it is read back."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from finetune.data.caching.decoding_settings import record_settings
from finetune.data.caching.facts import Fact
from finetune.data.images.decode import DECODING
from finetune.data.masks.contents import EncodedMask, MaskContents
from finetune.data.mistakes import Reading
from finetune.data.records import Record

KINDS: tuple[Literal["gray", "palette", "color"], ...] = ("gray", "palette", "color")
HASH = 8  # bytes


def reading_fact(channels: int) -> Fact[Record, Reading]:
    """Return how the reading of a record is kept; one with a problem is not.

    Args:
        channels: of the image.
    """
    return Fact(
        f"reading 2, decoding {DECODING}",
        lambda record: record.paths if record.image.paths else (),
        lambda record: record_settings(record, channels),
        _reading_to_json,
        _reading_from_json,
    )


def _reading_to_json(reading: Reading) -> Any:
    if reading.problems or not reading.target_size:
        return None
    positives = None if reading.positives is None else reading.positives.tolist()
    sizes = [*reading.size, *reading.target_size, int(reading.may_be_turned)]
    return [*sizes, list(reading.counts), list(reading.counts.values()), positives]


def _reading_from_json(record: Record, plain: Any) -> Reading:
    height, width, target_height, target_width, turned, values, pixels, positives = plain
    sizes = whole_numbers((height, width, target_height, target_width, turned))
    counts = dict(zip(whole_numbers(values, below=256), whole_numbers(pixels), strict=True))
    per_class = None if positives is None else torch.tensor(whole_numbers(positives), dtype=torch.int64)
    return Reading(record, tuple(sizes[:2]), tuple(sizes[2:4]), counts, per_class, may_be_turned=bool(turned))


contents_fact: Fact[EncodedMask, MaskContents | None] = Fact(
    f"mask contents 2, decoding {DECODING}",
    lambda mask: mask.paths,
    lambda mask: "",
    lambda contents: None if contents is None else _contents_to_json(contents),
    lambda mask, plain: _contents_from_json(plain),
)


def _contents_to_json(contents: MaskContents) -> Any:
    counts = (contents.pixels, contents.interior, contents.palette, contents.nearly_interior)
    pairs = [[list(m), list(m.values())] for m in counts]
    return [*contents.size, KINDS.index(contents.kind), int(contents.lossy), *pairs]


def _contents_from_json(plain: Any) -> MaskContents:
    height, width, kind, lossy, pixels, interior, palette, nearly = plain
    size = whole_numbers((height, width))
    pixels, interior, palette, nearly = map(_mapping, (pixels, interior, palette, nearly))
    return MaskContents(
        (size[0], size[1]), KINDS[whole_numbers([kind])[0]], pixels, interior, palette, bool(lossy), nearly
    )


def _mapping(plain: Any) -> Mapping[int, int]:
    keys, values = plain
    if not all(type(key) is int for key in keys):
        raise ValueError("values of a mask are whole numbers")
    return dict(zip(keys, whole_numbers(values), strict=True))


hash_fact: Fact[Record, str] = Fact(
    "hash 1", lambda record: record.paths, lambda record: "", lambda found: found, lambda record, plain: _hash(plain)
)


def _hash(plain: Any) -> str:
    if len(bytes.fromhex(plain)) != HASH:
        raise ValueError(f"a hash has {HASH} bytes")
    return str(plain)


def whole_numbers(numbers: Any, below: int = 2**62) -> Sequence[int]:
    """Return the numbers.

    Raises:
        ValueError: one of them is no whole number from 0 to below the limit.
    """
    if not all(type(number) is int and 0 <= number < below for number in numbers):
        raise ValueError("expected whole numbers")
    return numbers if isinstance(numbers, list) else list(numbers)
