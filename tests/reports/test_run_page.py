"""The page of a run: what it shows, that it is one file, and what it makes of the files of a stranger."""

import base64
import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import finetune
from finetune.config.errors import ConfigError
from finetune.reports.run_page import run_page
from finetune.reports.speed import Speed, write_speeds
from finetune.runs.prepare import note_facts
from tests.browser import CHROMIUM, Browser
from tests.samples import draw_folder, on_folder


class Page(HTMLParser):
    """Text and sources of a page; every element must be closed."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in ("meta", "img", "line", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose classes have names that HTML must not take for tags."""
    photos = draw_folder(tmp_path_factory.mktemp("photos"), [f"photo_{i:02d}" for i in range(16)])
    names = "data.classes=['ground & grass','<b>wall</b>',sky]"
    folder = tmp_path_factory.mktemp("runs") / "run" / "today"
    finetune.train(*on_folder(photos), names, "trainer.max_epochs=2", "optimizer.lr=1e-2", f"output={folder}")
    return folder


def test_a_finished_run_has_a_page_with_its_scores_images_and_settings(run: Path) -> None:
    page = Page((run / "report.html").read_text())
    scores = json.loads((run / "evaluation" / "test" / "scores.json").read_text())
    low, high = json.loads((run / "evaluation" / "test" / "interval.json").read_text())["iou"]
    assert f"IoU {scores['iou']:.4f}, {low:.4f} to {high:.4f} for 95 % of the sets" in page.text
    assert f"{scores['pixel_accuracy']:.4f}" in page.text
    for text in ("run today", "ground & grass", "<b>wall</b>", "test_resnet", "optimizer:", "lr: 0.01", '"python"'):
        assert text in page.text
    rows = (run / "evaluation" / "test" / "images.csv").read_text().splitlines()[1:]
    assert all(row.split(",")[0] in page.text for row in rows)


def test_every_figure_is_an_image(run: Path) -> None:
    figures = sorted(run.rglob("*.png"))
    assert len(figures) == 11
    for path in figures:
        with Image.open(path) as image:
            image.load()
            assert min(image.size) >= 100


def test_a_page_is_one_file_without_scripts(run: Path) -> None:
    page = Page((run / "report.html").read_text())
    assert "script" not in page.tags
    assert len(page.sources) == 8  # confusion, calibration, worst, best, two curves, rates, augmentation
    assert all(re.match(r"data:image/(png|jpeg);base64,[\w+/=]+$", source) for source in page.sources)


def test_the_command_adds_later_evaluations(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    finetune.evaluate(f"run={copy}", "split=val")
    write_speeds(copy / "benchmark", [Speed(str(copy), "torch", 4, 32, 48, 1.5, 2.25, 3.5, 1777.8, None)], {})
    path = finetune.report(f"run={copy}")
    assert path == copy / "report.html"
    text = Page(path.read_text()).text
    assert "Scores on test" in text
    assert "Scores on val" in text
    assert "torch 4 32 48 2.2500 3.5000 1777.8000 -" in text
    other = finetune.report(f"run={copy}", f"output={tmp_path / 'page.html'}")
    assert other.read_text() == path.read_text()


def test_a_folder_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected the folder of a run with an evaluation"):
        finetune.report(f"run={tmp_path}")


def test_files_of_a_stranger_are_only_text(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "<script>alert(1)"))
    evil = "<script>alert(1)</script>"
    (copy / "config.yaml").write_text(f"output: x\nname: {evil}\n")
    (copy / "model" / "config.json").write_text(json.dumps({"model": {"backbone": evil, "head": 3}}))
    (copy / "evaluation" / "test" / "scores.json").write_text(json.dumps({evil: evil, "iou": None}))
    (copy / "evaluation" / "test" / "classes.csv").write_text(f"class,iou\n{evil},0.5\n")
    (copy / "evaluation" / "test" / "images.csv").write_text(f"image,iou\n{evil},\n")
    (copy / "evaluation" / "test" / "slices.csv").write_text(f"slice,value,images,iou,low,high\n{evil},a,3,0.25,,\n")
    page = Page(run_page(copy))
    assert "script" not in page.tags
    assert page.text.count(evil) >= 6
    assert "a 3 0.2500 - -" in page.text


def test_the_page_says_what_each_split_holds(run: Path) -> None:
    page = Page((run / "report.html").read_text())
    settings = yaml.safe_load((run / "config.yaml").read_text())["data"]
    with (run / "splits.csv").open(newline="") as file:
        names = [row["image"] for row in csv.DictReader(file) if row["split"] == "train"]
    masks = np.stack([np.asarray(Image.open(Path(settings["root"], "masks", f"{name}.png"))) for name in names])
    facts = json.loads((run / "data.json").read_text())
    assert facts["splits"]["train"]["pixels"] == np.bincount(masks.ravel(), minlength=3).tolist()
    shares = [f"{(masks == k).mean():.2%}" for k in range(3)]
    for k, name in enumerate(("ground & grass", "<b>wall</b>", "sky")):
        assert f"{name} {shares[k]}" in page.text
    assert f"images {len(names)} " in page.text
    assert f"root {settings['root']}" in page.text


def test_the_page_says_what_trained_when(run: Path) -> None:
    with (run / "plots" / "tuning.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["from_epoch"], row["to_epoch"]) for row in rows} == {("1", "2")}
    assert rows[0]["layer_group"] == "head"
    text = Page((run / "report.html").read_text()).text
    assert f"head 1 2 {float(rows[0]['lr_start']):.4g}" in text
    assert re.search(
        r"2 epochs, \d+ steps and their validations in 0\.\d minutes, with at most [\d,]+ MB of memory", text
    )


def test_the_findings_of_the_audit_that_chose_the_images_are_on_the_page(run: Path, tmp_path: Path) -> None:
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]
    folder = tmp_path / "audited"
    folder.mkdir()
    (folder / "findings.csv").write_text(
        "file,kind,severity,detail\n<i>a.png,blurred,warning,sharpness 3\nb.png,blurred,warning,sharpness 4\n"
        ",split,error,no val\n"
    )
    (folder / "exclude.txt").write_text("images/a.png\n\nimages/b.png\n")
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    bundle: Any = SimpleNamespace(facts=lambda: {"notes": []})
    note_facts(copy, {**data, "exclude": str(folder / "exclude.txt")}, bundle)
    assert json.loads((copy / "data.json").read_text())["notes"] == [
        f"2 names in '{folder / 'exclude.txt'}' are left out (data.exclude)"
    ]
    shutil.copyfile(run / "data.json", copy / "data.json")
    text = Page(run_page(copy)).text
    assert "warning blurred 2 <i>a.png sharpness 3" in text
    assert re.search(r"error split\s+no val", text)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_the_page_on_a_phone_a_desktop_and_paper(run: Path, tmp_path: Path) -> None:
    page = run / "report.html"
    with Browser() as browser:
        for width in (400, 1280):
            browser.resize(width, 1000)
            browser.open(page, tmp_path)
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
            count = browser.evaluate("[...document.images].filter(i => i.complete && i.naturalWidth > 99).length")
            assert count == browser.evaluate("document.images.length") == 8
            assert browser.errors == []
            assert browser.requests == [page.as_uri()]
            with Image.open(browser.screenshot(tmp_path / "page.png")) as picture:
                assert len(picture.convert("RGB").getcolors(2**24) or ()) > 100
        assert base64.b64decode(browser.send("Page.printToPDF")["data"]).startswith(b"%PDF")
