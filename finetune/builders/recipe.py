"""Replace the settings of a recipe that are `auto` by what its rules decide."""

import json
from dataclasses import asdict, replace
from statistics import median
from typing import Any

from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.devices import autocast_dtype, device_count, device_memory, runs_on_cpu
from finetune.builders.dummy_step import batch_shape
from finetune.builders.image_settings import reduction
from finetune.builders.settings import RecipeSettings
from finetune.builders.task import task_without_weights
from finetune.builders.tiles import tiled_records
from finetune.builders.training_length import spaces_validations, step_counts, with_length
from finetune.config.nested import select, with_value
from finetune.config.options import Config
from finetune.config.settings import RECIPE
from finetune.data.mask_shapes import class_shapes
from finetune.profiling.cost import estimate
from finetune.recipe.budget import Length, read_budget, with_validations
from finetune.recipe.facts import ClassFacts, Facts
from finetune.recipe.rules import RULES, samples

TRIED_IMAGES = 2  # for the estimate of the memory of an image
MEMORY_SHARE = 0.6  # of a GPU: temporaries, the loss and fragments take the rest
# decisions that are told only where they are not the usual value
QUIET = ("backbone.reduce", "head.decoder_channels", "trainer.accumulate_grad_batches")
MANY_TURNED = 0.2  # of the images are upright, and as many are not, so that a crop should fit both
EVALUATION_COST = 0.3  # of a training step, for the same pixels: there is no backward pass


def with_placeholders_for_recipe(config: Config) -> dict[str, Any]:
    """Return the config with a value for each `auto` of the recipe, for checks that need no data."""
    config = dict(config)
    for key, value in RECIPE.items():
        if select(config, key) == "auto":
            config = with_value(config, key, value)
    return config


def resolve_recipe(
    config: Config, data: DatasetBundle, settles_length: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """Return the config with what the rules decide, and a line with the reason of each decision.

    Args:
        config: of the training.
        data: of the training.
        settles_length: whether to replace a length that is `auto`; it stays for a budget of time, which decides it.
    """
    config, lines = {**config, "recipe": asdict(RecipeSettings(**(config.get("recipe") or {})))}, []
    keys = [key for key in RULES if select(config, key) == "auto"]
    facts = data_facts(config, data) if keys or config["trainer"]["max_epochs"] == "auto" else None
    if facts is None:
        return _with_validation_interval(config), []
    if not facts.classes:  # every pixel is ignored, which `check_truth` refuses
        return with_placeholders_for_recipe(config), []
    facts = facts.reduced(reduction(config))
    for key in keys:
        if key == "data.batch_size":
            facts = replace(facts, fitting=_fitting_images(config, data))
        decision = RULES[key](facts, config)
        config = with_value(config, key, decision.value)
        if key == "backbone.reduce":
            facts = facts.reduced(decision.value)
        if key in QUIET and decision.value == RECIPE[key]:
            continue
        lines.append(f"{key}={json.dumps(decision.value, separators=(',', ':'))}: {decision.reason}")
    if config["trainer"]["max_epochs"] != "auto":
        return _with_validation_interval(config), lines
    if not settles_length or (config.get("budget") and read_budget(config["budget"]).seconds is not None):
        return config, lines
    config, line = _with_steps(config, facts)
    return config, [*lines, line]


def settle_length(config: Config, data: DatasetBundle) -> tuple[dict[str, Any], list[str]]:
    """Return the config with a length in steps in place of `auto`, and the line with its reason."""
    config, line = _with_steps(dict(config), data_facts(config, data).reduced(reduction(config)))
    return config, [line]


def data_facts(config: Config, data: DatasetBundle) -> Facts:
    """Return what the rules need to know, from the training images and the settings of the trainer."""
    train = data.statistics["train"]
    records = [record for record in data.records if record.split == "train"]
    tiles = [tile for parts in tiled_records(records, config["data"]) for tile in parts]
    shapes, looked_at = class_shapes(tiles, data.ignore_index)
    classes = tuple(
        ClassFacts(name, pixels / train.labeled, **(asdict(shapes[k]) if k in shapes else {}))
        for k, (name, pixels) in enumerate(zip(data.classes, train.pixels.tolist(), strict=True))
        if pixels
    )
    sizes = [size for size, count in train.sizes.items() for _ in range(count)]
    longer_sides = sorted(map(max, sizes))
    upright = sum(height > width for height, width in sizes), sum(height < width for height, width in sizes)
    turned = min(upright) >= MANY_TURNED * len(sizes)
    return Facts(
        images=data.sizes()["train"],
        height=int(median(longer_sides if turned else [height for height, _ in sizes])),
        width=int(median(longer_sides if turned else [width for _, width in sizes])),
        turned=turned,
        classes=classes,
        looked_at=looked_at,
        evaluated_pixels=sum(height * width * count for (height, width), count in data.statistics["val"].sizes.items()),
        small_side=longer_sides[len(sizes) // 10],
        on_cpu=runs_on_cpu(config["trainer"]),
        devices=device_count(config["trainer"]),
        objects=data.objects,
    )


def _fitting_images(config: Config, data: DatasetBundle) -> int | None:
    """Return how many images a training step can have on a GPU, by the estimate of its memory; None on a CPU."""
    memory = device_memory(config)
    if memory is None:
        return None
    trial = with_placeholders_for_recipe(with_value(config, "data.batch_size", TRIED_IMAGES))
    task = task_without_weights(trial, data.model_classes)
    cost = estimate(task.model, batch_shape(trial), list(task.places), autocast=autocast_dtype(trial))
    free = MEMORY_SHARE * memory - (cost.memory - cost.activations)
    return max(0, int(free * TRIED_IMAGES / cost.activations))


def _with_steps(config: dict[str, Any], facts: Facts) -> tuple[dict[str, Any], str]:
    """Return the config with a length in steps, those of a budget or as many as show enough images, and its reason."""
    steps = read_budget(config["budget"]).steps if config.get("budget") else None
    batch_size = max(1, config["data"]["batch_size"])  # a smaller one is reported elsewhere
    in_a_step = batch_size * facts.devices * config["trainer"]["accumulate_grad_batches"]
    given, reason = config["trainer"].get("max_steps", -1), f"budget={steps}steps"
    if steps is None and given == -1:
        seen = samples(facts, config)
        steps, reason = max(1, round(seen.value / in_a_step)), seen.reason
    elif steps is None:
        steps, reason = given, f"trainer.max_steps={given}"
    _, _, height, width = batch_shape(config)
    validation_steps = EVALUATION_COST * facts.evaluated_pixels / max(1, in_a_step * height * width)
    length = Length(steps, 1) if spaces_validations(config["trainer"]) else with_validations(steps, validation_steps)
    length = replace(length, steps=given) if given != -1 else length  # to give the same command again changes nothing
    config = with_length(config, length, facts.images)
    total = step_counts(config, facts.images)[1]
    shown = f"{total:,} steps of {in_a_step} images, {config['trainer']['max_epochs']} epochs"
    validations = f", {length.validations} validations" if length.validations > 1 else ""
    return config, f"{shown}{validations}: {reason}"


def _with_validation_interval(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with a validation in each of the given number of epochs, unless its settings say more."""
    is_open = config["trainer"]["check_val_every_n_epoch"] == "auto"
    return with_value(config, "trainer.check_val_every_n_epoch", 1) if is_open else config
