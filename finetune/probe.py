"""Training steps on noise, to see what they take before a training begins."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from finetune import build
from finetune.tasks import SemanticTask

Shape = tuple[int, int, int, int]


def noise_step(config: Mapping[str, Any], task: SemanticTask, shape: Shape) -> Callable[[], None]:
    """A whole training step on random images and labels, of everything that requires a gradient.

    Args:
        config: whose optimizer and precision it takes.
        task: is moved to the device of the training.
        shape: of the batch (B, C, H, W).
    """
    where, half = device(config), half_precision(config)
    task.to(where)
    trained = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    optimizer = build.optimizer([{"params": trained}], config["optimizer"])
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=where)
    target = torch.randint(0, task.model.classes, (shape[0], *shape[2:]), dtype=torch.uint8, device=where)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(where, half or torch.bfloat16, enabled=half is not None):
            loss, auxiliary = task.losses(images, target)
        torch.autograd.backward(loss + auxiliary)
        optimizer.step()

    return step


def batch_shape(config: Mapping[str, Any]) -> Shape:
    """Shape (B, C, H, W) of a training batch; where images are not cropped, they are taken to be 512 pixels wide."""
    size = config["augment"]["crop"] or config["data"].get("size") or 512
    height, width = (size, size) if isinstance(size, int) else size
    return config["data"]["batch_size"], config["backbone"]["in_channels"], height, width


def device(config: Mapping[str, Any]) -> str:
    """`cuda` where the training would have it, else `cpu`."""
    return (
        "cuda" if torch.cuda.is_available() and config["trainer"]["accelerator"] in ("auto", "gpu", "cuda") else "cpu"
    )


def half_precision(config: Mapping[str, Any]) -> torch.dtype | None:
    """The half-precision type of the training's autocast; None where it has none."""
    precision = build.precision(config["trainer"])
    return None if "mixed" not in precision else torch.bfloat16 if "bf16" in precision else torch.float16
