"""A model of OpenVINO, for CPUs, GPUs and NPUs of Intel: `model.xml` and `model.bin`, converted from the ONNX file."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from finetune.checkpoints.saved_model import SavedModel
from finetune.exporters.agreement import Outputs
from finetune.exporters.exporter import Samples
from finetune.exporters.metadata import metadata
from finetune.exporters.onnx_file import FILE, LIMITS, OnnxFile
from finetune.inference import Output
from finetune.models.input_size import Size

MODEL = "model.xml"


class OpenVinoModel:
    """`model.xml`, whose rt_info say what it computes, and its weights in `model.bin`.

    Args:
        output: of the task.
        size: height and width of the images, in pixels; None for any.
        precision: `float32`; `float16` for weights of half the size; `int8`, quantized, for a CPU and a quarter.
        outputs: `classes`, `logits` or `probabilities`.
        calibration: images that show which values occur, for int8.

    Raises:
        ValueError: openvino is not installed, or what `OnnxFile` refuses.
    """

    def __init__(
        self,
        output: Output,
        size: Size | None = None,
        precision: str = "float32",
        outputs: str = "classes",
        calibration: Samples = (),
    ) -> None:
        if find_spec("openvino") is None:
            raise ValueError("format=openvino needs openvino, not installed: pip install 'finetune-seg[openvino]'")
        traced = "float32" if precision == "float16" else precision  # OpenVINO itself rounds the weights
        self.onnx = OnnxFile(output, size, traced, outputs, calibration)
        self.output, self.size, self.precision = output, size, precision
        self.limits, self.multiple = LIMITS[precision], 1

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        """Write the model, with adapters merged into the weights."""
        import openvino

        with TemporaryDirectory() as scratch:
            self.onnx.write_graph(saved, Path(scratch, FILE))
            model = openvino.Core().read_model(Path(scratch, FILE))  # convert_model would report to OpenVINO's makers
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
        model, *_, last = _read(folder / MODEL), *self.onnx.names
        if last != "logits":
            model.add_outputs("logits")
        compiled = _compile(model)

        def compute(images: Tensor) -> Outputs:
            arrays = compiled(images.numpy())
            return {name: torch.from_numpy(arrays[name]) for name in self.onnx.names}

        return compute

    def usage(self, folder: Path) -> str:
        """Return the line of code that loads the model."""
        return f'openvino.Core().compile_model("{folder / MODEL}", "CPU")'


def open_model(path: Path) -> tuple[str, Callable[[Tensor], object]]:
    """Return the precision of an exported model, and a function that predicts uint8 images (B, C, H, W) with it.

    Raises:
        RuntimeError: openvino is not installed.
    """
    if find_spec("openvino") is None:
        raise RuntimeError("it needs openvino, which is not installed: pip install 'finetune-seg[openvino]'")
    model = _read(path)
    compiled = _compile(model)
    return json.loads(model.get_rt_info("finetune").value)["precision"], lambda images: compiled(images.numpy())


def _read(path: Path) -> Any:
    import openvino

    return openvino.Core().read_model(path)


def _compile(model: Any) -> Any:
    """Compile for a CPU, in float32, where it would take bfloat16 if the CPU has it, and with torch's threads."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return openvino.Core().compile_model(model, "CPU", options)
