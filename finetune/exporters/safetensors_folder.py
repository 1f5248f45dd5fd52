"""The toolkit's own format: `model.safetensors`, `config.json` and a card, as in a run's `model/`."""

from pathlib import Path

from torch import Tensor

from finetune.checkpoints.saved_model import SavedModel, load_model, save_model


class SafetensorsFolder:
    """A model folder that `finetune.load` reads."""

    tolerance = 0.0

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        """Write weights, config and card, with adapters merged into the weights."""
        saved.model.merge_adapters()
        save_model(folder, saved.model, saved.data, saved.scores, saved.task)
        return sorted(folder.iterdir())

    def expected(self, saved: SavedModel, images: Tensor) -> dict[str, Tensor]:
        """Return the logits."""
        return {"logits": saved.model(saved.model.normalize(images))}

    def computed(self, folder: Path, images: Tensor) -> dict[str, Tensor]:
        """Return the logits of the model in the folder."""
        return self.expected(load_model(folder), images)

    def usage(self, folder: Path) -> str:
        """Return the line of code that loads the model."""
        return f'finetune.load("{folder}")'
