"""Random pyramids for heads, and small forms of all heads."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.models.heads import HEADS, PyramidSpec

STRIDES = (1, 2, 4, 8, 16, 32)
WITH_STRIDE_2 = (3, 16, 24, 32, 40, 48)
FROM_STRIDE_4 = (3, 0, 24, 32, 40, 48)
POOLED = (8, 16, 24, 32, 48)  # for segnet, whose last pooling returns the coarsest map
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"decoder_channels": [16, 16, 8, 8, 8]},
    "fpn": {"pyramid_channels": 32, "segmentation_channels": 64},
    "deeplabv3plus": {"decoder_channels": 16},
    "deeplabv3": {"decoder_channels": 16},
    "unetplusplus": {"decoder_channels": [16, 16, 8, 8, 8]},
    "manet": {"decoder_channels": [16, 16, 8, 8, 8], "pab_channels": 8, "reduction": 2},
    "linknet": {"prefinal_channels": 8},
    "pspnet": {"decoder_channels": 16},
    "pan": {"decoder_channels": 8},
    "upernet": {"decoder_channels": 16},
    "segformer": {"segmentation_channels": 16},
    "dpt": {"intermediate_channels": [8, 8, 16, 16], "fusion_channels": 16},
    "linear": {},
    "fcn": {"channels": 16},
    "hrnet": {"channels": 16},
    "ocr": {"channels": 16, "key_channels": 8},
    "segnet": {"convolutions": [2, 1, 1, 1, 1]},
    "setr_pup": {"channels": 16},
    "mask_transformer": {"channels": 16, "attention_heads": 2},
}


def pyramid_for(head: str, channels: tuple[int, ...] = WITH_STRIDE_2, dilated: bool = True) -> PyramidSpec:
    """Return the pyramid that a head gets from a backbone that can be dilated, or cannot."""
    coarsest = HEADS[head].output_stride if dilated else 32
    strides = tuple(min(stride, coarsest) for stride in STRIDES)
    return PyramidSpec(channels, strides, pools=POOLED if HEADS[head].takes_pools else ())


def draw(pyramid: PyramidSpec, height: int, width: int, batch: int = 1) -> list[Any]:
    """Return the input of a decoder: noise of the right sizes, and the indices of poolings of noise."""
    maps: list[Any] = [
        torch.randn(batch, channels, height // stride, width // stride)
        for channels, stride in zip(pyramid.channels, pyramid.strides, strict=True)
    ]
    finer = [
        torch.randn(batch, channels, height >> level, width >> level) for level, channels in enumerate(pyramid.pools)
    ]
    indices = [F.max_pool2d(noise, 2, return_indices=True)[1] for noise in finer]
    return [*maps, indices] if indices else maps


def build(head: str, pyramid: PyramidSpec, classes: int = 3, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Build the small form of a head, always with the same weights, and with statistics as after training."""
    torch.manual_seed(0)
    decoder, classifier = HEADS[head].build(pyramid, classes, **{**SMALL[head], **options})
    torch.manual_seed(1)
    settle(decoder)
    return decoder.eval(), classifier.eval()


def settle(module: nn.Module) -> None:
    """Set the statistics of batch norms to values as after training."""
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.2, 0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)


@torch.no_grad()
def logits(parts: tuple[nn.Module, nn.Module], features: list[Any]) -> Tensor:
    decoder, classifier = parts
    return classifier(decoder(features))
