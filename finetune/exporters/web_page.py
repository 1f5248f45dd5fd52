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
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
PRECISIONS = ("float32", "int8")  # the runtime has few operators of float16 for a CPU
# scripts of the page and of its own blobs, WebAssembly, and no address at all
POLICY = (
    "default-src 'none'; script-src '{script}' blob: 'wasm-unsafe-eval'; worker-src blob:; style-src '{style}'; "
    "img-src data:; base-uri 'none'; form-action 'none'"
)


class WebPage:
    """`index.html`, which works from a disk: onnxruntime-web, the model, its classes and colors are inside.

    Args:
        output: of the task.
        size: height and width that pictures are resized to, in pixels; None for any.
        precision: `float32`; or `int8`, quantized.
        runtime: folder of the npm package onnxruntime-web, or its `dist`.
        calibration: images that show which values occur, for int8.

    Raises:
        ValueError: no runtime there, another precision, or what `OnnxFile` refuses.
    """

    def __init__(
        self,
        output: Output,
        size: Size | None = None,
        precision: str = "float32",
        runtime: str = RUNTIME,
        calibration: Samples = (),
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision}: a page computes in one of {', '.join(PRECISIONS)}.")
        self.runtime = find_runtime(Path(runtime))
        self._onnx = OnnxFile(output, size, precision, calibration=calibration)
        self.output, self.precision = output, precision
        self.size, self.limits, self.multiple = size, self._onnx.limits, self._onnx.multiple

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        """Write the page, with adapters merged into the weights."""
        if saved.model.backbone.in_channels not in (1, 3):
            raise ValueError(
                f"a browser has no pictures of {saved.model.backbone.in_channels} channels, only of 1 or 3"
            )
        facts = metadata(saved, self.output, self.size, self.precision, "classes")
        with TemporaryDirectory() as scratch:
            self._onnx.write(saved, Path(scratch))
            onnx = (Path(scratch) / FILE).read_bytes()
        text = render(facts, onnx, *((self.runtime / name).read_bytes() for name in (SCRIPT, WASM)))
        (folder / PAGE).write_bytes(text.encode())  # a line end of another system would change the hashes
        return [folder / PAGE]

    def expected(self, saved: SavedModel, images: Tensor) -> Outputs:
        """Return the logits and the classes."""
        return self._onnx.expected(saved, images)

    def load(self, folder: Path) -> Callable[[Tensor], Outputs]:
        """Return the ONNX file of the page in ONNX Runtime."""
        with TemporaryDirectory() as scratch:
            (Path(scratch) / FILE).write_bytes(unpack((folder / PAGE).read_text(encoding="utf-8"), "onnx"))
            return self._onnx.load(Path(scratch))

    def usage(self, folder: Path) -> str:
        """Return what opens the page."""
        return f"any browser: {(folder / PAGE).absolute().as_uri()}"


def find_runtime(folder: Path) -> Path:
    """Return the folder of the runtime's files.

    Raises:
        ValueError: there are none.
    """
    for place in (folder, folder / "dist"):
        if all((place / name).is_file() for name in (SCRIPT, WASM)):
            return place
    raise ValueError(
        f"runtime={folder}: format=web needs {SCRIPT} and {WASM} of the npm package onnxruntime-web there. "
        f"`npm install onnxruntime-web` puts them into {RUNTIME}, where they are found; without installing, "
        f"`npm pack onnxruntime-web && tar xzf onnxruntime-web-*.tgz`, then runtime=package."
    )


def render(facts: dict[str, Any], onnx: bytes, runtime: bytes, wasm: bytes) -> str:
    """Return the page as HTML.

    Args:
        facts: metadata of the ONNX file.
        onnx: the file.
        runtime: JavaScript module of onnxruntime-web.
        wasm: WebAssembly module of onnxruntime-web.
    """
    template, style, script, worker = (
        (PARTS / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js", "worker.js")
    )
    model = f"{facts['head']} on {facts['backbone']}, {facts['precision']}"
    about = (
        f"License of the pretrained weights: {facts['weights_license']}. Computed by ONNX Runtime Web, © Microsoft, MIT"
    )
    return Template(template).substitute(
        policy=POLICY.format(script=source_hash(script), style=source_hash(style)),
        style=style,
        model=html.escape(model),
        footer=html.escape(about),
        facts=json.dumps(facts).replace("<", "\\u003c"),  # or a class could end the element
        worker=worker,
        runtime=pack(runtime),
        wasm=pack(wasm),
        onnx=pack(onnx),
        script=script,
    )


def source_hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy allows an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def pack(content: bytes) -> str:
    """Return content for an element of the page, compressed."""
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode()


def unpack(page: str, element: str) -> bytes:
    """Return the content of an element that `pack` wrote."""
    found = re.search(rf'id="{element}">([^<]*)<', page)
    assert found is not None
    return gzip.decompress(base64.b64decode(found[1]))
