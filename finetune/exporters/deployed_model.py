"""A model as it is deployed: uint8 images in, predictions out, with all steps between them inside."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from finetune.inference import Output
from finetune.io.messages import suggest
from finetune.models import Segmenter

OUTPUTS = ("classes", "logits", "probabilities")


class DeployedModel(nn.Module):
    """Normalization, network and decoding in one module.

    Args:
        model: the network, without adapters.
        output: of the task.
        outputs: names in `OUTPUTS` of what is returned.
    """

    def __init__(self, model: Segmenter, output: Output, outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.output, self.outputs = model, output, tuple(outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of images (B, C, H, W), uint8.

        Returns:
            logits and probabilities (B, K, H, W), float32; classes as the task's output decodes them, uint8.
        """
        logits = self.model(self.model.normalize(images)).float()
        decode = {"logits": lambda x: x, "probabilities": self.output.probabilities, "classes": self.output.decode}
        return tuple(decode[name](logits) for name in self.outputs)

    def named_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Return the outputs of `forward` by name."""
        return dict(zip(self.outputs, self(images), strict=True))


def check_outputs(name: str) -> None:
    """Raise ValueError unless it is one of `OUTPUTS`."""
    if name not in OUTPUTS:
        raise ValueError(f"outputs={name}: {suggest(str(name), OUTPUTS)}")


class TraceableOperators(TorchFunctionMode):
    """Replace operators that a trace cannot hold: adaptive pooling of any size, and antialiased interpolation.

    Pooling becomes matrix products. The result of the interpolation becomes a constant, which is right for position
    embeddings and one size of images.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is F.adaptive_avg_pool2d:
            return adaptive_mean(args[0], args[1] if len(args) > 1 else options["output_size"])
        if func is F.interpolate and options.get("mode") == "area":  # the same, as smp's PSPNet calls it
            return adaptive_mean(args[0], options["size"])
        if func is F.interpolate and options.get("antialias"):
            table, size = torch.from_numpy(args[0].detach().numpy()), options.pop("size", None) or args[1]
            return F.interpolate(table, [int(side) for side in size], **options)
        return func(*args, **options)


def adaptive_mean(maps: Tensor, size: int | Sequence[int]) -> Tensor:
    """Return maps (B, C, h, w) as `adaptive_avg_pool2d` pools them to a size."""
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = _mean_matrix(height, maps.shape[-2], maps), _mean_matrix(width, maps.shape[-1], maps)
    return rows @ maps @ columns.transpose(0, 1)


def _mean_matrix(cells: int, length: int, like: Tensor) -> Tensor:
    """Return weights (cells, length): each row is the mean over a cell, which shares its border pixels."""
    cell, pixel = torch.arange(cells)[:, None], torch.arange(length)
    first = torch.div(cell * length, cells, rounding_mode="floor")
    end = torch.div((cell + 1) * length + cells - 1, cells, rounding_mode="floor")
    inside = ((pixel >= first) & (pixel < end)).to(like)
    return inside / inside.sum(dim=1, keepdim=True)
