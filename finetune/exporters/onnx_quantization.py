"""Quantization of an ONNX file to 8 bit, with ranges of values that images show."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

CLASSIFIER = "/model/head/"  # its place in a `DeployedModel`, as torch names operators


def quantize(path: Path, images: Iterable[Tensor]) -> None:
    """Quantize weights and activations of an ONNX file, in place.

    Activations are unsigned and weights signed, for which processors have instructions; weights have one scale per
    channel, which depthwise convolutions need. The classifier stays float: it is small, and to quantize logits of the
    size of the image takes more time than it saves.

    Args:
        path: of the file, with one input `images`.
        images: uint8 (1, C, H, W), which are run through the file.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not typed
        batches = ({"images": image.numpy()} for image in images)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    with TemporaryDirectory() as folder, _silent():
        prepared = Path(folder) / path.name
        quant_pre_process(path, prepared, skip_symbolic_shape=True)  # which has no rules for sides of any size
        names = [node.name for node in onnx.load(prepared).graph.node]
        quantization.quantize_static(
            *(prepared, path, Reader()),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=[name for name in names if name.startswith(CLASSIFIER)],
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Leave out warnings: the quantizer recommends the preparation that it was given."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
