"""A pretrained backbone with a segmentation head: plain torch, any image size."""

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.models.backbone import Backbone
from finetune.models.classes import class_names
from finetune.models.feature_levels import COARSEST
from finetune.models.features import read_maps, read_pools, read_tokens
from finetune.models.heads import (
    AuxiliaryHead,
    HasAuxiliaryOutputs,
    PyramidSpec,
    check_output_stride,
    head_spec,
    levels_read,
)
from finetune.models.input_size import Size
from finetune.models.lora import add_lora, merge_lora
from finetune.models.neck import PyramidNeck
from finetune.models.normalization import check_statistics
from finetune.models.sliding_window import check_window, in_windows
from finetune.models.tunable_model import TunableModel


class Segmenter(TunableModel):
    """Class scores for every pixel.

    Its parts, by whose names a tuning plan speaks of them: `backbone`, `neck`, `decoder`, `head`, `auxiliary`.

    Args:
        backbone: a timm model name.
        head: one of `HEADS`.
        classes: how many, or their names.
        weights: of the backbone: `pretrained`, `none`, `package:<distribution>`, or a file.
        in_channels: channels of the images.
        backbone_options: further arguments of `timm.create_model`.
        head_options: further arguments of the head.
        neck: how maps come to the strides of a pyramid where the backbone has others: `interpolate` or `learned`.
        image_size: height and width that a backbone is built for which takes one size alone, in pixels; None for the
            size of its weights.
        window: height and width of the crops that such a backbone learns from, in pixels: outside of training, images
            are looked at in overlapping windows of that size. None to resample them whole.
        output_stride: of the coarsest map: 8, 16 or 32; None for that which the head is made for.
        mean: of each channel, in 0..1, that images are normalized with; None for that of the weights.
        std: likewise, the standard deviation.
        grad_checkpointing: compute the backbone's activations anew in the backward pass instead of keeping them.
        lora: low-rank adapters of the backbone: the arguments of `add_lora`, or None for none.
        auxiliary: options of an `AuxiliaryHead` to learn from besides, or None for none.

    Raises:
        ValueError: unknown backbone, head or option, fewer than two classes, or weights that cannot be had.

    >>> model = Segmenter("resnet18", head="fpn", classes=["road", "other"], weights="none")
    >>> model(torch.zeros(1, 3, 37, 53)).shape
    torch.Size([1, 2, 37, 53])
    """

    mean: Tensor
    std: Tensor

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
        super().__init__()
        kind = head_spec(head)
        check_output_stride(head, output_stride)
        check_statistics(in_channels, mean=mean, std=std)
        stride = output_stride or kind.output_stride
        self.class_names = class_names(classes)
        self.backbone = Backbone(
            backbone, weights, in_channels, stride, backbone_options, image_size, grad_checkpointing
        )
        self.window = self._usable(window)
        with_tokens = kind.takes_tokens and self.backbone.plain
        as_they_are = with_tokens and self.backbone.strides[0].bit_count() == 1  # a decoder scales by powers of two
        self.neck = PyramidNeck(in_channels, self.backbone.levels, neck, as_they_are, stride)
        self._check_output_stride(output_stride)
        pools = self.backbone.pools if kind.takes_pools else ()
        tokens = self.backbone.tokens if with_tokens else 0
        pyramid = PyramidSpec(self.neck.channels, self.neck.strides, pools, tokens)
        self.decoder, self.head = kind.build(pyramid, self.classes, **dict(head_options or {}))
        self.auxiliary = None if auxiliary is None else AuxiliaryHead(pyramid, self.classes, **auxiliary)
        levels = {level for part in (self.decoder, self.auxiliary) if part is not None for level in levels_read(part)}
        reader = read_pools if pools else read_tokens if tokens else read_maps
        self.backbone.select_features(self.neck.keep(sorted(levels)), reader)
        self._normalize_with(mean, std)
        self._spec = {
            "backbone": backbone,
            "head": head,
            "classes": list(self.class_names),
            "in_channels": in_channels,
            "head_options": dict(head_options or {}),
            "neck": neck,
            "output_stride": output_stride,
            "grad_checkpointing": grad_checkpointing,
            "auxiliary": None if auxiliary is None else dict(auxiliary),
            "backbone_options": self.backbone.options,
            "window": None if self.window is None else list(self.window),
            "lora": None,
        }
        if lora is not None:
            self.add_lora(lora)

    def _usable(self, window: Size | None) -> Size | None:
        """The window, for a backbone that takes one size alone; None for others, which take any."""
        if window is None or self.backbone.input_size.only is None:
            return None
        check_window(window)
        return window[0], window[1]

    def _check_output_stride(self, asked: int | None) -> None:
        if asked is not None and self.neck.strides[-1] > asked:
            raise ValueError(
                f"backbone.output_stride={asked}: {self.backbone.name} cannot be dilated; its coarsest map has stride "
                f"{self.neck.strides[-1]}. Set it to null, or take another backbone, such as resnet50."
            )

    def _normalize_with(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        self._said = {name for name, value in (("mean", mean), ("std", std)) if value is not None}
        for name, said, usual in zip(("mean", "std"), (mean, std), self.backbone.normalization(), strict=True):
            values = torch.tensor(usual if said is None else said, dtype=torch.float32)
            self.register_buffer(name, values.view(1, -1, 1, 1) * 255, persistent=False)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def normalize(self, images: Tensor) -> Tensor:
        """Images as the weights want them.

        Args:
            images: (B, C, H, W), uint8 in 0..255.

        Returns:
            Floating point, in the type of the weights and the memory format that the model runs fastest in.
        """
        images = images.to(self.mean.dtype, memory_format=torch.channels_last, copy=True)
        return images.sub_(self.mean).div_(self.std)

    def forward(self, images: Tensor, auxiliary: bool = False) -> Tensor | list[Tensor]:
        """Logits (B, classes, H, W) of normalized images (B, C, H, W), whatever H and W are.

        With `auxiliary`, a list that begins with them; behind them are the logits that a head learns from besides.
        """
        if self.window is None or self.training:
            found = self._look(images, auxiliary)
        else:
            found = in_windows(lambda part: self._look(part, auxiliary), images, self.window)
        return found if auxiliary else found[0]

    def _look(self, images: Tensor, auxiliary: bool) -> list[Tensor]:
        """Logits of whole images, and behind them those that a head learns from besides, if they are asked for."""
        height, width = images.shape[-2:]
        right, down = -width % COARSEST, -height % COARSEST
        stretched = (right or down) and self.backbone.input_size.prefers(
            (height, width), (height + down, width + right)
        )
        if stretched:  # patches of 14 pixels take 518 as they are, and 544 resampled
            pyramid = self.neck(_resized(images, (height + down, width + right)), self.backbone(images))
        else:
            if right or down:  # with zeros, the weights' mean color, which the convolutions' own padding holds
                images = F.pad(images, (0, right, 0, down))
            pyramid = self.neck(images, self.backbone(images))
        found = self._all_logits(pyramid) if auxiliary else [self.head(self.decoder(pyramid))]
        return [_resized(scores, (height, width)) if stretched else scores[..., :height, :width] for scores in found]

    def _all_logits(self, pyramid: list[Tensor]) -> list[Tensor]:
        if isinstance(self.decoder, HasAuxiliaryOutputs):
            decoded, others = self.decoder.forward_with_auxiliary(pyramid)
        else:
            decoded, others = self.decoder(pyramid), []
        if self.auxiliary is not None:
            others = [*others, self.auxiliary(pyramid)]
        return [self.head(decoded), *others]

    def unused_parameters(self) -> set[str]:
        """Names of parameters that the logits do not depend on, such as the backbone's classifier."""
        return {f"backbone.{name}" for name in self.backbone.unused_parameters()}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that timm exempts from weight decay, such as tokens and tables of position biases."""
        patterns: Collection[str] = getattr(self.backbone.model, "no_weight_decay", set)()
        names = [name for name, _ in self.backbone.model.named_parameters()]
        return {f"backbone.model.{name}" for pattern in patterns for name in fnmatch.filter(names, pattern)}

    @property
    def has_lora(self) -> bool:
        """Whether the backbone has low-rank adapters."""
        return self._spec["lora"] is not None

    def add_lora(self, lora: Mapping[str, Any]) -> None:
        """Add low-rank adapters to the backbone.

        Args:
            lora: the arguments of `add_lora`.
        """
        add_lora(self.backbone, **lora)
        self._spec["lora"] = dict(lora)

    def load_matching_weights(self, source: "Segmenter") -> tuple[list[str], list[str]]:
        """Take over the weights of another model that fit by name and shape, and its normalization unless one was said.

        Args:
            source: whose adapters are merged, if it has some.

        Returns:
            Names of the tensors that were taken, and of those that keep what they had.
        """
        source.merge_adapters()
        own, given = self.state_dict(), source.state_dict()
        taken = [name for name, tensor in own.items() if name in given and given[name].shape == tensor.shape]
        self.load_state_dict({name: given[name] for name in taken}, strict=False)
        if source.backbone.in_channels == self.backbone.in_channels:
            for name in {"mean", "std"} - self._said:
                getattr(self, name).copy_(getattr(source, name))
        return taken, [name for name in own if name not in taken]

    def merge_adapters(self) -> None:
        """Fold the low-rank adapters into the weights; the outputs stay the same to the last bit."""
        if self.has_lora:
            merge_lora(self.backbone)
            self._spec["lora"] = None

    def layer_groups(self, fine: bool = False) -> list[list[str]]:
        """Names of the backbone's parameters that train, in groups from stem to top.

        Args:
            fine: every block by itself instead of every stage.
        """
        return [[f"backbone.{name}" for name in group] for group in self.backbone.layer_groups(fine)]

    def sharding_candidates(self) -> list[nn.Module]:
        """Return the backbone's modules and the decoder."""
        return [*self.backbone.model.children(), self.decoder]

    def empty_copy(self) -> "Segmenter":
        """Return a model of the same config and type, with random weights, on the CPU."""
        copy = Segmenter.from_config(self.config()).to(self.mean.dtype)
        copy.backbone.model.pretrained_cfg = self.backbone.pretrained_cfg  # license and interpolation of the weights
        return copy

    def config(self) -> dict[str, Any]:
        """Plain data that `from_config` builds the same model from, without its weights."""
        cfg = self.backbone.pretrained_cfg
        return {
            **self._spec,
            "mean": (self.mean.flatten() / 255).tolist(),
            "std": (self.std.flatten() / 255).tolist(),
            "interpolation": str(cfg.get("interpolation", "bilinear")),
            "weights_license": str(cfg.get("license") or "unknown"),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], weights: str = "none") -> "Segmenter":
        """The model of a `config()`, with random weights unless others are named, and the same normalization.

        Names are looked up in timm and in our own table of heads, so a stranger's config cannot run code.
        """
        model = cls(
            config["backbone"],
            config["head"],
            config["classes"],
            weights=weights,
            in_channels=config["in_channels"],
            backbone_options=config["backbone_options"],
            head_options=config["head_options"],
            neck=config["neck"],
            window=config.get("window"),  # not in models of earlier versions, as the next one
            output_stride=config.get("output_stride"),
            grad_checkpointing=config["grad_checkpointing"],
            lora=config.get("lora"),
            auxiliary=config.get("auxiliary"),
        )
        model.mean.copy_(torch.tensor(config["mean"]).view(1, -1, 1, 1) * 255)
        model.std.copy_(torch.tensor(config["std"]).view(1, -1, 1, 1) * 255)
        return model


def _resized(maps: Tensor, size: Size) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
