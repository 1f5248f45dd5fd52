"""The data of a run: datasets, records and statistics by split, and the lines that describe them."""

from dataclasses import dataclass
from typing import Any

from finetune.data import Record, SegmentationDataset, Statistics
from finetune.data.images.value_range import ValueRange
from finetune.data.objects import background_index
from finetune.io.messages import shortlist
from finetune.recipe.facts import ObjectFacts


@dataclass
class DatasetBundle:
    """The data of a run.

    Attributes:
        classes: their names.
        ignore_index: label of the pixels that loss and scores leave out.
        datasets: by split.
        records: of all splits; a training empties the list once it has noted them.
        statistics: by split.
        channels: of the images.
        value_range: the values of black and white in images of more than 8 bit; None if there are none.
        tiled: whether some images were cut into tiles.
        notes: lines that say what was worked out from the files, and how the split was made.
        reasons: lines that say what the rules of the recipe decided, and why.
        warnings: lines that say what makes its scores doubtful.
        objects: the objects of the training images; None if pixels are classified.
    """

    classes: tuple[str, ...]
    ignore_index: int
    datasets: dict[str, SegmentationDataset]
    records: list[Record]
    statistics: dict[str, Statistics]
    channels: int = 3
    value_range: ValueRange | None = None
    tiled: bool = False
    notes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    objects: ObjectFacts | None = None

    @property
    def model_classes(self) -> tuple[str, ...]:
        """Classes of the model: without the background if it predicts objects."""
        if self.objects is None:
            return self.classes
        return tuple(name for index, name in enumerate(self.classes) if index != background_index(self.classes))

    @property
    def multilabel(self) -> bool:
        """Whether a pixel may belong to several classes."""
        return any(split.multilabel for split in self.statistics.values())

    def sizes(self) -> dict[str, int]:
        """Return the number of images, or of their tiles, in each split."""
        return {split: len(dataset) for split, dataset in self.datasets.items()}

    @property
    def noun(self) -> str:
        """What the datasets hold: images, or tiles if some images were cut."""
        return "tiles" if self.tiled else "images"

    def facts(self) -> dict[str, Any]:
        """Return what was understood of the data as plain values: lines, classes, and numbers of each split."""
        return {
            "notes": [*self.notes, *self.describe_sizes()],
            "warnings": list(self.warnings),
            "classes": list(self.classes),
            "noun": self.noun,
            "multilabel": self.multilabel,
            "splits": {
                split: {
                    "count": count,
                    "groups": len({record.group for record in self.records if record.split == split} - {""}),
                    "pixels": self.statistics[split].pixels.tolist(),
                    "ignored": self.statistics[split].ignored,
                    "total": self.statistics[split].total,
                }
                for split, count in self.sizes().items()
            },
        }

    def describe(self) -> str:
        """Return a line such as `367 train, 101 val and 233 test images, 11 classes: ...`."""
        counts = [f"{count:,} {split}" for split, count in self.sizes().items()]
        images = f"{', '.join(counts[:-1])} and {counts[-1]}" if len(counts) > 1 else counts[0]
        names = self.model_classes
        return f"{images} {self.noun}, {len(names)} class{'es' * (len(names) > 1)}: {shortlist(names, 20)}"

    def describe_classes(self) -> str:
        """Return the fraction of the training pixels that each class has, most frequent first."""
        shares = sorted(self.class_shares().items(), key=lambda item: -item[1])
        statistics = self.statistics["train"]
        ignored = f"; ignored {1 - statistics.labeled / statistics.total:.1%}" if statistics.ignored else ""
        return f"training pixels: {shortlist((f'{name} {share:.1%}' for name, share in shares), 12)}{ignored}"

    def class_shares(self) -> dict[str, float]:
        """Return the fraction of the training pixels that each class has."""
        statistics = self.statistics["train"]
        pixels = statistics.pixels.tolist()
        return {name: count / statistics.total for name, count in zip(self.classes, pixels, strict=True)}

    def describe_sizes(self) -> list[str]:
        """Return a line if targets have another size than their images."""
        resized = sum(split.resized for split in self.statistics.values())
        images = sum(split.images for split in self.statistics.values())
        text = (
            f"{resized:,} of {images:,} masks have another size than their image, of the same shape: resized by nearest"
        )
        return [f"{text} neighbor"] if resized else []

    def all_warnings(self) -> tuple[str, ...]:
        """Return the warnings, with one of classes that no training image has."""
        absent = [name for name, share in self.class_shares().items() if not share]
        if not absent:
            return self.warnings
        text = f"no training image has {shortlist(absent)}, so the model cannot learn it"
        return (*self.warnings, f"{text}. Check data.classes and the masks.")
