"""The rules of a recipe: one function for each setting that may be `auto`, from facts to a value and its reason."""

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

from finetune.recipe.decision import Decision
from finetune.recipe.facts import ClassFacts, Facts, ObjectFacts

WIDE, NARROW = [256, 128, 64, 32, 16], [128, 64, 32, 16, 16]
STRIDE = 32  # of the coarsest feature map; crops of whole images are multiples of it
LARGEST_CROP = {True: 320, False: 512}  # pixels, on a CPU and on a GPU
ENOUGH_CROPS, MOST_REDUCTION = 1.5, 8  # crops along the longest side of a reduced image, at least
CLEAR = 32  # pixels: what is wider gains nothing from being enlarged
MOST_SCALE, LEAST_SCALE = 2.0, 1.25
UNEVEN_HEIGHT = 0.04  # of half the height, that a class is off the middle where up and down mean something
SURE = 0.0027  # probability that some class seems to be off the middle by chance: 3 standard errors for one class
FEW_MASKS = 10
IMAGES_IN_A_STEP = 8  # batch norm and the gradient are noisy with fewer
# a training of fewer steps than this gains more from twice as many of them, with batches of this size
FEW_STEPS, SHORT_BATCH = 200, 4
EVEN_SHARE = 0.8  # of the pixels that a class would have if all had the same, from which on none is rare
RARE = 0.02  # share of the pixels below which a class is looked for
CPU_SAMPLES, GPU_SAMPLES = (2_500, 10_000), (16_000, 64_000)  # images seen by a training, least and most
SMALLEST_ANCHOR = 4  # pixels
MOST_DETECTIONS = 100  # in an image, as COCO counts
PROPOSALS, PROPOSALS_OF_OBJECT = (200, 1000), 10  # of an image, least and usual; and for each object
EPOCHS = {True: 25, False: 40}


Rule = Callable[[Facts, Mapping[str, Any]], Decision]


def reduction(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Reduce large images while every class stays wide, so that a crop shows more of them."""
    if facts.objects is not None:
        return Decision(1, "objects are found in images as they are")
    if settings["augment"].get("crop") != "auto":
        return Decision(1, "augment.crop is given, in pixels of the images as they are")
    narrow, crop, factor = facts.narrowest, _largest_crop(facts, settings), 1
    sides = (
        (max(facts.height, facts.width), ENOUGH_CROPS * crop),
        (min(facts.height, facts.width), crop / 2),
        (facts.small_side, crop / 2),
        (narrow.width, CLEAR),
    )
    while factor < MOST_REDUCTION and all(side is None or side / (2 * factor) >= least for side, least in sides):
        factor *= 2
    return Decision(factor, f"{facts.size}, and the narrowest class, {narrow.name}, is {_width(narrow)}")


def decoder_channels(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Halve the widths of a U-Net on a CPU, where its decoder takes most of the time."""
    if facts.on_cpu:
        return Decision(NARROW, "a step on a CPU takes a quarter less time than with twice as many")
    return Decision(WIDE, "the usual widths")


def crop(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Take whole images where they are small, and else the largest crop that the device computes in reasonable time."""
    given, limit = settings["recipe"]["largest_crop"], _largest_crop(facts, settings)
    sides = [min(limit, _up(side)) for side in (facts.height, facts.width)]
    value: int | list[int] = sides[0] if sides[0] == sides[1] else sides
    if max(facts.height, facts.width) <= limit:
        return Decision(value, f"{facts.size}, which fits whole")
    place = f"on {_device(facts)}" if given is None else "(recipe.largest_crop)"
    return Decision(value, f"{facts.size}, and {limit} is the limit {place}")


def _largest_crop(facts: Facts, settings: Mapping[str, Any]) -> int:
    given: int | None = settings["recipe"]["largest_crop"]
    return LARGEST_CROP[facts.on_cpu] if given is None else given


def scale(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Enlarge images as far as helps the narrowest class, and shrink them by the same factor, around 1."""
    narrow = facts.narrowest
    high = min(MOST_SCALE, max(LEAST_SCALE, CLEAR / narrow.width))
    value = [round(1 / high, 2), round(high, 2)]
    return Decision(value, f"the narrowest class, {narrow.name}, is {_width(narrow)}")


def _width(each: ClassFacts) -> str:
    return f"{each.width:.0f} pixels wide" if each.width < math.inf else "of unknown width"


def anchor_sizes(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Give each level of the pyramid anchors of a size that objects have."""
    sizes = _objects(facts).sizes
    value = [max(SMALLEST_ANCHOR, round(size)) for size in sizes]
    return Decision(value, "10, 30, 50, 70 and 90 % of the objects are smaller (square root of the area, pixels)")


def anchor_ratios(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Give anchors the shapes that objects have."""
    value = [round(ratio, 2) for ratio in _objects(facts).ratios]
    return Decision(value, "20, 50 and 80 % of the objects are wider (height over width)")


def max_detections(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Let an image have half as many objects again as any training image."""
    most = _objects(facts).most
    return Decision(max(MOST_DETECTIONS, -(-3 * most // 2)), f"a training image has up to {most:,} objects")


def proposals(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Look at several places for each object of an image."""
    most, (least, usual) = _objects(facts).most, PROPOSALS
    value = max(least, min(usual, PROPOSALS_OF_OBJECT * most), most)
    return Decision(value, f"a training image has up to {most:,} objects")


def _objects(facts: Facts) -> ObjectFacts:
    if facts.objects is None:
        raise ValueError("head: settings that are auto follow from objects. Set task=instance, or give numbers.")
    return facts.objects


def vertical_flip(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Flip up and down where no class prefers a height."""
    if facts.looked_at < FEW_MASKS:
        return Decision(0.0, f"{facts.looked_at} masks are too few to tell whether up and down mean something")
    sure = NormalDist().inv_cdf(1 - SURE / 2 / len(facts.classes))  # standard errors; more for more classes
    seen = [each for each in facts.classes if each.masks >= FEW_MASKS]
    uneven = [each for each in seen if abs(each.height_offset) >= max(UNEVEN_HEIGHT, sure * each.height_error)]
    if uneven:
        most = max(uneven, key=lambda each: abs(each.height_offset))
        place = "upper" if most.height_offset < 0 else "lower"
        return Decision(0.0, f"{most.name} is in the {place} part of the images")
    return Decision(0.5, "no class prefers the upper or the lower part of the images")


def class_crop(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Look for rare classes."""
    if facts.objects is not None:
        return Decision(0.0, "objects are learned wherever they are")
    rarest, share = _rarest(facts)
    return Decision(0.5 if rarest.share < RARE else 0.0, share)


def class_weights(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Lift rare classes in the cross-entropy; classes of about the same share need no weights."""
    rarest, share = _rarest(facts)
    return Decision("none" if rarest.share >= EVEN_SHARE / len(facts.classes) else "inverse_sqrt", share)


def _rarest(facts: Facts) -> tuple[ClassFacts, str]:
    """Return the rarest class, and its share of the pixels as a clause."""
    rarest = min(facts.classes, key=lambda each: each.share)
    share = f"{rarest.share:.1%}" if rarest.share >= 0.01 else f"{100 * rarest.share:.1g}%"
    return rarest, f"{rarest.name}, the rarest class, has {share} of the pixels"


def batch_size(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Take as many images as a step should have, or as many as fit into memory."""
    if facts.fitting is None or facts.fitting >= IMAGES_IN_A_STEP:
        return Decision(IMAGES_IN_A_STEP, "steady enough for batch norm and the gradient")
    return Decision(max(1, facts.fitting), f"more than {facts.fitting:,} images would not fit into memory")


def accumulation(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Take as many batches for a step as give it the images that it should have."""
    batch = max(1, settings["data"]["batch_size"])
    if facts.fitting is None or batch >= IMAGES_IN_A_STEP:
        return Decision(1, "a batch has enough images for a step")
    return Decision(-(-IMAGES_IN_A_STEP // batch), f"a step should have {IMAGES_IN_A_STEP} images on each device")


def samples(facts: Facts, settings: Mapping[str, Any]) -> Decision:
    """Return how many images a training sees, counting repetitions."""
    factor = settings["recipe"]["length"]
    seen = _usual_samples(facts)
    if factor == 1:
        return seen
    return Decision(max(1, round(factor * seen.value)), f"{factor:g} times (recipe.length) the usual: {seen.reason}")


def _usual_samples(facts: Facts) -> Decision:
    least, most = CPU_SAMPLES if facts.on_cpu else GPU_SAMPLES
    wanted = EPOCHS[facts.on_cpu] * facts.images
    if wanted < least:
        few = "1 image is" if facts.images == 1 else f"{facts.images:,} images are"
        return Decision(least, f"{few} few, so each is seen {least / facts.images:.0f} times")
    if wanted > most:
        return Decision(most, f"as many images as {_device(facts)} can see in reasonable time")
    return Decision(wanted, f"each of {facts.images:,} images is seen {EPOCHS[facts.on_cpu]} times")


def _device(facts: Facts) -> str:
    return "a CPU" if facts.on_cpu else "a GPU"


# setting -> its rule, in the order in which they are made: later ones may read the values of earlier ones
RULES: dict[str, Rule] = {
    "backbone.reduce": reduction,
    "head.decoder_channels": decoder_channels,
    "head.anchor_sizes": anchor_sizes,
    "head.anchor_ratios": anchor_ratios,
    "head.max_detections": max_detections,
    "head.proposals": proposals,
    "augment.crop": crop,
    "augment.scale": scale,
    "augment.vertical_flip": vertical_flip,
    "augment.class_crop": class_crop,
    "loss.class_weights": class_weights,
    "data.batch_size": batch_size,
    "trainer.accumulate_grad_batches": accumulation,
}


def _up(side: int) -> int:
    """Return the next multiple of the coarsest stride."""
    return -(-side // STRIDE) * STRIDE
