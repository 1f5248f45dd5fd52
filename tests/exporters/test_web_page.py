"""The web page: one file without addresses, that segments in a browser what torch segments."""

import json
import os
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import finetune
from finetune.checkpoints.saved_model import SavedModel, save_model
from finetune.config.errors import ConfigError
from finetune.exporters import ExportError, OnnxFile, WebPage, export_model, web_page
from finetune.exporters.web_page import RUNTIME, SCRIPT, WASM, find_runtime, render, source_hash, unpack
from finetune.inference import ClassIndices, ClassMasks
from tests.browser import CHROMIUM, Browser
from tests.samples import save

pytest.importorskip("onnxruntime", reason="pip install 'finetune-seg[export]'")

INSTALLED = Path(os.environ.get("ONNXRUNTIME_WEB", RUNTIME))
NAMES = ("ground", "</script><b>", "sky")
TASKS = {"semantic": ClassIndices(NAMES), "multilabel": ClassMasks(NAMES, [0.5, 0.4, 0.6])}
STATUS = "document.getElementById('status').textContent"
in_browser = pytest.mark.skipif(
    CHROMIUM is None or not INSTALLED.is_dir(),
    reason=f"needs chromium, and onnxruntime-web of npm in {INSTALLED} or where ONNXRUNTIME_WEB says",
)


def sample_model(task: str = "semantic", **options: Any) -> SavedModel:
    """Return a small model."""
    torch.manual_seed(0)
    model = finetune.Segmenter("test_resnet", "linear", NAMES, weights="none", **options).eval()
    return SavedModel(model, {}, {"name": task})


@pytest.fixture
def runtime(tmp_path: Path) -> str:
    """Return a folder with files of the runtime's names."""
    (tmp_path / "runtime" / "dist").mkdir(parents=True)
    for name in (SCRIPT, WASM):
        (tmp_path / "runtime" / "dist" / name).write_text(f"the content of {name}")
    return str(tmp_path / "runtime")


class Elements(HTMLParser):
    """Attributes and text of the elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", {}, []))

    def handle_data(self, data: str) -> None:
        if self.found:
            self.found[-1][2].append(data)


def test_a_page_is_one_file_without_addresses_whose_policy_allows_its_own_code_only(
    runtime: str, tmp_path: Path
) -> None:
    saved, output = sample_model(), TASKS["semantic"]
    (file,), agreement = export_model(WebPage(output, runtime=runtime), saved, tmp_path / "web")
    assert agreement.equal_labels == 1.0
    page = file.read_bytes().decode()
    elements = Elements(page).found
    texts = {attributes.get("id") or tag: "".join(text) for tag, attributes, text in elements}
    assert not [tag for tag, attributes, _ in elements if "src" in attributes]
    assert [attributes["href"] for _, attributes, _ in elements if "href" in attributes] == ["data:,"]
    (policy,) = [attributes["content"] for _, attributes, _ in elements if "http-equiv" in attributes]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert f"'{source_hash(texts['script'])}'" in policy
    assert f"'{source_hash(texts['style'])}'" in policy
    assert "connect-src" not in policy
    assert json.loads(texts["facts"])["classes"] == list(NAMES)
    (side,) = [attributes["value"] for _, attributes, _ in elements if attributes.get("id") == "side"]
    assert side == "800"
    assert 'id="side" type="number" min="32" max="4096" step="32" value="3200"' in render(
        {**json.loads(texts["facts"]), "reduce": 4}, b"", find_runtime(Path(runtime))
    )
    assert unpack(page, "wasm").decode() == f"the content of {WASM}"
    export_model(OnnxFile(output), saved, tmp_path / "onnx")
    assert unpack(page, "onnx") == (tmp_path / "onnx" / "model.onnx").read_bytes()


def test_a_page_with_another_model_inside_is_refused(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    other = SavedModel(finetune.Segmenter("test_resnet", "linear", NAMES, weights="none").eval(), {}, {})
    export_model(OnnxFile(TASKS["semantic"]), other, tmp_path / "other")
    onnx, render = (tmp_path / "other" / "model.onnx").read_bytes(), web_page.render
    monkeypatch.setattr("finetune.exporters.web_page.render", lambda facts, _, runtime: render(facts, onnx, runtime))
    with pytest.raises(ExportError, match="the files give outputs that differ by up to"):
        export_model(WebPage(TASKS["semantic"], runtime=runtime), sample_model(), tmp_path / "web")
    assert not (tmp_path / "web").exists()


def test_images_that_no_browser_reads_are_refused(runtime: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no pictures of 4 channels"):
        export_model(WebPage(TASKS["semantic"], runtime=runtime), sample_model(in_channels=4), tmp_path / "web")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("runtime=nowhere",), "runtime=nowhere: format=web needs .* `npm install onnxruntime-web`"),
        (("precision=float16",), "precision=float16 is for GPUs; .* Choose from: float32, int8"),
        (("outputs=logits",), "format=web has unknown options: 'outputs'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    overrides: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    saved = sample_model()
    save_model(tmp_path / "model", saved.model, saved.data, saved.scores, saved.task)
    with pytest.raises(ConfigError, match=message):
        finetune.export(f"run={tmp_path}", "format=web", f"output={tmp_path / 'web'}", *overrides)
    assert not (tmp_path / "web").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a browser; closed at the end."""
    with Browser() as opened:
        yield opened


def segmented(browser: Browser, picture: Path, folder: Path, files: int) -> list[np.ndarray]:
    """Return the masks that a person gets who chooses a picture and clicks on the download."""
    browser.choose("#file", picture)
    browser.wait(f"{STATUS} === 'Segmented {picture.name}'")
    browser.evaluate("document.getElementById('download').click()")
    browser.wait_for(lambda: len(list(folder.glob("*.png"))) == files)
    return [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]


@in_browser
@pytest.mark.parametrize(("task", "channels"), [("semantic", 3), ("multilabel", 1)])
def test_a_browser_segments_a_picture_as_torch_does(task: str, channels: int, browser: Browser, tmp_path: Path) -> None:
    saved, output, downloads = sample_model(task, in_channels=channels), TASKS[task], tmp_path / "downloads"
    (page,), _ = export_model(WebPage(output, runtime=str(INSTALLED)), saved, tmp_path / "web")
    tiles = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    pixels = tiles.repeat(10, axis=0).repeat(9, axis=1)[:37, :53]
    picture = save(tmp_path / "photo.png", pixels)
    gray = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    images = torch.from_numpy(np.moveaxis(gray if channels == 1 else pixels, -1, 0).copy())[None]
    with torch.inference_mode():
        expected = output.decode(saved.model(saved.model.normalize(images)))[0].numpy()
    browser.open(page, downloads)
    files = [f"photo_{suffix}.png" for suffix in (["mask"] if task == "semantic" else ["-script-b-", "ground", "sky"])]
    masks = segmented(browser, picture, downloads, len(files))
    assert sorted(file.name for file in downloads.iterdir()) == files
    theirs = masks[0] if task == "semantic" else np.stack([masks[1], masks[0], masks[2]]) // 255
    assert len(np.unique(theirs)) > 1
    assert (theirs != expected).mean() < 1e-3
    for width in (390, 1280):
        browser.resize(width, 844)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.errors == []
    assert browser.requests == [page.as_uri()]


@in_browser
def test_a_page_reduces_large_pictures_runs_the_camera_and_names_files_it_cannot_read(
    browser: Browser, tmp_path: Path
) -> None:
    (page,), _ = export_model(WebPage(TASKS["semantic"], (32, 64), runtime=str(INSTALLED)), sample_model(), tmp_path)
    browser.open(page, tmp_path / "downloads")
    (mask,) = segmented(browser, save(tmp_path / "a.png", np.zeros((300, 200, 3), np.uint8)), tmp_path / "downloads", 1)
    assert mask.shape == (300, 200)
    assert "computed at 64x32" in browser.evaluate("document.getElementById('time').textContent")
    browser.evaluate("document.getElementById('camera').click()")
    browser.wait("document.getElementById('time').textContent.startsWith('640x480')")
    (tmp_path / "notes.txt").write_text("no picture")
    browser.choose("#file", tmp_path / "notes.txt")
    browser.wait(f"{STATUS}.startsWith('notes.txt is no picture')")
    assert browser.evaluate("document.getElementById('camera').textContent") == "Camera"
    assert browser.errors == []
