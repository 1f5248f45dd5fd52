"""Draw folders of images and masks as people keep them, and compare what is read from them with what was drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data.recognition.discovery import discover
from finetune.data.records import Record
from finetune.data.sources import SOURCES

VOID = -1  # label of drawn pixels that belong to no class
SIZE = (40, 48)

# (folder of the images, folder of the masks); "" stands for the root, and the same name twice for one folder
FOLDERS = (
    ("images", "masks"),
    ("JPEGImages", "SegmentationClass"),
    ("imgs", "gt"),
    ("x", "y"),
    ("a b#1", "täg$%"),
    ("data/original", "data/labelled"),
    ("photos", "photos"),
    ("", ""),
)
# templates of the names of an image and its mask
NAMES = (
    ("{}", "{}"),
    ("{}", "{}_mask"),
    ("{}", "mask_{}"),
    ("{}", "gt-{}_seg"),
    ("{}_image", "{}_label"),
    ("img_{}", "seg_{}"),
    ("{}-rgb", "{}-gt"),
)
STEMS = ("{}", "{:04d}", "scan_{}", "a.{}", "frame {}", "{}_{}", "ä{}", "IMG-{:03d}")
SPLITS = ("", "above", "below", "lists")
SPLIT_NAMES = {"train": ("train", "Training"), "val": ("val", "valid", "Validation"), "test": ("test", "testing")}
# file values of the classes
NUMBERS = (
    (0, 1),
    (0, 1, 2),
    (1, 2, 3),
    (0, 255),
    (0, 128, 255),
    (0, 2, 3, 7),
    (0, 50, 100, 150),
    (7, 21, 33),
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12),
)
COLORS = ((0, 0, 0), (255, 0, 0), (0, 128, 0), (128, 64, 128), (255, 255, 0))


@dataclass(frozen=True)
class Folder:
    """What is drawn.

    Attributes:
        folders: of the images and of the masks.
        names: templates of the stems.
        stem: template of what the names have in common.
        split: where the split is: "", above the folders, below them, or in lists.
        numbers: file value of each class.
        coding: gray, rgb, palette, palettes (a different one for each file), deep (16 bit), bit, soft, jpeg or npy.
        has_void: whether pixels of 255 belong to no class.
        legend: kind of the file that names the classes; "" for none.
        count: of images.
        seed: of what is in them.
    """

    folders: tuple[str, str] = FOLDERS[0]
    names: tuple[str, str] = NAMES[0]
    stem: str = STEMS[0]
    split: str = ""
    numbers: tuple[int, ...] = NUMBERS[1]
    coding: str = "gray"
    has_void: bool = False
    legend: str = ""
    count: int = 7
    seed: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether every pixel of the masks is to be read as it was drawn, also next to borders."""
        return self.coding not in ("soft", "jpeg")


@dataclass
class Drawing:
    """The labels in each mask (H, W), int64, by the path of its image, and the split of each image."""

    labels: dict[Path, np.ndarray] = field(default_factory=dict)
    splits: dict[Path, str] = field(default_factory=dict)


def draw(root: Path, folder: Folder) -> Drawing:
    """Write the files of a folder."""
    random = np.random.default_rng(folder.seed)
    drawn, listed = Drawing(), {"train": [], "val": [], "test": []}
    spelled = {split: names[random.integers(len(names))] for split, names in SPLIT_NAMES.items()}
    for index in range(folder.count):
        split = ("train", "train", "val", "train", "test")[index % 5] if folder.split else ""
        core = folder.stem.format(index + 8, index)
        names = [name.format(core) for name in folder.names]
        image, mask = (_place(root, folder, name, spelled.get(split, "")) for name in folder.folders)
        labels = draw_labels(random, len(folder.numbers), folder.has_void)
        path = _save_image(image / names[0], random, jpeg=folder.folders[0] == folder.folders[1])
        save_mask(mask / names[1], labels, folder, random)
        drawn.labels[path], drawn.splits[path] = labels, split
        listed.get(split, []).append(path)
    if folder.split == "lists":
        for split, paths in listed.items():
            text = "".join(f"{path.name}\n" if folder.seed % 2 else f"{path.stem}\n" for path in paths)
            (root / f"{spelled[split]}.txt").write_text(text)
    _write_legend(root, folder)
    return drawn


def _place(root: Path, folder: Folder, name: str, split: str) -> Path:
    parts = {"above": (split, name), "below": (name, split)}.get(folder.split, (name,))
    return root.joinpath(*parts)


def draw_labels(random: np.random.Generator, classes: int, has_void: bool) -> np.ndarray:
    """Return rectangles of all classes on the first, with a rectangle of void, (H, W)."""
    labels = np.zeros(SIZE, dtype=np.int64)
    height, width = SIZE
    order = [*random.permutation(np.arange(1, classes)), *([VOID] if has_void else [])]
    for label in order:
        if label == VOID or random.random() < 0.8:
            y, x = random.integers(1, height - 10), random.integers(1, width - 10)
            labels[y : y + random.integers(7, 20), x : x + random.integers(7, 20)] = label
    return labels


def _save_image(path: Path, random: np.random.Generator, jpeg: bool) -> Path:
    """Write a photograph: smooth light with noise."""
    path = path.with_name(path.name + (".jpg" if jpeg else ".png"))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(random.integers(0, 200, (5, 6, 3), dtype=np.uint8))
    smooth = np.array(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC)).astype(int)
    Image.fromarray((smooth + random.integers(0, 50, smooth.shape)).clip(0, 255).astype(np.uint8)).save(path)
    return path


def save_mask(path: Path, labels: np.ndarray, folder: Folder, random: np.random.Generator) -> None:
    """Write labels in the coding of a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named = path.with_name(f"{path.name}.png")
    numbers = np.array([*folder.numbers, 255])[labels]
    if folder.coding in ("rgb", "palettes"):
        colors = np.array([*COLORS[: len(folder.numbers)], (255, 255, 255)], dtype=np.uint8)[labels]
    match folder.coding:
        case "gray":
            Image.fromarray(numbers.astype(np.uint8)).save(named)
        case "rgb":
            Image.fromarray(colors).save(named)
        case "palette":
            image = Image.fromarray(numbers.astype(np.uint8)).convert("P")
            image.putpalette(np.random.default_rng(1).integers(0, 255, 768).astype(np.uint8).tobytes())
            image.save(named)
        case "palettes":
            order = random.permutation(len(COLORS))
            image = Image.fromarray(order[labels].astype(np.uint8)).convert("P")
            image.putpalette(np.array(COLORS, dtype=np.uint8)[np.argsort(order)].tobytes())
            image.save(named)
        case "deep":
            Image.fromarray(numbers.astype(np.uint16)).save(named)
        case "bit":
            Image.fromarray(labels == 1).save(named)
        case "soft":
            large = Image.fromarray(numbers.astype(np.uint8)).resize((96, 80), Image.Resampling.NEAREST)
            large.resize((56, 44), Image.Resampling.BILINEAR).resize(SIZE[::-1], Image.Resampling.BILINEAR).save(named)
        case "jpeg":
            Image.fromarray(numbers.astype(np.uint8)).save(path.with_name(f"{path.name}.jpg"), quality=90)
        case "npy":
            np.save(path.with_name(f"{path.name}.npy"), numbers.astype(np.int32))


def _write_legend(root: Path, folder: Folder) -> None:
    names = [f"kind {index}" for index in range(len(folder.numbers))]
    if folder.legend == "txt":
        (root / "classes.txt").write_text("\n".join(names))
    if folder.legend == "csv":
        rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip(names, COLORS, strict=False)]
        (root / "class_dict.csv").write_text("\n".join(["name,r,g,b", *rows]))


def read(root: Path, given: Mapping[str, object]) -> tuple[list[Record], int, list[str]]:
    """Return the records that are read with what is worked out, the label of void, and what was said."""
    found = discover(root, given)
    settings = {key: value for key, value in found.settings.items() if key != "format"}
    source = SOURCES[found.settings["format"]](**settings)
    return source.records(), source.ignore_index, found.lines


def differences(drawn: Drawing, records: Sequence[Record], void: int, is_exact: bool) -> list[str]:
    """Return what was read otherwise than it was drawn, whatever the names and the order of classes."""
    problems = []
    found = {record.image.paths[0]: record for record in records}
    if found.keys() != drawn.labels.keys():
        problems.append(f"other images: {sorted(set(found) ^ set(drawn.labels))[:3]}")
    pairs: dict[tuple[int, int], int] = {}
    for path, labels in drawn.labels.items():
        if path not in found:
            continue
        if found[path].split != drawn.splits[path]:
            problems.append(f"{path.name} is in {found[path].split or 'no split'}")
        decoded = found[path].target.read().numpy().astype(np.int64)
        decoded[decoded == void] = VOID
        inside = np.ones_like(labels, dtype=bool) if is_exact else _inside(labels)
        values, counts = np.unique(np.stack([labels[inside], decoded[inside]]), axis=1, return_counts=True)
        for (label, value), count in zip(values.T.tolist(), counts.tolist(), strict=True):
            pairs[label, value] = pairs.get((label, value), 0) + count
    total = sum(pairs.values())
    pairs = {pair: count for pair, count in pairs.items() if is_exact or count > 0.002 * total}
    if len({label for label, _ in pairs}) < len(pairs) or len({value for _, value in pairs}) < len(pairs):
        problems.append(f"labels were read as {pairs}")
    if any((label == VOID) != (value == VOID) for label, value in pairs):
        problems.append(f"void was taken for a class, or a class for void: {pairs}")
    return problems


def _inside(labels: np.ndarray) -> np.ndarray:
    """Return the pixels that are three away from any other label."""
    result = np.ones_like(labels, dtype=bool)
    for axis in (0, 1):
        for shift in (-3, -2, -1, 1, 2, 3):
            result &= np.roll(labels, shift, axis) == labels
    return result
