"""Data sets that the library `datasets` has saved in a folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.recognition.discovery import discover
from finetune.data.records import DataError
from finetune.data.sources.hf import HfSource

datasets = pytest.importorskip("datasets", reason="needs the library: pip install 'finetune-seg[hf]'")


def rows(count: int, columns: tuple[str, ...] = ("image", "label")) -> "datasets.Dataset":
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8)) for _ in range(count)]
    masks = [
        Image.fromarray(np.kron(random.choice([0, 255], (3, 4)), np.ones((2, 2))).astype(np.uint8)) for _ in images
    ]
    content = dict(zip(columns, (images, masks), strict=False)) | {"number": list(range(count))}
    features = {name: datasets.Image() for name in columns} | {"number": datasets.Value("int64")}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def test_splits_columns_and_classes_are_found(tmp_path: Path) -> None:
    saved = datasets.DatasetDict({"train": rows(5), "validation": rows(2)})
    saved.save_to_disk(tmp_path / "data")
    found = discover(tmp_path / "data", {}).settings
    assert (found["format"], found["classes"], found["mask_values"]) == ("hf", ["background", "foreground"], [0, 255])
    source = HfSource(**{key: value for key, value in found.items() if key != "format"})
    records = source.records()
    assert [record.split for record in records] == 5 * ["train"] + 2 * ["val"]
    assert records[3].image.read().permute(1, 2, 0).tolist() == np.asarray(saved["train"][3]["image"]).tolist()
    assert (records[3].target.read() * 255).tolist() == np.asarray(saved["train"][3]["label"]).tolist()


def test_other_columns_are_named(tmp_path: Path) -> None:
    rows(3, ("photo", "drawing")).save_to_disk(tmp_path / "data")
    with pytest.raises(
        DataError, match=r"columns photo, drawing, number; images are in photo, drawing\. Set data\.image"
    ):
        HfSource(tmp_path / "data", classes=2).records()
    records = HfSource(tmp_path / "data", 2, mask_values=[0, 255], mask_column="drawing").records()
    assert [record.split for record in records] == ["", "", ""]
    assert records[0].target.read().shape == (6, 8)


def test_a_folder_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=f"cannot load the data set '{tmp_path}'"):
        HfSource(tmp_path).records()
    assert HfSource.recognize(tmp_path / "nowhere") == []
