"""Dense prediction transformer: four maps, reassembled at strides 4 to 32 and fused on the way up."""

from collections.abc import Sequence
from typing import Any

from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead
from torch import Tensor

from finetune.models.heads.pyramid import COARSE, DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_choice, check_counts, check_length


def dpt(
    pyramid: PyramidSpec,
    classes: int,
    readout: str = "auto",
    intermediate_channels: Sequence[int] = (256, 512, 1024, 1024),
    fusion_channels: int = 256,
) -> DecoderAndHead:
    """DPT: reassemble four maps at strides 4, 8, 16 and 32, fuse them from coarse to fine, end at stride 2.

    smp builds it for plain ViTs, whose four maps have one stride, and scales each to its place; the same blocks take
    maps of any strides, and those of a pyramid are in their places. `readout` says what becomes of class tokens: `cat`,
    as in smp, `add` or `ignore`; `auto` is `cat` where the pyramid has tokens and `ignore` where it has none.

    Source: Ranftl et al. 2021, https://arxiv.org/abs/2103.13413
    """
    check_choice("readout", readout, ("auto", "cat", "add", "ignore"))
    check_counts(fusion_channels=fusion_channels)
    check_length(len(COARSE), intermediate_channels=intermediate_channels)
    if readout in ("cat", "add") and not pyramid.tokens:
        raise ValueError(f"head.readout={readout}: this backbone hands out no class tokens. Set head.readout=auto.")
    if any(stride & (stride - 1) for stride in pyramid.strides):
        raise ValueError(
            f"head=dpt scales maps by powers of two, but this backbone's have strides {pyramid.strides[2:]}. "
            f"Take another patch size, or another head, such as upernet."
        )
    usual = "cat" if pyramid.tokens else "ignore"
    decoder = PyramidDPT(
        pyramid.tokens,
        encoder_out_channels=pyramid.channels[2:],
        encoder_output_strides=pyramid.strides[2:],
        readout=usual if readout == "auto" else readout,
        intermediate_channels=list(intermediate_channels),
        fusion_channels=fusion_channels,
    )
    return decoder, DPTSegmentationHead(fusion_channels, classes)


class PyramidDPT(DPTDecoder):  # type: ignore[misc]  # smp is not typed
    """The decoder of smp on the pyramid's list.

    Args:
        tokens: prefix tokens of each map.
        options: of smp's decoder.
    """

    levels = COARSE

    def __init__(self, tokens: int, **options: Any) -> None:
        super().__init__(encoder_has_prefix_tokens=tokens > 0, **options)
        self.tokens = tokens

    def forward(self, features: list[Any]) -> Tensor:
        """Fused map (B, C, H / 2, W / 2) of the pyramid, whose seventh element are the tokens, if it has some."""
        tokens = features[6] if self.tokens else [None] * len(COARSE)
        fused: Tensor = super().forward(features[2:6], tokens)
        return fused
