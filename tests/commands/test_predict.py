"""The command `predict`: a folder that is half done, and one that holds something else."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from PIL import Image

import finetune
from finetune.commands.predict import _identity, _is_half_done, _text
from finetune.config.errors import ConfigError
from finetune.data import DataError
from finetune.data.images.reading import read_image
from finetune.inference.saving import find_names
from tests.samples import draw_folder, exit_code, on_folder, save

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune.train(*on_folder(photos), f"output={tmp_path_factory.mktemp('run')}").folder


def test_the_same_command_goes_on_with_a_half_done_folder(
    run: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = (f"run={run}", f"input={photos / 'images'}", f"output={tmp_path / 'out'}")
    written = finetune.predict(*command)
    before = {path: path.read_bytes() for path in written}
    kept = written[0].stat().st_mtime_ns
    written[3].unlink()
    with caplog.at_level("INFO", "finetune"):
        assert finetune.predict(*command) == written
    assert "going on with the predictions" in caplog.text
    assert {path: path.read_bytes() for path in written} == before
    assert written[0].stat().st_mtime_ns == kept


def test_an_output_below_the_input_is_not_predicted(run: Path, photos: Path, tmp_path: Path) -> None:
    root = copytree(photos / "images", tmp_path / "photos")
    command = (f"run={run}", f"input={root}", f"output={root / 'predicted'}", "write=[overlays]")
    written = finetune.predict(*command)
    assert finetune.predict(*command) == written
    assert len(written) == len(list((photos / "images").iterdir()))
    below = (f"run={run}", f"input='{root}/**/*.png'", f"output={root / 'other'}")
    (root / "predicted").rename(tmp_path / "predicted")
    assert finetune.predict(*below) == finetune.predict(*below)


def test_a_folder_of_another_model_at_the_same_path_is_not_continued(run: Path, photos: Path, tmp_path: Path) -> None:
    model = copytree(run / "model", tmp_path / "model")
    command = (f"run={model}", f"input={photos / 'images'}", f"output={tmp_path / 'out'}")
    finetune.predict(*command)[0].unlink()
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes())  # another time stands for other weights
    with pytest.raises(ConfigError, match="nothing is ever overwritten"):
        finetune.predict(*command)


OTHERS = (
    "tta=flip",
    "write=[]",
    "post=smooth",
    "window=128",
    "overlap=0.5",
    "video.smoothing=0.5 video.sequence=true",
    "run",
)


@pytest.mark.parametrize("other", OTHERS)
def test_other_predictions_are_never_mixed_with_those_of_a_folder(
    run: Path, photos: Path, tmp_path: Path, other: str
) -> None:
    common = (f"input={photos / 'images'}", f"output={tmp_path / 'out'}")
    finetune.predict(f"run={run}", *common)
    changed = (f"run={run / 'model'}",) if other == "run" else (f"run={run}", *other.split())
    with pytest.raises(ConfigError, match="nothing is ever overwritten"):
        finetune.predict(*changed, *common)


def test_labels_of_all_images_are_those_of_a_run_without_interruption(run: Path, photos: Path, tmp_path: Path) -> None:
    command = (f"run={run}", f"input={photos / 'images'}", f"output={tmp_path / 'out'}", "write=[coco,areas,color]")
    written = finetune.predict(*command)
    tables = [tmp_path / "out" / name for name in ("coco.json", "areas.csv")]
    before = [path.read_bytes() for path in tables]
    assert before[1].count(b"\n") == 1 + 12 * 3
    written[5].unlink()
    for path in tables:
        path.unlink()
    assert finetune.predict(*command) == written
    assert [path.read_bytes() for path in tables] == before


def test_labels_that_were_corrected_stay_when_the_command_is_repeated(run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = (f"run={run}", f"input={photos / 'images'}", f"output={out}", "write=[labelme,yolo,geojson,coco]")
    finetune.predict(*command)[0].unlink()
    corrected = [out / "labelme/photo_03.json", out / "yolo/labels/photo_03.txt", out / "geojson/photo_03.geojson"]
    for path in corrected:
        assert path.is_file()
        path.write_text("corrected")
    (out / "labelme/photo_04.json").unlink()
    finetune.predict(*command)
    assert [path.read_text() for path in corrected] == ["corrected"] * 3
    assert (out / "labelme/photo_04.json").is_file()


def test_a_folder_of_a_model_on_the_hub_goes_on_with_the_same_commit_only(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = {name: copytree(run / "model", tmp_path / name) for name in ("commit_1", "commit_2")}
    latest = "commit_1"
    for module in ("finetune.commands.predict", "finetune.checkpoints.saved_model"):
        monkeypatch.setattr(f"{module}.download", lambda address: commits[latest])
    command = ("run=hf://user/name", f"input={photos / 'images'}", f"output={tmp_path / 'out'}")
    written = finetune.predict(*command)
    monkeypatch.chdir(tmp_path)
    assert finetune.predict(*command) == written
    latest = "commit_2"
    with pytest.raises(ConfigError, match="nothing is ever overwritten"):
        finetune.predict(*command)


def test_a_long_list_of_images_can_be_gone_on_with(run: Path, tmp_path: Path, photos: Path) -> None:
    paths = [tmp_path / "images" / f"{'x' * 200}_{number}.png" for number in range(1500)]
    image = (photos / "images" / "photo_00.png").read_bytes()
    paths[0].parent.mkdir()
    for path in paths[:2]:
        path.write_bytes(image)
    config = {"run": str(run), "input": list(map(str, paths)), "output": str(tmp_path / "out")}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "settings.json").write_text(_text(_identity(config)), encoding="utf-8")
    assert (tmp_path / "out" / "settings.json").stat().st_size > 2**18
    assert _is_half_done(tmp_path / "out", config)
    assert not _is_half_done(tmp_path / "out", {**config, "tolerance": 2})


def test_where_no_image_can_be_read_nothing_stays(run: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no image")
    for _ in range(2):
        with pytest.raises(ConfigError, match="1 of 1 files cannot be read"):
            finetune.predict(
                f"run={run}", f"input={tmp_path / 'broken.png'}", f"output={tmp_path / 'out'}", "write=[coco,areas]"
            )
        assert not (tmp_path / "out").exists()


def test_labels_are_those_of_the_images_that_can_be_read(run: Path, photos: Path, tmp_path: Path) -> None:
    files = [photos / "images" / f"photo_0{number}.png" for number in range(2)]
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(ConfigError, match="1 of 3 files cannot be read"):
        finetune.predict(
            f"run={run}",
            f"input=[{files[0]},{tmp_path / 'broken.png'},{files[1]}]",
            f"output={tmp_path / 'out'}",
            "write=[areas]",
        )
    lines = (tmp_path / "out" / "areas.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines[1::3]] == ["photo_00.png", "photo_01.png"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("write=[cocoo]", "write has no format 'cocoo'. Did you mean coco"),
        ("write=coco", r"write=coco: expected a list, such as write=\[coco\]"),
        ("tolerance=-1", "tolerance=-1: expected a number of pixels, 0 or more"),
        ("post.smooth.radius=0 post=smooth", "radius=0: expected 1 pixel or more"),
        ("post=[smooth,guided_filter]", "guided_filter changes probabilities, so put it before smooth"),
        ("post=[smooth,median]", "post has no option 'median'"),
        ("video.smoothing=1", "video.smoothing=1: expected a number from 0 to below 1"),
        ("video.smoothing=0.5", "video.smoothing=0.5 has no effect: there is no video. Set video.sequence=true"),
        ("video.scene_cut=5", "video.scene_cut=5 has no effect without video.smoothing"),
        ("video.smoothing=much", "video.smoothing=much: expected a number"),
        ("+video.speed=2", "there is no setting video.speed"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(
    run: Path, photos: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        finetune.predict(f"run={run}", f"input={photos}", f"output={tmp_path / 'out'}", *override.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("window=32", "window=32: expected a side of at least 128 pixels"),
        ("window=all", "window=all: expected a side of at least 128 pixels"),
        ("overlap=1", "overlap=1: expected a part of a window, from 0 to 0.75"),
    ],
)
@pytest.mark.parametrize("command", [finetune.predict, finetune.evaluate])
def test_windows_of_no_use_are_refused(
    command: Callable[..., object], setting: str, message: str, run: Path, photos: Path, tmp_path: Path
) -> None:
    paths = (f"input={photos / 'images'}",) if command is finetune.predict else ()
    with pytest.raises(ConfigError, match=message):
        command(f"run={run}", f"output={tmp_path / 'out'}", setting, *paths)
    assert not (tmp_path / "out").exists()


def test_windows_are_a_setting_of_predictions_and_evaluations(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = draw_folder(tmp_path / "large", ["a", "b"], size=(170, 300))
    with caplog.at_level("INFO", "finetune"):
        written = finetune.predict(f"run={run}", f"input={root / 'images'}", f"output={tmp_path / 'out'}", "window=128")
    assert "2 of 2 images are predicted in windows of 128 x 128 pixels (window)" in caplog.text
    predictor, counts = finetune.load(run, "cpu", window=128), np.zeros((3, 3), dtype=np.int64)
    for path, expected in zip(written, predictor.predict(root / "images").values(), strict=True):
        assert (np.asarray(Image.open(path)) == expected).all()
        np.add.at(counts, (np.asarray(Image.open(root / "masks" / path.name)), expected), 1)
    scored = finetune.evaluate(
        f"run={run}", f"data.root={root}", "split=all", f"output={tmp_path / 'scores'}", "window=128"
    )
    assert (scored.matrix.numpy() == counts).all()
    whole = finetune.evaluate(f"run={run}", f"data.root={root}", "split=all", f"output={tmp_path / 'whole'}")
    assert (whole.matrix.numpy() != counts).any()


def test_a_decompression_bomb_does_not_keep_large_images_from_being_predicted_row_by_row(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("finetune.inference.windows.LARGE", 200 * 200)
    root = draw_folder(tmp_path / "in", ["large", "small"], size=(170, 300))
    bomb = save(root / "images" / "bomb.png", np.zeros((1, 1), np.uint8))
    data = bytearray(bomb.read_bytes())
    data[16:24] = struct.pack(">II", 20_000, 20_000)  # width and height, which a checksum protects
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    bomb.write_bytes(data)
    whole = save(root / "images" / "whole.png", np.zeros((100, 100, 3), np.uint8))
    settings = (f"run={run}", f"input={root / 'images'}", f"output={tmp_path / 'out'}", "window=128")
    assert exit_code("predict", *settings) == 2
    printed = capsys.readouterr().err
    assert "1 of 4 files cannot be read" in printed
    assert f"'{bomb}' has more than 178,956,970 pixels" in printed
    assert "cut them into tiles" in printed
    assert [path.name for path in sorted((tmp_path / "out" / "masks").iterdir())] == [
        "large.png",
        "small.png",
        "whole.png",
    ]
    predictor = finetune.load(run, "cpu", window=128)
    for image in (root / "images" / "large.png", whole):
        expected = predictor.predict_image(read_image(image)).numpy()
        assert (np.asarray(Image.open(tmp_path / "out" / "masks" / image.name)) == expected).all()


def test_a_folder_of_images_and_videos_is_predicted_with_one_command_that_tells_its_speed(
    run: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    av = pytest.importorskip("av", reason="needs the extra video")
    pixels = save(tmp_path / "in" / "photo.png", np.zeros((32, 40, 3), dtype=np.uint8))
    with av.open(str(tmp_path / "in" / "clip.mp4"), "w") as file:
        video = file.add_stream("mpeg4", rate=4)
        video.height, video.width = 32, 40
        for _ in range(2):
            file.mux(video.encode(av.VideoFrame.from_image(Image.open(pixels))))
        file.mux(video.encode(None))
    command = (f"run={run}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}")
    with caplog.at_level("INFO", "finetune"):
        written = finetune.predict(*command)
    assert sorted(path.name for path in written) == ["clip.mkv", "photo.png"]
    assert "clip.mp4': 2 frames (0.5 s) in " in caplog.text
    assert "x real time" in caplog.text
    with pytest.raises(ConfigError, match="write=coco is for images, but there are videos in the input"):
        finetune.predict(*command[:2], f"output={tmp_path / 'other'}", "write=[coco]")
    assert not (tmp_path / "other").exists()


def test_labels_of_a_map_and_of_its_preview_need_names_of_their_own(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.inference.saving.is_georeferenced", lambda path: path.suffix == ".tif")
    monkeypatch.setattr("finetune.inference.saving.can_keep", lambda: True)
    for name in ("a.tif", "a.png"):
        save(tmp_path / "maps" / name, np.zeros((4, 4, 3), np.uint8))
    predictor = finetune.load(run, "cpu")
    assert len(find_names(predictor, tmp_path / "maps")) == 2
    with pytest.raises(DataError, match=r"would both be written as 'labels/a'. Rename one of them"):
        find_names(predictor, tmp_path / "maps", ["labelme"])
