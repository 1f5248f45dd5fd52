"""Polygons in text files, as Ultralytics YOLO reads them for segmentation."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.data.files import IMAGE_SUFFIXES, files_below
from finetune.data.polygons.annotated import AnnotatedImage, AnnotatedSource, Annotations, with_folder_splits
from finetune.data.polygons.annotation_files import noting, read_annotation_text
from finetune.data.polygons.class_map import default_names
from finetune.data.polygons.image_index import ImageIndex
from finetune.data.polygons.yolo_file import YoloYaml, below, read_objects, read_yaml
from finetune.data.recognition.recognized import Recognized, read_head
from finetune.data.records import DataError, error_listing
from finetune.data.stems import stem_of
from finetune.io.messages import shortlist

LOOKED_AT = 20  # text files of a folder, to recognize it
YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


class YoloSource(AnnotatedSource):
    """Images in folders called images/, and a text file of polygons per image in folders called labels/ next to them.

    A line is `class x y x y ...`, in fractions of the image's width and height; later lines are drawn over others. An
    image whose text file is absent or empty is all background. A YAML file names the classes and the splits; without
    it, classes are called class_0, class_1, ..., and folders called train, val and test are the splits.

    Args:
        root: folder of the data.
        yaml: path of the YAML file below `root`; None takes data.yaml, data.yml, dataset.yaml or dataset.yml, if there
            is one.
        classes: None for a class per name, after the background; their number; names in the order of the classes; or
            name -> name in the file, or list of these, of each class. Other objects are not drawn.
        ignored: names of objects whose pixels loss and scores leave out.
        ignore_index: label of these pixels.
    """

    def __init__(
        self,
        root: str | Path,
        yaml: str | None = None,
        classes: int | Sequence[str] | Mapping[str, Any] | None = None,
        ignored: Sequence[str] = (),
        ignore_index: int = 255,
    ) -> None:
        super().__init__(root, classes, ignored, ignore_index)
        self.yaml = yaml

    def read(self) -> Annotations:
        """Read the YAML file and the text files."""
        path = self.root / self.yaml if self.yaml else _yaml_of(self.root)
        described = YoloYaml({}, []) if path is None else read_yaml(path)
        problems, images = list[str](), list[AnnotatedImage]()
        for split, entry in described.paths or [("", "")]:
            for image in _listed_images(self.root, entry, problems):
                file = label_file(self.root, image)
                images.append(AnnotatedImage(image, file, read_objects(file, described.names, problems), split=split))
        problems += _label_problems(self.root, images)
        if problems:
            start = f"the YOLO labels in '{self.root}'" + (f", described by '{path}'," if described.paths else "")
            raise error_listing(f"{start} cannot be used as they are", problems)
        return Annotations(
            _labels(described, images), images if described.paths else with_folder_splits(images, self.root)
        )

    @staticmethod
    def recognize(root: Path) -> list[Recognized]:
        """Return the YOLO data set of a folder with text files in labels/.

        Args:
            root: a folder, or a YAML file in it.
        """
        folder = root.parent if root.is_file() else root
        path = root if root.is_file() and root.suffix.lower() in (".yaml", ".yml") else _yaml_of(folder)
        if (root.is_file() and path != root) or not _has_polygons(folder):
            return []
        settings: dict[str, Any] = {"format": "yolo", "root": str(folder)}
        if path is None:
            return [Recognized(settings, ("YOLO polygons in labels/, without a data.yaml (data.format=yolo)",))]
        try:
            described = read_yaml(path)
        except DataError:
            return []
        classes = default_names([described.names[number] for number in sorted(described.names)])
        settings |= {"yaml": path.name, "classes": classes}
        lines = [
            f"YOLO polygons in labels/, described by {path.name} (data.format=yolo)",
            f"classes {', '.join(classes)} from its names (data.classes)",
        ]
        if splits := dict(described.paths):
            lines.append(f"splits {', '.join(splits)} from {path.name}")
        return [Recognized(settings, tuple(lines))]


def _yaml_of(root: Path) -> Path | None:
    return next((root / name for name in YAML_NAMES if (root / name).is_file()), None)


def _has_polygons(root: Path) -> bool:
    """Return whether one of the first text files in folders called labels/ has a line that may be a polygon."""
    try:
        labels = [folder for folder in (root / "labels", *sorted(root.glob("*/labels"))) if folder.is_dir()]
        folders = [deeper for folder in labels for deeper in (folder, *sorted(folder.iterdir())) if deeper.is_dir()]
        files = [path for folder in folders for path in files_below(folder, (".txt",), deep=False)[:LOOKED_AT]]
        lines = [line.split() for path in files for line in read_head(path).splitlines()]
    except OSError:
        return False
    return any(len(line) >= 7 and len(line) % 2 and line[0].isdecimal() for line in lines)


def label_file(root: Path, image: Path) -> Path:
    """Return the text file of an image: in labels/ instead of images/, or next to it.

    >>> label_file(Path("data"), Path("data/train/images/a/7.jpg")).as_posix()
    'data/train/labels/a/7.txt'
    """
    folders = list(image.relative_to(root).parts[:-1])
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return root.joinpath(*folders, f"{stem_of(image)}.txt")


def _listed_images(root: Path, entry: str, problems: list[str]) -> list[Path]:
    """Return the images of an entry: a folder, or a text file with the path of an image in each line; "" for all."""
    place = below(root, entry)
    if place is None:
        problems.append(f"'{entry}' is not below '{root}'. Correct the path, or remove its line from the YAML file.")
        return []
    if place.is_dir():
        found = files_below(place, IMAGE_SUFFIXES)
        if not found:
            problems.append(f"'{place}' has no images.")
        in_images = [image for image in found if "images" in image.relative_to(root).parts[:-1]]
        return in_images or found
    index, images = ImageIndex(root), []
    for position, line in enumerate(read_annotation_text(place).split("\n"), start=1):
        with noting(problems, f"'{place}' line {position}"):
            if line.strip():
                images.append(index.find(line.strip(), [root]))
    return images


def _labels(described: YoloYaml, images: Sequence[AnnotatedImage]) -> list[str]:
    """Return the names in the order of their numbers."""
    if described.names:
        return [described.names[number] for number in sorted(described.names)]
    found = {found.label for image in images for found in image.objects if found.label}
    highest = max((int(label.removeprefix("class_")) for label in found), default=-1)
    return [f"class_{number}" for number in range(highest + 1)]


def _label_problems(root: Path, images: Sequence[AnnotatedImage]) -> Iterator[str]:
    """Yield text files that belong to no image, or that there are none at all."""
    folders = sorted({image.file.parent for image in images})
    files = [path for folder in folders if folder.is_dir() for path in files_below(folder, (".txt",), deep=False)]
    expected = {label_file(root, image) for image in files_below(root, IMAGE_SUFFIXES)}
    if images and not expected.intersection(files):
        yield (
            f"none of the {len(images):,} images has a text file, such as '{images[0].file}'. Expected images/ and "
            f"labels/ with the same names."
        )
    stray = [path for path in files if path not in expected and "labels" in path.relative_to(root).parts]
    if stray := [path for path in stray if path.name != "classes.txt"]:
        yield f"{len(stray):,} text files have no image: {shortlist((str(path) for path in stray), 3)}. Add the images."
