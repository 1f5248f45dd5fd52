"""Run the model.onnx next to this file on images: python serve.py PHOTO... --output MASKS.

It needs onnxruntime and numpy, and Pillow to read and write files. In Python, without files:

    model = Model("model.onnx")
    prediction = model(image)  # image (H, W, channels), uint8
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

FILE = Path(__file__).with_name("model.onnx")


class Model:
    """The model in a file, with its metadata.

    Args:
        path: of the ONNX file.
        providers: of ONNX Runtime, the first that works is used; None for all that are installed.
        threads: on a CPU; 0 for one per core.

    Attributes:
        outputs: what is returned: `classes`, `logits` or `probabilities`.
        classes: names of the classes, by index.
        colors: red, green and blue of each class, 0..255.
        size: height and width of the images, in pixels; None for any.
        channels: number of channels of the images.
    """

    def __init__(self, path: str | Path = FILE, providers: Sequence[str] | None = None, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        providers = list(providers or onnxruntime.get_available_providers())
        self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        facts: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.outputs = facts["outputs"]
        self.classes: list[str] = json.loads(facts["classes"])
        self.colors: list[list[int]] = json.loads(facts["colors"])
        self.size: list[int] | None = json.loads(facts["size"])
        self.channels: int = json.loads(facts["channels"])

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the prediction for an image (H, W, channels), uint8.

        Returns:
            Class indices (H, W), uint8; masks (K, H, W) of 0 and 1 from a model for several classes per pixel; or
            logits or probabilities (K, H, W), float32.

        Raises:
            ValueError: another type, another number of channels, or another size than that of the model.
        """
        sides = (*(self.size or image.shape[:2]), self.channels)
        if image.dtype != np.uint8 or image.shape != sides:
            raise ValueError(f"an image of {image.dtype} {image.shape}; the model takes uint8 {sides}.")
        batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
        prediction: NDArray[Any] = self.session.run([self.outputs], {"images": batch})[0][0]
        return prediction


def read(path: Path, channels: int) -> Any:
    """Return an image file, upright, as Pillow's image of 1 or 3 channels.

    Raises:
        ValueError: an image of more than 8 bit, or a model of other channels, for which `Model` takes arrays.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(Image.open(path))
    if channels not in (1, 3) or image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
        raise ValueError(f"'{path}' has mode {image.mode}; read it yourself, and give Model an array of uint8.")
    return image.convert("RGB") if channels == 3 else image.convert("RGB").convert("L")


def predict(model: Model, path: Path) -> NDArray[Any]:
    """Return the prediction for an image file at its own size; see `Model`.

    A model of one size gets the image resized, and its prediction is resized back by nearest neighbor.
    """
    image = read(path, model.channels)
    width, height = image.size
    if model.size is not None:
        image = image.resize((model.size[1], model.size[0]), resample=2)  # bilinear
    pixels = np.asarray(image)
    prediction = model(pixels.reshape(*pixels.shape[:2], -1))
    rows, columns = (
        np.arange(side) * now // side for side, now in zip((height, width), prediction.shape[-2:], strict=True)
    )
    return prediction[..., rows[:, None], columns]


def save(model: Model, prediction: NDArray[Any], path: Path) -> list[Path]:
    """Write a prediction and return its files.

    Class indices become a PNG whose palette has the classes' colors, masks a PNG of 0 and 255 for each class, and
    numbers a NumPy file.
    """
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    if model.outputs != "classes":
        np.save(path.with_suffix(".npy"), prediction)
        return [path.with_suffix(".npy")]
    if prediction.ndim == 2:
        image = Image.fromarray(prediction)
        image.putpalette([channel for color in model.colors for channel in color])
        image.save(path)
        return [path]
    files: list[Path] = []
    for index, (name, mask) in enumerate(zip(model.classes, prediction, strict=True)):
        suffix = re.sub(r"[^\w.-]+", "-", name)
        file = path.with_name(f"{path.stem}_{suffix}{path.suffix}")
        if file.name.lower() in {other.name.lower() for other in files}:
            file = file.with_name(f"{file.stem}-{index}{path.suffix}")
        Image.fromarray(mask * 255).save(file)
        files.append(file)
    return files


def main() -> None:
    """Predict the images that the command line names."""
    parser = argparse.ArgumentParser(description="Predict a mask for each image with the model.onnx next to this file.")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--output", required=True, type=Path, help="folder for the masks")
    parser.add_argument("--threads", default=0, type=int, help="on a CPU; 0 for one per core")
    given = parser.parse_args()
    model = Model(threads=given.threads)
    for path in given.images:
        for file in save(model, predict(model, path), given.output / f"{path.stem}.png"):
            print(file)


if __name__ == "__main__":
    main()
