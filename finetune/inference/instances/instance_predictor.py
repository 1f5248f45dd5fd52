"""Objects in files, folders and globs of images, at each image's own size."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from finetune.data.images.value_range import ValueRange
from finetune.data.window import Window
from finetune.inference.base_predictor import BasePredictor
from finetune.inference.files import Source, find_images
from finetune.inference.finite import DIVERGED, NonFiniteOutputError
from finetune.inference.formats import FoundObjects
from finetune.inference.instances.merging import merge_windows
from finetune.inference.instances.object_output import ObjectOutput
from finetune.inference.pipeline import Image, batches, read_ahead
from finetune.inference.problems import predict_named, raise_problems
from finetune.inference.windows import OVERVIEW, ReadRows, Reduced, window_images
from finetune.instances import ObjectCrop, Objects, as_objects, crops_of
from finetune.models import InstanceSegmenter
from finetune.models.blending import SlidingWindow

logger = logging.getLogger(__name__)


class InstancePredictor(BasePredictor[InstanceSegmenter]):
    """A model that finds objects in files.

    Args:
        model: the network.
        device: where it runs; None takes a GPU if there is one.
        output: which objects are shown; None for those with a score of 0.5 or more.
        value_range: the values that become black and white in images of more than 8 bit; None refuses such images.
        batch_size: images of one size, or windows, that are predicted at a time; None for 1 on a CPU and 8 elsewhere.
        window: in which larger images are predicted, whose objects `merge_windows` joins; None for whole images.
    """

    def __init__(
        self,
        model: InstanceSegmenter,
        device: str | torch.device | None = None,
        output: ObjectOutput | None = None,
        value_range: ValueRange | None = None,
        batch_size: int | None = None,
        window: SlidingWindow | None = None,
    ) -> None:
        super().__init__([model], device, value_range, batch_size, window)
        self.output = output or ObjectOutput(model.class_names)
        self._has_warned = False

    def predict_image(self, image: Tensor) -> Objects:
        """Return the objects of an image (C, H, W), uint8, by falling score, on the CPU, with boxes around their masks.

        Raises:
            NonFiniteOutputError: outputs of the model are NaN or infinite.
        """
        height, width = image.shape[-2:]
        return as_objects(self._find(image[None])[0], (height, width))

    def predict(self, source: Source) -> dict[Path, Objects]:
        """Return the objects of a file, all images below a folder, a glob, or a list of these, by image path.

        Each object has a mask of the size of its image; `finetune predict` writes those of large images in less memory.

        Raises:
            DataError: no image there, or files that cannot be read, all of them named.
        """
        paths, problems = list(find_images(source)), list[str]()
        found = self.predictions(read_ahead(paths, self.read, problems))
        objects = {each.path: as_objects(each.objects, each.size) for each in found}
        raise_problems(problems, len(paths), "")
        return objects

    def predictions(self, read: Iterable[Image]) -> Iterator[FoundObjects]:
        """Yield each image with its objects."""
        for batch in batches(read, self.batch_size):
            height, width = batch[0].pixels.shape[-2:]
            found = predict_named(batch, self._find)
            for image, objects in zip(batch, found, strict=True):
                yield FoundObjects(image.path, image.pixels, (height, width), objects)

    def _find(self, images: Tensor) -> list[list[ObjectCrop]]:
        size = images.shape[-2], images.shape[-1]
        if self.window.divides(size):
            return [self._find_in_windows(image, size) for image in images]
        return [crops_of(objects) for objects in self._detect(images)]

    def _find_in_windows(self, image: Tensor, size: tuple[int, int]) -> list[ObjectCrop]:
        return self.find_by_rows(lambda rows: image[:, rows], size)

    def predict_large(self, path: Path, size: tuple[int, int]) -> FoundObjects:
        """Return the objects of an image file of which a few rows are read at a time, with the image at a reduced size.

        Args:
            path: of the image.
            size: its height and width.
        """
        read, overview = self.open(path), Reduced(-(-max(size) // OVERVIEW))
        objects = self.find_by_rows(lambda rows: overview.add(read(rows)), size)
        return FoundObjects(path, overview.whole(), size, objects, overview.step)

    def find_by_rows(self, read: ReadRows, size: tuple[int, int]) -> list[ObjectCrop]:
        """Return the objects of an image that is predicted in windows, by falling score.

        Args:
            read: rows of the image (C, n, W), uint8; each is read once, in order.
            size: height and width of the image.
        """
        rows, columns = self.window.spans(size)
        images = (
            image for images in window_images(read, rows, columns, self.batch_size) for image in self._detect(images)
        )
        places = ((row.start, column.start) for row in rows for column in columns)
        found = []
        for (top, left), objects in zip(places, images, strict=True):
            found.append((Window(top, left, *objects.size), crops_of(objects, top, left)))
        return merge_windows(found, size)

    @torch.inference_mode()
    def _detect(self, images: Tensor) -> list[Objects]:
        """Return the objects that are shown of images (B, C, H, W), uint8."""
        maps = self.model.maps(self.model.normalize(images.to(self.device)))
        if not all(feature.isfinite().all() for feature in maps):
            raise NonFiniteOutputError(DIVERGED)
        found = self.model.head.detect(maps, (images.shape[-2], images.shape[-1]))
        shown = [self.output.shown(objects) for objects in found]
        self._warn_if_full(max(map(len, shown)))
        return shown

    def _warn_if_full(self, count: int) -> None:
        most = self.model.head.max_detections
        if count >= most and not self._has_warned:
            self._has_warned = True
            logger.warning(
                f"{most:,} objects were found at once, the most that the model returns (head.max_detections), so there "
                f"may be more. Predict smaller windows (window=512), or train with a larger head.max_detections."
            )
