"""Run the model.onnx next to this file on images: python serve.py PHOTO... --output MASKS.

It needs onnxruntime and numpy, and Pillow for files. In Python: `Model()(image)`, for an array (H, W, channels).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

FILE = Path(__file__).with_name("model.onnx")


class Model:
    """The model in a file.

    Args:
        path: of the ONNX file.
        threads: on a CPU; 0 for one per core.

    Attributes:
        facts: its metadata: `outputs`, `classes`, `colors`, `channels`, `size` (height and width; None for any), ...
    """

    def __init__(self, path: str | Path = FILE, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())
        self.facts: dict[str, Any] = json.loads(self.session.get_modelmeta().custom_metadata_map["finetune"])

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the prediction for an image (H, W, channels), uint8.

        Returns:
            Class indices (H, W), uint8; masks (K, H, W) of 0 and 1 from a model for several classes per pixel; or
            logits or probabilities (K, H, W), float32.

        Raises:
            ValueError: another type, number of channels, or size than the model takes.
        """
        sides = (*(self.facts["size"] or image.shape[:2]), self.facts["channels"])
        if image.dtype != np.uint8 or image.shape != sides:
            raise ValueError(f"an image of {image.dtype} {image.shape}; the model takes uint8 {sides}.")
        batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
        prediction: NDArray[Any] = self.session.run(None, {"images": batch})[0][0]
        return prediction


def predict(model: Model, path: Path) -> NDArray[Any]:
    """Return the prediction for an image file, upright, at its own size; see `Model`.

    A model of one size gets the image resized, and its prediction is resized back by nearest neighbor.

    Raises:
        ValueError: an image of more than 8 bit, or a model of other channels, for which `Model` takes arrays.
    """
    from PIL import Image, ImageOps

    opened, channels, size = Image.open(path), model.facts["channels"], model.facts["size"]
    is_deep = opened.mode[0] in "IF" or ";16" in str(opened.tile)  # Pillow would keep the high bytes of 16-bit colors
    image = ImageOps.exif_transpose(opened)
    if channels not in (1, 3) or is_deep:
        raise ValueError(f"'{path}' has mode {image.mode}; read it yourself, and give Model an array of uint8.")
    color = image.convert("RGB") if channels == 3 else image.convert("RGB").convert("L")
    if size is not None:
        color = color.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(color)
    prediction = model(pixels.reshape(*pixels.shape[:2], channels))
    sides = zip(reversed(image.size), prediction.shape[-2:], strict=True)
    rows, columns = ((np.arange(side) + 0.5) * now // side for side, now in sides)
    return prediction[..., rows.astype(int)[:, None], columns.astype(int)]


def save(model: Model, prediction: NDArray[Any], path: Path) -> list[Path]:
    """Write a prediction: a PNG with the classes' colors, a PNG of 0 and 255 for each class, or numbers as NumPy's."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    if model.facts["outputs"] != "classes":
        np.save(path.with_suffix(".npy"), prediction)
        return [path.with_suffix(".npy")]
    if prediction.ndim == 2:
        image = Image.fromarray(prediction)
        image.putpalette([channel for color in model.facts["colors"] for channel in color])
        image.save(path)
        return [path]
    files = [path.with_name(f"{path.stem}_{suffix}.png") for suffix in model.facts["suffixes"]]
    for file, mask in zip(files, prediction, strict=True):
        Image.fromarray(mask * 255).save(file)
    return files


def main() -> None:
    """Predict the images that the command line names."""
    parser = argparse.ArgumentParser(description="Predict a mask for each image with the model.onnx next to this file.")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--output", required=True, type=Path, help="folder for the masks")
    parser.add_argument("--threads", default=0, type=int, help="on a CPU; 0 for one per core")
    given = parser.parse_args()
    targets: dict[Path, Path] = {}
    for path in given.images:
        target = given.output / f"{path.stem}.png"
        if target in targets:
            parser.error(f"'{targets[target]}' and '{path}' would both be written as '{target}'.")
        targets[target] = path
    model = Model(threads=given.threads)
    for target, path in targets.items():
        print(*save(model, predict(model, path), target), sep="\n")


if __name__ == "__main__":
    main()
