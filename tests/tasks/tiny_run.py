"""A training of less than a second: a tiny network on a few synthetic images, on the CPU."""

from typing import Any

import lightning.pytorch as pl
import torch

from finetune.data import CLASS_NAMES, Augment
from finetune.data.module import SegmentationData
from finetune.models import Segmenter
from finetune.tasks import SemanticTask
from finetune.tuning.plan import Plan, Rule
from tests.synthetic import SyntheticDataset

FROZEN = Plan((Rule("backbone", train=False), Rule(".")))


class Sizes(SyntheticDataset):
    """Images of three sizes, taking turns."""

    def __init__(self, count: int, seed: int = 0, split: str = "train") -> None:
        super().__init__(count, [(32, 48), (40, 24), (37, 33)], seed, split)


def tiny_model(seed: int = 0, backbone: str = "test_resnet.r160_in1k", **backbone_options: Any) -> Segmenter:
    torch.manual_seed(seed)
    small = {"pyramid_channels": 32, "segmentation_channels": 64}
    return Segmenter(
        backbone, "fpn", CLASS_NAMES, weights="none", backbone_options=backbone_options, head_options=small
    )


def tiny_task(seed: int = 0, **options: Any) -> SemanticTask:
    return SemanticTask(tiny_model(seed), seed=seed, **{"lr": 3e-3, **options})


def tiny_data(train: int = 8, val: int = 7, batch_size: int = 4, seed: int = 0) -> SegmentationData:
    images = SyntheticDataset(train, 40, seed, transform=Augment(32, rotation=10))
    return SegmentationData(images, Sizes(val, seed=seed, split="val"), batch_size=batch_size, seed=seed)


def tiny_trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        **{
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            **options,
        },
        callbacks=list(callbacks),
    )
