"""A model of OpenVINO, for CPUs, GPUs and NPUs of Intel: `model.xml` and `model.bin`, converted from the ONNX file."""

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from finetune.checkpoints.saved_model import SavedModel
from finetune.exporters.agreement import Outputs
from finetune.exporters.metadata import metadata
from finetune.exporters.onnx_file import FILE, LIMITS, OnnxFile
from finetune.inference import Output
from finetune.io.messages import suggest
from finetune.models.input_size import Size

MODEL = "model.xml"
PRECISIONS = ("float32", "float16")


class OpenVinoModel:
    """`model.xml`, whose rt_info say what it computes, and its weights in `model.bin`.

    Args:
        output: of the task.
        size: height and width of the images, in pixels; None for any.
        precision: `float32`; or `float16` for weights of half the size.
        outputs: `classes`, `logits` or `probabilities`.

    Raises:
        ValueError: openvino is not installed, an unknown precision, or what `OnnxFile` refuses.
    """

    def __init__(
        self, output: Output, size: Size | None = None, precision: str = "float32", outputs: str = "classes"
    ) -> None:
        if find_spec("openvino") is None:
            raise ValueError("format=openvino needs openvino, not installed: pip install 'finetune-seg[openvino]'")
        if precision not in PRECISIONS:  # of a quantized ONNX file OpenVINO computes other logits than ONNX Runtime
            raise ValueError(f"precision={precision}: {suggest(str(precision), PRECISIONS)}")
        self.onnx = OnnxFile(output, size, outputs=outputs)
        self.output, self.size, self.precision = output, size, precision
        self.limits, self.multiple = LIMITS[precision], 1

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        """Write the model, with adapters merged into the weights."""
        openvino = import_openvino()
        with TemporaryDirectory() as scratch:
            self.onnx.write_graph(saved, Path(scratch, FILE))
            model = openvino.Core().read_model(Path(scratch, FILE))
        for name in self.onnx.names[:-1]:
            model.remove_result(model.output(name).node)
        facts = metadata(saved, self.output, self.size, self.precision, self.onnx.outputs)
        model.set_rt_info(json.dumps(facts), "finetune")
        openvino.save_model(model, folder / MODEL, compress_to_fp16=self.precision == "float16")
        return [folder / MODEL, (folder / MODEL).with_suffix(".bin")]

    def expected(self, saved: SavedModel, images: Tensor) -> Outputs:
        """Return the logits, and what the model is for."""
        return self.onnx.expected(saved, images)

    def load(self, folder: Path) -> Callable[[Tensor], Outputs]:
        """Return the model on a CPU, which also returns its logits."""
        compiled, _ = _open(folder / MODEL, self.onnx.names[:-1])

        def compute(images: Tensor) -> Outputs:
            arrays = compiled(images.numpy())
            return {name: torch.from_numpy(arrays[name]) for name in self.onnx.names}

        return compute

    def usage(self, folder: Path) -> str:
        """Return the line of code that loads the model."""
        return f'openvino.Core().compile_model("{folder / MODEL}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})'


def import_openvino() -> Any:
    """Import openvino without its telemetry, which keeps an identifier in the home folder and reports what is used."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # an import of it fails, as if missing
    return importlib.import_module("openvino")


def open_model(path: Path) -> tuple[str, Callable[[Tensor], object]]:
    """Return the precision of an exported model, and a function that predicts uint8 images (B, C, H, W) with it.

    Raises:
        RuntimeError: openvino is not installed.
    """
    if find_spec("openvino") is None:
        raise RuntimeError("it needs openvino, which is not installed: pip install 'finetune-seg[openvino]'")
    compiled, facts = _open(path)
    return facts["precision"], lambda images: compiled(images.numpy())


def _open(path: Path, outputs: Sequence[str] = ()) -> tuple[Any, dict[str, Any]]:
    """Return a model that is compiled for a CPU, with further outputs by name, and its metadata."""
    core = import_openvino().Core()
    model = core.read_model(path)
    for name in outputs:
        model.add_outputs(name)
    # in float32 and with torch's threads; by default, it would compute in bfloat16 where the CPU has it
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return core.compile_model(model, "CPU", options), json.loads(model.get_rt_info("finetune").value)
