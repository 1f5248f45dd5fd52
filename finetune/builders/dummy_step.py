"""Training steps on noise, to see what they take before a training begins."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.builders.devices import autocast_dtype, device_type
from finetune.builders.task import build_optimizer, task_without_weights
from finetune.tasks import SemanticTask
from finetune.tuning.freeze import apply_trainability

Shape = tuple[int, int, int, int]
ALONE = "Expected more than 1 value per channel"  # how torch says that a batch norm has no variance


def noise_step(config: Mapping[str, Any], task: SemanticTask, shape: Shape) -> Callable[[], None]:
    """A whole training step on random images and labels, of everything that requires a gradient.

    Args:
        config: whose optimizer and precision it takes.
        task: is moved to the device of the training.
        shape: of the batch (B, C, H, W).
    """
    where, half = device_type(config), autocast_dtype(config)
    task.to(where)
    trained = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    optimizer = build_optimizer([{"params": trained}], config["optimizer"])
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=where)
    target = torch.randint(0, task.model.classes, (shape[0], *shape[2:]), dtype=torch.uint8, device=where)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(where, half or torch.bfloat16, enabled=half is not None):
            loss, auxiliary = task.losses(images, target)
        torch.autograd.backward(loss + auxiliary)
        optimizer.step()

    return step


def layer_without_variance(config: Mapping[str, Any], classes: Sequence[str]) -> str | None:
    """Name of a batch norm that sees one value a channel of a batch of one image and trains some day, or None.

    Args:
        config: of a training.
        classes: their names.
    """
    entered: list[str] = []
    try:
        with torch.device("meta"):  # whatever its size, it takes no memory
            task = task_without_weights(config, classes)
            apply_trainability(task.model, task.trainable_at_any_time(), task.norms())
            for name, module in task.model.named_modules():
                if isinstance(module, _BatchNorm):
                    module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
            task.model(torch.zeros(1, *batch_shape(config)[1:]), auxiliary=True)
    except (ValueError, RuntimeError) as error:  # others are for the model itself to say
        return entered[-1] if ALONE in str(error) else None
    return None


def batch_shape(config: Mapping[str, Any]) -> Shape:
    """Shape (B, C, H, W) of a training batch; where images are not cropped, they are taken to be 512 pixels wide."""
    size = config["augment"].get("crop") or config["data"].get("size") or 512
    height, width = (size, size) if isinstance(size, int) else size
    return config["data"]["batch_size"], config["backbone"]["in_channels"], height, width
