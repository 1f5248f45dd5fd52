"""The table of heads, by name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from finetune.io.messages import suggest
from finetune.models.feature_levels import OUTPUT_STRIDES
from finetune.models.heads.deeplabv3 import deeplabv3
from finetune.models.heads.deeplabv3plus import deeplabv3plus
from finetune.models.heads.dpt import dpt
from finetune.models.heads.fcn import fcn
from finetune.models.heads.fpn import fpn
from finetune.models.heads.hrnet import hrnet
from finetune.models.heads.linear import linear
from finetune.models.heads.linknet import linknet
from finetune.models.heads.manet import manet
from finetune.models.heads.mask_transformer import mask_transformer
from finetune.models.heads.ocr import ocr
from finetune.models.heads.pan import pan
from finetune.models.heads.pspnet import pspnet
from finetune.models.heads.pyramid import DecoderAndHead
from finetune.models.heads.segformer import segformer
from finetune.models.heads.segnet import segnet
from finetune.models.heads.setr_pup import setr_pup
from finetune.models.heads.unet import unet
from finetune.models.heads.unetplusplus import unetplusplus
from finetune.models.heads.upernet import upernet

UNDILATED_ONLY = (32,)  # for decoders that expect each map to be half as large as the one before


@dataclass(frozen=True)
class HeadSpec:
    """A head and its requirements.

    Attributes:
        build: builds decoder and classifier from a pyramid, a number of classes and the head's options. The decoder
            maps the pyramid's list to a map (B, C, h, w), or a list of maps, and the classifier maps that to logits
            (B, classes, H, W).
        output_stride: output stride of the backbone that the head is made for.
        output_strides: output strides that a user may set.
        pools_to_a_pixel: pools to one pixel, so that batch norm needs two images per batch in training.
        auxiliary: the decoder has `forward_with_auxiliary`, for auxiliary losses.
        takes_pools: reads the indices of the backbone's max-poolings.
        takes_tokens: reads prefix tokens if the backbone has any.
    """

    build: Callable[..., DecoderAndHead]
    output_stride: int = 32
    output_strides: tuple[int, ...] = OUTPUT_STRIDES
    pools_to_a_pixel: bool = False
    auxiliary: bool = False
    takes_pools: bool = False
    takes_tokens: bool = False

    def options(self) -> list[str]:
        """Return the names of the head's options."""
        return list(inspect.signature(self.build).parameters)[2:]


HEADS: dict[str, HeadSpec] = {
    "unet": HeadSpec(unet, auxiliary=True),
    "fpn": HeadSpec(fpn),
    "deeplabv3plus": HeadSpec(deeplabv3plus, output_stride=16, pools_to_a_pixel=True),
    "deeplabv3": HeadSpec(deeplabv3, output_stride=8, pools_to_a_pixel=True),
    "unetplusplus": HeadSpec(unetplusplus, output_strides=UNDILATED_ONLY),
    "manet": HeadSpec(manet, output_strides=UNDILATED_ONLY),
    "linknet": HeadSpec(linknet, output_strides=UNDILATED_ONLY),
    "pspnet": HeadSpec(pspnet),
    "pan": HeadSpec(pan, output_stride=16, pools_to_a_pixel=True),
    "upernet": HeadSpec(upernet, pools_to_a_pixel=True),
    "segformer": HeadSpec(segformer),
    "dpt": HeadSpec(dpt, output_strides=UNDILATED_ONLY, takes_tokens=True),
    "linear": HeadSpec(linear),
    "fcn": HeadSpec(fcn, output_stride=8),
    "hrnet": HeadSpec(hrnet),
    "ocr": HeadSpec(ocr, auxiliary=True),
    "segnet": HeadSpec(segnet, output_strides=UNDILATED_ONLY, takes_pools=True),
    "setr_pup": HeadSpec(setr_pup, output_stride=16),
    "mask_transformer": HeadSpec(mask_transformer, output_stride=16),
}


def head_spec(name: str) -> HeadSpec:
    """Return the head of that name.

    Raises:
        ValueError: if there is no such head; the message has the nearest names.
    """
    if name not in HEADS:
        raise ValueError(f"unknown head '{name}'. {suggest(name, HEADS)}")
    return HEADS[name]


def check_output_stride(head: str, output_stride: int | None) -> None:
    """Raise ValueError unless a head supports this output stride of the backbone; None is the head's default.

    >>> check_output_stride("linknet", 16)
    Traceback (most recent call last):
    ValueError: backbone.output_stride=16: head=linknet supports only 32. Set it to null, or choose head=unet.
    """
    check_output_stride_value(output_stride)
    if output_stride is not None and output_stride not in head_spec(head).output_strides:
        raise ValueError(
            f"backbone.output_stride={output_stride}: head={head} supports only 32. "
            f"Set it to null, or choose head=unet."
        )


def check_output_stride_value(output_stride: int | None) -> None:
    """Raise ValueError unless it is 8, 16, 32 or None."""
    if output_stride is not None and (isinstance(output_stride, bool) or output_stride not in OUTPUT_STRIDES):
        raise ValueError(
            f"backbone.output_stride={output_stride}: expected 8, 16 or 32, or null for the head's default."
        )
