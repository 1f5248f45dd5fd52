"""Quantization of an ONNX file to 8 bit, with ranges of values that images show."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor


def quantize(path: Path, images: Iterable[Tensor]) -> None:
    """Quantize weights and activations of an ONNX file, in place.

    Activations are unsigned and weights signed, for which processors have instructions; weights have one scale per
    channel, which depthwise convolutions need.

    Args:
        path: of the file, with one input `images`.
        images: uint8 (1, C, H, W), which are run through the file.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not typed
        def __init__(self) -> None:
            self.batches = _batches(images)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # the quantizer recommends what has just been done
    try:
        with TemporaryDirectory() as folder:
            prepared = Path(folder) / path.name
            # shapes are left out: sides of any size would need more rules than the function has
            quant_pre_process(path, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                path,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
    finally:
        root.setLevel(level)


def _batches(images: Iterable[Tensor]) -> Iterator[dict[str, Any]]:
    yield from ({"images": image.numpy()} for image in images)
