"""The rules of a recipe: hand-worked facts and what follows from them."""

from dataclasses import replace
from random import Random

import pytest

from finetune.recipe.facts import ClassFacts, Facts, ObjectFacts
from finetune.recipe.rules import LARGEST_CROP, RULES, samples

PET = ClassFacts("pet", 0.3, 50, 0.0, 0.02, 84)
BACKGROUND = ClassFacts("background", 0.7, 120, 0.0, 0.02, 84)
PETS = Facts(84, 375, 500, (BACKGROUND, PET), 84, 10**6)
USUAL = {"recipe": {"length": 1.0, "largest_crop": None}}


def decide(setting: str, facts: Facts) -> object:
    """Return the value of a setting; every decision has a reason."""
    decision = RULES[setting](facts, USUAL)
    assert decision.reason
    return decision.value


@pytest.mark.parametrize(
    ("size", "width", "on_cpu", "expected"),
    [
        ((375, 500), 300, True, 1),  # not much larger than a crop
        ((3000, 4000), 400, True, 8),  # 500 pixels are left
        ((3000, 4000), 400, False, 4),
        ((3000, 4000), 150, True, 4),  # the class would be 19 pixels wide
        ((3000, 4000), 30, True, 1),
        ((20_000, 20_000), 5000, True, 8),
        ((960, 720), 64, True, 2),
        ((958, 720), 64, True, 1),
        ((300, 8000), 300, True, 1),  # 150 pixels are too low
        ((640, 8000), 300, True, 4),
    ],
)
def test_images_are_reduced_while_they_stay_larger_than_a_crop_and_classes_wide(
    size: tuple[int, int], width: float, on_cpu: bool, expected: int
) -> None:
    classes = (replace(BACKGROUND, width=2 * width), replace(PET, width=width))
    facts = replace(PETS, height=size[0], width=size[1], classes=classes, on_cpu=on_cpu)
    settings = {**USUAL, "augment": {"crop": "auto"}}
    assert RULES["backbone.reduce"](facts, settings).value == expected
    assert RULES["backbone.reduce"](facts, {**USUAL, "augment": {"crop": 512}}).value == 1
    small = replace(facts, small_side=4 * LARGEST_CROP[on_cpu] // 2)
    assert RULES["backbone.reduce"](small, settings).value == min(expected, 4)
    objects = replace(facts, objects=ObjectFacts(10, 2, 0, (50.0,) * 5, (1.0,) * 3))
    assert RULES["backbone.reduce"](objects, settings).value == 1


def test_facts_of_reduced_images_are_those_of_smaller_ones() -> None:
    facts = PETS.reduced(4)
    assert (facts.height, facts.width, facts.evaluated_pixels) == (94, 125, 62_500)
    assert [each.width for each in facts.classes] == [30, 12.5]
    assert PETS.reduced(1) == PETS


@pytest.mark.parametrize(
    ("size", "on_cpu", "expected"),
    [
        ((375, 500), True, 320),
        ((375, 500), False, [384, 512]),
        ((200, 200), True, 224),
        ((96, 1000), True, [96, 320]),
        ((4000, 6000), False, 512),
    ],
)
def test_a_crop_is_the_whole_image_up_to_a_limit(size: tuple[int, int], on_cpu: bool, expected: object) -> None:
    assert decide("augment.crop", replace(PETS, height=size[0], width=size[1], on_cpu=on_cpu)) == expected


def test_the_limit_of_a_crop_may_be_given() -> None:
    decision = RULES["augment.crop"](PETS, {"recipe": {"largest_crop": 256}})
    assert decision.value == 256
    assert decision.reason == "the median image is 375 x 500, and 256 is the limit (recipe.largest_crop)"


@pytest.mark.parametrize(("width", "expected"), [(4, [0.5, 2.0]), (20, [0.62, 1.6]), (50, [0.8, 1.25])])
def test_images_with_wide_classes_are_scaled_less(width: float, expected: list[float]) -> None:
    assert decide("augment.scale", replace(PETS, classes=(BACKGROUND, replace(PET, width=width)))) == expected


@pytest.mark.parametrize(
    ("offset", "error", "masks", "expected"),
    [
        (0.0, 0.02, 84, 0.5),
        (0.06, 0.018, 84, 0.0),  # more than three standard errors off the middle
        (0.06, 0.02, 84, 0.5),  # may be by chance, as there are two classes
        (0.02, 0.001, 84, 0.5),  # certain, but small
        (-0.7, 0.01, 84, 0.0),  # a sky
        (0.0, 0.02, 9, 0.0),  # too few to tell
    ],
)
def test_images_are_turned_upside_down_where_no_class_prefers_a_height(
    offset: float, error: float, masks: int, expected: float
) -> None:
    pet = replace(PET, height_offset=offset, height_error=error)
    assert decide("augment.vertical_flip", replace(PETS, classes=(BACKGROUND, pet), looked_at=masks)) == expected
    rare = replace(pet, masks=9)  # its center says little
    assert decide("augment.vertical_flip", replace(PETS, classes=(BACKGROUND, rare), looked_at=84)) == 0.5


def test_chance_turns_hardly_a_set_of_many_classes_upright() -> None:
    draw, upright = Random(0), 0
    for _ in range(200):
        classes = tuple(ClassFacts(f"{k}", 0.01, 50, draw.gauss(0, 0.1), 0.1, 84) for k in range(150))
        upright += decide("augment.vertical_flip", replace(PETS, classes=classes)) == 0.0
    assert upright <= 3


def test_a_class_that_no_looked_at_mask_has_is_still_the_rarest() -> None:
    facts = replace(PETS, classes=(BACKGROUND, PET, ClassFacts("tag", 0.0004)))
    assert facts.narrowest == PET
    decision = RULES["augment.class_crop"](facts, USUAL)
    assert decision.value == 0.5
    assert decision.reason == "tag, the rarest class, has 0.04% of the pixels"


def test_upright_and_wide_images_have_a_square_crop() -> None:
    facts = replace(PETS, height=400, width=400, turned=True)
    decision = RULES["augment.crop"](facts, USUAL)
    assert decision.value == 320
    assert decision.reason.startswith("the median image is 400 pixels long, upright or across, and 320 is the limit")


def test_a_head_of_objects_is_made_for_the_objects() -> None:
    objects = ObjectFacts(count=400, most=250, empty=3, sizes=(2.0, 8.4, 20.6, 33.0, 71.0), ratios=(0.504, 1.0, 2.126))
    facts = replace(PETS, objects=objects)
    assert decide("head.anchor_sizes", facts) == [4, 8, 21, 33, 71]
    assert decide("head.anchor_ratios", facts) == [0.5, 1.0, 2.13]
    assert decide("head.max_detections", facts) == 375
    assert decide("head.proposals", facts) == 1000
    few = replace(PETS, objects=replace(objects, most=30))
    assert (decide("head.max_detections", few), decide("head.proposals", few)) == (100, 300)
    fewest = replace(PETS, objects=replace(objects, most=2))
    assert decide("head.proposals", fewest) == 200
    crowds = replace(PETS, objects=replace(objects, most=1500))
    assert decide("head.proposals", crowds) == 1500
    with pytest.raises(ValueError, match="settings that are auto follow from objects"):
        decide("head.anchor_sizes", PETS)


def test_a_decoder_is_half_as_wide_on_a_cpu() -> None:
    assert decide("head.decoder_channels", replace(PETS, on_cpu=True)) == [128, 64, 32, 16, 16]
    assert decide("head.decoder_channels", replace(PETS, on_cpu=False)) == [256, 128, 64, 32, 16]


def test_rare_classes_are_looked_for() -> None:
    assert decide("augment.class_crop", PETS) == 0.0
    assert decide("augment.class_crop", replace(PETS, classes=(BACKGROUND, replace(PET, share=0.01)))) == 0.5


@pytest.mark.parametrize(("share", "expected"), [(0.4, "none"), (0.39, "inverse_sqrt"), (0.01, "inverse_sqrt")])
def test_rare_classes_count_for_more_in_the_loss(share: float, expected: str) -> None:
    assert decide("loss.class_weights", replace(PETS, classes=(BACKGROUND, replace(PET, share=share)))) == expected


@pytest.mark.parametrize("images", [3, 84, 10_000])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_a_batch_is_large_enough_for_batch_norm_however_few_images_there_are(images: int, on_cpu: bool) -> None:
    assert decide("data.batch_size", replace(PETS, images=images, on_cpu=on_cpu)) == 8


@pytest.mark.parametrize(("fitting", "expected"), [(None, (8, 1)), (20, (8, 1)), (3, (3, 3)), (0, (1, 8))])
def test_images_that_do_not_fit_into_memory_are_accumulated(fitting: int | None, expected: tuple[int, int]) -> None:
    facts = replace(PETS, images=1000, on_cpu=False, fitting=fitting)
    batch = RULES["data.batch_size"](facts, {}).value
    steps = RULES["trainer.accumulate_grad_batches"](facts, {"data": {"batch_size": batch}}).value
    assert (batch, steps) == expected


@pytest.mark.parametrize(
    ("images", "on_cpu", "expected"), [(20, True, 2_500), (367, True, 9_175), (10**6, False, 64_000)]
)
def test_a_training_sees_each_image_often_within_limits(images: int, on_cpu: bool, expected: int) -> None:
    assert samples(replace(PETS, images=images, on_cpu=on_cpu), USUAL).value == expected


def test_a_recipe_may_be_longer_or_shorter() -> None:
    long = samples(PETS, {"recipe": {"length": 4.0}})
    assert long.value == 4 * samples(PETS, USUAL).value
    assert long.reason.startswith("4 times (recipe.length) the usual: 84 images are few")
    assert samples(PETS, {"recipe": {"length": 1e-9}}).value == 1
