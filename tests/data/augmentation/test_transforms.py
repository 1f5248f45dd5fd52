from dataclasses import replace
from math import log2

import numpy as np
import pytest
import torch

from finetune.data.augmentation.transforms import Augment
from finetune.data.synthetic.drawing import draw

IMAGE, MASK = draw((70, 90))
STRONG = {"rotation": 10.0, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.05, "blur": 0.5}
COLORS = torch.tensor([[20, 20, 20], [250, 30, 30], [30, 250, 30], [30, 30, 250], [220, 220, 20], [200, 20, 220]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_randomness_is_the_center_crop():
    augment = Augment((32, 40), scale=(1, 1), flip=0, shift=0)
    for seed in range(5):
        image, mask = augment(IMAGE, MASK, generator(seed))
        assert torch.equal(image, IMAGE[:, 19:51, 25:65])
        assert torch.equal(mask, MASK[19:51, 25:65])


def test_no_randomness_pads_small_images_all_around():
    image, mask = Augment(100, scale=(1, 1), flip=0, shift=0)(IMAGE, MASK, generator())
    assert torch.equal(image[:, 15:85, 5:95], IMAGE)
    assert torch.equal(mask[15:85, 5:95], MASK)
    assert (mask[:15] == 255).all()
    assert (mask[:, 95:] == 255).all()


def test_fill_is_the_ignored_label_and_never_a_class():
    mask = torch.ones_like(MASK)
    for seed in range(30):
        for ignore_index in (255, 9):
            augment = Augment(80, scale=(0.3, 1), rotation=30, ignore_index=ignore_index)
            assert set(augment(IMAGE, mask, generator(seed))[1].unique().tolist()) <= {1, ignore_index}


def test_flips_are_flips_and_come_as_often_as_asked():
    for arguments, dims in (({"flip": 1.0}, [-1]), ({"flip": 0.0, "vertical_flip": 1.0}, [-2])):
        image, mask = Augment(None, scale=(1, 1), **arguments)(IMAGE, MASK, generator())
        assert torch.equal(image, IMAGE.flip(dims))
        assert torch.equal(mask, MASK.flip(dims))
    augment, draws = Augment(None, scale=(1, 1), flip=0.3), generator()
    flips = sum(not torch.equal(augment(IMAGE, MASK, draws)[1], MASK) for _ in range(400))
    assert 85 < flips < 155


@pytest.mark.parametrize("seed", range(12))
def test_image_and_mask_stay_together_through_everything(seed):
    colored = COLORS[MASK.long()].permute(2, 0, 1).byte()  # the image is its mask in colors
    augment = Augment(64, scale=(0.7, 2.0), rotation=20, vertical_flip=0.5, brightness=0.1, contrast=0.1, hue=0.02)
    image, mask = augment(colored, MASK, generator(seed))
    distance = torch.cdist(image.flatten(1).T.float(), COLORS.float())
    known = (mask != 255).flatten()
    agree = distance.argmin(1)[known] == mask.flatten()[known]
    assert known.any()
    assert agree.float().mean() > 0.9


def test_the_same_generator_gives_the_same_sample_and_another_one_another():
    augment = Augment(48, **STRONG)
    one, again, other = (augment(IMAGE, MASK, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])


def test_every_setting_draws_as_many_numbers():
    after = set()
    for augment in (Augment(32), Augment(None, scale=(1, 1), flip=0), Augment(64, **STRONG)):
        draws = generator()
        augment(IMAGE, MASK, draws)
        after.add(torch.rand(1, generator=draws).item())
    assert len(after) == 1


def test_switching_color_on_leaves_the_geometry_alone():
    plain, colored = Augment(48, rotation=10), Augment(48, **STRONG)
    for seed in range(5):
        assert torch.equal(plain(IMAGE, MASK, generator(seed))[1], colored(IMAGE, MASK, generator(seed))[1])


def test_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    Augment(48, **STRONG)(IMAGE, MASK, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_crop_positions_reach_both_ends_and_scale_is_log_uniform():
    ramp = torch.arange(90, dtype=torch.uint8).expand(70, 90).contiguous()
    augment, draws = Augment(40, scale=(1, 1), flip=0), generator()
    lefts = [int(augment(IMAGE, ramp, draws)[1][0, 0]) for _ in range(600)]
    assert (min(lefts), max(lefts)) == (0, 50)
    assert np.mean(lefts) == pytest.approx(25, abs=2)
    scales = [Augment(8).draw(MASK, draws).view.scale for _ in range(600)]
    assert min(scales) >= 0.5
    assert max(scales) <= 2
    assert np.mean(np.log(scales)) == pytest.approx(0, abs=0.06)


def test_without_a_crop_every_image_keeps_its_size():
    for size in ((70, 90), (33, 20)):
        image, mask = Augment(None, **STRONG)(*draw(size), generator())
        assert (image.shape, mask.shape) == ((3, *size), size)
        assert (image.dtype, mask.dtype) == (torch.uint8, torch.uint8)


def test_a_target_with_a_channel_per_class_moves_with_the_image():
    channels = torch.stack([label == MASK for label in range(5)]).byte()
    augment = Augment(64, scale=(0.4, 1.5), rotation=20, vertical_flip=0.5)
    for seed in range(6):
        indices, separate = (augment(IMAGE, target, generator(seed))[1] for target in (MASK, channels))
        expected = torch.stack([(indices == label).byte().masked_fill(indices == 255, 255) for label in range(5)])
        assert torch.equal(separate, expected)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 8])
def test_other_numbers_of_channels_work(channels):
    image, _ = Augment(32, **STRONG)(IMAGE[:1].expand(channels, -1, -1), MASK, generator())
    assert image.shape == (channels, 32, 32)


def test_the_inputs_are_left_as_they_were():
    image, mask = IMAGE.clone(), MASK.clone()
    for arguments in (STRONG, {"scale": (1, 1), "flip": 0, "brightness": 0.5}):
        for crop in (48, None):
            Augment(crop, **arguments)(image, mask, generator())
    assert torch.equal(image, IMAGE)
    assert torch.equal(mask, MASK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": (2, 1)}, "scale=.*lesser one first"),
        ({"scale": (0, 1)}, "above 0"),
        ({"flip": 2}, "flip=2"),
        ({"crop": 0}, "crop=0"),
        ({"crop": [32, 0]}, "crop="),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augment(**arguments)


def test_augmentation_does_not_depend_on_the_default_type() -> None:
    image = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    results = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            transform = Augment(32, **{**STRONG, **RICH, **dict.fromkeys(("blur", "clahe", "equalize"), 1.0)})
            results.append(transform(image, image[0], torch.Generator().manual_seed(0)))
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


RICH = {
    **{"class_crop": 0.5, "perspective": 0.1, "elastic": 6.0, "elastic_spacing": 24, "grid_distortion": 0.3},
    **{"gamma": 0.4, "noise": 0.05, "sharpen": 0.5, "jpeg": 0.5, "equalize": 0.3, "clahe": 0.3},
    **{"cutout": 0.5, "cutout_area": (0.1, 0.3), "cutout_ignored": True},
}


@pytest.mark.parametrize("name", [name for name, value in RICH.items() if isinstance(value, float)])
def test_each_option_changes_its_part_and_nothing_that_another_draws(name):
    before, after = Augment(48, **STRONG), Augment(48, **STRONG, **{name: RICH[name]}, elastic_spacing=24)
    changed = []
    for seed in range(8):
        old, new = (augment.draw(MASK, generator(seed)) for augment in (before, after))
        one, other = old(IMAGE, MASK), new(IMAGE, MASK)
        changed.append(not torch.equal(one[0], other[0]))
        parts = {"class_crop": "position", "elastic": "warp", "perspective": "warp", "grid_distortion": "warp"}
        if name in parts:
            assert new.pixels == old.pixels
            assert replace(new.view, **{parts[name]: getattr(old.view, parts[name])}) == old.view
        else:
            assert torch.equal(one[1], other[1])
        assert new.flips == old.flips
    assert any(changed)


def test_strengths_are_drawn_evenly_between_their_ends():
    ends = {"brightness": 0.2, "contrast": 0.3, "saturation": 0.4, "hue": 0.05, "rotation": 20.0, "noise": 0.1}
    pairs = {
        "blur_sigma": (0.5, 1.5),
        "sharpen_amount": (0.2, 0.8),
        "clahe_limit": (1.0, 3.0),
        "jpeg_quality": (40, 90),
    }
    always = dict.fromkeys(("blur", "sharpen", "clahe", "jpeg"), 1.0)
    augment, draws = Augment(48, scale=(0.5, 2.0), gamma=0.5, elastic=6.0, **ends, **pairs, **always), generator()
    drawn = [augment.draw(MASK, draws) for _ in range(800)]
    color = [(change.pixels.color, change.pixels) for change in drawn]
    expected = {
        "angle": ([change.view.angle for change in drawn], -20, 20),
        "scale": ([log2(change.view.scale) for change in drawn], -1, 1),
        "brightness": ([each.brightness for each, _ in color], 0.8, 1.2),
        "contrast": ([each.contrast for each, _ in color], 0.7, 1.3),
        "saturation": ([each.saturation for each, _ in color], 0.6, 1.4),
        "hue": ([each.hue for each, _ in color], -0.05, 0.05),
        "gamma": ([log2(each.gamma) for _, each in color], -log2(1.5), log2(1.5)),
        "noise": ([each.noise for _, each in color], 0, 0.1),
        "blur": ([each.blur for _, each in color], 0.5, 1.5),
        "sharpen": ([each.sharpen for _, each in color], 0.2, 0.8),
        "clahe": ([each.clahe for _, each in color], 1, 3),
        "jpeg": ([each.jpeg for _, each in color], 40, 90),
        "elastic": ([change.view.warp.elastic for change in drawn], 0, 6),
    }
    for name, (values, low, high) in expected.items():
        size, found = high - low, torch.tensor(values, dtype=torch.float64)
        assert low <= found.min() <= low + 0.02 * size, name
        assert high - 0.02 * size <= found.max() <= high, name
        assert found.mean().item() == pytest.approx((low + high) / 2, abs=0.05 * size), name


def test_all_options_together_draw_as_many_numbers_and_leave_the_global_generator_alone():
    draws, rich, state = generator(), generator(), torch.get_rng_state()
    Augment(32)(IMAGE, MASK, draws)
    Augment(32, **STRONG, **RICH)(IMAGE, MASK, rich)
    assert torch.equal(draws.get_state(), rich.get_state())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_all_options_together_take_any_number_of_bands_and_keep_labels(channels):
    image = torch.cat([IMAGE, IMAGE])[:channels]
    separate = torch.stack([label == MASK for label in range(5)]).byte()
    augment = Augment(64, scale=(0.4, 1.5), ignore_index=9, **{**STRONG, **RICH, "class_crop": 0.0})
    for seed in range(6):
        changed, indices = augment(image, MASK, generator(seed))
        assert (changed.shape, changed.dtype) == ((channels, 64, 64), torch.uint8)
        assert set(indices.unique().tolist()) <= {0, 1, 2, 3, 4, 9}
        stacked = augment(image, separate, generator(seed))[1]
        expected = torch.stack([(indices == label).byte().masked_fill(indices == 9, 9) for label in range(5)])
        assert torch.equal(stacked, expected)


def test_the_mask_of_a_cutout_is_kept_or_ignored():
    kept, ignored = (Augment(None, scale=(1, 1), cutout=1, cutout_ignored=choice) for choice in (False, True))
    mask = torch.ones_like(MASK)
    for seed in range(5):
        images, masks = zip(*(augment(IMAGE, mask, generator(seed)) for augment in (kept, ignored)), strict=True)
        assert torch.equal(*images)
        assert (masks[0] == 1).all()
        assert 0.01 < (masks[1] == 255).float().mean() < 0.25
        covered = images[1][:, masks[1] == 255]
        assert (covered == covered[:, :1]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"elastic": 20}, "elastic=20 with elastic_spacing=64: expected from 0 to a quarter of the spacing"),
        ({"elastic": 0, "elastic_spacing": 0}, "elastic_spacing=0"),
        ({"perspective": 0.3}, r"perspective=0\.3: expected a number from 0 to 0\.2"),
        ({"jpeg_quality": (50, 100)}, "jpeg_quality=100: expected a number from 0 to 95"),
        ({"cutout_area": (0.5, 1.5)}, r"cutout_area=1\.5"),
        ({"noise": -0.1}, r"noise=-0\.1"),
        ({"clahe_limit": (3, 2)}, "clahe_limit=.*lesser one first"),
    ],
)
def test_impossible_settings_of_distortions_and_pixels_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augment(**arguments)
