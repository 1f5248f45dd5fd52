"""What all models have in common: a pretrained backbone, and a neck that makes a pyramid of its feature maps."""

import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from finetune.models.backbone import Backbone
from finetune.models.blending import SlidingWindow
from finetune.models.classes import MOST_CLASSES, class_names
from finetune.models.features import read_maps, read_pools, read_tokens
from finetune.models.heads import PyramidSpec
from finetune.models.input_size import Size
from finetune.models.lora import add_lora, merge_lora
from finetune.models.neck import PyramidNeck
from finetune.models.normalization import check_statistics
from finetune.models.sliding_window import check_window
from finetune.models.state_dicts import State
from finetune.models.tunable_model import TunableModel
from finetune.models.views import Views

MOST_REDUCTION = 8  # bounds what an untrusted config can ask for
UNKNOWN = "unknown"  # license of weights that no one names


class PyramidModel(TunableModel):
    """A backbone with a neck, without a head.

    A subclass builds its head for `self.pyramid` and then calls `_finish`.

    Args:
        backbone: a timm model name.
        head: name of the head, for the config.
        classes: number of classes, or their names.
        weights: weights of the backbone: `pretrained`, `none`, `package:<distribution>`, or a file.
        in_channels: number of image channels.
        backbone_options: further arguments of `timm.create_model`.
        head_options: further arguments of the head.
        neck: `interpolate` or `learned`: resampling of feature maps whose strides are not those of the pyramid.
        image_size: (height, width) in pixels for a fixed-size backbone; None for the pretraining size.
        window: (height, width) in pixels of the training crops of a fixed-size backbone; see the subclasses.
        output_stride: stride of the coarsest feature map: 8, 16 or 32; None for the head's default.
        default_stride: the head's default.
        takes_tokens: whether the head reads the prefix tokens of a plain ViT.
        takes_pools: whether the head reads the indices of the backbone's max-poolings.
        mean: mean of each channel, in 0..1, for normalization; None for the weights' own.
        std: standard deviation of each channel, in 0..1, for normalization; None for the weights' own.
        grad_checkpointing: recompute the backbone's activations in the backward pass instead of storing them.
        lora: arguments of `add_lora` for low-rank adapters of the backbone, or None for no adapters.

    Attributes:
        pyramid: what the head reads.
        sliding_window: outside of training, larger images are predicted in these windows. It is not in the config.

    Raises:
        ValueError: if the backbone or an option is unknown, or the weights are not available.
    """

    mean: Tensor
    std: Tensor
    sliding_window = SlidingWindow()

    def __init__(
        self,
        backbone: str,
        head: str,
        classes: int | Sequence[str],
        *,
        weights: str,
        in_channels: int,
        backbone_options: Mapping[str, Any] | None,
        head_options: Mapping[str, Any] | None,
        neck: str,
        image_size: Size | None,
        window: Size | None,
        output_stride: int | None,
        default_stride: int,
        takes_tokens: bool,
        takes_pools: bool,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        grad_checkpointing: bool,
        lora: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        check_statistics(in_channels, mean=mean, std=std)
        stride = output_stride or default_stride
        self.class_names = class_names(classes)
        self.backbone = Backbone(
            backbone, weights, in_channels, stride, backbone_options, image_size, grad_checkpointing
        )
        self.window = self._supported_window(window)
        self._lora = lora
        is_known = weights == "pretrained" or weights.startswith("package:")  # nobody knows whose a file of weights is
        self.weights_license = str((self.backbone.pretrained_cfg.get("license") if is_known else None) or UNKNOWN)
        self.base_model = self.backbone.pretrained_cfg.get("hf_hub_id") if weights == "pretrained" else None
        with_tokens = takes_tokens and self.backbone.is_single_stride
        keep_strides = with_tokens and self.backbone.strides[0].bit_count() == 1  # decoders scale by powers of two
        self.neck = PyramidNeck(in_channels, self.backbone.levels, neck, keep_strides, stride)
        self._check_output_stride(output_stride)
        pools = self.backbone.pools if takes_pools else ()
        tokens = self.backbone.num_prefix_tokens if with_tokens else 0
        self.pyramid = PyramidSpec(self.neck.channels, self.neck.strides, pools, tokens)
        self._set_normalization(mean, std)
        self._arguments: dict[str, Any] = {
            "backbone": backbone,
            "head": head,
            "classes": list(self.class_names),
            "in_channels": in_channels,
            "head_options": dict(head_options or {}),
            "neck": neck,
            "output_stride": output_stride,
            "grad_checkpointing": grad_checkpointing,
            "backbone_options": self.backbone.options,
            "window": None if self.window is None else list(self.window),
            "lora": None,
        }

    def _finish(self, levels: Collection[int]) -> None:
        """Compute only these maps of the pyramid, by their positions in its list, and add adapters."""
        reader = read_pools if self.pyramid.pools else read_tokens if self.pyramid.tokens else read_maps
        self.backbone.select_features(self.neck.select_levels(sorted(levels)), reader)
        if self._lora is not None:
            self.add_lora(self._lora)

    def _supported_window(self, window: Size | None) -> Size | None:
        """Return the window for a fixed-size backbone; None for backbones of any size."""
        if window is None or self.backbone.input_size.only is None:
            return None
        check_window(window)
        return window[0], window[1]

    def _check_output_stride(self, output_stride: int | None) -> None:
        if output_stride is not None and self.neck.strides[-1] > output_stride:
            raise ValueError(
                f"backbone.output_stride={output_stride}: {self.backbone.name} cannot be dilated; its coarsest map has "
                f"stride {self.neck.strides[-1]}. Set it to null, or choose another backbone, such as resnet50."
            )

    def _set_normalization(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        self._given_statistics = {name for name, value in (("mean", mean), ("std", std)) if value is not None}
        for name, given, default in zip(("mean", "std"), (mean, std), self.backbone.normalization(), strict=True):
            values = torch.tensor(default if given is None else given, dtype=torch.float32)
            self.register_buffer(name, values.view(1, -1, 1, 1) * 255, persistent=False)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize images by mean and standard deviation.

        Args:
            images: (B, C, H, W), uint8 in 0..255.

        Returns:
            (B, C, H, W) in the dtype of the weights and in channels-last format, in which the model is fastest.
        """
        images = images.to(self.mean.dtype, memory_format=torch.channels_last, copy=True)
        return images.sub_(self.mean).div_(self.std)

    def unused_parameters(self) -> set[str]:
        """Return names of parameters that the logits do not depend on, such as the backbone's classifier."""
        return {f"backbone.{name}" for name in self.backbone.unused_parameters()}

    def no_weight_decay(self) -> set[str]:
        """Return names of parameters that timm exempts from weight decay, such as tokens and position biases."""
        patterns: Collection[str] = getattr(self.backbone.model, "no_weight_decay", set)()
        names = [name for name, _ in self.backbone.model.named_parameters()]
        return {f"backbone.model.{name}" for pattern in patterns for name in fnmatch.filter(names, pattern)}

    @property
    def has_lora(self) -> bool:
        """Whether the backbone has low-rank adapters."""
        return self._arguments["lora"] is not None

    def add_lora(self, lora: Mapping[str, Any]) -> None:
        """Add low-rank adapters to the backbone.

        Args:
            lora: the arguments of `add_lora`.
        """
        add_lora(self.backbone, **lora)
        self._arguments["lora"] = dict(lora)

    def load_matching_weights(self, source: "PyramidModel") -> tuple[list[str], list[str]]:
        """Load the weights of another model that match by name and shape, and its normalization if none was given.

        If the names of the classes differ, what the classifier has for a class goes to the class of the same name;
        names that are only numbers stand for places. Tensors that mix classes, or have other rows than one for each, as
        in `mask_rcnn`, `yolact` and `mask_transformer`, are not loaded then.

        Args:
            source: the other model; its adapters are merged.

        Returns:
            Names of the tensors that were loaded, and of the others.
        """
        source.merge_adapters()
        own, given = self.state_dict(), source.state_dict()
        names = source.class_names, self.class_names
        if len(set(names)) == 2 and all(each != class_names(len(each)) for each in names):
            given = self._classifier_by_name(source.class_names, own, given)
        loaded = [name for name, tensor in own.items() if name in given and given[name].shape == tensor.shape]
        self.load_state_dict({name: given[name] for name in loaded}, strict=False)
        if source.backbone.in_channels == self.backbone.in_channels:
            for name in {"mean", "std"} - self._given_statistics:
                getattr(self, name).copy_(getattr(source, name))
        return loaded, [name for name in own if name not in loaded]

    def _classifier_by_name(self, names: Sequence[str], own: State, given: State) -> dict[str, Tensor]:
        """Return the given weights, with rows of the classifier for classes of the same name, and no others of it.

        Args:
            names: of the given weights' classes.
            own: state of this model.
            given: state of the other one.
        """
        with torch.device("meta"):
            count = len(self.class_names)
            another = count + 1 if count < MOST_CLASSES else count - 1
            resized = self.from_config({**self.config(), "classes": another}).state_dict()
        changes = [name for name, tensor in own.items() if resized[name].shape != tensor.shape]
        weights = {name: tensor for name, tensor in given.items() if name not in changes}
        here = [k for k, name in enumerate(self.class_names) if name in names]
        there = [names.index(self.class_names[k]) for k in here]
        for name in changes:
            one, other = own[name], given.get(name)
            is_by_class = other is not None and len(one) == self.classes and len(other) == len(names)
            if here and other is not None and is_by_class and one.shape[1:] == other.shape[1:]:
                weights[name] = one.clone()
                weights[name][here] = other[there]
        return weights

    def merge_adapters(self) -> None:
        """Merge the low-rank adapters into the weights, if there are any; the outputs stay bit-identical."""
        if self.has_lora:
            merge_lora(self.backbone)
            self._arguments["lora"] = None

    def layer_groups(self, fine: bool = False) -> list[list[str]]:
        """Return names of the backbone's used parameters, in groups from stem to top.

        Args:
            fine: one group per block instead of one per stage.
        """
        return [[f"backbone.{name}" for name in group] for group in self.backbone.layer_groups(fine)]

    def empty_copy(self) -> Self:
        """Return a model of the same config and type, with random weights, on the CPU."""
        copy = type(self).from_config(self.config()).to(self.mean.dtype)
        copy.sliding_window = self.sliding_window
        copy.backbone.weights = self.backbone.weights
        copy.backbone.model.pretrained_cfg = self.backbone.pretrained_cfg  # interpolation of the weights
        return copy

    def config(self) -> dict[str, Any]:
        """Return plain data from which `from_config` builds the same model, without its weights."""
        cfg = self.backbone.pretrained_cfg
        return {
            **self._arguments,
            "mean": (self.mean.flatten() / 255).tolist(),
            "std": (self.std.flatten() / 255).tolist(),
            "interpolation": str(cfg.get("interpolation", "bilinear")),
            "weights_license": self.weights_license,
            "views": None if self.views is None else self.views.config(),
            "reduce": self.reduce,
            "temperature": self.temperature,
            "base_model": self.base_model,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], weights: str = "none") -> Self:
        """Build the model of a `config()`, with the same normalization.

        Names are looked up in timm and in the table of heads, so that an untrusted config cannot run code.

        Args:
            config: plain data of `config()`.
            weights: weights of the backbone, as in the constructor; random by default.
        """
        head_options = dict(config["head_options"] or {})
        head_options.pop("weights", None)  # no file that an untrusted config names is read
        model = cls(
            config["backbone"],
            config["head"],
            config["classes"],
            weights=weights,
            in_channels=config["in_channels"],
            backbone_options=config["backbone_options"],
            head_options=head_options,
            neck=config["neck"],
            window=config.get("window"),  # models of earlier versions lack some keys
            output_stride=config.get("output_stride"),
            grad_checkpointing=config["grad_checkpointing"],
            lora=config.get("lora"),
            **({"auxiliary": config["auxiliary"]} if config.get("auxiliary") is not None else {}),
        )
        model.views = Views(**config["views"]) if config.get("views") else None
        model.reduce = int(config.get("reduce", 1))
        if not 1 <= model.reduce <= MOST_REDUCTION:
            raise ValueError(f"reduce={model.reduce}: expected a number from 1 to {MOST_REDUCTION}.")
        model.temperature = float(config.get("temperature", 1.0))
        model.base_model = config.get("base_model")
        if weights == "none":
            model.weights_license = str(config.get("weights_license", UNKNOWN))
        if not 0 < model.temperature < math.inf:
            raise ValueError(f"temperature={model.temperature}: expected a number above 0.")
        model.mean.copy_(torch.tensor(config["mean"]).view(1, -1, 1, 1) * 255)
        model.std.copy_(torch.tensor(config["std"]).view(1, -1, 1, 1) * 255)
        return model
