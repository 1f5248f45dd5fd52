"""Any timm convolutional pyramid as a backbone: the full model, read through `forward_intermediates`."""

import copy
import difflib
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from finetune.models.layers import layer_groups
from finetune.models.weights import WeightsError, pretrained_arguments, unavailable

STRIDES = (2, 4, 8, 16, 32)
# arguments of timm.create_model that fetch or read something, or change what kind of model comes out
NOT_OPTIONS = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    *("features_only", "in_chans", "output_stride"),
}
PROBE = (64, 96)  # pixels, of the picture that a new backbone is tried with: odd at stride 32


class Backbone(nn.Module):
    """A timm model that returns its feature pyramid.

    The model is timm's own, whole: its weights go back into `timm.create_model` unchanged, and it keeps
    `group_matcher`, which orders its layers. Layers that the pyramid does not reach (classifier, last norm) keep
    their weights but are named by `unused_parameters`, so that nobody trains them.

    Args:
        name: a timm model name, with or without a pretrained tag.
        weights: `pretrained`, `none`, `package:<distribution>`, or a file in timm's format.
        in_channels: channels of the images; a pretrained stem is adapted to them.
        output_stride: 32, or 8 or 16 for heads that want a dilated backbone; models that cannot be dilated
            keep their own.
        options: further arguments of `timm.create_model`, such as `drop_path_rate`.

    Attributes:
        weights: where they came from.
        options: arguments of `timm.create_model` that make a model these weights fit.

    Raises:
        WeightsError: the weights that were asked for cannot be had.
        ValueError: unknown name, or a model without a pyramid.
    """

    model: Any  # timm is not typed

    def __init__(
        self,
        name: str,
        weights: str = "pretrained",
        in_channels: int = 3,
        output_stride: int = 32,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_name(name)
        self.name = name
        self.weights = weights
        self.in_channels = in_channels
        self.model = _create(name, weights, in_channels, output_stride, dict(options or {}))
        self.model.pretrained_cfg.pop("state_dict", None)  # or the weights would be held twice
        self.options = dict(options or {})
        if "num_classes" in self.model.pretrained_cfg and self.model.num_classes != _default_classes(name):
            self.options["num_classes"] = int(self.model.num_classes)  # a file with a classifier of its own
        levels = _pyramid_levels(self.model, name)
        self.strides = tuple(levels)
        self.indices = tuple(levels.values())
        self.channels = tuple(int(self.model.feature_info[i]["num_chs"]) for i in self.indices)
        self._try()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, channels[i], H / strides[i], W / strides[i]), fine to coarse, of images (B, C, H, W)."""
        features: list[Tensor] = self.model.forward_intermediates(
            images, indices=list(self.indices), norm=False, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        return features

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """What timm knows of the weights: mean, std, interpolation, licence, source."""
        return dict(self.model.pretrained_cfg)

    def normalization(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel, of intensities in 0..1, that the weights were trained with.

        Where the images have another number of channels, each takes the average over the weights' own.
        """
        mean, std = list(self.pretrained_cfg["mean"]), list(self.pretrained_cfg["std"])
        if len(mean) != self.in_channels:
            mean, std = ([sum(values) / len(values)] * self.in_channels for values in (mean, std))
        return mean, std

    @torch.no_grad()
    def _try(self) -> None:
        """Raise unless the maps of a small picture are of the sizes that the strides say."""
        self.eval()
        expected = [(PROBE[0] // stride, PROBE[1] // stride) for stride in self.strides]
        try:
            found = [tuple(features.shape[2:]) for features in self(torch.zeros(1, self.in_channels, *PROBE))]
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(
                f"backbone '{self.name}' does not take images of any size: {PROBE[0]}x{PROBE[1]} pixels fail with: "
                f"{error or type(error).__name__}"
            ) from error
        if found != expected:
            raise ValueError(
                f"backbone '{self.name}' turns {PROBE[0]}x{PROBE[1]} pixels into maps of {found}, where its strides "
                f"{self.strides} would give {expected}; no head fits that."
            )
        self.train()

    def unused_parameters(self) -> set[str]:
        """Names of parameters that no feature map depends on: they get no gradient."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        structure = copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors})  # shares every weight
        structure.prune_intermediate_layers(list(self.indices), prune_norm=True, prune_head=True)
        kept = {name for name, _ in structure.named_parameters()}
        return {f"model.{name}" for name, _ in self.model.named_parameters() if name not in kept}

    def layer_groups(self, fine: bool = False) -> list[list[str]]:
        """Names of the parameters that feature maps depend on, in groups from stem to top.

        Args:
            fine: every block by itself instead of every stage.
        """
        unused = self.unused_parameters()
        used = {name for name, _ in self.model.named_parameters() if f"model.{name}" not in unused}
        return [[f"model.{name}" for name in group] for group in layer_groups(self.model, used, fine)]


def check_name(name: str) -> None:
    """Raise a ValueError with the nearest names unless timm knows this one."""
    if not timm.is_model(name) or ("." in name and name not in timm.list_pretrained()):
        near = difflib.get_close_matches(name, timm.list_models() + timm.list_pretrained(), n=5)
        hint = f"Did you mean {', '.join(near)}?" if near else "`timm.list_models()` names them all."
        raise ValueError(f"unknown backbone '{name}': timm has no model of that name. {hint}")


def _default_classes(name: str) -> int:
    config = timm.get_pretrained_cfg(name)
    return 1000 if config is None else int(config.num_classes)


def _create(name: str, weights: str, in_channels: int, output_stride: int, options: dict[str, Any]) -> nn.Module:
    if refused := sorted(set(options) & NOT_OPTIONS):
        raise ValueError(
            f"backbone.options may not hold {refused}: weights come by backbone.weights, channels by "
            f"backbone.in_channels, and the rest is for the head to say."
        )
    arguments = {**pretrained_arguments(name, weights), "in_chans": in_channels, **options}
    try:
        if output_stride != 32:
            return _create_dilated(name, output_stride, arguments)
        return timm.create_model(name, **arguments)  # type: ignore[no-any-return]  # timm is not typed
    except TypeError as error:
        raise ValueError(f"backbone.options={options} do not suit {name}: {error}") from error
    except (OSError, RuntimeError, KeyError) as error:
        if weights == "pretrained":
            raise WeightsError(unavailable(name, str(error).strip() or type(error).__name__)) from error
        raise WeightsError(f"weights '{weights}' do not fit {name}: {str(error).strip()[:600]}") from error


def _create_dilated(name: str, output_stride: int, arguments: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, output_stride=output_stride, **arguments)  # type: ignore[no-any-return]
    except (TypeError, AssertionError, NotImplementedError):  # how timm's families say that they cannot be dilated
        return timm.create_model(name, **arguments)  # type: ignore[no-any-return]


def _pyramid_levels(model: nn.Module, name: str) -> dict[int, int]:
    """Stride -> index of the deepest feature map of that stride.

    Stride 1 is left out, as decoders end at the image anyway, and so is all beyond 32.
    """
    info = getattr(model, "feature_info", None)
    if info is None or not hasattr(model, "forward_intermediates"):
        raise ValueError(f"backbone '{name}' does not give its intermediate features, so no head fits it.")
    levels = {int(entry["reduction"]): index for index, entry in enumerate(info)}
    if len(set(levels)) < 3 or any(stride not in (1, *STRIDES, 64) for stride in levels):
        raise ValueError(
            f"backbone '{name}' gives feature maps of strides {sorted(levels)}; a pyramid of at least three "
            f"out of {STRIDES} is needed. Convolutional families such as resnet, efficientnet or convnext have one."
        )
    return {stride: index for stride, index in levels.items() if stride in STRIDES}
