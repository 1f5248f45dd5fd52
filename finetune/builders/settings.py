"""Names, types and defaults of config groups whose settings are not the arguments of one constructor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from finetune.data.caching.file_cache import Verify
from finetune.data.images.value_range import ValueRange
from finetune.data.objects import Grouping

Start = int | float | str | None  # of training: an epoch, a fraction of the training, plateau, never


@dataclass(frozen=True)
class BackboneSettings:
    """`backbone`: see conf/backbone/timm.yaml."""

    name: str | None = None
    weights: str | None = "pretrained"
    in_channels: int = 3
    reduce: int = 1
    image_size: int | tuple[int, int] | None = None
    output_stride: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    neck: str = "interpolate"
    grad_checkpointing: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSettings:
    """`data`: what all formats have in common."""

    format: str | None = "folder"
    val: float = 0.15
    test: float = 0.15
    splits: str | None = None
    group: str | None = "auto"
    stratify: bool = False
    folds: int | Literal["group"] | None = None
    fold: int | None = None
    value_range: ValueRange | None = None
    verify: Verify = "changed"
    cache: Literal["ram", "disk"] | None = None
    exclude: str | None = None
    clean_masks: int = 0
    instances: Grouping = "files"
    tiles: int | tuple[int, int] | None = None
    batch_size: int = 4
    num_workers: int = 0


@dataclass(frozen=True)
class Choice:
    """A group of which the name chooses who takes the other settings."""

    name: str


@dataclass(frozen=True)
class OptimizerSettings:
    """`optimizer`: see conf/optimizer/adamw.yaml."""

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TuningSettings:
    """`tuning`: see conf/tuning/full.yaml. Some only fill in the rules of a preset."""

    layers: Literal["stages", "blocks"] = "stages"
    unfreeze_at: Start = 0
    unfreeze_stagger: int | float | str = 0
    backbone_lr_scale: float = 1.0
    stem_lr_scale: float = 1.0
    layer_lr_decay: float = 1.0
    norms: str = "train"
    last: int = 2
    warmup: float = 0
    restart_schedule: bool = False
    phase_lr: Sequence[float] = (1.0,)
    l1: float = 0.0
    l2_sp: float = 0.0
    lora: Mapping[str, Any] | None = None
    plateau: Mapping[str, Any] = field(default_factory=dict)
    rules: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True)
class RecipeSettings:
    """`recipe`: see conf/recipe/default.yaml."""

    length: float = 1.0
    largest_crop: int | None = None


@dataclass(frozen=True)
class PlanSettings:
    """`plan`: see conf/plan.yaml."""

    measure: bool = False
    images: int | None = None
    figure: str = "plan.png"
