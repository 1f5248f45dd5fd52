"""Training steps outside of a training, to measure them before it starts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.builders.devices import autocast_dtype, device_type
from finetune.builders.image_settings import image_channels
from finetune.builders.task import build_optimizer, task_without_weights
from finetune.engine.precision import CPUMixedPrecision
from finetune.tasks import InstanceTask, TuningTask
from finetune.tuning.freeze import apply_trainability

Shape = tuple[int, int, int, int]
ALONE = "Expected more than 1 value per channel"  # torch's message for a batch norm without variance


def noise_step(config: Mapping[str, Any], task: TuningTask, shape: Shape) -> Callable[[], None]:
    """Return a function that runs one training step on random data; see `trial_step`.

    Args:
        config: optimizer, precision and device of the training.
        task: moved to that device.
        shape: of the batch of images (B, C, H, W).
    """
    step = trial_step(config, task)
    return partial(step, task.dummy_batch(shape))


def trial_step(config: Mapping[str, Any], task: TuningTask) -> Callable[[Any], None]:
    """Return a function that runs one training step on a batch, of all parameters that require a gradient.

    Args:
        config: optimizer, precision and device of the training.
        task: moved to that device.
    """
    device, dtype = device_type(config), autocast_dtype(config)
    task.to(device)
    trained = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    optimizer = build_optimizer([{"params": trained}], config["optimizer"])

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        with training_precision(task, device, dtype):
            loss, auxiliary = task.losses(batch)
        torch.autograd.backward(loss + auxiliary)
        optimizer.step()

    return step


@contextmanager
def training_precision(task: TuningTask, device: str, dtype: torch.dtype | None) -> Iterator[None]:
    """Compute a loss as in a training.

    Args:
        task: on the device.
        device: its type.
        dtype: of mixed precision; None computes in the dtype of the model.
    """
    plugin = CPUMixedPrecision()
    if device == "cpu" and dtype is torch.bfloat16:
        plugin.convert_module(task.model)
    try:
        with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
            yield
    finally:
        plugin.teardown()


def layer_without_variance(config: Mapping[str, Any], classes: Sequence[str]) -> str | None:
    """Return the name of a trainable batch norm that would see one value per channel with batch size 1, or None.

    Args:
        config: of a training.
        classes: their names.
    """
    entered: list[str] = []
    try:
        with torch.device("meta"):  # takes no memory
            task = task_without_weights(config, classes)
            apply_trainability(task.model, task.trainable_at_any_time(), task.norms())
            for name, module in task.model.named_modules():
                if isinstance(module, _BatchNorm):
                    module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
            image = torch.zeros(1, *batch_shape(config)[1:])
            if isinstance(task, InstanceTask):
                task.model.maps(image)
            else:
                task.model(image, auxiliary=True)
    except (ValueError, RuntimeError) as error:  # other errors are reported when the model is built
        return entered[-1] if ALONE in str(error) else None
    return None


def batch_shape(config: Mapping[str, Any]) -> Shape:
    """Return the shape (B, C, H, W) of a training batch; images that are not cropped are assumed to be 512 x 512."""
    size = config["augment"].get("crop") or config["data"].get("size") or 512
    height, width = (size, size) if isinstance(size, int) else size
    return config["data"]["batch_size"], image_channels(config), height, width
