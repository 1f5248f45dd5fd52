"""Build the images that an exported model is calibrated with and compared on."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from finetune.builders.evaluation_data import evaluation_data
from finetune.builders.task import restore_task
from finetune.checkpoints.saved_model import SavedModel
from finetune.config.errors import ConfigError
from finetune.config.options import Config
from finetune.data import DataError, SegmentationDataset
from finetune.data.dataset import resize_nearest
from finetune.data.masks.values import VOID, ignored_label
from finetune.exporters.exporter import Samples
from finetune.models.input_size import Size
from finetune.tasks import PixelTask, TuningTask

CALIBRATION = 50  # images; more hardly change the ranges of values


class EvenSamples:
    """Some samples of a dataset, spread evenly over it, one at a time.

    Args:
        dataset: of the samples.
        count: number of samples, at most.
        task: that reads the targets.
        size: (height, width) that images and targets are resized to; None leaves them as they are.
    """

    def __init__(self, dataset: SegmentationDataset, count: int, task: TuningTask, size: Size | None) -> None:
        self.dataset, self.task, self.size = dataset, task, size
        self.count = min(count, len(dataset))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for position in range(self.count):
            sample = self.dataset[position * len(self.dataset) // self.count]
            image, mask = sample["image"][None], sample["mask"][None]
            if self.size is not None:
                resized = F.interpolate(image.float(), self.size, mode="bilinear", antialias=True)
                image, mask = resized.round().clamp(0, 255).to(image.dtype), resize_nearest(mask, self.size)
            yield image, self.task.target({"image": image, "mask": mask}) if isinstance(self.task, PixelTask) else mask


def export_samples(
    config: Config, saved: SavedModel, trained: Config | None, own_splits: Path | None
) -> tuple[TuningTask, Samples, Samples]:
    """Return the task of a model, samples to check an export on, and samples to calibrate it with if it is quantized.

    There are none if no data is known. They are validation and training images of the run; of other data, all are of
    the split that `evaluate` takes.

    Args:
        config: of `finetune export`.
        saved: the model.
        trained: config of the run that trained it; None for a model alone.
        own_splits: split file of that run.
    """
    given = {name for name, value in config["data"].items() if value not in (None, "auto")}
    if unread := {"batch_size", "num_workers"} & given:
        raise ConfigError(f"data.{min(unread)}: an export reads one image at a time. Leave it out.")
    is_quantized, size = config["precision"] == "int8", config["size"]
    if not (config["check"] or is_quantized) or (trained is None and not given):
        label = ignored_label(saved.data.get("mask_values"), saved.data.get("ignore_index", VOID))
        return restore_task(saved.task, saved.model, label), (), ()
    splits = (None,) if given else ("val", "train") if is_quantized else ("val",)
    try:
        found = [evaluation_data({**config, "split": split}, saved, trained, own_splits) for split in splits]
    except (ConfigError, DataError) as error:
        move = "" if is_quantized else "\nThe files are checked on these images; check=0 takes random ones."
        raise ConfigError(f"{error}{move}") from error
    datasets = [data.datasets[split] for data, split in found]
    task = restore_task(saved.task, saved.model, found[0][0].ignore_index)
    checked = EvenSamples(datasets[0], config["check"], task, size) if config["check"] else ()
    return task, checked, EvenSamples(datasets[-1], CALIBRATION, task, size) if is_quantized else ()
