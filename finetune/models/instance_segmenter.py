"""The model of objects: a pretrained backbone, a neck, a feature pyramid and a head that predicts instances."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.instances import Objects
from finetune.io.messages import suggest
from finetune.models.feature_levels import COARSEST
from finetune.models.heads.head_specs import check_output_stride_value
from finetune.models.input_size import Size
from finetune.models.instance_heads import INSTANCE_HEADS, FeaturePyramid
from finetune.models.pyramid_model import PyramidModel


class InstanceSegmenter(PyramidModel):
    """A model that returns the objects of images, each with a class, a box and a mask.

    Tuning plans refer to its parts by name: `backbone`, `neck`, `fpn`, `head`.

    Args:
        backbone: a timm model name.
        head: a name in `INSTANCE_HEADS`.
        classes: number of classes, or their names, without the background.
        weights: weights of the backbone: `pretrained`, `none`, `package:<distribution>`, or a file.
        in_channels: number of image channels.
        backbone_options: further arguments of `timm.create_model`.
        head_options: `channels` of the feature pyramid, and further arguments of the head.
        neck: `interpolate` or `learned`: resampling of feature maps whose strides are not those of the pyramid.
        image_size: (height, width) in pixels for a fixed-size backbone; None for the pretraining size.
        window: (height, width) in pixels of the training crops of a fixed-size backbone; larger images are resampled.
        output_stride: stride of the coarsest feature map: 8, 16 or 32; None for 32.
        mean: mean of each channel, in 0..1, for normalization; None for the weights' own.
        std: standard deviation of each channel, in 0..1, for normalization; None for the weights' own.
        grad_checkpointing: recompute the backbone's activations in the backward pass instead of storing them.
        lora: arguments of `add_lora` for low-rank adapters of the backbone, or None for no adapters.

    Raises:
        ValueError: if the backbone, the head or an option is unknown, or the weights are not available.
        TypeError: the head or the adapters have no such option.
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        head: str = "mask_rcnn",
        classes: int | Sequence[str] = 1,
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
    ) -> None:
        if head not in INSTANCE_HEADS:
            raise ValueError(f"head '{head}' predicts no objects. {suggest(head, INSTANCE_HEADS)}")
        check_output_stride_value(output_stride)
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
            default_stride=COARSEST,
            takes_tokens=False,
            takes_pools=False,
            mean=mean,
            std=std,
            grad_checkpointing=grad_checkpointing,
            lora=lora,
        )
        options = {"channels": 128, **dict(head_options or {})}
        channels = options.pop("channels")
        self.fpn = FeaturePyramid(self.pyramid, channels)
        self.head = INSTANCE_HEADS[head](self.fpn.strides, channels, self.classes, **options)
        self._arguments["head_options"].pop("weights", None)  # a saved model has its own
        self._finish(self.fpn.levels)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the maps of images (B, C, H, W), normalized, padded with the weights' mean color."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % COARSEST, 0, -height % COARSEST))
        maps: list[Tensor] = self.fpn(self.neck(padded, self.backbone(padded)))
        return maps

    def forward(self, images: Tensor) -> list[Objects]:
        """Return the objects of each image, by falling score.

        Args:
            images: normalized (B, C, H, W) of any size.
        """
        return self.head.detect(self.maps(images), (images.shape[-2], images.shape[-1]))

    def dense_outputs(self, images: Tensor) -> Tensor:
        """Return all values of the feature pyramid (N,); what the head adds depends on the objects."""
        return torch.cat([feature.flatten() for feature in self.maps(images)])

    def losses(self, images: Tensor, targets: Sequence[Objects]) -> dict[str, Tensor]:
        """Return the training losses by name, scalar.

        Args:
            images: normalized (B, C, H, W).
            targets: the objects of each image.
        """
        return self.head.losses(self.maps(images), targets)

    def sharding_candidates(self) -> list[nn.Module]:
        """Return the backbone's modules and the feature pyramid."""
        return [*self.backbone.model.children(), self.fpn]
