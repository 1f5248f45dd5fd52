"""The fine-tuned backbone as a timm model: `model.safetensors` and `config.json` in timm's own layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor

from finetune.checkpoints.model_card import front_matter
from finetune.checkpoints.saved_model import SavedModel
from finetune.exporters.agreement import Outputs
from finetune.exporters.exporter import SAME_WEIGHTS
from finetune.models import PyramidModel
from finetune.models.input_size import Size


class TimmBackbone:
    """A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` reads, or the Hugging Face hub takes.

    The head stays behind. A backbone that was dilated for the head computes at timm's own strides again; its weights
    are the same.
    """

    limits = SAME_WEIGHTS
    size: Size | None = None
    multiple = 1

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        """Write the backbone's weights and the arguments that build it."""
        model = saved.model
        model.merge_adapters()
        network: Any = model.backbone.model.to(memory_format=torch.contiguous_format)  # as safetensors takes it
        arguments = {"in_chans": model.backbone.in_channels, **model.backbone.options}
        save_for_hf(network, str(folder), model_args=arguments, safe_serialization=True, data_config=_data(model))
        card = front_matter(model.config(), "timm", "image-feature-extraction")
        (folder / "README.md").write_text(
            f"{card}# {model.backbone.name}, fine-tuned for segmentation, without its head\n", encoding="utf-8"
        )
        return sorted(folder.iterdir())

    def expected(self, saved: SavedModel, images: Tensor) -> Outputs:
        """Return all weights and buffers: equal ones compute equal feature maps, at any stride."""
        state: dict[str, Tensor] = saved.model.backbone.model.state_dict()
        return state

    def load(self, folder: Path) -> Callable[[Tensor], Outputs]:
        """Return all weights and buffers of the model that timm builds from the folder."""
        network: torch.nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
        return lambda images: network.state_dict()

    def usage(self, folder: Path) -> str:
        """Return the line of code that loads the backbone."""
        return f'timm.create_model("local-dir:{folder}", pretrained=True)'


def _data(model: PyramidModel) -> dict[str, Any]:
    """Return the input normalization in timm's names."""
    config = model.config()
    return {"mean": config["mean"], "std": config["std"], "interpolation": config["interpolation"]}
