"""Draws the same few validation images after every validation: image, target, prediction, error."""

from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from finetune.instances import from_planes
from finetune.plots.objects import compared, object_page
from finetune.tasks import InstanceTask, PixelTask


class Preview(pl.Callback):
    """Writes `plots/preview/step_000120.png` after the validation that follows 120 optimizer steps, and so on.

    Args:
        images: number of images, spread evenly over the validation set.
    """

    def __init__(self, images: int = 4) -> None:
        if images < 1:
            raise ValueError(f"images={images}: expected 1 or more.")
        self.images = images

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Predict and draw, on rank 0 only, without anything that waits for other ranks."""
        if trainer.state.fn != "fit" or not isinstance(pl_module, PixelTask | InstanceTask):
            return
        dataset = getattr(getattr(trainer, "datamodule", None), "val", None)
        if dataset is None:  # loaders of the user's own
            return
        count = min(self.images, len(dataset))
        samples = [dataset[i * len(dataset) // count] for i in range(count)]
        if isinstance(pl_module, PixelTask):
            rows = [_predict(pl_module, sample["image"], sample["mask"]) for sample in samples]
            page = pl_module.output.preview(rows, pl_module.ignore_index)
        else:
            rows_of_objects = [
                compared(sample["image"], from_planes(sample["mask"]), pl_module.find(sample["image"]))
                for sample in samples
            ]
            page = object_page(rows_of_objects, pl_module.model.class_names)
        path = Path(trainer.default_root_dir) / "plots" / "preview" / f"step_{trainer.global_step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        page.save(path)


@torch.inference_mode()
def _predict(task: PixelTask, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return image, target and prediction."""
    logits: Tensor = task.model(task.model.normalize(image[None].to(task.device)))
    return image, task.target({"mask": mask[None]})[0], task.output.decode(logits)[0].cpu()
