"""The segmentation model: a pretrained backbone, a neck and a head; plain torch, any image size."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.models.blending import blend_windows
from finetune.models.feature_levels import COARSEST
from finetune.models.heads import (
    AuxiliaryHead,
    HasAuxiliaryOutputs,
    check_output_stride,
    head_spec,
    levels_read,
)
from finetune.models.input_size import Size
from finetune.models.pyramid_model import PyramidModel
from finetune.models.sliding_window import average_windows
from finetune.models.views import average_views


class Segmenter(PyramidModel):
    """A segmentation model that returns class scores for every pixel.

    Tuning plans refer to its parts by name: `backbone`, `neck`, `decoder`, `head`, `auxiliary`.

    Args:
        backbone: a timm model name.
        head: a name in `HEADS`.
        classes: number of classes, or their names.
        weights: weights of the backbone: `pretrained`, `none`, `package:<distribution>`, or a file.
        in_channels: number of image channels.
        backbone_options: further arguments of `timm.create_model`.
        head_options: further arguments of the head.
        neck: `interpolate` or `learned`: resampling of feature maps whose strides are not those of the pyramid.
        image_size: (height, width) in pixels for a fixed-size backbone; None for the pretraining size.
        window: (height, width) in pixels of the training crops of a fixed-size backbone. Outside of training, images
            are evaluated in overlapping windows of this size. None to resample whole images instead.
        output_stride: stride of the coarsest feature map: 8, 16 or 32; None for the head's default.
        mean: mean of each channel, in 0..1, for normalization; None for the weights' own.
        std: standard deviation of each channel, in 0..1, for normalization; None for the weights' own.
        grad_checkpointing: recompute the backbone's activations in the backward pass instead of storing them.
        lora: arguments of `add_lora` for low-rank adapters of the backbone, or None for no adapters.
        auxiliary: options of an `AuxiliaryHead` for an additional training loss, or None for no auxiliary head.

    Attributes:
        sliding_window: outside of training, larger images are predicted in these windows. It is not in the config.

    Raises:
        ValueError: if the backbone, the head or an option is unknown, there are no classes or more than 255, or the
            weights are not available.
        TypeError: the head, the auxiliary head or the adapters have no such option.

    >>> import torch
    >>> model = Segmenter("resnet18", head="fpn", classes=["road", "other"], weights="none")
    >>> model(torch.zeros(1, 3, 37, 53)).shape
    torch.Size([1, 2, 37, 53])
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        head: str = "unet",
        classes: int | Sequence[str] = 2,
        *,
        weights: str = "pretrained",
        in_channels: int = 3,
        backbone_options: Mapping[str, Any] | None = None,
        head_options: Mapping[str, Any] | None = None,
        neck: str = "interpolate",
        image_size: Size | None = None,
        window: Size | None = None,
        output_stride: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        grad_checkpointing: bool = False,
        lora: Mapping[str, Any] | None = None,
        auxiliary: Mapping[str, Any] | None = None,
    ) -> None:
        spec = head_spec(head)
        check_output_stride(head, output_stride)
        super().__init__(
            backbone,
            head,
            classes,
            weights=weights,
            in_channels=in_channels,
            backbone_options=backbone_options,
            head_options=head_options,
            neck=neck,
            image_size=image_size,
            window=window,
            output_stride=output_stride,
            default_stride=spec.output_stride,
            takes_tokens=spec.takes_tokens,
            takes_pools=spec.takes_pools,
            mean=mean,
            std=std,
            grad_checkpointing=grad_checkpointing,
            lora=lora,
        )
        self.decoder, self.head = spec.build(self.pyramid, self.classes, **dict(head_options or {}))
        self.auxiliary = None if auxiliary is None else AuxiliaryHead(self.pyramid, self.classes, **auxiliary)
        self._arguments["auxiliary"] = None if auxiliary is None else dict(auxiliary)
        parts = [part for part in (self.decoder, self.auxiliary) if part is not None]
        self._finish({level for part in parts for level in levels_read(part)})

    def forward(self, images: Tensor, auxiliary: bool = False) -> Tensor | list[Tensor]:
        """Return the logits of images.

        Args:
            images: normalized (B, C, H, W) of any size.
            auxiliary: also return the logits for auxiliary training losses.

        Returns:
            Logits (B, classes, H, W); with `auxiliary`, a list of these logits and the auxiliary ones.
        """
        if self.training:
            outputs = self._predict(images, auxiliary)
        elif self.sliding_window.divides((images.shape[-2], images.shape[-1])):
            outputs = blend_windows(lambda region: self._reduced(region, auxiliary), images, self.sliding_window)
        else:
            outputs = self._reduced(images, auxiliary)
        if not self.training and self.temperature != 1:
            outputs = [logits / self.temperature for logits in outputs]
        return outputs if auxiliary else outputs[0]

    def _reduced(self, images: Tensor, auxiliary: bool) -> list[Tensor]:
        """Return the logits of images, computed at a fraction of their size if there is one."""
        if self.reduce == 1 or self.takes_reduced:
            return self._view(images, auxiliary)
        height, width = images.shape[-2:]
        # torch.export does not see that whole blocks need no rounding; a trace for ONNX must round for all sizes
        is_whole = torch.compiler.is_exporting() and height % self.reduce == 0 and width % self.reduce == 0
        small = F.avg_pool2d(images, self.reduce, ceil_mode=not is_whole, count_include_pad=False)
        size = (small.shape[-2] * self.reduce, small.shape[-1] * self.reduce)
        return [_resize(logits, size)[..., :height, :width] for logits in self._view(small, auxiliary)]

    def _view(self, images: Tensor, auxiliary: bool) -> list[Tensor]:
        """Return the logits of images, the mean over all views if there are several."""
        if self.views is None:
            return self._evaluate(images, auxiliary)
        return average_views(lambda view: self._evaluate(view, auxiliary), images, self.views)

    def _evaluate(self, images: Tensor, auxiliary: bool) -> list[Tensor]:
        """Return the logits of images, computed in windows if there is one."""
        if self.window is None:
            return self._predict(images, auxiliary)
        return average_windows(lambda region: self._predict(region, auxiliary), images, self.window)

    def _predict(self, images: Tensor, auxiliary: bool) -> list[Tensor]:
        """Return the logits of whole images; with `auxiliary`, the auxiliary logits too."""
        height, width = images.shape[-2:]
        right, down = -width % COARSEST, -height % COARSEST
        stretched = (right or down) and self.backbone.input_size.accepts_only_unpadded(
            (height, width), (height + down, width + right)
        )
        if stretched:  # e.g. patches of 14 pixels: 518 fits exactly, 544 would be resampled
            pyramid = self.neck(_resize(images, (height + down, width + right)), self.backbone(images))
        else:
            if right or down:  # zeros are the weights' mean color, like the padding of convolutions
                images = F.pad(images, (0, right, 0, down))
            pyramid = self.neck(images, self.backbone(images))
        outputs = self._all_logits(pyramid) if auxiliary else [self.head(self.decoder(pyramid))]
        return [_resize(logits, (height, width)) if stretched else logits[..., :height, :width] for logits in outputs]

    def _all_logits(self, pyramid: list[Tensor]) -> list[Tensor]:
        if isinstance(self.decoder, HasAuxiliaryOutputs):
            decoded, auxiliary = self.decoder.forward_with_auxiliary(pyramid)
        else:
            decoded, auxiliary = self.decoder(pyramid), []
        if self.auxiliary is not None:
            auxiliary = [*auxiliary, self.auxiliary(pyramid)]
        return [self.head(decoded), *auxiliary]

    def sharding_candidates(self) -> list[nn.Module]:
        """Return the backbone's modules and the decoder."""
        return [*self.backbone.model.children(), self.decoder]


def _resize(maps: Tensor, size: Size) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
