"""DPT (dense prediction transformer): four maps, reassembled at strides 4 to 32 and fused from coarse to fine."""

from collections.abc import Sequence
from typing import Any

from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead
from torch import Tensor

from finetune.models.heads.pyramid import REQUIRED_LEVELS, DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_choice, check_counts, check_length


def dpt(
    pyramid: PyramidSpec,
    classes: int,
    readout: str = "auto",
    intermediate_channels: Sequence[int] = (256, 512, 1024, 1024),
    fusion_channels: int = 256,
) -> DecoderAndHead:
    """Build DPT: four maps are reassembled at strides 4, 8, 16 and 32, then fused from coarse to fine, up to stride 2.

    smp builds it for plain ViTs, whose four maps have one stride, and scales each to its level; the same blocks accept
    the maps of any pyramid. `readout` is the use of class tokens: `cat`, as in smp, `add` or `ignore`; `auto` is `cat`
    if the pyramid has tokens, else `ignore`.

    Source: Ranftl et al. 2021, https://arxiv.org/abs/2103.13413
    """
    check_choice("readout", readout, ("auto", "cat", "add", "ignore"))
    check_counts(fusion_channels=fusion_channels)
    check_length(len(REQUIRED_LEVELS), intermediate_channels=intermediate_channels)
    if readout in ("cat", "add") and not pyramid.tokens:
        raise ValueError(f"head.readout={readout}: this backbone returns no class tokens. Set head.readout=auto.")
    if any(stride & (stride - 1) for stride in pyramid.strides):
        raise ValueError(
            f"head=dpt scales maps by powers of two, but this backbone's maps have strides {pyramid.strides[2:]}. "
            f"Choose another patch size, or another head, such as upernet."
        )
    default = "cat" if pyramid.tokens else "ignore"
    decoder = PyramidDPT(
        pyramid.tokens,
        encoder_out_channels=pyramid.channels[2:],
        encoder_output_strides=pyramid.strides[2:],
        readout=default if readout == "auto" else readout,
        intermediate_channels=list(intermediate_channels),
        fusion_channels=fusion_channels,
    )
    return decoder, DPTSegmentationHead(fusion_channels, classes)


class PyramidDPT(DPTDecoder):  # type: ignore[misc]  # smp is not typed
    """smp's DPT decoder on the list of a pyramid.

    Args:
        tokens: number of prefix tokens of each map.
        options: arguments of smp's decoder.
    """

    levels = REQUIRED_LEVELS

    def __init__(self, tokens: int, **options: Any) -> None:
        super().__init__(encoder_has_prefix_tokens=tokens > 0, **options)
        self.tokens = tokens

    def forward(self, features: list[Any]) -> Tensor:
        """Return the fused map (B, C, H / 2, W / 2) of the pyramid; its seventh element are the tokens, if any."""
        tokens = features[6] if self.tokens else [None] * len(REQUIRED_LEVELS)
        fused: Tensor = super().forward(features[2:6], tokens)
        return fused
