"""The facts that a recipe is decided from, and what becomes of its settings."""

import math
from dataclasses import replace
from typing import Any

import pytest

from finetune.builders import recipe
from finetune.builders.checks.training import check
from finetune.builders.data import training_data
from finetune.builders.recipe import data_facts, resolve_recipe, with_placeholders_for_recipe
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError
from finetune.config.nested import select
from finetune.config.settings import RECIPE
from finetune.data.mask_shapes import ClassShapes
from tests.samples import MODEL

UNSAID = (*MODEL, "data=synthetic", "data.count=24", "data.size=48", "trainer.accelerator=cpu")


def config(*overrides: str) -> dict[str, Any]:
    return load_config([*UNSAID, "backbone.in_channels=3", *overrides], "train")


def test_facts_are_those_of_the_training_images() -> None:
    data = training_data(config())
    facts = data_facts(config(), data)
    assert (facts.images, facts.height, facts.width, facts.looked_at) == (len(data.datasets["train"]), 48, 48, 24)
    assert [each.name for each in facts.classes] == list(data.classes)
    assert sum(each.share for each in facts.classes) == pytest.approx(1)
    assert facts.evaluated_pixels == len(data.datasets["val"]) * 48**2
    assert facts.on_cpu
    assert facts.narrowest.width == min(each.width for each in facts.classes) > 1


def test_a_class_that_no_mask_looked_at_has_is_among_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    data = training_data(config())
    shape = ClassShapes(width=9.0, height_offset=0.1, height_error=0.2, masks=24)
    monkeypatch.setattr(recipe, "class_shapes", lambda *_: ({1: shape}, 24))
    facts = data_facts(config(), data)
    assert [each.name for each in facts.classes] == list(data.classes)
    assert [each.width for each in facts.classes] == [math.inf, 9.0, *[math.inf] * (len(data.classes) - 2)]
    assert sum(each.share for each in facts.classes) == pytest.approx(1)


@pytest.mark.parametrize(("upright", "expected"), [(2, (400, 400, True)), (1, (200, 400, False))])
def test_images_that_are_upright_and_across_have_the_longer_side(upright: int, expected: tuple[int, int, bool]) -> None:
    data = training_data(config())
    sizes = {(200, 400): 10 - upright, (400, 200): upright}
    data.statistics["train"] = replace(data.statistics["train"], sizes=sizes)
    facts = data_facts(config(), data)
    assert (facts.height, facts.width, facts.turned) == expected


def test_every_setting_is_decided_and_a_given_one_is_not() -> None:
    data = training_data(config())
    resolved, lines = resolve_recipe(config(), data)
    assert not [key for key in RECIPE if select(resolved, key) == "auto"]
    assert [line.partition("=")[0] for line in lines[:2]] == ["augment.crop", "augment.scale"]
    given, lines = resolve_recipe(config("augment.crop=20", "data.batch_size=3", "trainer.max_epochs=2"), data)
    assert (given["augment"]["crop"], given["data"]["batch_size"], given["trainer"]["max_epochs"]) == (20, 3, 2)
    assert given["trainer"]["check_val_every_n_epoch"] == 1
    assert not [line for line in lines if line.startswith(("augment.crop", "data.batch_size", "trainer"))]


def test_the_same_data_gives_the_same_plan() -> None:
    assert check(config("output=run"))[0] == check(config("output=run"))[0]


def test_placeholders_replace_only_what_is_auto() -> None:
    replaced = with_placeholders_for_recipe(load_config(["augment.crop=20"], "train"))
    of_objects = {"head.anchor_sizes", "head.anchor_ratios", "head.max_detections", "head.proposals"}
    expected = {key: value for key, value in RECIPE.items() if key not in of_objects}
    assert {key: select(replaced, key) for key in expected} == {**expected, "augment.crop": 20}
    replaced = with_placeholders_for_recipe(load_config(["task=instance"], "train"))
    assert {key: select(replaced, key) for key in of_objects} == {key: RECIPE[key] for key in of_objects}


def test_validations_that_are_given_are_kept_and_all_steps_are_trained() -> None:
    settings = config("budget=13steps", "trainer.check_val_every_n_epoch=2")
    resolved, lines = resolve_recipe(settings, training_data(settings))
    trainer = resolved["trainer"]
    assert (trainer["max_steps"], trainer["check_val_every_n_epoch"], trainer.get("val_check_interval")) == (
        13,
        2,
        None,
    )
    assert lines[-1] == "13 steps of 8 images, 5 epochs: budget=13steps"


def test_a_budget_of_time_leaves_the_length_open() -> None:
    assert check(config("budget=10m"))[0]["trainer"]["max_epochs"] == "auto"


def test_on_a_small_gpu_batches_are_accumulated(monkeypatch: pytest.MonkeyPatch) -> None:
    data, settings = training_data(config("data.count=400")), config("data.count=400")
    monkeypatch.setattr(recipe, "runs_on_cpu", lambda settings: False)
    fitting = {}
    for memory in (20_000_000, 2_000_000_000):
        monkeypatch.setattr(recipe, "device_memory", lambda config, memory=memory: memory)
        resolved, _ = resolve_recipe(settings, data)
        fitting[memory] = resolved["data"]["batch_size"], resolved["trainer"]["accumulate_grad_batches"]
    (few, several), enough = fitting.values()
    assert few < 8 <= few * several < 8 + few
    assert enough == (8, 1)


def test_presets_differ_in_length_and_crop_and_leave_what_is_given() -> None:
    data = training_data(config())
    steps = {}
    for name in ("quick", "default", "thorough"):
        resolved, lines = resolve_recipe(config(f"recipe={name}", "augment.crop=32"), data)
        steps[name] = resolved["trainer"]["max_steps"]
        assert resolved["augment"]["crop"] == 32
        assert any("(recipe.length)" in line for line in lines) == (name != "default")
    assert 0.22 < steps["quick"] / steps["default"] < 0.26
    assert 3.9 < steps["thorough"] / steps["default"] < 4.2


def test_a_thorough_recipe_averages_weights_checkpoints_and_views_unless_it_is_told_otherwise() -> None:
    thorough = config("recipe=thorough")
    assert thorough["callbacks"]["average"]["_target_"] == "finetune.callbacks.EMA"
    assert (thorough["soup"], thorough["checkpoint"]["keep_best"]) == (True, 3)
    assert thorough["tta"] == {"flips": ["horizontal"], "rotations": False, "scales": [0.75, 1.0, 1.25]}
    given = config("recipe=thorough", "average=none", "tta=none", "soup=false")
    assert "average" not in given["callbacks"]
    assert (given["soup"], given["tta"]["flips"]) == (False, [])


@pytest.mark.parametrize("given", ["recipe.length=0", "recipe.largest_crop=16", "soup=1"])
def test_a_recipe_that_makes_no_sense_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=f"{given}: expected"):
        check(config(given))
