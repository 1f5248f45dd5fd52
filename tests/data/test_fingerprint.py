"""Fingerprints of images and masks, before and after somebody touched them."""

from pathlib import Path

from finetune.data import folder_records
from finetune.data.fingerprint import changes, fingerprints, read_fingerprints, write_fingerprints
from tests.samples import draw_folder


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    found = fingerprints(folder_records(draw_folder(tmp_path / "photos")))
    assert len(set(found.values())) == len(found) == 12
    write_fingerprints(tmp_path / "f.csv", found)
    assert read_fingerprints(tmp_path / "f.csv") == found


def test_a_changed_mask_a_lost_and_a_new_image_are_told_apart(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos", ("a", "b", "c"))
    before = fingerprints(folder_records(root))
    assert changes(before, fingerprints(folder_records(root))) == ""
    mask = root / "masks" / "a.png"
    mask.write_bytes(mask.read_bytes() + b"\0")
    for kind in ("images", "masks"):
        (root / kind / "b.png").rename(root / kind / "d.png")
    assert changes(before, fingerprints(folder_records(root))) == (
        "1 of 3 images or their masks have changed (a); 1 of 3 images are gone (b); 1 images are new (d)"
    )
