"""One ONNX file with everything inside, from uint8 images to classes, and a script that runs it."""

import copy
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from finetune.checkpoints.saved_model import SavedModel
from finetune.exporters.agreement import Limits, Outputs
from finetune.exporters.deployed_model import DeployedModel, TraceableOperators, check_outputs
from finetune.exporters.exporter import Samples, random_images
from finetune.exporters.metadata import metadata
from finetune.exporters.onnx_quantization import quantize
from finetune.inference import Output
from finetune.io.messages import shortlist, suggest
from finetune.models.input_size import Size, check_size

# read when onnxruntime is imported, which is always later; it would keep an identifier in the home folder
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
logger = logging.getLogger(__name__)

OPSET = 17  # the oldest with LayerNormalization, for the oldest runtimes
FILE = "model.onnx"
SCRIPT = Path(__file__).with_name("serve.py")
LIMITS = {
    "float32": Limits(difference=1e-4, labels=1e-3, score=1e-3),
    "float16": Limits(difference=2e-2, labels=1e-2, score=5e-3),
    "int8": Limits(difference=float("inf"), labels=0.2, score=5e-3),
}


class OnnxFile:
    """`model.onnx`, whose metadata say what it computes, and `serve.py`, which needs onnxruntime, NumPy and Pillow.

    Args:
        output: of the task.
        size: height and width of the images, in pixels; None for any.
        precision: `float32`; `float16` for a GPU and half the size; `int8`, quantized, for a CPU and a quarter.
        outputs: `classes`, `logits` or `probabilities`.
        calibration: images that show which values occur, for int8.

    Attributes:
        names: of the outputs that are computed, the logits first; only the last one is an output of the file.

    Raises:
        ValueError: an unknown precision or output, no images for int8, or packages that are not installed.
    """

    def __init__(
        self,
        output: Output,
        size: Size | None = None,
        precision: str = "float32",
        outputs: str = "classes",
        calibration: Samples = (),
    ) -> None:
        check_packages()
        if size is not None:
            check_size(size, "size")
        if precision not in LIMITS:
            raise ValueError(f"precision={precision}: {suggest(str(precision), LIMITS)}")
        check_outputs(outputs)
        if precision == "int8" and not calibration:
            raise ValueError(
                "precision=int8 needs images that show which values occur: those of a run, or data.root=PHOTOS"
            )
        self.size, self.precision, self.outputs = size, precision, outputs
        self.output, self.calibration = output, calibration
        self.limits, self.multiple = LIMITS[precision], 1
        self.names = ("logits",) if outputs == "logits" else ("logits", outputs)

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        """Write the file, with adapters merged into the weights, and the script next to it."""
        import onnx

        path = folder / FILE
        self.write_graph(saved, path)
        file = onnx.load(path)
        del file.graph.output[: len(self.names) - 1]  # the logits were named, so that the check can read them
        facts = metadata(saved, self.output, self.size, self.precision, self.outputs)
        onnx.helper.set_model_props(file, {"finetune": json.dumps(facts)})
        onnx.checker.check_model(file)
        onnx.save(file, path)
        return [path, Path(shutil.copy(SCRIPT, folder / SCRIPT.name))]

    def write_graph(self, saved: SavedModel, path: Path) -> None:
        """Write the file with the logits as its first output, and without metadata; merge adapters into the weights."""
        saved.model.merge_adapters()
        self._trace(saved, path)
        if self.precision == "int8":
            logger.info("looking for the parts that lose most when they are quantized, which takes minutes")
            kept = quantize(path, self.calibration)
            logger.info(f"they stay in float: {shortlist(kept)}" if kept else "none loses more than the others")

    def _trace(self, saved: SavedModel, path: Path) -> None:
        model = saved.segmenter if self.precision != "float16" else copy.deepcopy(saved.segmenter).half()
        deployed = DeployedModel(model, self.output, self.names).eval()
        *_, images = random_images(saved, self.size)  # the last needs padding, so that padding is traced
        images = images.flip(0)  # not those of the check, which would not see what the trace takes as constant
        axes = {}
        for name, example in {"images": images, **deployed.named_outputs(images)}.items():
            sides = {example.ndim - 2: "height", example.ndim - 1: "width"} if self.size is None else {}
            axes[name] = {0: "batch", **sides}
        trace(deployed, images, path, self.names, axes)

    def expected(self, saved: SavedModel, images: Tensor) -> Outputs:
        """Return the logits, and what the file is for."""
        return DeployedModel(saved.segmenter, self.output, self.names).named_outputs(images)

    def load(self, folder: Path) -> Callable[[Tensor], Outputs]:
        """Return the file in ONNX Runtime, which also returns its logits."""
        import onnx
        import onnxruntime

        file = onnx.load(folder / FILE)
        if "logits" not in {output.name for output in file.graph.output}:
            file.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what fails is an error of ours
        session = onnxruntime.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])

        def compute(images: Tensor) -> Outputs:
            arrays = session.run(list(self.names), {"images": images.numpy()})
            return {name: torch.from_numpy(array) for name, array in zip(self.names, arrays, strict=True)}

        return compute

    def usage(self, folder: Path) -> str:
        """Return the command that runs the model."""
        return f"python {folder / SCRIPT.name} PHOTO... --output MASKS"


def check_packages() -> None:
    """Raise ValueError unless the packages that write and run ONNX files are installed."""
    if missing := [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]:
        raise ValueError(f"ONNX files need {', '.join(missing)}, not installed: pip install 'finetune-seg[export]'")


def trace(
    deployed: nn.Module, images: Tensor, path: Path, names: Sequence[str], axes: Mapping[str, Mapping[int, str]]
) -> None:
    """Write what a module computes from uint8 images (B, C, H, W) as an ONNX file, whose input is called `images`.

    Args:
        deployed: returns a tuple.
        images: what is traced.
        path: of the file.
        names: of the outputs.
        axes: names of the dimensions that may have any length, of the input and the outputs.
    """
    with torch.no_grad(), TraceableOperators(), warnings.catch_warnings(), redirect_stdout(None):
        warnings.simplefilter("ignore")  # of what the trace takes as constant, and which the check finds out
        # the exporter that symbolic shapes do not slow down: seconds, where the other takes many minutes
        torch.onnx.export(
            *(deployed, (images,), str(path)),
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=list(names),
            dynamic_axes=axes,
        )


def open_session(path: Path) -> tuple[str, Callable[[Tensor], object]]:
    """Return the precision of an exported file, and a function that predicts uint8 images (B, C, H, W) with it.

    Raises:
        RuntimeError: onnxruntime is not installed.
    """
    if find_spec("onnxruntime") is None:
        raise RuntimeError("it needs onnxruntime, which is not installed: pip install 'finetune-seg[export]'")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["finetune"])
    return facts["precision"], lambda images: session.run(None, {"images": images.numpy()})
