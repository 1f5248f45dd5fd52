"""Images and targets, from their source to training samples; `finetune.data.module` makes Lightning data of them."""

from finetune.data.dataset import SampleKey, SegmentationDataset
from finetune.data.files import ClassMaskFiles, ImageFile, MaskFile
from finetune.data.images import read_image
from finetune.data.masks import read_mask
from finetune.data.mix import Mix
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
from finetune.data.split_file import assign_splits, read_splits, restore_splits, write_splits
from finetune.data.splits import choose_fold, cut_test, cut_validation, seeded_folds, seeded_split
from finetune.data.statistics import Statistics, class_weights, inspect
from finetune.data.synthetic import CLASS_NAMES
from finetune.data.transforms import Augment, Transform
from finetune.data.trivial import TrivialAugment

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
