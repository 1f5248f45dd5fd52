"""Sources and transforms of a config, those of the toolkit and a user's own."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import finetune
from finetune.builders.checks.training import check
from finetune.builders.data import (
    COMMON_SETTINGS,
    build_datamodule,
    loss_weights,
    missing_options,
    prepare_datasets,
    training_data,
)
from finetune.builders.recipe import with_placeholders_for_recipe
from finetune.builders.transform import build_transform
from finetune.config.compose import load_config, packaged_options
from finetune.config.errors import ConfigError
from finetune.data import SOURCES, Augment, ClassMaskFiles, DataError, Record, TrivialAugment
from finetune.data.adapters import AlbumentationsTransform, TorchvisionTransform
from tests.samples import TINY, draw_folder, save

pytestmark = pytest.mark.usefixtures("without_figures")

SYNTHETIC = ("data=synthetic", "data.count=4", "data.size=32", "augment.crop=32")


@dataclass(frozen=True)
class Noise:
    """An image or target of a user's own."""

    seed: int
    classes: int
    paths: tuple[Path, ...] = ()
    description: str = "noise"

    def read(self, channels: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        size = (channels, 32, 32) if channels else (32, 32)
        return torch.randint(0, 256 if channels else self.classes, size, dtype=torch.uint8, generator=generator)


class ToySource:
    """A source of a user's own, which has no split."""

    ignore_index = 255

    def __init__(self, images: int, labels: int = 3) -> None:
        if images < 1:
            raise ValueError(f"images={images}: expected 1 or more.")
        self.images = images
        self.class_names = tuple("abcdef"[:labels])

    def records(self) -> list[Record]:
        noise = [Noise(index, len(self.class_names)) for index in range(self.images)]
        return [Record(f"noise_{each.seed}", each, each) for each in noise]


class VariadicSource(ToySource):
    """A source that takes any further option."""

    def __init__(self, images: int, *places: str, **options: Any) -> None:
        super().__init__(images)


class NoSource:
    """A class without records."""


TOY = f"{__name__}.ToySource"


class Darker:
    """A transform of a user's own, without ignore_index."""

    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    def __call__(self, image: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return image // self.factor, target


class KeepsLabel(Darker):
    """A transform of a user's own that takes the label to ignore."""

    def __init__(self, ignore_index: int, factor: int = 2) -> None:
        super().__init__(factor)
        self.ignore_index = ignore_index


def config(*overrides: str) -> dict[str, Any]:
    return load_config([*TINY, *overrides], "train")


def test_options_that_may_be_any_number_are_none_that_a_source_needs() -> None:
    settings = {"format": f"{__name__}.VariadicSource"}
    assert missing_options(settings) == ["images"]
    assert missing_options({**settings, "images": 3}) == []


@pytest.mark.parametrize("name", SOURCES)
def test_the_settings_of_a_format_are_the_options_of_its_source(name: str) -> None:
    settings = packaged_options("data")[name]
    options = inspect.signature(SOURCES[name]).parameters
    assert settings["format"] == name
    assert {"format", "batch_size", "num_workers"} <= set(settings)
    assert {key for key in settings if key not in COMMON_SETTINGS} == set(options)
    defaults = {key: p.default for key, p in options.items() if p.default is not p.empty and key != "seed"}
    assert {key: settings[key] for key in defaults} == {
        key: list(default) if isinstance(default, tuple) else default for key, default in defaults.items()
    }


def test_evaluation_accepts_the_options_of_every_source() -> None:
    options = {name for source in SOURCES.values() for name in inspect.signature(source).parameters}
    common = {"format", "value_range", "tiles", "splits", "exclude", "clean_masks", "instances", "verify", "cache"}
    assert options | common | {"batch_size", "num_workers"} == set(packaged_options("data")["from_run"])


@pytest.mark.parametrize("data", [("data=custom", f"data.format={TOY}"), ("data=custom", "data.format=toy")])
def test_a_source_of_ones_own_trains(data: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "toy", ToySource)
    monkeypatch.chdir(tmp_path)
    run = finetune.train(*TINY, *data, "+data.images=8", "output=run")
    assert (run.folder / "splits.csv").read_text().count("noise_") == 8
    assert finetune.evaluate("run=run", *data[1:]).scores == run.scores
    assert finetune.evaluate("run=run", *data[1:], "split=all").matrix.sum() == 8 * 32 * 32


def test_the_source_of_a_saved_config_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finetune.train(*TINY, "data=custom", f"data.format={TOY}", "+data.images=8", "output=run")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace(TOY, "untrusted_module.Source"))
    with pytest.raises(ConfigError, match=r"data\.format=untrusted_module\.Source is code that may come from an untr"):
        finetune.evaluate("run=run")
    with pytest.raises(ConfigError, match=r"data\.format=untrusted_module\.Source: its code would run"):
        finetune.train("resume=run", "trainer.max_epochs=2")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.format=fodler",), r"unknown data\.format 'fodler'\. Did you mean folder\?"),
        (("data=custom",), r"unknown data\.format 'None'\. Choose from: folder, csv, .*coco, .*synthetic"),
        (("data.format=nowhere.Source",), r"data\.format=nowhere\.Source cannot be imported"),
        (("data=custom", f"data.format={__name__}.NoSource"), "expected a finetune.data.Source, but it has no method"),
        (("data=custom", f"data.format={TOY}"), r"data\.images is not set"),
        (("data=custom", f"data.format={TOY}", "+data.images=0"), r"^data\.images=0: expected 1 or more\.$"),
        (("data=custom", f"data.format={TOY}", "+data.image=4"), "there is no setting data.image. Did you mean images"),
        (("data=synthetic", "+data.sise=4"), "there is no setting data.sise. Did you mean size"),
        (("data=synthetic", "data.format=csv"), "there is no setting data.count"),
        (("data=synthetic", "data.ignore_index=300"), r"^data\.ignore_index=300: masks are 8-bit"),
        ((), r"data\.root is not set: .*use data=synthetic"),
    ],
)
def test_wrong_data_settings_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(config(*overrides))


def test_each_mistake_in_the_data_is_reported_once() -> None:
    with pytest.raises(ConfigError) as error:
        check(config("data=synthetic", "data.count=0", "optimizer.lr=-1"))
    assert str(error.value).count("data.count=0") == 1
    assert "optimizer.lr=-1" in str(error.value)


def table(root: Path, *rows: str) -> tuple[str, ...]:
    """Write a table over the images of a folder; return the overrides that use it."""
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return (*TINY, "data=csv", f"data.root={root}")


def test_a_table_trains_and_its_scores_can_be_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = draw_folder(tmp_path / "photos")
    rows = [f"images/photo_{i:02d}.png,masks/photo_{i:02d}.png,{'val' if i < 3 else 'train'}" for i in range(9)]
    run = finetune.train(*table(root, "image,mask,split", *rows), "data.classes=3", "output=run")
    assert finetune.evaluate("run=run").scores == run.scores
    other = draw_folder(tmp_path / "others", seed=1)
    table(other, "image,mask", "images/photo_00.png,masks/photo_00.png")
    assert finetune.evaluate("run=run", f"data.root={other}").matrix.sum() == 32 * 40
    assert finetune.evaluate("run=run", f"data.root={other}", "data.format=folder").matrix.sum() == 12 * 32 * 40


def test_data_without_a_split_that_training_needs_is_refused(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    row = "images/photo_00.png,masks/photo_00.png"
    overrides = table(root, "image,mask,split", f"{row},test")
    with pytest.raises(DataError, match="none of the 1 images is in the train split"):
        training_data(load_config([*overrides, "data.classes=3"], "train"))
    overrides = table(root, "image,mask,split", f"{row},train")
    with pytest.raises(DataError, match=r"1 images cannot be split into train, val with val=0\.15"):
        training_data(load_config([*overrides, "data.classes=3"], "train"))


def test_a_missing_val_split_is_cut_from_train_and_stays_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, count in (("Train", 12), ("Test", 3)):
        draw_folder(folder / "photos", [f"{split}/{number:02d}" for number in range(count)])
    run = finetune.train(*TINY, "data.root=photos", "data.classes=3", "output=run")
    assert "the data has no val split: 2 of the train images are it" in capsys.readouterr().out
    assert "10 train, 2 val and 3 test images" in (run.folder / "train.log").read_text()
    assert finetune.evaluate("run=run").matrix.sum() == 3 * 32 * 40
    val = finetune.evaluate("run=run", "split=val")
    assert val.matrix.sum() == 2 * 32 * 40
    assert val.scores["iou"] == pytest.approx(run.score)
    assert finetune.train("resume=run", "trainer.max_epochs=2").scores.keys() == run.scores.keys()


def test_masks_with_a_channel_per_class_become_batches_and_are_refused_by_the_semantic_task(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    save(root / "cat.png", torch.ones(32, 40).byte().numpy())
    rows = [f"images/photo_{i:02d}.png,cat.png,{'val' if i < 3 else 'train'}" for i in range(9)]
    overrides = table(
        root,
        "image,mask:cat,mask:dog,split",
        *(row.replace(",val", ",,val").replace(",train", ",,train") for row in rows),
    )
    settings = load_config(overrides, "train")
    settings = with_placeholders_for_recipe(settings)
    data = training_data(settings)
    prepare_datasets(data, settings)
    assert data.classes == ("cat", "dog")
    assert isinstance(data.records[0].target, ClassMaskFiles)
    batch = next(iter(build_datamodule(settings, data).train_dataloader()))
    assert batch["mask"].shape == (4, 2, 32, 32)
    assert loss_weights("inverse_sqrt", data) is not None
    with pytest.raises(ConfigError, match="task=semantic needs class indices"):
        check({**settings, "task": {"name": "semantic"}})
    resolved, _ = check(load_config(overrides, "train"))
    assert (resolved["task"]["name"], resolved["loss"]["name"]) == ("multilabel", "bce_dice")


@pytest.mark.parametrize("name", packaged_options("augment"))
def test_every_transform_option_builds_a_transform(name: str) -> None:
    settings = with_placeholders_for_recipe(load_config([f"augment={name}", *SYNTHETIC[:-1]], "train"))
    transform = build_transform(settings["augment"], ignore_index=7)
    expected = {
        "albumentations": AlbumentationsTransform,
        "torchvision": TorchvisionTransform,
        "trivial": TrivialAugment,
    }
    assert type(transform) is expected.get(name, Augment)
    image, target = torch.zeros(3, 40, 40, dtype=torch.uint8), torch.ones(40, 40, dtype=torch.uint8)
    assert set(transform(image, target, torch.Generator().manual_seed(0))[1].unique().tolist()) == {1, 7}


def test_settings_of_the_command_line_reach_the_transform_and_the_mixing() -> None:
    options = ("augment=strong", "augment.gamma=0.2", "augment.noise=0.02", "augment.elastic=8")
    training = check(config(*SYNTHETIC, *options, "augment.mix.cutmix=1"))[1].datasets["train"]
    assert isinstance(training.transform, Augment)
    strengths = (training.transform.gamma, training.transform.noise, training.transform.elastic)
    assert (*strengths, training.transform.rotation) == (0.2, 0.02, 8, 15.0)
    assert training.mix is not None
    assert training.mix.chances["cutmix"] == 1
    plain = check(config(*SYNTHETIC, *options))[1].datasets
    assert plain["train"].mix is None
    assert not torch.equal(training[0]["image"], plain["train"][0]["image"])
    assert plain["val"].mix is None
    old_run = config(*SYNTHETIC)
    del old_run["augment"]["mix"]
    assert check(old_run)[1].datasets["train"].mix is None


def test_a_transform_of_ones_own_can_be_mixed() -> None:
    settings = {"_target_": f"{__name__}.Darker", "factor": 4, "mix": {"mosaic": 1.0}}
    assert check({**config(*SYNTHETIC), "augment": settings})[1].datasets["train"].mix is not None


def test_multilabel_targets_are_mixed_like_others(tmp_path: Path) -> None:
    draw_folder(tmp_path, values=(0, 255))
    names = sorted(path.stem for path in (tmp_path / "images").iterdir())
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["image,mask:thing", *(f"images/{name}.png,masks/{name}.png" for name in names)]))
    for kind in ("cutmix", "classmix", "copy_paste", "mosaic"):
        overrides = (*TINY, "task=multilabel", "data=csv", f"data.root={tmp_path}", "data.table=table.csv")
        settings = with_placeholders_for_recipe(config(*overrides, f"augment.mix.{kind}=1"))
        data = training_data(settings)
        prepare_datasets(data, settings)
        training = data.datasets["train"]
        assert training[0]["mask"].shape == (1, 32, 32)
        assert set(training[0]["mask"].unique().tolist()) <= {0, 1, 255}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment.mix.cutmix=0.7", r"augment\.mix: cutmix=0\.7, .*mosaic=0\.6: expected probabilities that sum"),
        ("augment.mix.cutmix=yes", r"augment\.mix\.cutmix=yes: expected a number"),
        ("+augment.mix.cutmixx=0.1", r"augment\.mix\.cutmixx.*Did you mean cutmix"),
        ("augment.mix=0.3", r"augment\.mix=0\.3: expected settings such as augment\.mix\.cutmix=0\.3"),
        ("augment.elastic=20", "augment: elastic=20 with elastic_spacing=64"),
        ("augment.jpeg_quality=50", r"augment\.jpeg_quality=50: expected a list of 2 whole numbers"),
    ],
)
def test_wrong_mixing_and_strengths_are_explained(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(load_config([*SYNTHETIC, "augment.mix.mosaic=0.6", override], "train"))


def test_a_transform_of_ones_own_is_named_by_target() -> None:
    settings = {**config(*SYNTHETIC), "augment": {"_target_": f"{__name__}.Darker", "factor": 4}}
    _, data = check(settings)
    before = data.records[0].image.read()
    assert torch.equal(data.datasets["train"][0]["image"], before // 4)
    assert torch.equal(data.datasets["val"][0]["image"], data.datasets["val"].records[0].image.read())
    assert isinstance(build_transform({"_target_": f"{__name__}.KeepsLabel"}, 9), KeepsLabel)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": 3}, r"augment\._target_=None: expected a dotted name such as finetune\.data\.Augment"),
        ({"_target_": "nowhere.Transform"}, r"augment\._target_=nowhere\.Transform cannot be used"),
        ({"_target_": "finetune.data.CLASS_NAMES"}, "cannot be used: .* is not a callable object"),
        ({"_target_": "finetune.data.Augment", "flipp": 1}, "augment has unknown options: 'flipp': Did you mean flip"),
        ({"_target_": "finetune.data.Augment", "ignore_index": 1}, "unknown options: 'ignore_index'"),
        ({"_target_": "finetune.data.Augment", "_partial_": True}, "unknown options: '_partial_'"),
        ({"_target_": "finetune.data.Augment", "flip": 7}, "^augment: flip=7: expected a number from 0 to 1"),
    ],
)
def test_a_wrong_transform_is_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_transform(settings, 255)


def test_a_training_starts_with_the_share_of_every_class_and_names_absent_ones(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_folder(folder / "photos", values=(0, 1, 1, 255))
    finetune.train(*TINY, "data.root=photos", "data.classes=[ground,wall,moon]", "output=run")
    lines = (folder / "run" / "train.log").read_text().splitlines()
    assert any(line.endswith("training pixels: wall 50.0%, ground 25.0%, moon 0.0%; ignored 25.0%") for line in lines)
    assert "warning: no training image has moon, so the model cannot learn it" in capsys.readouterr().out
