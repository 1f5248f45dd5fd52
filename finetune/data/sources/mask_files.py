"""Several mask files per image: one for each class, or one for each object."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from finetune.data.files import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    ClassMaskFiles,
    ImageFile,
    LayeredMaskFiles,
    ObjectMaskFiles,
    files_below,
)
from finetune.data.options import check_ignore_index, named_classes
from finetune.data.polygons.class_map import is_background
from finetune.data.recognition.mask_file_layouts import recognize_mask_files
from finetune.data.recognition.name_patterns import NamePattern
from finetune.data.recognition.recognized import Recognized
from finetune.data.records import DataError, Record, Target, error_listing
from finetune.data.splitting.split_folders import complete_splits
from finetune.data.stems import stem_of, without_suffix
from finetune.io.messages import shortlist, suggest

BACKGROUND = "background"
OBJECT = "object"


class MaskFilesSource:
    """Images with a mask file for each of their classes, or for each object; every value but 0 is the class or object.

    Args:
        root: folder that holds everything.
        classes: names of the classes in the order of their indices, without the background; None takes those of the
            files, in alphabetical order. Objects are all of one class, `object` unless named here.
        ignore_index: label of the pixels that a transform uncovers.
        images: folder of the images below root, or `{stem}/images` if every image has a folder of its own.
        masks: path of the masks below root, without their ending: `masks/{class}/{stem}`, `masks/{stem}_{class}`,
            `masks/{stem}/{object}` or `{stem}/masks/{object}`; each with `{class}` or `{object}`.
        multilabel: whether a pixel may have several classes. If not, index 0 is the background, and a later class is
            drawn over an earlier one.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str] | None = None,
        ignore_index: int = 255,
        images: str = "images",
        masks: str = "masks/{class}/{stem}",
        multilabel: bool = False,
    ) -> None:
        check_ignore_index(ignore_index)
        self.root = Path(root)
        self.classes = named_classes(classes)
        self.ignore_index = ignore_index
        self.images = images
        self.pattern = NamePattern(masks)
        self.multilabel = multilabel
        if multilabel and self.pattern.other == "object":
            raise ValueError("data.multilabel=true needs a mask for each class: data.masks='masks/{class}/{stem}'.")

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, with the background first unless a pixel may have several.

        Raises:
            DataError: `classes` names a class that no mask has.
        """
        names = self._layers
        return names if self.multilabel else (BACKGROUND, *names)

    @cached_property
    def _layers(self) -> tuple[str, ...]:
        given = tuple(name for name in self.classes if not is_background(name))
        if self.pattern.other == "object":
            return given or (OBJECT,)
        found = sorted({name for masks in self._masks.values() for name in masks if not is_background(name)})
        if unknown := [name for name in given if name not in found]:
            raise DataError(
                f"no mask in '{self.root}' is of the class '{unknown[0]}' (data.classes). {suggest(unknown[0], found)}"
            )
        return given or tuple(found)

    @staticmethod
    def recognize(root: Path) -> list[Recognized]:
        """Return the ways to read a folder as images with several masks each."""
        return recognize_mask_files(root)

    def records(self) -> list[Record]:
        """Return the records by name.

        Raises:
            DataError: no image or mask is there, or masks are of no image.
        """
        images = self._images
        if not images:
            raise DataError(f"no images in '{self.root / self.images}'. Set data.images to their folder.")
        if not any(self._masks.values()):
            raise DataError(f"no masks '{self.root / self.pattern.pattern}' for the images. Set data.masks.")
        problems = []
        if self._left_over:
            problems.append(f"{len(self._left_over):,} masks are of no image: {shortlist(self._left_over)}.")
        if repeated := sorted(str(path.relative_to(self.root)) for path in self._repeated()):
            problems.append(f"{len(repeated):,} files share their name: {shortlist(repeated)}. Rename them.")
        if problems:
            raise error_listing(f"'{self.root}' cannot be used as it is", problems)
        splits = self._splits(list(images.values()))
        return [
            Record(stem, ImageFile(path), self._target(path, self._masks[stem]), split)
            for (stem, path), split in zip(images.items(), splits, strict=True)
        ]

    def _splits(self, images: Sequence[Path]) -> list[str]:
        """Return the split of each image that the folders below `images` are called after."""
        return [""] * len(images) if "{stem}" in self.images else complete_splits(images, self.root / self.images)

    def _target(self, image: Path, masks: Mapping[str, Path]) -> Target:
        if self.multilabel:
            return ClassMaskFiles(image, tuple(masks.get(name) for name in self._layers))
        if self.pattern.other == "object":
            return ObjectMaskFiles(image, tuple((path, 1) for _, path in sorted(masks.items())))
        names = self._layers
        return LayeredMaskFiles(image, tuple((masks[name], k) for k, name in enumerate(names, 1) if name in masks))

    @cached_property
    def _images(self) -> dict[str, Path]:
        """Images by stem."""
        return dict(self._named_images)

    def _repeated(self) -> list[Path]:
        """Return the files of which others have the same stem and, of masks, the same class or object."""
        named = [*self._named_images, *((names, path) for path, names in self._named_masks if names is not None)]
        counts = Counter(name for name, _ in named)
        return [path for name, path in named if counts[name] > 1]

    @cached_property
    def _named_images(self) -> list[tuple[str, Path]]:
        """Images with their stems."""
        before, place, after = self.images.partition("{stem}")
        files = files_below(self.root / before.rstrip("/"), IMAGE_SUFFIXES)
        if not place:
            masks = self.root / self.pattern.folder
            inside = masks != self.root and masks.is_relative_to(self.root / before)
            return [(stem_of(path), path) for path in files if not (inside and path.is_relative_to(masks))]
        depth = len(Path(before).parts)
        return [
            (parts[depth], path)
            for path in files
            if (parts := path.relative_to(self.root).parts)
            and len(parts) > depth + 1
            and "/".join(parts[depth + 1 : -1]) == after.strip("/")
        ]

    @cached_property
    def _masks(self) -> dict[str, dict[str, Path]]:
        """Return the masks by the stem of their image, then by class or object."""
        masks: dict[str, dict[str, Path]] = defaultdict(dict)
        for path, names in self._named_masks:
            if names is not None:
                masks[names[0]][names[1]] = path
        return masks

    @property
    def _left_over(self) -> list[str]:
        inside = self.pattern.folder != ""  # otherwise all files of the data would count
        return [path.name for path, names in self._named_masks if inside and names is None]

    @cached_property
    def _named_masks(self) -> list[tuple[Path, tuple[str, str] | None]]:
        images = {path for _, path in self._named_images}
        files = files_below(self.root / self.pattern.folder, MASK_SUFFIXES)
        return [
            (path, self.pattern.match(without_suffix(path.relative_to(self.root)).as_posix(), self._images))
            for path in files
            if path not in images
        ]
