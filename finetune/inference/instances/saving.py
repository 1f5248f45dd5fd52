"""Write the objects of files, folders and globs of images."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from finetune.data.files import IMAGE_SUFFIXES
from finetune.data.records import DataError
from finetune.inference.files import VIDEO_SUFFIXES, Source, find_images, is_video, output_names, outside
from finetune.inference.formats import OBJECT_FORMATS, FoundObjects, LabeledImage, LabelFormat, check_formats
from finetune.inference.formats.labels import trace_object
from finetune.inference.formats.objects import ObjectFiles, read_objects
from finetune.inference.instances.instance_predictor import InstancePredictor
from finetune.inference.instances.object_output import ObjectOutput
from finetune.inference.pipeline import Writer, read_ahead
from finetune.inference.problems import named, noting, raise_problems
from finetune.inference.windows import split_large


class ObjectFolder:
    """A folder of `objects/`, and of further files.

    Args:
        path: created if needed.
        output: of the model.
        write: formats in addition to `objects`, from `OBJECT_FORMATS`.
        tolerance: by which outlines may be simplified, pixels.

    Raises:
        ValueError: an unknown format, or a tolerance below 0.
    """

    def __init__(self, path: Path, output: ObjectOutput, write: Sequence[str] = (), tolerance: float = 0.0) -> None:
        check_formats(write, tolerance, OBJECT_FORMATS)
        chosen = [OBJECT_FORMATS[name] for name in dict.fromkeys(("objects", *write))]
        self.path, self.class_names, self.tolerance = path, output.class_names, tolerance
        self.formats = [each(output) for each in chosen if issubclass(each, ObjectFiles)]
        self.label_formats = [each for each in chosen if issubclass(each, LabelFormat)]

    def files(self, name: Path) -> list[Path]:
        """Return the files of an image, that of its objects first."""
        return [self.path / each.file(name) for each in self.formats]

    def has(self, name: Path) -> bool:
        """Return whether all files of an image have been written."""
        return all(file.exists() for file in self.files(name))

    def save(self, found: FoundObjects, name: Path) -> None:
        """Write the files of an image."""
        for each, file in zip(self.formats, self.files(name), strict=True):
            each.save(found, file)

    def finish(self, names: Mapping[Path, Path]) -> None:
        """Write the labels of all images whose objects are there."""
        written = {path: name for path, name in names.items() if self.has(name)}
        formats = [each(self.path, self.class_names) for each in self.label_formats if written]
        for path, name in written.items() if formats else ():
            size, objects = read_objects(self.files(name)[0], self.class_names)
            traced = [region for crop in objects for region in trace_object(crop)]
            image = LabeledImage(path, name.with_name(path.name), size, traced, self.tolerance, objects)
            for each in formats:
                each.add(image)
        for each in formats:
            each.finish()


def find_object_names(
    predictor: InstancePredictor, source: Source, write: Sequence[str] = (), output: Path | None = None
) -> dict[Path, Path]:
    """Return the images of a file, folder, glob or list of these, but none in the output, with their files' names.

    Raises:
        DataError: no image there, videos, or two images whose files would have one name.
        ValueError: an unknown format.
    """
    images = outside(output, find_images(source, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)))
    if videos := [path for path in images if is_video(path)]:
        raise DataError(f"'{videos[0]}' is a video; objects are found in images only. Give its frames as images.")
    return output_names(images, ObjectFolder(Path(), predictor.output, write).files)


def save_objects(
    predictor: InstancePredictor, names: Mapping[Path, Path], output: Path, write: Sequence[str], tolerance: float
) -> list[Path]:
    """Write objects to `output/objects`, and other files that are wanted; return the paths of the former.

    Files are read and written in threads while the model computes. Each is written atomically, and those that are there
    are not predicted again, so a run that was interrupted can be repeated.

    Args:
        predictor: of the model.
        names: image -> name of its files, from `find_object_names`.
        output: folder, created if needed.
        write: formats to write in addition to the objects, from `OBJECT_FORMATS`.
        tolerance: by which the outlines of labels may be simplified, pixels.

    Raises:
        DataError: files that cannot be read, all of them named, after all others have been predicted.
    """
    folder, problems = ObjectFolder(output, predictor.output, write, tolerance), list[str]()
    whole, large = split_large([path for path, name in names.items() if not folder.has(name)], predictor.window)
    with Writer() as writer:
        for found in predictor.predictions(read_ahead(whole, predictor.read, problems)):
            writer.call(partial(folder.save, found, names[found.path]))
    for path, size in large.items():
        with noting(problems), named(path, size):
            folder.save(predictor.predict_large(path, size), names[path])
    folder.finish(names)
    raise_problems(problems, len(names), f" The objects of the others are in '{output}'.")
    return [folder.files(name)[0] for name in names.values()]
