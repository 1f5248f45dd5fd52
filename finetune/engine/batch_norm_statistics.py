"""Batch-norm statistics for weights that no training step has had, such as averaged ones."""

import math
from collections.abc import Collection
from itertools import islice

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.data.sampler import TrainSampler
from finetune.engine.ddp import average_statistics
from finetune.models import TunableModel
from finetune.tuning.weight_averaging import fresh_statistics


@torch.no_grad()
def gather_statistics(trainer: pl.Trainer, model: TunableModel, norms: Collection[_BatchNorm]) -> None:
    """Replace the statistics of batch norms by means over the training images of the first epoch. Collective.

    The images are always the same, so the statistics depend on the weights only.

    Args:
        trainer: with a data module.
        model: run on the images.
        norms: of the model.

    Raises:
        TypeError: the trainer has no data module.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by fit, missing in the class
    if data is None:
        raise TypeError(
            "batch-norm statistics are gathered over a data module's training images, but the Trainer got none. Call "
            "fit(task, datamodule=...)."
        )
    loader = data.train_dataloader()  # a new one, because the training may be in the middle of its own
    if isinstance(loader.sampler, TrainSampler):
        loader.sampler.epoch = loader.sampler.start = 0
    batches = trainer.num_training_batches
    with fresh_statistics(model, norms):
        for batch in islice(loader, None if math.isinf(batches) else int(batches)):
            batch = data.on_after_batch_transfer(move_data_to_device(batch, str(model.mean.device)), 0)
            with trainer.precision_plugin.forward_context():  # not around the loader: it may set torch's default dtype
                model(model.normalize(batch["image"]))
    average_statistics(trainer, norms)  # all ranks have had equally many batches
