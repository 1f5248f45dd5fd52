"""From files or drawings to training samples; `finetune.data.module` wraps them for Lightning."""

from finetune.data.dataset import SampleKey, SegmentationDataset
from finetune.data.decode import read_image, read_mask
from finetune.data.records import DataError, Record, folder_records
from finetune.data.sampler import EvaluationSampler, TrainSampler
from finetune.data.splits import assign_splits, read_splits, seeded_split, write_splits
from finetune.data.statistics import Statistics, class_weights, inspect
from finetune.data.synthetic import CLASS_NAMES, SyntheticDataset
from finetune.data.transforms import Augment, Transform

__all__ = [
    "CLASS_NAMES",
    "Augment",
    "DataError",
    "EvaluationSampler",
    "Record",
    "SampleKey",
    "SegmentationDataset",
    "Statistics",
    "SyntheticDataset",
    "TrainSampler",
    "Transform",
    "assign_splits",
    "class_weights",
    "folder_records",
    "inspect",
    "read_image",
    "read_mask",
    "read_splits",
    "seeded_split",
    "write_splits",
]
