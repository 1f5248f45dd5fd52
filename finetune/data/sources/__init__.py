"""Data sources: where images and targets come from, one file per format."""

from finetune.data.records import Source
from finetune.data.sources.coco import CocoSource
from finetune.data.sources.csv import CsvSource
from finetune.data.sources.cvat import CvatSource
from finetune.data.sources.folder import FolderSource
from finetune.data.sources.hf import HfSource
from finetune.data.sources.labelme import LabelmeSource
from finetune.data.sources.labelstudio import LabelStudioSource
from finetune.data.sources.mask_files import MaskFilesSource
from finetune.data.sources.synthetic import SyntheticSource
from finetune.data.sources.via import ViaSource
from finetune.data.sources.yolo import YoloSource

# what `data.format` names; the options of a constructor are the settings in conf/data/<format>.yaml
SOURCES: dict[str, type[Source]] = {
    "folder": FolderSource,
    "csv": CsvSource,
    "mask_files": MaskFilesSource,
    "coco": CocoSource,
    "yolo": YoloSource,
    "labelme": LabelmeSource,
    "via": ViaSource,
    "labelstudio": LabelStudioSource,
    "cvat": CvatSource,
    "hf": HfSource,
    "synthetic": SyntheticSource,
}

__all__ = [
    "SOURCES",
    "CocoSource",
    "CsvSource",
    "CvatSource",
    "FolderSource",
    "HfSource",
    "LabelStudioSource",
    "LabelmeSource",
    "MaskFilesSource",
    "SyntheticSource",
    "ViaSource",
    "YoloSource",
]
