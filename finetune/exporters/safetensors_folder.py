"""The toolkit's own format: `model.safetensors`, `config.json` and a card, as in a run's `model/`."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from finetune.checkpoints.saved_model import SavedModel, load_model, save_model
from finetune.exporters.agreement import Outputs
from finetune.exporters.exporter import SAME_WEIGHTS
from finetune.models import Segmenter
from finetune.models.input_size import Size


class SafetensorsFolder:
    """A model folder that `finetune.load` reads.

    Args:
        repo: repository on the Hugging Face hub that the folder is for, as `user/name`; for the model card.
    """

    limits = SAME_WEIGHTS
    size: Size | None = None
    multiple = 1

    def __init__(self, repo: str | None = None) -> None:
        self.place = {"place": f"hf://{repo}"} if repo else {}

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        """Write weights, config and card, with adapters merged into the weights."""
        saved.model.merge_adapters()
        save_model(folder, saved.model, saved.data, saved.scores, saved.task, **self.place)
        return sorted(folder.iterdir())

    def expected(self, saved: SavedModel, images: Tensor) -> Outputs:
        """Return the logits; or all weights and buffers of a model of objects, of which equal ones find the same."""
        if not isinstance(saved.model, Segmenter):
            state: dict[str, Tensor] = saved.model.state_dict()
            return state
        return {"logits": saved.model(saved.model.normalize(images))}

    def load(self, folder: Path) -> Callable[[Tensor], Outputs]:
        """Return the model in the folder."""
        saved = load_model(folder)
        return lambda images: self.expected(saved, images)

    def usage(self, folder: Path) -> str:
        """Return the line of code that loads the model."""
        return f'finetune.load("{folder}")'
