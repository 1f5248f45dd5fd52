"""Draws the same few validation images after every validation: image, truth, prediction, error."""

from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only

from finetune.plots import palette, preview
from finetune.tasks import SemanticTask


class Preview(pl.Callback):
    """Writes `plots/preview/epoch_001.png` and so on.

    Args:
        images: how many, spread evenly over the validation set.
    """

    def __init__(self, images: int = 4) -> None:
        self.images = images

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Predict and draw; on the first rank only, without anything that waits for the others."""
        if trainer.state.fn != "fit" or not isinstance(pl_module, SemanticTask):
            return
        dataset = trainer.datamodule.val  # type: ignore[attr-defined]  # set by fit, missing in the class
        count = min(self.images, len(dataset))
        samples = [dataset[i * len(dataset) // count] for i in range(count)]
        rows = [(sample["image"], sample["mask"], self._predict(pl_module, sample["image"])) for sample in samples]
        names = pl_module.model.class_names
        picture = preview(rows, names, palette(len(names)), pl_module.ignore_index)
        path = Path(trainer.default_root_dir) / "plots" / "preview" / f"epoch_{trainer.current_epoch + 1:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)

    @staticmethod
    @torch.inference_mode()
    def _predict(task: SemanticTask, image: torch.Tensor) -> torch.Tensor:
        batch = image[None].to(task.device)
        logits: torch.Tensor = task.model(task.model.normalize(batch))
        return logits.argmax(dim=1)[0].to("cpu", torch.uint8)
