"""A page that segments pictures in a browser, without a network: one HTML file with the ONNX file and its runtime."""

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from finetune.checkpoints.saved_model import SavedModel
from finetune.exporters.agreement import Outputs
from finetune.exporters.exporter import Samples
from finetune.exporters.metadata import metadata
from finetune.exporters.onnx_file import FILE, OnnxFile
from finetune.inference import Output
from finetune.models.input_size import Size

PAGE = "index.html"
PARTS = Path(__file__).with_name("web")
RUNTIME = "node_modules/onnxruntime-web"
SIDE, MOST_PIXELS = 800, 4096  # longest side that pictures are reduced to by default, and the largest to choose
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"


class WebPage:
    """`index.html`, which works from a disk: onnxruntime-web, the model, its classes and colors are inside.

    Args:
        output: of the task.
        size: height and width that pictures are resized to, in pixels; None for any.
        precision: `float32`; or `int8`, quantized.
        runtime: folder of the npm package onnxruntime-web, or its `dist`.
        calibration: images that show which values occur, for int8.

    Raises:
        ValueError: no runtime there, float16, or what `OnnxFile` refuses.
    """

    def __init__(
        self,
        output: Output,
        size: Size | None = None,
        precision: str = "float32",
        runtime: str = RUNTIME,
        calibration: Samples = (),
    ) -> None:
        if precision == "float16":
            raise ValueError("precision=float16 is for GPUs; a page computes on the CPU: Choose from: float32, int8")
        self.onnx, self.output = OnnxFile(output, size, precision, calibration=calibration), output
        self.size, self.limits, self.multiple = size, self.onnx.limits, self.onnx.multiple
        self.runtime = find_runtime(Path(runtime))

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        """Write the page, with adapters merged into the weights."""
        if (channels := saved.model.backbone.in_channels) not in (1, 3):
            raise ValueError(f"a browser has no pictures of {channels} channels, only of 1 and 3")
        facts = metadata(saved, self.output, self.size, self.onnx.precision, "classes")
        with TemporaryDirectory() as scratch:
            self.onnx.write(saved, Path(scratch))
            page = render(facts, Path(scratch, FILE).read_bytes(), self.runtime)
        (folder / PAGE).write_bytes(page.encode())  # as text, other line ends would change the hashes in the page
        return [folder / PAGE]

    def expected(self, saved: SavedModel, images: Tensor) -> Outputs:
        """Return the logits and the classes."""
        return self.onnx.expected(saved, images)

    def load(self, folder: Path) -> Callable[[Tensor], Outputs]:
        """Return the ONNX file of the page in ONNX Runtime."""
        with TemporaryDirectory() as scratch:
            Path(scratch, FILE).write_bytes(unpack((folder / PAGE).read_text(encoding="utf-8"), "onnx"))
            return self.onnx.load(Path(scratch))

    def usage(self, folder: Path) -> str:
        """Return what to open the page with."""
        return f"any browser: {(folder / PAGE).absolute().as_uri()}"


def find_runtime(folder: Path) -> Path:
    """Return the folder of the runtime's files; ValueError if there are none."""
    for place in (folder, folder / "dist"):
        if all((place / name).is_file() for name in (SCRIPT, WASM)):
            return place
    raise ValueError(
        f"runtime={folder}: format=web needs {SCRIPT} and {WASM} of the npm package onnxruntime-web there. "
        f"`npm install onnxruntime-web` puts them into {RUNTIME}, where they are found; without installing, "
        f"`npm pack onnxruntime-web && tar xzf onnxruntime-web-*.tgz`, then runtime=package."
    )


def render(facts: dict[str, Any], onnx: bytes, runtime: Path) -> str:
    """Return the page as HTML, from the metadata of an ONNX file, the file, and the folder of the runtime."""
    style, script, worker = ((PARTS / name).read_text("utf-8") for name in ("page.css", "page.js", "worker.js"))
    return Template((PARTS / "page.html").read_text("utf-8")).substitute(
        **{name: html.escape(str(facts[name])) for name in ("head", "backbone", "precision", "weights_license")},
        side=min(MOST_PIXELS, SIDE * facts["reduce"]),
        facts=json.dumps(facts).replace("<", "\\u003c"),  # or the name of a class could end the element
        **{"style": style, "style_hash": source_hash(style), "script": script, "script_hash": source_hash(script)},
        **{"worker": worker, "onnx": pack(onnx)},
        **{"runtime": pack((runtime / SCRIPT).read_bytes()), "wasm": pack((runtime / WASM).read_bytes())},
    )


def source_hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy allows an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def pack(content: bytes) -> str:
    """Return content for an element of the page, compressed."""
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode()


def unpack(page: str, element: str) -> bytes:
    """Return the content of an element that `pack` wrote."""
    (found,) = re.findall(rf'id="{element}">([^<]*)<', page)
    return gzip.decompress(base64.b64decode(found))
