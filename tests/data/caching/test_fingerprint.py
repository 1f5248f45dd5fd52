"""Fingerprints of images and masks, before and after somebody touched them."""

from pathlib import Path

import pytest

from finetune.data import DataError, FolderSource, Record, SyntheticSource
from finetune.data.caching.fingerprint import changes, fingerprints, read_fingerprints, write_fingerprints
from tests.samples import draw_folder


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    found = fingerprints(FolderSource(draw_folder(tmp_path / "photos")).records())
    assert len(set(found.values())) == len(found) == 12
    write_fingerprints(tmp_path / "f.csv", found)
    assert read_fingerprints(tmp_path / "f.csv") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it starts with nothing; expected the header image,split,fingerprint"),
        ("image,split\na,val\n", r"starts with \['image', 'split'\]; expected"),
        ("image,split,fingerprint\na,val\n", r"line 2 is \['a', 'val'\]; expected image,split,fingerprint"),
        ("image,split,fingerprint\n" + "a" * 200_000, "a line of more than 8,192 characters"),
        ("image,split,fingerprint\n\0\udcff", "can't decode byte"),
    ],
)
def test_a_damaged_file_is_named_with_the_way_out(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=rf"f\.csv'.*{message}.*Delete the file to skip the check"):
        read_fingerprints(tmp_path / "f.csv")


def test_changed_masks_missing_images_and_new_images_are_distinguished(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos", ("a", "b", "c"))
    before = fingerprints(FolderSource(root).records())
    assert changes(before, fingerprints(FolderSource(root).records())) == ""
    mask = root / "masks" / "a.png"
    mask.write_bytes(mask.read_bytes() + b"\0")
    for kind in ("images", "masks"):
        (root / kind / "b.png").rename(root / kind / "d.png")
    assert changes(before, fingerprints(FolderSource(root).records())) == (
        "1 of 3 images or their masks have changed (a); 1 of 3 images are gone (b); 1 images are new (d)"
    )


def test_records_without_files_have_no_fingerprint() -> None:
    assert fingerprints(SyntheticSource(1, 32).records()) == {}


def test_a_file_of_many_records_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = FolderSource(draw_folder(tmp_path / "photos")).records()[0].image
    opened = []
    open_file = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *mode: opened.append(path) or open_file(path, *mode))
    assert len(set(fingerprints(Record(name, image) for name in "abc").values())) == 1
    assert opened == [*image.paths]
