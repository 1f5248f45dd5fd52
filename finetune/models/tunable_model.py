"""The interface of a model that can be tuned."""

from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor, nn

from finetune.models.backbone import Backbone
from finetune.models.views import Views


class TunableModel(nn.Module, ABC):
    """What tuning, training and saving need of a model; how it predicts is between the model and its task.

    It is a base class and not a `Protocol`, because the code that takes it also needs an `nn.Module`, and Python has no
    type for both.

    Attributes:
        backbone: its parameters, and no others, have names that begin with `backbone.`.
        class_names: names of the classes, by index.
        reduce: outside of training, images are reduced to 1/reduce of their size, and logits enlarged again.
        takes_reduced: whether images have the reduced size already, as in a training. It is not in the config.
        temperature: outside of training, logits are divided by it, so that about 80 % of the pixels predicted with
            80 % are right.
        views: test-time augmentation: outside of training, outputs are means over these views; None for none.
    """

    backbone: Backbone
    class_names: tuple[str, ...]
    reduce: int = 1
    takes_reduced: bool = False
    temperature: float = 1.0
    views: Views | None = None

    @abstractmethod
    def normalize(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W), uint8, as the weights expect them: float, normalized."""

    def dense_outputs(self, images: Tensor) -> Tensor:
        """Return one tensor that depends on what costs most of a training step, to estimate it.

        Args:
            images: normalized (B, C, H, W).
        """
        outputs: Tensor = self(images)
        return outputs

    @abstractmethod
    def layer_groups(self, fine: bool = False) -> list[list[str]]:
        """Return the names of the backbone's trainable parameters, in groups from stem to top.

        Args:
            fine: one group per block instead of one per stage.
        """

    @abstractmethod
    def unused_parameters(self) -> set[str]:
        """Return the names of parameters that no output depends on; they are never trained."""

    @abstractmethod
    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that are exempt from weight decay, in addition to norms and biases."""

    @abstractmethod
    def sharding_candidates(self) -> list[nn.Module]:
        """Return the modules that FSDP2 may shard one by one, in the order in which they run."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return plain data from which the same model can be built, without its weights."""

    @abstractmethod
    def empty_copy(self) -> Self:
        """Return a model of the same config and type, with random weights, on the CPU."""

    @property
    @abstractmethod
    def has_lora(self) -> bool:
        """Whether the backbone has low-rank adapters."""

    @abstractmethod
    def merge_adapters(self) -> None:
        """Fold the low-rank adapters into the weights."""
