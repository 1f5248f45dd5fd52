"""Any timm model as a backbone: the full model, read through `forward_intermediates`."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, is_tensor, nn
from torch.nn import functional as F

from finetune.models.feature_levels import Level, feature_levels
from finetune.models.features import Reader, pooled_channels, read_maps, token_count
from finetune.models.grad_checkpointing import enable_grad_checkpointing, update_bn_stats_once
from finetune.models.input_size import Size, family, input_size, size_options
from finetune.models.layer_groups import layer_groups
from finetune.models.timm_factory import check_name, create, default_classes

PROBE = (64, 96)  # pixels, of the picture that a new backbone is tried with: odd at stride 32
# families with layers beside the maps, which timm's pruning leaves in; in order, for tests that run side by side
BESIDE = ("coat", "crossvit", "efficientvim", "hrnet")
TOLERANCE = 0.3  # share by which an irregular map may be larger or smaller than its stride says


class Backbone(nn.Module):
    """A timm model that returns its feature maps.

    The model is timm's own, whole: its weights go back into `timm.create_model` unchanged, and it keeps
    `group_matcher`, which orders its layers. Layers that the maps do not reach (classifier, last norm) keep
    their weights but are named by `unused_parameters`, so that nobody trains them.

    Args:
        name: a timm model name, with or without a pretrained tag.
        weights: `pretrained`, `none`, `package:<distribution>`, or a file in timm's format.
        in_channels: channels of the images; a pretrained stem is adapted to them.
        output_stride: 32, or 8 or 16 for heads that want a dilated backbone; models that cannot be dilated
            keep their own.
        options: further arguments of `timm.create_model`, such as `drop_path_rate`.
        image_size: height and width that a backbone is built for which takes one size alone, in pixels; its position
            embeddings and windows are resampled. None for the size of its weights. Others take any size.
        grad_checkpointing: compute activations anew in the backward pass instead of keeping them.

    Attributes:
        weights: where they came from.
        options: arguments of `timm.create_model` that make a model these weights fit.
        levels: the maps that are read, fine to coarse.
        input_size: the sizes that images are resampled to.

    Raises:
        WeightsError: the weights that were asked for cannot be had, or do not fit to the last name.
        ValueError: unknown name, or a model without feature maps.
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
        self.model, dilated = create(name, weights, in_channels, output_stride, self.options)
        self.model.pretrained_cfg.pop("state_dict", None)  # or the weights would be held twice
        if "num_classes" in self.model.pretrained_cfg and self.model.num_classes != default_classes(name):
            self.options["num_classes"] = int(self.model.num_classes)  # a file with a classifier of its own
        self.levels = _levels(self.model, name, output_stride, dilated)
        self.input_size = input_size(name, self.options, self.strides)
        self._read: Reader = read_maps
        self._during = update_bn_stats_once if grad_checkpointing else nullcontext
        if grad_checkpointing:
            enable_grad_checkpointing(self.model, name)
        self._tried = False

    @property
    def pools(self) -> tuple[int, ...]:
        """Channels of the maps that are halved by max-pooling of 2 x 2, fine to coarse; none for most backbones."""
        return pooled_channels(self.model)

    @property
    def tokens(self) -> int:
        """Class and register tokens that come with each map."""
        return token_count(self.model)

    @property
    def plain(self) -> bool:
        """Whether it has four maps of one stride, as plain ViTs do."""
        return len(self.levels) == 4 and len(set(self.strides)) == 1

    def select_features(self, indices: Collection[int], reader: Reader = read_maps) -> None:
        """Read no more maps than these from now on; layers that only others depend on are then unused.

        Args:
            indices: some of `indices`.
            reader: hands out more than maps, as a last element: `read_pools` or `read_tokens`.
        """
        self.levels = [level for level in self.levels if level.index in indices]
        self._read = reader
        self._tried = False

    @property
    def indices(self) -> tuple[int, ...]:
        """Places of the maps among the model's intermediate features."""
        return tuple(sorted({level.index for level in self.levels}))

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the maps, fine to coarse."""
        return tuple(level.channels for level in self.levels)

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the maps, fine to coarse; about right where they are irregular."""
        return tuple(level.given for level in self.levels)

    def forward(self, images: Tensor) -> list[Any]:
        """Feature maps (B, channels[i], H / strides[i], W / strides[i]), fine to coarse, of images (B, C, H, W).

        Images of a size that the backbone does not take are resampled, bilinearly, to the next one that it does. What
        `keep` asked for besides is a list behind the maps.

        Raises:
            ValueError: at the first time, maps that are not what timm says of them.
        """
        height, width = images.shape[-2:]
        size = self.input_size.fit(height, width)
        if size != (height, width):
            smaller = size[0] < height or size[1] < width
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=smaller)
        with self._during(self.model):
            maps, more = self._read(self.model, images, self.indices)
        found = [maps[level.index] for level in self.levels]
        if not self._tried and not torch.compiler.is_compiling():
            self._check(found, images.shape[-2:])
        return [*found, *([more] if more else [])]

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """What timm knows of the weights: mean, std, interpolation, license, source."""
        return dict(self.model.pretrained_cfg)

    def normalization(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel, of intensities in 0..1, that the weights were trained with.

        Channels beyond the weights' own take the average over these, and so do all where there are fewer.
        """
        mean, std = (_for_channels(self.pretrained_cfg[key], self.in_channels) for key in ("mean", "std"))
        return mean, std

    def dummy_input(self) -> Tensor:
        """The smallest picture (1, C, H, W) to try it with, float32; of the one size where there is no other."""
        return torch.zeros(1, self.in_channels, *self.input_size.fit(*PROBE))

    @torch.no_grad()
    def smoke_test(self) -> None:
        """Raise unless a small picture goes through, before a training finds out.

        Raises:
            ValueError: it does not, or its maps are not what timm says of them.
        """
        try:
            with _evaluated(self):
                self(self.dummy_input())
        except (RuntimeError, AssertionError, TypeError) as error:
            height, width = self.input_size.fit(*PROBE)
            raise ValueError(
                f"backbone '{self.name}' fails with a picture of {height}x{width} pixels: "
                f"{str(error)[:300] or type(error).__name__}"
            ) from error

    def _check(self, features: list[Tensor], size: Sequence[int]) -> None:
        """Raise unless the maps of a picture are about as large as their strides say."""
        for level, feature in zip(self.levels, features, strict=True):
            channels, *found = feature.shape[1:]
            expected = [side / level.given for side in size]
            near = all(abs(a - b) <= 1 + TOLERANCE * b for a, b in zip(found, expected, strict=True))
            if not near or channels != level.channels:
                raise ValueError(
                    f"backbone '{self.name}' turns {size[0]}x{size[1]} pixels into a map of {channels} channels and "
                    f"{found}, where its stride of {level.given} promises {level.channels} and {expected}; no head "
                    f"fits that."
                )
        self._tried = True

    def _beside(self) -> set[str]:
        """Names of parameters beside the maps, in families where pruning does not find them all."""
        if family(self.name) not in BESIDE:
            return set()
        # a copy that shares the numbers: whether the plan has frozen something must not matter
        shared: dict[int, Any] = {id(tensor): tensor for tensor in _tensors(self)}
        shared |= {id(p): nn.Parameter(p.detach()) for p in self.parameters()}
        twin = copy.deepcopy(self, shared).eval()
        parameters = dict(twin.named_parameters())
        like = next(iter(parameters.values()))
        maps = twin(twin.dummy_input().to(like))
        total = sum((feature.sum() for feature in maps[: len(self.levels)]), like.new_zeros(()))
        found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        return {name for name, gradient in zip(parameters, found, strict=True) if gradient is None}

    def unused_parameters(self) -> set[str]:
        """Names of parameters that no feature map depends on: they get no gradient."""
        structure = copy.deepcopy(self.model, {id(tensor): tensor for tensor in _tensors(self.model)})
        structure.prune_intermediate_layers(list(self.indices), prune_norm=True, prune_head=True)
        kept = {f"model.{name}" for name, _ in structure.named_parameters()} - self._beside()
        return {name for name, _ in self.named_parameters() if name not in kept}

    def layer_groups(self, fine: bool = False) -> list[list[str]]:
        """Names of the parameters that feature maps depend on, in groups from stem to top.

        Args:
            fine: every block by itself instead of every stage.
        """
        unused = self.unused_parameters()
        used = {name for name, _ in self.model.named_parameters() if f"model.{name}" not in unused}
        return [[f"model.{name}" for name in group] for group in layer_groups(self.model, used, fine)]


def _for_channels(values: Sequence[float], channels: int) -> list[float]:
    """As many values as channels.

    >>> _for_channels([0.25, 0.5, 0.75], 1), _for_channels([0.25, 0.5, 0.75], 4)
    ([0.5], [0.25, 0.5, 0.75, 0.5])
    """
    average = sum(values) / len(values)
    return [*values, *[average] * (channels - len(values))] if channels >= len(values) else [average] * channels


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Every module in eval for a while, and then as it was: a plan may have put some of them to rest."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Everything that a copy may share with the model: weights, buffers, and what a forward pass has left behind."""
    for module in model.modules():
        for held in vars(module).values():
            yield from (value for value in (held.values() if isinstance(held, dict) else (held,)) if is_tensor(value))


def _levels(model: Any, name: str, output_stride: int, dilated: bool) -> list[Level]:
    info = getattr(model, "feature_info", None)
    if info is None or not hasattr(model, "forward_intermediates"):
        raise ValueError(f"backbone '{name}' does not give its intermediate features, so no head fits it.")
    entries = list(info.info if hasattr(info, "info") else info)
    if family(name) == "tresnet":  # its first map is as large as the second, whatever timm says
        entries[0] = {**entries[0], "reduction": entries[1]["reduction"]}
    return feature_levels(entries, output_stride, dilated)
