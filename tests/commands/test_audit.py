"""`finetune audit`."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import finetune
from finetune.config.errors import ConfigError
from tests.samples import draw_folder, exit_code, listing, save


@pytest.fixture
def photos(folder: Path) -> Path:
    return draw_folder(folder / "photos")


def kinds(result: finetune.audit) -> set[str]:
    return {finding.kind for finding in result.findings}


def test_good_data_ends_with_0_and_a_report_in_a_new_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_folder(folder / "photos")
    assert exit_code("audit", "data.root=photos") == 0
    out = capsys.readouterr().out
    assert "12 images in images/, 12 masks in masks/, paired by name" in out
    assert "12 images (8 train, 2 val, 2 test), 3 classes: class_0, class_1, class_2" in out
    (page,) = (folder / "outputs" / "audit").glob("*/audit.html")
    assert page.with_name("findings.csv").read_text() == "file,kind,severity,detail\n"
    assert not page.with_name("exclude.txt").exists()


def test_a_format_is_all_that_is_needed_where_several_fit(photos: Path) -> None:
    assert exit_code("audit", "data.root=photos", "data.format=folder") == 0


def test_errors_are_all_found_and_end_with_1_and_the_list_leaves_them_out(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "images" / "photo_00.png").write_bytes(b"no image")
    (photos / "images" / "photo_01.png").write_bytes((photos / "images" / "photo_01.png").read_bytes()[:300])
    save(photos / "masks" / "photo_02.png", np.zeros((40, 32), dtype=np.uint8))
    assert exit_code("audit", "data.root=photos", "output=report") == 1
    assert "leave out    data.exclude=report/exclude.txt   (3 images)" in capsys.readouterr().out
    assert Path("report/exclude.txt").read_text().split() == [f"images/photo_0{n}.png" for n in range(3)]
    assert exit_code("audit", "data.root=photos", "output=again", "data.exclude=report/exclude.txt") == 0
    assert "3 of 12 images are left out by data.exclude" in capsys.readouterr().out


def test_files_without_a_partner_are_named_and_the_rest_is_audited(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "masks" / "photo_00.png").unlink()
    (photos / "images" / "photo_01.png").unlink()
    result = finetune.audit("data.root=photos", "output=report")
    assert (result.images, result.exit_code, kinds(result)) == (10, 1, {"no_mask", "no_image"})
    lines = Path("report/findings.csv").read_text().splitlines()
    rows = {row["file"]: row["kind"] for row in csv.DictReader(lines)}
    assert rows == {"images/photo_00.png": "no_mask", "masks/photo_01.png": "no_image"}
    assert "1 images without a mask in" in result.errors[0].text
    assert not [record for record in caplog.records if "left out" in record.message]
    assert finetune.audit("data.root=photos", "data.skip_unpaired=true", "output=other").findings == []


def test_labels_outside_the_given_classes_are_an_error(photos: Path) -> None:
    save(photos / "masks" / "photo_03.png", np.full((32, 40), 7, dtype=np.uint8))
    result = finetune.audit("data.root=photos", "data=folder", "data.classes=3", "output=report")
    assert kinds(result) >= {"labels"}
    assert result.exit_code == 1
    assert "label 7 is outside the 3 classes" in result.errors[0].text


def test_warnings_alone_end_with_0(photos: Path) -> None:
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            (photos / kind / split).mkdir()
        for number in range(12):
            path = photos / kind / f"photo_{number:02d}.png"
            path.rename(path.parent / ("train" if number < 9 else "val") / path.name)
        (photos / kind / "val" / "copy.png").write_bytes((photos / kind / "train" / "photo_00.png").read_bytes())
    result = finetune.audit("data.root=photos", "output=report")
    assert (result.exit_code, [finding.kind for finding in result.findings]) == (0, ["leak"])
    assert Path("report/exclude.txt").read_text() == "images/train/photo_00.png\n"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), r"data\.root is not set"),
        (("data.root=nowhere",), r"'.*nowhere' is not a folder"),
        (("data.root=photos", "output=photos"), r"output='photos' exists and is not empty"),
        (("data.root=photos", "data.clean_masks=-1"), r"data\.clean_masks=-1: expected a number of pixels"),
        (("data.root=photos", "data.exclude=none.txt"), r"none\.txt' cannot be read: there is no such file"),
        (("data.root=photos", "data.val=text"), r"data\.val=text: expected a number"),
    ],
)
def test_what_cannot_be_read_at_all_is_a_usage_error_and_leaves_no_file(
    photos: Path, overrides: tuple[str, ...], message: str
) -> None:
    before = listing(photos.parent)
    with pytest.raises(ConfigError, match=message):
        finetune.audit(*overrides)
    assert listing(photos.parent) == before


def test_an_ambiguous_folder_ends_with_2(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_folder(photos.parent / "b")
    (photos.parent / "b" / "masks").rename(photos / "masks_2")
    assert exit_code("audit", "data.root=photos") == 2
    assert "can be read in 2 ways" in capsys.readouterr().err


def test_too_few_images_for_a_split_are_an_error(folder: Path) -> None:
    draw_folder(folder / "photos", names=("a", "b"))
    result = finetune.audit("data.root=photos", "output=report")
    assert [finding.kind for finding in result.errors] == ["split"]


def test_the_result_is_a_table_in_a_notebook(photos: Path) -> None:
    Image.new("RGB", (40, 32), "black").save(photos / "images" / "photo_05.png")
    html = finetune.audit("data.root=photos", "output=report")._repr_html_()
    assert html.startswith("<table>")
    assert "<td>warning</td><td>constant</td><td>1</td>" in html


def test_synthetic_data_is_audited_without_files(folder: Path) -> None:
    result = finetune.audit("data=synthetic", "data.count=8", "data.size=32", "output=report")
    assert (result.images, result.errors) == (12, [])


def test_clean_masks_have_no_specks(photos: Path) -> None:
    spotted = np.zeros((32, 40), dtype=np.uint8)
    spotted[2:30:4, 2:38:4] = 1
    spotted[5, :20], spotted[9, :20] = 1, 2
    save(photos / "masks" / "photo_05.png", spotted)
    found = [kinds(finetune.audit("data.root=photos", f"data.clean_masks={n}", f"output=report_{n}")) for n in (0, 4)]
    assert ["specks" in each for each in found] == [True, False]


def test_processes_report_the_same(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.processes.FEWEST", 2)
    for number in range(3):
        (photos / "images" / f"photo_0{number}.png").write_bytes((photos / "images" / "photo_05.png").read_bytes())
    for workers in (1, 2):
        finetune.audit(
            "data.root=photos", f"data.num_workers={workers}", f"output=report_{workers}", "data.verify=full"
        )
    one, other = (sorted(Path(f"report_{workers}").iterdir()) for workers in (1, 2))
    assert [path.name for path in one] == [path.name for path in other]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_large_images_are_audited_as_tiles(photos: Path) -> None:
    result = finetune.audit("data.root=photos", "data.tiles=20")
    assert result.images == 12 * 2 * 2
    assert not result.errors


def test_a_file_is_to_be_left_out_only_if_all_of_its_tiles_are(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos", size=(40, 40))
    for number, path in enumerate(sorted((root / "masks").iterdir())):
        mask = np.asarray(Image.open(path)).copy()
        if number == 0:
            mask[:] = 255
        elif number < 4:
            mask[:20, :20] = 255
        Image.fromarray(mask).save(path)
    result = finetune.audit(f"data.root={root}", "data.tiles=20", "data.classes=3", "data.ignore_index=255")
    listed = (result.folder / "exclude.txt").read_text().split()
    assert listed == ["images/photo_00.png"]
    table = (result.folder / "findings.csv").read_text()
    assert "[0-20,0-20]" in table
