"""Images and targets, from their source to training samples; `finetune.data.module` makes Lightning data of them."""

from finetune.data.augmentation.mix import Mix
from finetune.data.augmentation.transforms import Augment, Transform
from finetune.data.augmentation.trivial import TrivialAugment
from finetune.data.dataset import SampleKey, SegmentationDataset
from finetune.data.files import ClassMaskFiles, ImageFile, MaskFile
from finetune.data.images.reading import read_image
from finetune.data.masks.reading import read_mask
from finetune.data.records import DataError, Image, Record, Source, Target
from finetune.data.sampler import EvaluationSampler, TrainSampler
from finetune.data.sources import (
    SOURCES,
    CocoSource,
    CsvSource,
    CvatSource,
    FolderSource,
    LabelmeSource,
    LabelStudioSource,
    MaskFilesSource,
    SyntheticSource,
    ViaSource,
    YoloSource,
)
from finetune.data.splitting.split_file import assign_splits, read_splits, restore_splits, write_splits
from finetune.data.splitting.splits import choose_fold, cut_test, cut_validation, seeded_folds, seeded_split
from finetune.data.statistics import class_weights, inspect
from finetune.data.summary import Statistics
from finetune.data.synthetic.drawing import CLASS_NAMES

__all__ = [
    "CLASS_NAMES",
    "SOURCES",
    "Augment",
    "ClassMaskFiles",
    "CocoSource",
    "CsvSource",
    "CvatSource",
    "DataError",
    "EvaluationSampler",
    "FolderSource",
    "Image",
    "ImageFile",
    "LabelStudioSource",
    "LabelmeSource",
    "MaskFile",
    "MaskFilesSource",
    "Mix",
    "Record",
    "SampleKey",
    "SegmentationDataset",
    "Source",
    "Statistics",
    "SyntheticSource",
    "Target",
    "TrainSampler",
    "Transform",
    "TrivialAugment",
    "ViaSource",
    "YoloSource",
    "assign_splits",
    "choose_fold",
    "class_weights",
    "cut_test",
    "cut_validation",
    "inspect",
    "read_image",
    "read_mask",
    "read_splits",
    "restore_splits",
    "seeded_folds",
    "seeded_split",
    "write_splits",
]
