"""Fine-tune pretrained timm backbones for image segmentation.

The functions take the same overrides as the command line:

    run = finetune.train("data.root=photos", "data.classes=3")
    masks = finetune.load(run.folder).predict("new_photos/")
    model = finetune.Segmenter("resnet50", head="unet", classes=3)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from finetune.commands import COMMANDS

if TYPE_CHECKING:
    from finetune.catalog.backbones import list_backbones
    from finetune.commands.audit import audit
    from finetune.commands.auto_search import find_batch_size, find_lr
    from finetune.commands.benchmark import benchmark
    from finetune.commands.calibrate import calibrate
    from finetune.commands.evaluate import evaluate
    from finetune.commands.explain import explain
    from finetune.commands.export import export
    from finetune.commands.plan import plan
    from finetune.commands.predict import load, predict
    from finetune.commands.report import report
    from finetune.commands.suggest import suggest
    from finetune.commands.train import train
    from finetune.config.compose import compose
    from finetune.models import Segmenter

__version__ = "0.1.0"
__all__ = [
    "Segmenter",
    "audit",
    "benchmark",
    "calibrate",
    "compose",
    "evaluate",
    "explain",
    "export",
    "find_batch_size",
    "find_lr",
    "list_backbones",
    "load",
    "plan",
    "predict",
    "report",
    "suggest",
    "train",
]

# names that are no commands -> module that defines them
_DEFINED_IN = {
    "Segmenter": "finetune.models",
    "compose": "finetune.config.compose",
    "find_batch_size": "finetune.commands.auto_search",
    "find_lr": "finetune.commands.auto_search",
    "list_backbones": "finetune.catalog.backbones",
    "load": "finetune.commands.predict",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `finetune --help` must not wait for torch."""
    if name in _DEFINED_IN:
        return getattr(import_module(_DEFINED_IN[name]), name)
    if name in COMMANDS and name != "list":  # `list` is a builtin; its function is list_backbones
        return COMMANDS[name].load()
    raise AttributeError(f"module 'finetune' has no attribute '{name}'; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
