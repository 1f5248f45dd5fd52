"""Find mistakes in the settings of the model, its loss and its task, before anything is built.

Some checks build a part without memory (on the meta device) to see whether its options make one.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from finetune.builders.loss import build_loss, check_class_weights, find_loss
from finetune.builders.model import auxiliary_options
from finetune.builders.task import find_task, task_settings
from finetune.builders.views import build_views
from finetune.config.compose import packaged_options
from finetune.config.errors import ConfigError
from finetune.config.options import Config, drop_name
from finetune.data.options import named_classes
from finetune.data.reduction import FACTORS
from finetune.data.statistics import class_weights
from finetune.io.messages import shortlist
from finetune.losses import LOSSES, HeadLoss
from finetune.models import MODELS, InstanceSegmenter
from finetune.models.feature_levels import COARSEST
from finetune.models.heads import HEADS, AuxiliaryHead, PyramidSpec, check_output_stride, head_spec
from finetune.models.heads.head_specs import check_output_stride_value
from finetune.models.instance_heads import INSTANCE_HEADS, FeaturePyramid
from finetune.models.normalization import check_statistics
from finetune.models.timm_factory import check_name
from finetune.tasks import SemanticTask
from finetune.tasks.pixel_task import check_several

# feature maps that every head takes with all of its options; what a backbone has is known once it is built
ANY_PYRAMID = PyramidSpec((3, 128, 256, 512, 512, 512), (1, 2, 4, 8, 16, 32), pools=(64, 128, 256, 512, 512), tokens=1)


def check_backbone(config: Config) -> None:
    """Raise a ConfigError unless timm knows the backbone."""
    settings = config["backbone"]
    if not settings["name"]:
        raise ConfigError("backbone.name is not set. Set it to a timm model, such as backbone.name=densenet121.")
    check_name(settings["name"])
    mean, std, channels = settings.get("mean"), settings.get("std"), settings["in_channels"]
    if channels == "auto":  # until the images are known, any number of them is right
        channels = len(mean or std or ())
    check_statistics(channels, mean=mean, std=std)


def check_reduction(config: Config) -> None:
    """Raise a ConfigError unless images are reduced by a factor that there is, and the task lets them be reduced."""
    factor = config["backbone"].get("reduce", 1)  # runs of earlier versions have none
    if factor not in FACTORS:
        raise ConfigError(f"backbone.reduce={factor}: expected 1 for images as they are, or 2, 4, 8 or auto.")
    if factor > 1 and config["head"]["name"] in INSTANCE_HEADS:
        raise ConfigError(f"backbone.reduce={factor}: task=instance finds objects in images as they are. Set 1.")


def check_head(config: Config) -> None:
    """Raise a ConfigError unless the options make the head, and the batch is large enough for its norms."""
    settings, batch_size = config["head"], config["data"]["batch_size"]
    output_stride = config["backbone"].get("output_stride")
    if settings["name"] in INSTANCE_HEADS:
        check_output_stride_value(output_stride)
        _check_instance_head(config)
        return
    spec = head_spec(settings["name"])
    check_output_stride(settings["name"], output_stride)
    strides = tuple(min(stride, output_stride or COARSEST) for stride in ANY_PYRAMID.strides)
    with torch.device("meta"):
        spec.build(replace(ANY_PYRAMID, strides=strides), 2, **drop_name(settings))
    if spec.pools_to_a_pixel and batch_size == 1:
        raise ConfigError(
            f"data.batch_size=1 does not train head={settings['name']}: its pooling leaves batch norm one value a "
            f"channel, which has no variance. Set data.batch_size=2 or more, or another head."
        )


def _check_instance_head(config: Config) -> None:
    options, build = drop_name(config["head"]), INSTANCE_HEADS[config["head"]["name"]]
    weights = options.pop("weights", None)
    if weights is not None and config["init_from"]:
        raise ConfigError("head.weights and init_from each give weights to the head. Leave one of them out.")
    if weights is not None and not Path(weights).is_file():
        raise ConfigError(f"head.weights={weights}: no such file.")
    channels = options.pop("channels")
    with torch.device("meta"):
        FeaturePyramid(ANY_PYRAMID, channels)
        build((4, 8, 16, 32), channels, 1, **options)


def check_auxiliary(config: Config) -> None:
    """Raise a ConfigError unless the options make the auxiliary head; or, without one, if options of it are set."""
    options = auxiliary_options(config)
    if options is not None and config["head"]["name"] in INSTANCE_HEADS:
        raise ConfigError(f"auxiliary: head={config['head']['name']} has losses of its own. Leave auxiliary out.")
    if options is not None:
        with torch.device("meta"):
            AuxiliaryHead(ANY_PYRAMID, 2, **options)
        return
    defaults = packaged_options("auxiliary")["none"]
    for key, value in (config.get("auxiliary") or {}).items():
        if value != defaults.get(key):
            raise ConfigError(f"auxiliary.{key}={value} has no effect without an auxiliary head. Set auxiliary=fcn.")


def check_auxiliary_weight(config: Config) -> None:
    """Raise a ConfigError if the weight of auxiliary outputs was changed, and the model has none."""
    head, default = config["head"], packaged_options("loss")["ce_dice"]["auxiliary_weight"]
    spec = HEADS.get(head["name"])  # an unknown one is reported by check_head
    has_outputs = spec is None or (spec.auxiliary and head.get("deep_supervision", True))
    weight = config["loss"].get("auxiliary_weight", default)
    if weight != default and not has_outputs and auxiliary_options(config) is None:
        raise ConfigError(
            f"loss.auxiliary_weight={weight} has no effect: the model has no auxiliary outputs. Set auxiliary=fcn, "
            f"head=ocr, or head=unet with head.deep_supervision=true."
        )


def check_loss(config: Config) -> None:
    """Raise a ConfigError unless the loss, its options and its class weights make sense for any classes."""
    loss, head = build_loss(config["loss"], 255, None), config["head"]["name"]
    if isinstance(loss, HeadLoss) and head in INSTANCE_HEADS:
        loss.check_terms(INSTANCE_HEADS[head].terms)
    weights = config["loss"].get("class_weights", "none")
    if isinstance(weights, str):
        class_weights(torch.ones(2, dtype=torch.int64), weights)
    else:
        check_class_weights(weights)


def check_task(config: Config) -> None:
    """Raise a ConfigError unless the task and its options are known, and the loss fits it."""
    settings = task_settings(config)
    task, loss = find_task(settings), find_loss(config["loss"])
    head = config["head"]["name"]
    if head in MODELS and MODELS[head] is not task.model_type:
        heads = [name for name, model in MODELS.items() if model is task.model_type]
        other = "" if task.takes_objects else " For objects, set task=instance."
        raise ConfigError(
            f"head={head} does not fit task={settings['name']}. Choose from: {shortlist(heads, 20)}."
            f"{other if MODELS[head] is InstanceSegmenter else ''}"
        )
    if not task.accepts(loss):
        fitting = [name for name, other in LOSSES.items() if task.accepts(other)]
        raise ConfigError(
            f"loss={config['loss']['name']} does not fit task={settings['name']}. Choose from: {', '.join(fitting)}."
        )
    classes = config["data"].get("classes")
    names = () if isinstance(classes, Mapping) else named_classes(classes)  # a mapping may leave out the background
    if len(names) == 1 and task.name == SemanticTask.name:
        check_several(names)


def check_views(config: Config) -> None:
    """Raise a ConfigError unless the settings of the test-time augmentation make views that the model can average."""
    views = build_views(config.get("tta") or {})
    if views is not None and config["head"]["name"] in INSTANCE_HEADS:
        raise ConfigError(f"tta: objects of several views cannot be averaged ({views.describe()}). Set tta=none.")


MODEL_CHECKS: tuple[Callable[[Config], None], ...] = (
    check_backbone,
    check_reduction,
    check_head,
    check_auxiliary,
    check_auxiliary_weight,
    check_loss,
    check_task,
    check_views,
)
