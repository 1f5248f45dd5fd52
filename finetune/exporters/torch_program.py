"""A program of torch.export: torch's operators in one file, which runs without timm, smp and this package."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.export import Dim

from finetune.checkpoints.saved_model import SavedModel
from finetune.exporters.agreement import Limits, Outputs
from finetune.exporters.deployed_model import DeployedModel, check_outputs
from finetune.exporters.exporter import random_images
from finetune.exporters.metadata import metadata
from finetune.inference import Output
from finetune.models import Segmenter
from finetune.models.feature_levels import COARSEST
from finetune.models.input_size import Size, check_size

FILE = "model.pt2"
CELLS = {"min": 2, "max": 512}  # of the coarsest map: torch writes another program for maps of one pixel
EXAMPLE = (4, 5)  # multiples
MOST = 4096  # images of a batch


class TorchProgram:
    """`model.pt2` for `torch.export.load`, from uint8 images to classes; `metadata.json` inside says what it computes.

    To torch padding is a condition, so a program for several sizes takes multiples of 32 pixels,
    and of as many times more as the model reduces images by.

    Args:
        output: of the task.
        size: height and width of the images, in pixels; None for all such multiples from the second one on.
        outputs: `classes`, `logits` or `probabilities`.

    Raises:
        ValueError: an unknown output, or a size that is not a height and a width.
    """

    limits = Limits(difference=1e-4, labels=1e-3, score=1e-3)

    def __init__(self, output: Output, size: Size | None = None, outputs: str = "classes") -> None:
        if size is not None:
            check_size(size, "size")
        check_outputs(outputs)
        self.output, self.size, self.outputs = output, size, outputs
        self.multiple = 1 if size is not None else COARSEST

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        """Write the program, with adapters merged into the weights."""
        if self.size is None and saved.model.config()["head"] == "pan":
            raise ValueError("head=pan has no program for several sizes: Set size=[512,512], or another one")
        saved.model.merge_adapters()
        model = saved.segmenter if self.size is not None else with_constant_padding(saved.segmenter)
        deployed = DeployedModel(model, self.output, (self.outputs,)).eval()
        sizes: dict[int, Any] = {0: Dim("batch", min=1, max=MOST)}
        if self.size is None:
            self.multiple = COARSEST * model.reduce
            sizes |= {axis: self.multiple * Dim(name, **CELLS) for axis, name in ((2, "rows"), (3, "columns"))}
        images = next(random_images(saved, self.size or (EXAMPLE[0] * self.multiple, EXAMPLE[1] * self.multiple)))
        facts = metadata(saved, self.output, self.size, "float32", self.outputs)
        with torch.no_grad():
            program = torch.export.export(deployed, (images,), dynamic_shapes=(sizes,))
        torch.export.save(program, folder / FILE, extra_files={"metadata.json": json.dumps(facts)})
        return [folder / FILE]

    def expected(self, saved: SavedModel, images: Tensor) -> Outputs:
        """Return what the program is for."""
        return DeployedModel(saved.segmenter, self.output, (self.outputs,)).named_outputs(images)

    def load(self, folder: Path) -> Callable[[Tensor], Outputs]:
        """Return the program in the file."""
        program = torch.export.load(folder / FILE).module()
        return lambda images: {self.outputs: program(images)[0]}

    def usage(self, folder: Path) -> str:
        """Return the line of code that loads the program."""
        return f'torch.export.load("{folder / FILE}").module()'


def with_constant_padding(model: Segmenter) -> Segmenter:
    """Return a copy whose "same" convolutions pad as they do for maps that their stride divides.

    Timm computes their padding from the size, by a rounding that torch cannot save and that takes it many minutes.
    """
    model = copy.deepcopy(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Conv2dSame):
            down, right = (
                max((kernel - 1) * dilation + 1 - stride, 0)
                for kernel, dilation, stride in zip(layer.kernel_size, layer.dilation, layer.stride, strict=True)
            )
            layer.__class__ = nn.Conv2d  # whose own padding is 0
            padding = nn.ZeroPad2d((right // 2, right - right // 2, down // 2, down - down // 2))
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, nn.Sequential(padding, layer))
    return model
