"""What a user of an exported file must know, written into it."""

from typing import Any

from finetune.checkpoints.saved_model import SavedModel
from finetune.inference.class_masks import file_suffixes
from finetune.inference.output import TaskOutput
from finetune.models.input_size import Size
from finetune.plots import palette


def metadata(saved: SavedModel, output: TaskOutput, size: Size | None, precision: str, outputs: str) -> dict[str, Any]:
    """Return plain data that says what a file computes, and of what it was made; `serve.py` reads some of it."""
    config = saved.model.config()
    return {
        "outputs": outputs,
        "classes": list(saved.model.class_names),
        "suffixes": file_suffixes(saved.model.class_names),  # of the files of a mask per class
        "colors": [list(color) for color in palette(len(saved.model.class_names))],
        "task": {**saved.task, **output.options()},
        "size": None if size is None else list(size),
        "reduce": saved.model.reduce,  # by which the model itself reduces images first
        "channels": saved.model.backbone.in_channels,
        "value_range": saved.data.get("value_range"),
        "precision": precision,
        "backbone": config["backbone"],
        "head": config["head"],
        "weights_license": config["weights_license"],
        "scores": saved.scores,
    }
