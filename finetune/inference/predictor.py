"""Predicts masks for a file, a folder or a glob of images, at each image's own size."""

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune.data.decode import read_image
from finetune.data.files import IMAGE_SUFFIXES
from finetune.data.records import DataError
from finetune.models import Segmenter
from finetune.plots import overlay, palette

Mask = NDArray[np.uint8]


class Predictor:
    """A model with all it needs to predict from files.

    Args:
        model: the network.
        device: where it runs; None takes a GPU if there is one.
    """

    def __init__(self, model: Segmenter, device: str | torch.device | None = None) -> None:
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except RuntimeError as error:
            raise ValueError(f"device='{device}' is no device; expected cpu, cuda, cuda:0, mps, ...") from error
        self.model = model.eval().to(self.device).to(memory_format=torch.channels_last)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by index."""
        return self.model.class_names

    @torch.inference_mode()
    def predict_image(self, image: Tensor) -> Tensor:
        """Class indices (H, W), uint8, of an image (C, H, W), uint8."""
        batch = self.model.normalize(image[None].to(self.device))
        logits: Tensor = self.model(batch)
        return logits.argmax(dim=1)[0].to("cpu", torch.uint8)

    def predict(self, source: str | Path) -> dict[Path, Mask]:
        """Masks (H, W), uint8, of a file, of all images below a folder, or of a glob, by image path.

        Raises:
            DataError: nothing there, or files that are no whole images (all of them named).
        """
        return {path: self.predict_image(image).numpy() for path, image in self._images(find_images(source))}

    def save_predictions(self, names: Mapping[Path, Path], output: Path, overlays: bool = False) -> list[Path]:
        """Write masks as class-index PNGs with a palette to `output/masks`, and `output/overlays` if wanted.

        Args:
            names: image -> name of its mask, as `readable` gives them.
            output: made if need be.
            overlays: whether to draw the masks over the images too.
        """
        colors = palette(len(self.class_names))
        written = []
        for path, image in self._images(names):
            mask = self.predict_image(image).numpy()
            target = output / "masks" / names[path]
            save_mask(mask, colors, target)
            if overlays:
                picture = overlay(_rgb(image), mask, colors)
                _save(Image.fromarray(picture), output / "overlays" / names[path])
            written.append(target)
        return written

    def validate_inputs(self, source: str | Path) -> dict[Path, Path]:
        """Images that a file, folder or glob names, and the names of their masks; every file is decoded once.

        Masks keep the images' places below the folder that `source` names.

        Raises:
            DataError: nothing there, files that are no whole images, or two that would get the same name.
        """
        paths = find_images(source)
        names = output_names(paths, Path(source))
        self._check(paths)
        return names

    def _images(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Tensor]]:
        channels = self.model.backbone.in_channels
        return ((path, read_image(path, channels)) for path in paths)

    def _check(self, paths: Sequence[Path]) -> None:
        """Decode everything once, so that a bad file is found before anything is written."""
        channels = self.model.backbone.in_channels

        def problem(path: Path) -> str | None:
            try:
                read_image(path, channels)
            except DataError as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:
            problems = [found for found in pool.map(problem, paths) if found]
        if problems:
            more = f"\n... and {len(problems) - 10} more" if len(problems) > 10 else ""
            raise DataError(
                f"{len(problems)} of {len(paths)} files cannot be read:\n" + "\n".join(problems[:10]) + more
            )


def find_images(source: str | Path) -> list[Path]:
    """Image files that a file, folder or glob names, sorted.

    Raises:
        DataError: there is none.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    found = path.rglob("*") if path.is_dir() else (Path(match) for match in glob.glob(str(source), recursive=True))
    images = sorted(p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file() and p.name[0] != ".")
    if not images:
        kind = "folder holds no image" if path.is_dir() else "is no file or folder, and no image matches it as a glob"
        raise DataError(f"input='{source}' {kind}. Expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}.")
    return images


def output_names(paths: Sequence[Path], source: Path) -> dict[Path, Path]:
    """Where each image's PNG goes, below the output folder.

    Raises:
        DataError: two images would get the same name.
    """
    names = {
        path: (path.relative_to(source) if source.is_dir() else Path(path.name)).with_suffix(".png") for path in paths
    }
    first: dict[Path, Path] = {}
    for path, name in names.items():
        if name in first:
            raise DataError(f"'{first[name]}' and '{path}' would both be written as '{name}'. Rename one of them.")
        first[name] = path
    return names


def save_mask(mask: Mask, colors: Sequence[tuple[int, int, int]], path: Path) -> None:
    """Write class indices (H, W), uint8, as an 8-bit PNG whose palette shows the classes' colors."""
    picture = Image.fromarray(mask)
    picture.putpalette([channel for color in colors for channel in color])
    _save(picture, path)


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _rgb(image: Tensor) -> NDArray[np.uint8]:
    """(C, H, W) as (H, W, 3); other channel counts are shown by their first."""
    shown = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return shown.permute(1, 2, 0).numpy()
