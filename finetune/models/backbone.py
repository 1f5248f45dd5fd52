"""Any timm model as a backbone: the full model, read through `forward_intermediates`."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, is_tensor, nn
from torch.nn import functional as F

from finetune.models.feature_levels import Level, feature_levels
from finetune.models.features import Reader, num_prefix_tokens, pooled_channels, read_maps
from finetune.models.grad_checkpointing import enable_grad_checkpointing, update_bn_stats_once
from finetune.models.input_size import Size, family, input_size, size_options
from finetune.models.layer_groups import layer_groups
from finetune.models.timm_factory import check_name, create_model, default_classes

PROBE = (64, 96)  # height and width of the dummy input, pixels: not square, and odd at stride 32
# families with layers that no feature map depends on and that timm's pruning keeps; ordered, so parallel tests agree
SIDE_BRANCH_FAMILIES = ("coat", "crossvit", "efficientvim", "hrnet")
SIZE_TOLERANCE = 0.3  # fraction by which the size of an irregular feature map may differ from its nominal size


class Backbone(nn.Module):
    """A timm model that returns its feature maps.

    The full timm model is kept: its weights go back into `timm.create_model` unchanged, and its `group_matcher` orders
    its layers. Layers that no feature map depends on (classifier, last norm) keep their weights, but
    `unused_parameters` names them, so that they are not trained.

    Args:
        name: a timm model name, with or without a pretrained tag.
        weights: `pretrained`, `none`, `package:<distribution>`, or a file in timm's format.
        in_channels: number of image channels; a pretrained stem is adapted to it.
        output_stride: 32, or 8 or 16 for heads that need a dilated backbone; models that cannot be dilated keep their
            own.
        options: further arguments of `timm.create_model`, such as `drop_path_rate`.
        image_size: (height, width) in pixels for a fixed-size backbone; its position embeddings and windows are
            resampled. None for the pretraining size. Ignored by backbones of any size.
        grad_checkpointing: recompute activations in the backward pass instead of storing them.

    Attributes:
        weights: source of the weights.
        options: arguments of `timm.create_model` for a model that fits these weights.
        levels: the feature maps that are returned, fine to coarse.
        input_size: the image sizes that the model accepts; other images are resampled.

    Raises:
        WeightsError: if the weights are not available, or do not match the model name by name.
        ValueError: if the name is unknown, or the model has no feature maps.
    """

    model: Any  # timm is not typed

    def __init__(
        self,
        name: str,
        weights: str = "pretrained",
        in_channels: int = 3,
        output_stride: int = 32,
        options: Mapping[str, Any] | None = None,
        image_size: Size | None = None,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_name(name)
        self.name = name
        self.weights = weights
        self.in_channels = in_channels
        self.options = {**dict(options or {}), **size_options(name, image_size, options or {})}
        self.model, dilated = create_model(name, weights, in_channels, output_stride, self.options)
        self.model.pretrained_cfg.pop("state_dict", None)  # or memory would hold the weights twice
        if "num_classes" in self.model.pretrained_cfg and self.model.num_classes != default_classes(name):
            self.options["num_classes"] = int(self.model.num_classes)  # the weights have another classifier, or none
        self.levels = _levels(self.model, name, output_stride, dilated)
        self.input_size = input_size(name, self.options, self.strides)
        self.grad_checkpointing = grad_checkpointing
        self._read: Reader = read_maps
        if grad_checkpointing:
            enable_grad_checkpointing(self.model, name)
        self._maps_checked = False

    @property
    def pools(self) -> tuple[int, ...]:
        """Channels of the feature maps that a 2x2 max-pooling halves, fine to coarse; empty for most backbones."""
        return pooled_channels(self.model)

    @property
    def num_prefix_tokens(self) -> int:
        """Number of class and register tokens that come with each feature map."""
        return num_prefix_tokens(self.model)

    @property
    def is_single_stride(self) -> bool:
        """Whether it has four feature maps of one stride, like a plain ViT."""
        return len(self.levels) == 4 and len(set(self.strides)) == 1

    def select_features(self, indices: Collection[int], reader: Reader = read_maps) -> None:
        """Return only these feature maps from now on; layers that only other maps depend on become unused.

        Args:
            indices: a subset of `self.indices`.
            reader: `read_pools` or `read_tokens` to return a list of further tensors after the maps.
        """
        self.levels = [level for level in self.levels if level.index in indices]
        self._read = reader
        self._maps_checked = False

    @property
    def indices(self) -> tuple[int, ...]:
        """Indices of the feature maps among the model's intermediate features."""
        return tuple(sorted({level.index for level in self.levels}))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the feature maps, fine to coarse."""
        return tuple(level.channels for level in self.levels)

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the feature maps, fine to coarse; approximate for irregular maps."""
        return tuple(level.native_stride for level in self.levels)

    def forward(self, images: Tensor) -> list[Any]:
        """Return the feature maps of images.

        Images of a size that the backbone does not accept are resampled, bilinearly, to the next size that it does.

        Args:
            images: (B, C, H, W).

        Returns:
            Maps (B, channels[i], H / strides[i], W / strides[i]), fine to coarse; then the list of the further tensors
            of the reader, if it has any.

        Raises:
            ValueError: on the first call, if the maps are not as timm declares them.
        """
        height, width = images.shape[-2:]
        size = self.input_size.fit(height, width)
        if size != (height, width):
            is_smaller = size[0] < height or size[1] < width
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=is_smaller)
        if self.grad_checkpointing:
            update_bn_stats_once(self.model)  # at every call, as synchronized batch norms may have replaced others
        maps, extra_tensors = self._read(self.model, images, self.indices)
        features = [maps[level.index] for level in self.levels]
        if not self._maps_checked and not torch.compiler.is_compiling():
            self._check_maps(features, images.shape[-2:])
        return [*features, *([extra_tensors] if extra_tensors else [])]

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """Timm's description of the weights: mean, std, interpolation, license, source."""
        return dict(self.model.pretrained_cfg)

    def normalization(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation per channel, of intensities in 0..1, that the weights were trained with.

        Further channels get the average over the weights' channels; so do all channels where there are fewer.
        """
        mean, std = (_for_channels(self.pretrained_cfg[key], self.in_channels) for key in ("mean", "std"))
        return mean, std

    def dummy_input(self) -> Tensor:
        """Return a small image of zeros (1, C, H, W), float32, of a size that the backbone accepts."""
        return torch.zeros(1, self.in_channels, *self.input_size.fit(*PROBE))

    @torch.no_grad()
    def smoke_test(self) -> None:
        """Run a dummy input, so that a model that does not work is found before training starts.

        Raises:
            ValueError: if the forward pass fails, or the maps are not as timm declares them.
        """
        try:
            with _eval_mode(self):
                self(self.dummy_input())
        except (RuntimeError, AssertionError, TypeError) as error:
            height, width = self.input_size.fit(*PROBE)
            raise ValueError(
                f"backbone '{self.name}' fails on an image of {height}x{width} pixels: "
                f"{str(error)[:300] or type(error).__name__}"
            ) from error

    def _check_maps(self, features: list[Tensor], image_size: Sequence[int]) -> None:
        """Raise ValueError unless the maps have about the size of their strides and the declared channels."""
        for level, feature in zip(self.levels, features, strict=True):
            channels, *size = feature.shape[1:]
            expected = [side / level.native_stride for side in image_size]
            is_near = all(abs(a - b) <= 1 + SIZE_TOLERANCE * b for a, b in zip(size, expected, strict=True))
            if not is_near or channels != level.channels:
                raise ValueError(
                    f"backbone '{self.name}' turns {image_size[0]}x{image_size[1]} pixels into a map of {channels} "
                    f"channels and {size} pixels; its stride of {level.native_stride} implies {level.channels} "
                    f"channels and {expected} pixels. No head fits it; choose another backbone."
                )
        self._maps_checked = True

    def _side_branch_parameters(self) -> set[str]:
        """Return names of parameters that no feature map depends on, in families where pruning does not find them."""
        if family(self.name) not in SIDE_BRANCH_FAMILIES:
            return set()
        # a copy that shares the weights but trains all of them: the answer must not depend on what is frozen
        shared: dict[int, Any] = {id(tensor): tensor for tensor in _held_tensors(self)}
        shared |= {id(p): nn.Parameter(p.detach()) for p in self.parameters()}
        trainable_copy = copy.deepcopy(self, shared).eval()
        parameters = dict(trainable_copy.named_parameters())
        reference = next(iter(parameters.values()))
        maps = trainable_copy(trainable_copy.dummy_input().to(reference))
        total = sum((feature.sum() for feature in maps[: len(self.levels)]), reference.new_zeros(()))
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None}

    def unused_parameters(self) -> set[str]:
        """Return names of parameters that no feature map depends on: they get no gradient."""
        pruned = copy.deepcopy(self.model, {id(tensor): tensor for tensor in _held_tensors(self.model)})
        pruned.prune_intermediate_layers(list(self.indices), prune_norm=True, prune_head=True)
        used = {f"model.{name}" for name, _ in pruned.named_parameters()} - self._side_branch_parameters()
        return {name for name, _ in self.named_parameters() if name not in used}

    def layer_groups(self, fine: bool = False) -> list[list[str]]:
        """Return names of the parameters that feature maps depend on, in groups from stem to top.

        Args:
            fine: one group per block instead of one per stage.
        """
        unused = self.unused_parameters()
        used = {name for name, _ in self.model.named_parameters() if f"model.{name}" not in unused}
        return [[f"model.{name}" for name in group] for group in layer_groups(self.model, used, fine)]


def _for_channels(values: Sequence[float], channels: int) -> list[float]:
    """Return one value per channel.

    >>> _for_channels([0.25, 0.5, 0.75], 1), _for_channels([0.25, 0.5, 0.75], 4)
    ([0.5], [0.25, 0.5, 0.75, 0.5])
    """
    average = sum(values) / len(values)
    return [*values, *[average] * (channels - len(values))] if channels >= len(values) else [average] * channels


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Set every module to eval, then restore the mode of each: frozen modules may have been in eval before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _held_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield every tensor that a copy may share with the model: weights, buffers, and caches of a forward pass."""
    for module in model.modules():
        for held in vars(module).values():
            yield from (value for value in (held.values() if isinstance(held, dict) else (held,)) if is_tensor(value))


def _levels(model: Any, name: str, output_stride: int, dilated: bool) -> list[Level]:
    info = getattr(model, "feature_info", None)
    if info is None or not hasattr(model, "forward_intermediates"):
        raise ValueError(f"backbone '{name}' does not return intermediate features. Choose another backbone.")
    entries = list(info.info if hasattr(info, "info") else info)
    if family(name) == "tresnet":  # timm declares stride 2 for its first map, which has the size of the second
        entries[0] = {**entries[0], "reduction": entries[1]["reduction"]}
    return feature_levels(entries, output_stride, dilated)
