"""The data sets of the comparison: decoded, split the same way for every recipe, and worded as our overrides."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune.data.sources.synthetic import SyntheticSource

VOID = 255  # the label of pixels that are not scored, in every mask that `load` returns
SMALL = ("aerial_roads", "crop_weed", "pets", "steel_defects")
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
VAL_EVERY = 7  # each seventh training image, by name, is val where the data has no val split
# Sets without any split: images of train, val and test, in the order of their names. Of the 28 retinas the last 8 are
# the test images of most publications, and no patient is in two splits; of the 30 slices, neighbors stay together.
CUTS = {"chase_db1": (16, 4, 8), "isbi_membrane": (17, 4, 9)}

Pair = tuple[Tensor, Tensor]


@dataclass
class DataSet:
    """A data set in memory.

    Attributes:
        classes: their names.
        pairs: by split: images, uint8 (3, H, W), and masks, uint8 (H, W) with `VOID`.
    """

    classes: tuple[str, ...]
    pairs: dict[str, list[Pair]]


def load(name: str, folder: Path) -> DataSet:
    """Decode a data set.

    Args:
        name: one of those in the table of `benchmarks/recipes.py`.
        folder: that holds all data sets; not used for the synthetic one.
    """
    if name == "synthetic":
        source = SyntheticSource(seed=0)
        drawn: dict[str, list[Pair]] = {"train": [], "val": [], "test": []}
        for record in source.records():
            assert record.target is not None  # drawings have one
            drawn[record.split].append((record.image.read(), record.target.read()))
        return DataSet(source.class_names, drawn)
    root = _root(name, folder)
    classes, void, suffix, factor = _encoding(name, root)
    pairs = {
        part: [(_image(path), _mask(_mask_path(root, path, suffix), void, factor)) for path in paths]
        for part, paths in split_of(name, root).items()
    }
    return DataSet(classes, pairs)


def overrides(name: str, folder: Path, splits: Path) -> list[str]:
    """Return the overrides of `finetune train` for the same data, and write its split to a file for them."""
    if name == "synthetic":
        return ["data=synthetic", "data.seed=0"]
    root = _root(name, folder)
    splits.parent.mkdir(parents=True, exist_ok=True)
    with splits.open("w", newline="") as file:
        rows = [(path.stem, part) for part, paths in split_of(name, root).items() for path in paths]
        csv.writer(file).writerows([("image", "split"), *sorted(rows)])
    classes, void, suffix, factor = _encoding(name, root)
    given = [f"data.root={root}", f"data.classes=[{','.join(classes)}]", f"data.splits={splits}"]
    given += [f"data.ignore_index={void}"] if void is not None else []
    given += [f"data.mask_suffix={suffix}"] if suffix else []
    return given + ([f"data.mask_values=[0,{factor}]"] if factor > 1 else [])


def _root(name: str, folder: Path) -> Path:
    return folder / "small" / name if name in SMALL else folder / name


def split_of(name: str, root: Path) -> dict[str, list[Path]]:
    """Return the images of each split: the data's own, with val cut from train; or by `CUTS`."""
    images = root / "images"
    if name in CUTS:
        ordered = sorted(images.iterdir(), key=lambda path: (len(path.stem), path.stem))
        first, second = CUTS[name][0], sum(CUTS[name][:2])
        return {"train": ordered[:first], "val": ordered[first:second], "test": ordered[second:]}
    split = {part: sorted((images / part).glob("*")) for part in ("train", "val", "test")}
    if not split["val"]:
        split["val"] = split["train"][::VAL_EVERY]
        split["train"] = [path for path in split["train"] if path not in split["val"]]
    return split


def _encoding(name: str, root: Path) -> tuple[tuple[str, ...], int | None, str, int]:
    """Return the classes, the label of void, the end of the masks' names, and the factor of the class indices."""
    if name == "camvid":
        return CAMVID, 11, "", 1
    if name == "chase_db1":
        return ("background", "vessel"), None, "_1stHO", 1
    if name == "isbi_membrane":
        return ("membrane", "cell"), None, "", 255
    meta = json.loads((root / "meta.json").read_text())
    return tuple(meta["classes"]), meta["ignore_index"], "", 1


def _mask_path(root: Path, image: Path, suffix: str) -> Path:
    return root / "masks" / image.relative_to(root / "images").with_name(f"{image.stem}{suffix}.png")


def _image(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def _mask(path: Path, void: int | None, factor: int) -> Tensor:
    with Image.open(path) as mask:
        labels = torch.from_numpy(np.array(mask).astype(np.uint8))
    return labels // factor if void is None else labels.masked_fill(labels == void, VOID)
