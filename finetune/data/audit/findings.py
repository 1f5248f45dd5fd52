"""What a check gets, and what it finds."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from finetune.data.audit.examination import Examined, ImageFacts, MaskFacts
from finetune.data.mistakes import MAX_NAMED, Reading
from finetune.data.records import Record
from finetune.data.splitting.split_names import SPLITS
from finetune.data.summary import Statistics, summarize
from finetune.data.tiles import ImageTile
from finetune.io.messages import shortlist

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One cause, in any number of images.

    Attributes:
        kind: short name, such as `leak`.
        severity: whether a training would fail, would be misled, or should only be known about.
        text: what was seen, in how many images, the first of them, and what to do.
        details: position of each image in the data -> what it has.
        files: files that belong to no image.
        exclude: positions of the images to leave out, if that is the move.
    """

    kind: str
    severity: Severity
    text: str
    details: Mapping[int, str]
    files: Sequence[Path] = ()
    exclude: Sequence[int] = ()


@dataclass(frozen=True)
class DataSet:
    """Everything that is known of the data.

    Attributes:
        examined: contents of all images, in the order of the records.
        classes: names of the classes.
        ignore_index: label of the pixels that are left out.
        raw_values: whether labels are the values in the files, so that `data.mask_values` may translate them.
        channels: of the images.
    """

    examined: Sequence[Examined]
    classes: tuple[str, ...]
    ignore_index: int = 255
    raw_values: bool = True
    channels: int = 3

    @cached_property
    def records(self) -> list[Record]:
        """All records."""
        return [each.reading.record for each in self.examined]

    @cached_property
    def images(self) -> dict[int, ImageFacts]:
        """Position -> facts about the image, of those that can be read."""
        return {index: each.image for index, each in enumerate(self.examined) if each.image is not None}

    @cached_property
    def masks(self) -> dict[int, MaskFacts]:
        """Position -> facts about the mask, of those that can be read."""
        return {index: each.mask for index, each in enumerate(self.examined) if each.mask is not None}

    @cached_property
    def class_pixels(self) -> dict[int, list[int]]:
        """Position -> pixels of each class, of the masks that can be read."""
        pixels = {}
        for index in self.masks:
            reading = self.examined[index].reading
            counts = reading.values[: len(self.classes)] if reading.positives is None else reading.positives
            pixels[index] = counts.tolist()
            if reading.positives is None and self.ignore_index < len(self.classes):
                pixels[index][self.ignore_index] = 0
        return pixels

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """Split -> its statistics, over the images that can be read and whose masks fit."""
        readings: dict[str, list[Reading]] = {split: [] for split in self.splits}
        for each in self.examined:
            if each.image is not None and each.mask is not None and each.reading.fits:
                readings[each.reading.record.split].append(each.reading)
        count, ignored = len(self.classes), self.ignore_index
        return {split: summarize(group, count, ignored) for split, group in readings.items() if group}

    @property
    def splits(self) -> dict[str, int]:
        """Split -> number of images."""
        counts = Counter(record.split for record in self.records)
        return {split: counts[split] for split in (*SPLITS, *counts) if split in counts}

    def name(self, index: int) -> str:
        """Return the name of an image for messages: that of its file, with the folder if others have it too."""
        record = self.records[index]
        if not record.image.paths:
            return record.name
        path, part = record.image.paths[0], self.part(index)
        name = path.name if self._file_names[path.name] == 1 else f"{path.parent.name}/{path.name}"
        return f"{name} {part}" if part else name

    def part(self, index: int) -> str:
        """Return which tile of its file an image is, for messages; nothing if it is the whole."""
        image = self.records[index].image
        return image.window.text if isinstance(image, ImageTile) else ""

    @cached_property
    def _file_names(self) -> Counter[str]:
        return Counter(path.name for path in {path for record in self.records for path in record.image.paths[:1]})

    def names(self, indices: Iterable[int]) -> str:
        """Return the first names of some images."""
        return shortlist(map(self.name, indices), MAX_NAMED)

    def finding(
        self, kind: str, severity: Severity, text: str, details: Mapping[int, str], exclude: Sequence[int] = ()
    ) -> list[Finding]:
        """Return a finding, or nothing if it is in no image.

        Args:
            kind: short name.
            severity: of the finding.
            text: with `{count}` for the number of images and `{names}` for the first of them.
            details: position of each image -> what it has.
            exclude: positions of the images to leave out.
        """
        if not details:
            return []
        filled = text.replace("{count}", f"{len(details):,}").replace("{names}", self.names(details))
        return [Finding(kind, severity, filled, details, exclude=exclude)]
