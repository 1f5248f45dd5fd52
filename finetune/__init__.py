"""Fine-tune pretrained timm backbones for image segmentation.

The words are those of the command line:

    run = finetune.train("data=folder", "data.root=photos", "data.classes=3")
    masks = finetune.load(run.best).predict("new_photos/")
    model = finetune.Segmenter("resnet50", head="unet", classes=3)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.catalog.backbones import list_backbones
    from finetune.commands.auto_search import find_batch_size, find_lr
    from finetune.commands.evaluate import evaluate
    from finetune.commands.plan import plan
    from finetune.commands.predict import load, predict
    from finetune.commands.train import train
    from finetune.config.compose import compose
    from finetune.models import Segmenter

__version__ = "0.1.0"
__all__ = [
    "Segmenter",
    "compose",
    "evaluate",
    "find_batch_size",
    "find_lr",
    "list_backbones",
    "load",
    "plan",
    "predict",
    "train",
]

_HOMES = {"train": "finetune.commands.train", **dict.fromkeys(("load", "predict"), "finetune.commands.predict")}
_HOMES |= {
    "Segmenter": "finetune.models",
    "compose": "finetune.config.compose",
    "evaluate": "finetune.commands.evaluate",
}
_HOMES |= {"list_backbones": "finetune.catalog.backbones"}
_HOMES |= {
    "plan": "finetune.commands.plan",
    **dict.fromkeys(("find_batch_size", "find_lr"), "finetune.commands.auto_search"),
}


def __getattr__(name: str) -> Any:
    """Import on first use: `finetune --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'finetune' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
