"""The command `predict` with a model that finds objects."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import finetune
from finetune.checkpoints.saved_model import save_model
from finetune.config.errors import ConfigError
from finetune.inference.formats.objects import read_objects
from finetune.inference.instances import InstancePredictor
from finetune.instances import as_objects
from finetune.models import INSTANCE_HEADS, MODELS, InstanceSegmenter, Segmenter
from tests.inference.instances.color_model import CLASSES, ColorHead
from tests.samples import save

BACKBONE = "test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with a model whose head takes the areas of two of its feature maps as objects."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(INSTANCE_HEADS, "color", ColorHead)
        patched.setitem(MODELS, "color", InstanceSegmenter)
        folder = tmp_path_factory.mktemp("run")
        model = InstanceSegmenter(BACKBONE, "color", CLASSES, weights="none", head_options={"channels": 16})
        save_model(folder, model, {}, {}, {"name": "instance", "min_score": 0.5})
        yield folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("a", "day/b", "day/c"):
        blocks = random.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        save(folder / f"{name}.png", blocks.repeat(16, axis=0).repeat(16, axis=1))
    return folder


def test_the_card_of_a_model_speaks_of_objects(run: Path) -> None:
    card = (run / "README.md").read_text()
    assert f"Finds the objects of {len(CLASSES)} classes: {', '.join(CLASSES)}." in card
    assert "instance-segmentation" in card
    assert "`mask_ap` is" in card
    assert "semantic" not in card
    assert "iou" not in card


def test_objects_are_written_as_they_are_predicted_in_python(run: Path, photos: Path, tmp_path: Path) -> None:
    written = finetune.predict(f"run={run}", f"input={photos}", f"output={tmp_path / 'out'}", "write=[coco,table]")
    predictor = finetune.load(run)
    assert isinstance(predictor, InstancePredictor)
    found = predictor.predict(photos)
    assert [path.relative_to(tmp_path / "out/objects").with_suffix(".png") for path in written] == [
        path.relative_to(photos) for path in found
    ]
    for path, objects in zip(written, found.values(), strict=True):
        size, crops = read_objects(path, CLASSES)
        assert len(crops) > 1
        assert (as_objects(crops, size).masks == objects.masks).all()
    total = sum(map(len, found.values()))
    assert len(json.loads((tmp_path / "out/coco.json").read_text())["annotations"]) == total
    assert (tmp_path / "out/objects.csv").read_text().count("\n") == 1 + total


def test_the_same_command_goes_on_with_a_half_done_folder(
    run: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = (f"run={run}", f"input={photos}", f"output={tmp_path / 'out'}", "write=[overlays,ids,coco]", "window=128")
    written = finetune.predict(*command)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 3 * 3 + 2
    before, kept = {path: path.read_bytes() for path in files}, written[0].stat().st_mtime_ns
    for name in ("overlays/day/b.png", "coco.json"):
        (tmp_path / "out" / name).unlink()
    with caplog.at_level("INFO", "finetune"):
        assert finetune.predict(*command) == written
    assert "going on with the predictions" in caplog.text
    assert {path: path.read_bytes() for path in files} == before
    assert written[0].stat().st_mtime_ns == kept
    with pytest.raises(ConfigError, match="nothing is ever overwritten"):
        finetune.predict(*command[:-1], "window=256")


def test_files_that_cannot_be_read_are_named_when_the_others_are_written(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_text("no image")
    paths = (f"input=[{photos / 'a.png'},{tmp_path / 'broken.png'}]", f"output={tmp_path / 'out'}", "write=[table]")
    with pytest.raises(ConfigError, match=r"(?s)1 of 2 files cannot be read.*The objects of the others are in"):
        finetune.predict(f"run={run}", *paths)
    assert [path.name for path in (tmp_path / "out/objects").iterdir()] == ["a.json"]
    with pytest.raises(ConfigError, match="1 of 1 files cannot be read"):
        finetune.predict(f"run={run}", f"input={tmp_path / 'broken.png'}", f"output={tmp_path / 'none'}", "write=[]")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("write=[areas]", "the model finds objects, so write has no format 'areas'. It has objects, overlays, table"),
        ("write=[coco,cocoo]", "write has no format 'cocoo'. Did you mean coco"),
        ("tolerance=-1", "tolerance=-1: expected a number of pixels"),
        ("post=min_size", "post=min_size cleans masks, but .* finds objects. Name a single run, without post"),
        ("tta=flip", "tta: the model finds objects, and has no probabilities of pixels. Leave it out"),
        ("video.smoothing=0.5", "video: the model finds objects"),
        ("run=[{run},{run}]", "2 models predict together, but .* finds objects. Name a single run"),
    ],
)
def test_what_objects_do_not_have_is_refused(
    run: Path, photos: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        finetune.predict(
            f"run={run}", f"input={photos}", f"output={tmp_path / 'out'}", override.replace("{run}", str(run))
        )
    assert not (tmp_path / "out").exists()


def test_a_threshold_is_the_least_score(run: Path, photos: Path, tmp_path: Path) -> None:
    path, paths = photos / "a.png", (f"input={photos / 'a.png'}", f"output={tmp_path / 'out'}")
    usual, stricter = (finetune.load(run, threshold=value).predict(path)[path] for value in (None, 0.95))
    assert usual.scores.unique().tolist() == pytest.approx([0.9])
    assert len(stricter) == 0
    (written,) = finetune.predict(f"run={run}", *paths, "threshold=0.95")
    assert read_objects(written, CLASSES) == ((48, 64), [])
    with pytest.raises(ConfigError, match="min_score=2: expected a number from 0 to 1"):
        finetune.predict(f"run={run}", paths[0], f"output={tmp_path / 'other'}", "threshold=2")


def test_a_threshold_below_that_of_the_head_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ColorHead, "min_score", 0.05)
    assert finetune.load(run, threshold=0.05).output.min_score == 0.05
    with pytest.raises(ConfigError, match=r"threshold=0\.01: the model returns no objects below 0\.05, the head\.min"):
        finetune.load(run, threshold=0.01)


def test_views_that_are_no_views_are_taken(run: Path, photos: Path, tmp_path: Path) -> None:
    assert finetune.predict(f"run={run}", f"input={photos / 'a.png'}", f"output={tmp_path / 'out'}", "tta=none")


def test_videos_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(ConfigError, match=r"clip\.mp4' is a video; objects are found in images only"):
        finetune.predict(f"run={run}", f"input={tmp_path}", f"output={tmp_path / 'out'}")


def test_models_that_classify_pixels_have_no_table_of_objects(photos: Path, tmp_path: Path) -> None:
    options = {"pyramid_channels": 32, "segmentation_channels": 64}
    save_model(tmp_path / "run", Segmenter(BACKBONE, "fpn", 2, weights="none", head_options=options), {}, {})
    with pytest.raises(ConfigError, match="the model classifies pixels, so write has no format 'table'"):
        finetune.predict(f"run={tmp_path / 'run'}", f"input={photos}", f"output={tmp_path / 'out'}", "write=[table]")


def test_suggest_needs_pixels(run: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="finds objects; suggest needs a model that classifies pixels"):
        finetune.suggest(f"run={run}", f"input={photos}", f"output={tmp_path / 'next'}")
