"""The files of an audit: a page without scripts or links, a table, a list of images to leave out."""

import base64
import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.audit import DataSet, Finding, audit_data
from finetune.data.splitting.exclude import read_exclusions, without_excluded
from finetune.reports.audit import class_lines, screen_lines, write_audit
from finetune.reports.audit_page import audit_page
from tests.data.audit.drawn import data_set, labels, photo


@pytest.fixture(scope="module")
def data() -> DataSet:
    """Return four images: a copy over splits, a black one, and one that cannot be read."""
    images = [photo(0), photo(0), photo(1, low=0, high=9), None]
    return data_set(images, None, ["train", "test", "train", "train"])


class Elements(HTMLParser):
    """Names of elements, and all attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def test_the_page_has_pictures_inside_and_loads_and_runs_nothing(data: DataSet) -> None:
    elements = Elements(audit_page(data, audit_data(data), ["a note"], "photos"))
    assert not {"script", "link", "iframe"} & {*elements.names}
    sources = [value for name, value in elements.attributes if name in ("src", "href")]
    assert len(sources) == 3 * 2  # image and overlay of the two copies and the black image
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not [name for name, _ in elements.attributes if name.startswith("on")]
    assert elements.names.count("svg") == 3


def test_pictures_show_the_image_and_its_mask(data: DataSet) -> None:
    page = audit_page(data, [Finding("leak", "warning", "text", {0: "copy"})], [], "photos")
    image, overlay = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(found)))).astype(int)
        for found in re.findall(r"base64,([^\"]+)", page)
    )
    assert image.shape == overlay.shape == (135, 180, 3)
    reference = np.asarray(Image.fromarray(photo(0)).resize((180, 135), Image.Resampling.NEAREST)).astype(int)
    assert np.abs(image - reference).mean() < 12
    assert np.abs(image - overlay).mean() > 20


def test_names_and_texts_cannot_put_elements_into_the_page(data: DataSet) -> None:
    evil = "<script>alert(1)</script>"
    changed = DataSet(data.examined, ("background", evil, '"><img src=x onerror=alert(1)>'))
    findings = [Finding(evil, "note", evil, {0: evil}, [Path(evil)])]
    plain = Elements(audit_page(data, [Finding("kind", "note", "text", {0: "detail"})], ["note"], "title")).names
    names = Elements(audit_page(changed, findings, [evil], evil)).names
    assert "script" not in names
    assert names.count("img") == plain.count("img")


def test_the_table_has_a_row_for_each_image_of_each_finding(data: DataSet, tmp_path: Path) -> None:
    findings = [
        *audit_data(data),
        Finding("sizes", "note", "several, sizes", {}),
        Finding("no_mask", "error", "t", {}, [Path("images/x.png")]),
    ]
    files = write_audit(tmp_path / "new" / "audit", data, findings, [], Path("images"))
    rows = list(csv.DictReader(files["findings.csv"].read_text().splitlines()))
    named = [(row["file"], row["kind"], row["severity"]) for row in rows]
    assert named == [
        ("3.png", "unreadable", "error"),
        ("0.png", "leak", "warning"),
        ("1.png", "leak", "warning"),
        ("2.png", "black", "warning"),
        ("", "sizes", "note"),
        ("x.png", "no_mask", "error"),
    ]
    assert (rows[1]["detail"], rows[4]["detail"]) == ("the same as 1.png (test)", "several, sizes")


def test_the_list_excludes_errors_and_copies_over_splits_when_it_is_used(data: DataSet, tmp_path: Path) -> None:
    files = write_audit(tmp_path / "audit", data, audit_data(data), [], None)
    assert read_exclusions(files["exclude.txt"]) == ["images/0.png", "images/3.png"]
    kept = without_excluded(data.records, files["exclude.txt"])
    assert [record.name for record in kept] == ["1", "2"]


def test_without_anything_to_leave_out_there_is_no_list(tmp_path: Path) -> None:
    data = data_set([photo(0), photo(1)])
    files = write_audit(tmp_path / "audit", data, [], [], None)
    assert set(files) == {"audit.html", "findings.csv"}
    assert "nothing found" in screen_lines(data, [], files)


def test_the_screen_has_counts_findings_by_severity_and_what_to_set(data: DataSet, tmp_path: Path) -> None:
    findings = audit_data(data)
    files = write_audit(tmp_path / "audit", data, findings, [], None)
    lines = screen_lines(data, findings, files)
    assert lines[0] == "4 images (3 train, 1 test), 3 classes: background, thing, other"
    assert re.fullmatch(r"pixels: background \d+\.\d%, other \d+\.\d%, thing \d+\.\d%", lines[1])
    assert lines[2:5] == ["", "error", f"- {findings[0].text}"]
    assert lines[6] == "warnings"
    assert lines[-1] == f"leave out    data.exclude={files['exclude.txt']}   (2 images)"


def test_channels_and_masks_of_another_size_are_drawn() -> None:
    channels = np.stack([labels() == k for k in range(3)]).astype(np.uint8)
    data = data_set([photo(0), photo(1)], [channels, labels((96, 128))])
    page = audit_page(data, [Finding("x", "note", "text", {0: "", 1: ""})], [], "photos")
    assert page.count("data:image/jpeg") == 4


def test_shares_of_classes_that_may_overlap_are_of_the_pixels_of_the_images() -> None:
    channels = np.stack([labels() == k for k in range(3)]).astype(np.uint8)
    channels[1] |= channels[2]  # "thing" where "other" is, too
    channels[:, :12] = 255
    data = data_set([photo(0)], [channels])
    total = 48 * 64
    thing = 100 * float((channels[1] == 1).sum()) / total
    assert f"thing {thing:.1f}%" in class_lines(data)[0]
    assert class_lines(data)[0].endswith("; void 25.0%")
    page = audit_page(data, [], [], "photos")
    assert f"{thing / 0.75:.2f}%" in page  # of the pixels with a label
    assert "25.00%" in page
