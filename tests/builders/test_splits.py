"""Splits of a training by its settings: groups, folds, balance, and what is said about them."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import finetune
from finetune.builders.checks.training import check
from finetune.builders.data import training_data
from finetune.builders.settings import DataSettings
from finetune.builders.splits import Split, split_records
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError
from finetune.data import CsvSource, DataError, Record, write_splits
from finetune.runs.prepare import note_data, with_splits
from tests.samples import TINY, draw_folder

EYES = [f"Image_{n:02}{side}" for n in range(14) for side in "LR"]
FRAMES = [f"seq{n}_{frame:03}" for n in range(4) for frame in range(5)]


@dataclass
class Plain:
    """An image or a mask without files; a mask holds class 1 if it is rare."""

    rare: bool = False
    description: str = "plain"
    paths: tuple[Path, ...] = ()

    def read(self, channels: int = 0) -> Tensor:
        if channels:
            return torch.zeros(channels, 4, 4, dtype=torch.uint8)
        return torch.tensor([[0, 0, 0, int(self.rare)]] * 4, dtype=torch.uint8)


class Named:
    """A source of names, some of which have a split and a group."""

    class_names = ("ground", "thing")
    ignore_index = 255

    def __init__(self, *records: Record) -> None:
        self.given = records

    def records(self) -> list[Record]:
        return list(self.given)


def named(names: list[str], splits: dict[str, str] | None = None, rare: int = 0) -> Named:
    records = [Record(name, Plain(), Plain(n < rare)) for n, name in enumerate(names)]
    return Named(*(replace(record, split=(splits or {}).get(record.name, "")) for record in records))


def split(source: Any, seed: int = 0, **settings: Any) -> Split:
    return split_records(source, settings, seed, lambda records: (list(records), 3))


def parts(made: Split) -> dict[str, str]:
    return {record.name: record.split for record in made.records}


def test_both_eyes_of_a_patient_are_on_one_side_and_it_is_said_how_to_change_it() -> None:
    made = split(named(EYES))
    by_patient = Counter((name[:-1], part) for name, part in parts(made).items())
    assert set(by_patient.values()) == {2}
    assert made.notes == [
        "28 images in 14 groups of the same name up to the last letter (Image_00): a group stays in one split; "
        "data.group=null splits each image alone"
    ]
    alone = split(named(EYES), group=None)
    assert alone.notes == []
    assert parts(alone) == finetune.data.seeded_split(EYES)
    assert len({(name[:-1], part) for name, part in parts(alone).items()}) > 14


def test_names_that_count_up_are_split_as_ever_without_a_word() -> None:
    names = [f"img_{n:03}" for n in range(120)]
    made = split(named(names))
    assert (made.notes, made.warnings, made.readings) == ([], [], None)
    assert parts(made) == finetune.data.seeded_split(names)


def test_few_groups_are_not_followed_unless_asked_for() -> None:
    made = split(named(FRAMES))
    assert parts(made) == finetune.data.seeded_split(FRAMES)
    assert "20 images in 4 groups whose names start the same (seq0): too few to keep each in one" in made.notes[0]
    asked = split(named(FRAMES), group=r"(seq\d)_")
    assert set(Counter((name[:4], part) for name, part in parts(asked).items()).values()) == {5}


def test_the_group_of_a_source_goes_before_a_guess() -> None:
    source = Named(
        *(
            replace(record, group=record.name[-1])
            for record in named([f"{n}{k}" for n in range(9) for k in "abc"]).records()
        )
    )
    made = split(source)
    assert made.notes[0].startswith("27 images in 3 groups that the data gives (a): a group stays")
    assert set(Counter((name[-1], part) for name, part in parts(made).items()).values()) == {9}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fold": 1}, r"data\.fold=1 needs the number of folds: data\.folds=5"),
        ({"folds": 5}, r"data\.folds=5 needs the fold that is val: data\.fold=0 to 4\."),
        ({"folds": "group"}, r"data\.folds=group needs the fold that is val: data\.fold=0\."),
        ({"folds": 1, "fold": 0}, r"data\.folds=1: expected 2 or more, group"),
        ({"folds": 5, "fold": 5}, r"data\.fold=5: expected 0 to 4, as data\.folds=5\."),
        ({"folds": "group", "fold": -1}, r"data\.fold=-1: expected 0 or more, as data\.folds=group\."),
        ({"folds": 5, "fold": 0, "splits": "a.csv"}, r"data\.splits says which images are val, and so does"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split(named(EYES), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": "group", "fold": 14, "test": 0}, r"data\.fold=14: expected 0 to 13, as there are 14 folds"),
        ({"folds": "group", "fold": 0, "group": None}, r"data\.folds=group, but the images have no groups"),
        ({"folds": 20, "fold": 0, "test": 0}, "20 folds of 14 groups"),
        ({"group": "patient"}, r"data\.group=patient: expected auto, null, or a regular .* only tables \(data=csv\)"),
        ({"group": "(x)"}, r"data\.group=\(x\) finds no group in 28 of 28 names"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(named(EYES), **settings)


def test_a_cross_validation_has_every_image_in_val_once_and_the_test_split_of_a_plain_run() -> None:
    plain = parts(split(named(EYES)))
    folds = [split(named(EYES), folds=4, fold=fold) for fold in range(4)]
    for name in EYES:
        sides = Counter(parts(made)[name] for made in folds)
        assert sides == ({"test": 4} if plain[name] == "test" else {"val": 1, "train": 3})
    assert folds[1].notes[1] == "val is fold 1 of 4 (data.fold=1), and test is in no fold: 6 images"
    every = [parts(split(named(EYES), folds=4, fold=fold, test=0)) for fold in range(4)]
    assert all(Counter(each[name] for each in every) == {"val": 1, "train": 3} for name in EYES)
    assert parts(split(named(EYES), 1, folds=4, fold=1)) != parts(folds[1])
    one = split(named(EYES), folds="group", fold=3, test=0)
    assert {name for name, part in parts(one).items() if part == "val"} == {"Image_03L", "Image_03R"}
    assert one.notes[-1] == "val is the group Image_03 (data.fold=3): 2 images"


def test_folds_of_a_given_split_leave_test_alone_and_take_val_in() -> None:
    names = [f"{n}" for n in range(30)]
    given = {name: "test" if n < 6 else "val" if n < 12 else "train" for n, name in enumerate(names)}
    folds = [split(named(names, given), folds=3, fold=fold) for fold in range(3)]
    for name in names:
        sides = Counter(parts(made)[name] for made in folds)
        assert sides == ({"test": 3} if given[name] == "test" else {"val": 1, "train": 2})
    assert folds[0].notes == [
        "the val images of the data take part in the folds like those of train (data.folds)",
        "val is fold 0 of 3 (data.fold=0), and test is in no fold: 8 images",
    ]


def test_a_given_split_is_kept_and_a_group_on_both_sides_is_a_warning(tmp_path: Path) -> None:
    given = {name: "train" if n < 12 else "val" if n < 15 else "test" for n, name in enumerate(FRAMES)}
    made = split(named(FRAMES, given), stratify=True)
    assert parts(made) == given
    assert made.notes == []
    assert made.warnings[0] == "data.stratify has no effect: the data or data.splits says the split."
    assert made.warnings[1].startswith(
        "1 groups have images in train and also in val or test, as the split was given (seq2: 2 in train, 3 in val)"
    )
    assert split(named(FRAMES, given), group=None).warnings == []
    file = tmp_path / "splits.csv"
    write_splits(file, made.records)
    assert split(named(FRAMES), splits=str(file), stratify=True).warnings == made.warnings
    assert split(named(FRAMES, given), group="(_)").warnings[0].startswith("1 groups have images in train")


def test_a_val_split_alone_leaves_the_data_without_test_and_says_so() -> None:
    made = split(named(["a", "b", "c"], {"a": "train", "b": "train", "c": "val"}))
    assert made.notes == ["the data has no test split: the final scores are those of val, which chose the weights"]


def test_images_without_a_split_next_to_test_images_are_for_training() -> None:
    names = [f"{n}" for n in range(20)]
    made = split(named(names, dict.fromkeys(names[:4], "test")))
    assert Counter(parts(made).values()) == {"train": 14, "val": 2, "test": 4}
    assert {name for name, part in parts(made).items() if part == "test"} == set(names[:4])
    assert made.notes == ["the data has no val split: 2 of the train images are it, by data.val and seed"]


@pytest.mark.parametrize(
    ("given", "settings", "counts"),
    [
        ({}, {"val": 0.25, "test": 0.25}, {"train": 4, "val": 2, "test": 2}),
        ({}, {"folds": 4, "fold": 2, "test": 0}, {"train": 6, "val": 2}),
        ({f"{n}": "test" for n in range(40, 80)}, {"val": 0.25}, {"train": 6, "val": 2}),
    ],
)
def test_a_rare_class_is_balanced_if_asked_for(given: dict[str, str], settings: dict[str, Any], counts: Any) -> None:
    names = [f"{n}" for n in range(80)]
    source = named(names, given, rare=8)
    for seed in range(5):
        made = split(source, seed, stratify=True, **settings)
        assert Counter(parts(made)[name] for name in names[:8]) == counts
        again = split(Named(*reversed(source.given)), seed, stratify=True, **settings)
        assert parts(again) == parts(made)


def test_masks_that_cannot_be_counted_end_a_balanced_split_with_every_mistake() -> None:
    source = named([f"{n}" for n in range(9)], rare=2)
    source.class_names = ("ground",)
    with pytest.raises(DataError, match="label 1 is outside the 1 classes"):
        split(source, stratify=True)
    source.class_names = ()
    with pytest.raises(DataError, match=r"data\.classes is not set\. The masks hold the labels 0, 1\."):
        split(source, stratify=True)


def test_masks_are_read_once_for_a_balanced_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = draw_folder(tmp_path / "photos")
    reads: Counter[str] = Counter()
    original = finetune.data.MaskFile.read
    monkeypatch.setattr(finetune.data.MaskFile, "read", lambda self: reads.update([self.path.name]) or original(self))
    data = training_data(
        load_config([*TINY, "data=folder", f"data.root={root}", "data.classes=3", "data.stratify=true"], "train")
    )
    assert set(reads.values()) == {1}
    assert len(reads) == 12
    assert data.sizes() == {"train": 8, "val": 2, "test": 2}


def table(root: Path, header: str, *cells: str) -> CsvSource:
    rows = [f"images/photo_{n:02}.png,masks/photo_{n:02}.png,{cell}" for n, cell in enumerate(cells)]
    (root / "labels.csv").write_text("\n".join([f"image,mask,{header}", *rows]))
    return CsvSource(root, classes=3)


def test_a_column_of_a_table_is_the_group(tmp_path: Path) -> None:
    root = draw_folder(tmp_path)
    cells = [f"p{n // 2},{'ab'[n % 2]}" for n in range(12)]
    made = split(table(root, "Patient_ID,site", *cells))
    assert made.notes[0].startswith("12 images in 6 groups of the column Patient_ID (p0): a group stays in one split")
    assert set(Counter((record.group, record.split) for record in made.records).values()) == {2}
    assert {record.group for record in split(table(root, "Patient_ID,site", *cells), group=None).records} == {""}
    with pytest.raises(DataError, match="2 groups of 12 images cannot be split"):
        split(table(root, "Patient_ID,site", *cells), group="site")
    with pytest.raises(DataError, match="has no column place; it has image, mask, Patient_ID, site"):
        split(table(root, "Patient_ID,site", *cells), group="place")
    few = split(table(root, "patient", *(f"p{n // 4}" for n in range(12))))
    assert "3 groups of the column patient (p0): too few to keep" in few.notes[0]
    sure = split(table(root, "group", *(f"p{n // 4}" for n in range(12))))
    assert "3 groups of the column group (p0): a group stays in one split" in sure.notes[0]
    assert split(table(root, "site", *["a"] * 12)).notes == []


def test_defaults_are_those_of_the_settings() -> None:
    assert (DataSettings.group, DataSettings.stratify, DataSettings.folds, DataSettings.fold) == (
        "auto",
        False,
        None,
        None,
    )
    for name in ("folder", "csv", "custom"):
        data = load_config([f"data={name}"], "train")["data"]
        assert (data["group"], data["stratify"], data["folds"], data["fold"]) == ("auto", False, None, None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.folds=patient", "data.folds=patient: expected a whole number or group or null"),
        ("data.fold=1", "data.fold=1 needs the number of folds"),
        ("data.stratify=auto", "data.stratify=auto: expected true or false"),
        ("data.group=3", "data.group=3: expected text or null"),
    ],
)
def test_wrong_settings_are_found_before_anything_runs(override: str, message: str, tmp_path: Path) -> None:
    root = draw_folder(tmp_path)
    with pytest.raises(ConfigError, match=message):
        check(load_config([*TINY, f"data.root={root}", "data.classes=3", override], "train"))


def grouped_photos(root: Path, *places: str) -> tuple[str, ...]:
    """Draw two photos of each of six patients in each place; return overrides with groups and folds."""
    draw_folder(root, [f"{place}p{n}_{k}" for place in places for n in range(6) for k in range(2)])
    return (
        *TINY,
        "data=folder",
        f"data.root={root}",
        "data.classes=3",
        "data.folds=3",
        "data.fold=1",
        r"data.group=(p\d)_",
    )


def test_a_run_whose_test_split_was_cut_from_train_is_evaluated_on_it(folder: Path) -> None:
    draw_folder(folder / "photos", [*(f"Train/{n}" for n in range(10)), "val/1", "val/2"])  # 1 and 2 are in both
    run = finetune.train(*TINY, "data=folder", "data.root=photos", "data.classes=3", "data.test=0.2", "output=run")
    assert (folder / "run" / "evaluation" / "test").is_dir()
    assert finetune.evaluate("run=run", "split=val").scores["iou"] == pytest.approx(run.score)
    assert finetune.evaluate("run=run", "split=test").matrix.sum() == 2 * 32 * 40
    assert finetune.evaluate("run=run", "split=all").matrix.sum() == 12 * 32 * 40


@pytest.mark.parametrize("places", [("",), ("Train/", "Test/"), ("Train/", "val/")])
def test_a_resumed_run_has_the_split_of_its_file(places: tuple[str, ...], tmp_path: Path) -> None:
    names = grouped_photos(tmp_path / "photos", *places)
    if places[-1] == "val/":
        for path in (tmp_path / "photos").rglob("val/*.png"):
            path.rename(path.with_stem(f"other_{path.stem}"))
    config = load_config(names, "train")
    records = training_data(config).records
    note_data(tmp_path, records, None)
    lines = (tmp_path / "splits.csv").read_text().splitlines()
    assert lines[0] == "image,split,group"
    assert len(lines) == 1 + 12 * len(places)
    resumed = training_data(with_splits({**config, "seed": 1}, tmp_path))
    assert [(record.name, record.split) for record in resumed.records] == [(r.name, r.split) for r in records]
    assert (resumed.notes, resumed.warnings) == ((), ()) or places[-1] == "val/"
    assert [record.split for record in training_data({**config, "seed": 1}).records] != [r.split for r in records]


def test_a_run_with_folds_is_evaluated_on_its_own_split(folder: Path) -> None:
    run = finetune.train(*grouped_photos(folder / "photos", "Train/", "Test/"), "data.stratify=true", "output=run")
    log = (folder / "run" / "train.log").read_text()
    assert "24 images in 6 groups that data.group finds in the names (p0): a group stays in one split" in log
    assert "val is fold 1 of 3 (data.fold=1), and test is in no fold: 4 images" in log
    assert "WARNING 4 groups have images in train and also in val or test" in log
    assert finetune.evaluate("run=run", "split=val").scores["iou"] == pytest.approx(run.score)
    assert finetune.evaluate("run=run", "split=all", "slices=[group]", "output=all").matrix.sum() == 24 * 32 * 40
    rows = (folder / "all" / "slices.csv").read_text().splitlines()[1:]
    assert {row.split(",")[1] for row in rows} == {f"p{n}" for n in range(6)}


def test_a_missing_test_split_is_cut_from_train_if_there_are_enough_images() -> None:
    given = dict.fromkeys(map(str, range(20)), "train") | dict.fromkeys("abcd", "val")
    made = split(named(list(given), given), val=0.15, test=0.15)
    assert Counter(parts(made).values()) == {"train": 17, "val": 4, "test": 3}
    assert made.notes == ["the data has no test split: 3 of the train images are it, by data.test and seed"]
    assert {name for name, part in parts(made).items() if part == "val"} == set("abcd")
    assert "test" not in parts(split(named(list(given), given), val=0.15, test=0)).values()
    few = list(given)[14:]
    assert "test" not in parts(split(named(few, given), val=0.15, test=0.15)).values()


def test_folds_of_a_given_split_without_test_cut_one_first() -> None:
    given = dict.fromkeys(map(str, range(20)), "train") | dict.fromkeys("abcd", "val")
    folds = [split(named(list(given), given), folds=3, fold=fold, test=0.25) for fold in range(3)]
    sides = [Counter(parts(made)[name] for made in folds) for name in given]
    assert sides.count({"test": 3}) == 6
    assert sides.count({"val": 1, "train": 2}) == 18
    assert "test" not in parts(split(named(list(given), given), folds=3, fold=0, test=0)).values()


def test_val_and_test_are_both_cut_from_train_alone() -> None:
    names = list(map(str, range(20)))
    made = split(named(names, dict.fromkeys(names, "train")), val=0.1, test=0.2)
    assert Counter(parts(made).values()) == {"train": 14, "val": 2, "test": 4}
    assert len(made.notes) == 2
