"""Quantization of an ONNX file to 8 bit, with ranges of values that images show."""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finetune.exporters.exporter import Samples

CLASSIFIER = "head"  # its place in a model
FEW = 8  # images that tell how far parts may be quantized
SENSITIVE = 0.75
Array = NDArray[np.float32]


def quantize(path: Path, samples: Samples) -> list[str]:
    """Quantize weights and activations of an ONNX file, in place, and return the parts that stay in float.

    Activations are unsigned and weights signed, for which processors have instructions; weights have one scale per
    channel, which depthwise convolutions need. The classifier stays float: it is small, and to quantize logits of the
    size of the image takes more time than it saves. So does each part without which the error of the logits falls by a
    quarter: single blocks of a network may have values that are far from all others.

    Args:
        path: of the file, with an input `images` and an output `logits`.
        samples: images that are run through the file.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder, _silent():
        prepared, trial = Path(folder) / path.name, Path(folder) / "trial.onnx"
        quant_pre_process(path, prepared, skip_symbolic_shape=True)  # which has no rules for sides of any size
        nodes = onnx.load(prepared).graph.node
        few = [image for image, _ in islice(samples, FEW)]
        exact = _logits(prepared, few)

        def error_without(*parts: str) -> float:
            _quantize(prepared, trial, few, parts)
            return float(((_logits(trial, few) - exact) ** 2).mean())

        whole = error_without(CLASSIFIER)
        parts = sorted({part_of(node.name) for node in nodes if node.op_type == "Conv"} - {CLASSIFIER})
        kept = [part for part in parts if error_without(CLASSIFIER, part) < SENSITIVE * whole]
        _quantize(prepared, path, (image for image, _ in samples), [CLASSIFIER, *kept])
    return kept


def _quantize(path: Path, target: Path, images: Iterable[Tensor], kept: Sequence[str]) -> None:
    """Write a quantized file, in which some parts stay in float."""
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not typed
        batches = ({"images": image.numpy()} for image in images)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    quantization.quantize_static(
        *(path, target, Reader()),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        nodes_to_exclude=[node.name for node in onnx.load(path).graph.node if part_of(node.name) in kept],
        calibrate_method=quantization.CalibrationMethod.MinMax,
    )


def _logits(path: Path, images: Sequence[Tensor]) -> Array:
    """Return the logits of images, which may differ in size (N,)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"images": each.numpy()})[0].ravel() for each in images])


def part_of(node: str) -> str:
    """Return the part of the model that a node belongs to: a block, or the classifier.

    A model that is called for several views has names with numbers.

    >>> part_of("/model/backbone_1/blocks.2/blocks.2.0/conv_pw/Conv"), part_of("/model/head/head.0/Conv")
    ('backbone/blocks.2', 'head')
    """
    names = [re.sub(r"_\d+$", "", name) for name in node.split("/")[2:4]]
    return names[0] if names[:1] == [CLASSIFIER] else "/".join(names)


@contextmanager
def _silent() -> Iterator[None]:
    """Leave out warnings: the quantizer recommends the preparation that it was given."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
