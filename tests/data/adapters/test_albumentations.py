import pickle
import sys

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from finetune.data import CLASS_NAMES, TrainSampler
from finetune.data.adapters import AlbumentationsTransform
from finetune.data.dataset import counted_generator
from finetune.data.synthetic.drawing import draw
from tests.synthetic import SyntheticDataset

A = pytest.importorskip("albumentations")
IMAGE, MASK = draw((70, 90))
GEOMETRY = [
    {"name": "RandomScale", "scale_limit": [-0.5, 0.5], "p": 1.0},
    {"name": "Rotate", "limit": [-40, 40], "p": 1.0},
    {"name": "HorizontalFlip", "p": 0.5},
]


def apply(transform: AlbumentationsTransform, epoch: int = 0, target: Tensor = MASK, image: Tensor = IMAGE):
    return transform(image, target, counted_generator(0, epoch, 0))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("classes", [None, 1, 6])
def test_images_and_targets_of_any_number_of_channels_are_transformed(channels, classes):
    image = IMAGE[:1].expand(channels, -1, -1)
    target = MASK if classes is None else torch.ones(classes, 70, 90, dtype=torch.uint8)
    image, target = apply(AlbumentationsTransform(GEOMETRY, crop=(48, 64)), image=image, target=target)
    assert (image.shape, image.dtype) == ((channels, 48, 64), torch.uint8)
    assert (target.shape, target.dtype) == ((48, 64) if classes is None else (classes, 48, 64), torch.uint8)
    assert image.is_contiguous()
    assert target.is_contiguous()


@pytest.mark.parametrize(
    "transform",
    [
        {"name": "Affine", "rotate": 30, "p": 1.0},
        {"name": "ElasticTransform", "alpha": 300, "p": 1.0},
        {"name": "GridDistortion", "p": 1.0},
        {"name": "OneOf", "p": 1.0, "transforms": [{"name": "Perspective", "scale": 0.3, "p": 1.0}]},
        {"name": "PadIfNeeded", "min_height": 99, "min_width": 99},
    ],
    ids=lambda transform: transform["name"],
)
def test_uncovered_pixels_are_ignored_and_never_a_class(transform):
    for target in (torch.ones_like(MASK), torch.ones(6, 70, 90, dtype=torch.uint8)):
        for epoch in range(4):
            found = apply(AlbumentationsTransform([transform], 120, ignore_index=9), epoch, target)[1]
            assert set(found.unique().tolist()) == {1, 9}
            assert target.dim() == 2 or (found == found[0]).all()


def test_a_label_given_for_uncovered_pixels_is_kept():
    pad = {"name": "PadIfNeeded", "min_height": 99, "min_width": 99, "fill_mask": 0}
    assert set(apply(AlbumentationsTransform([pad], None), 0, torch.ones_like(MASK))[1].unique().tolist()) == {0, 1}


def test_image_and_target_stay_together():
    colors = torch.tensor([[20, 20, 20], [250, 30, 30], [30, 250, 30], [30, 30, 250], [220, 220, 20]])
    colored = colors[MASK.long()].permute(2, 0, 1).byte()
    for epoch in range(6):
        image, mask = apply(AlbumentationsTransform(GEOMETRY, 64), epoch, image=colored)
        nearest = torch.cdist(image.flatten(1).T.float(), colors.float()).argmin(1).view_as(mask)
        assert (nearest == mask)[mask != 255].float().mean() > 0.9


def test_masks_are_not_interpolated_even_if_a_transform_asks_for_it():
    linear = {"name": "Resize", "height": 33, "width": 41, "mask_interpolation": 1}
    labels = torch.where(MASK == 0, 0, 200).byte()
    assert set(apply(AlbumentationsTransform([linear], None), target=labels)[1].unique().tolist()) == {0, 200}


def test_a_sample_is_a_function_of_its_generator():
    transform = AlbumentationsTransform(GEOMETRY, 64)
    first, again, other = (apply(transform, epoch) for epoch in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_transforms_of_one_pipeline_draw_different_numbers():
    flips = [{"name": name, "p": 0.5} for name in ("HorizontalFlip", "VerticalFlip")]
    transform, ramp = AlbumentationsTransform(flips, None), torch.arange(4, dtype=torch.uint8).view(2, 2)
    corners = {int(apply(transform, epoch, ramp, ramp[None])[1][0, 0]) for epoch in range(30)}
    assert corners == {0, 1, 2, 3}  # with one random number for both flips, only 0 and 3


def test_workers_do_not_change_a_sample():
    dataset = SyntheticDataset(6, 48, transform=AlbumentationsTransform(GEOMETRY, 32))

    def epoch(workers: int) -> list[dict[str, Tensor]]:
        sampler = TrainSampler(len(dataset))
        sampler.set_epoch(5)
        return list(DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers))

    for here, there in zip(epoch(0), epoch(2), strict=True):
        assert all(torch.equal(here[name], there[name]) for name in ("image", "mask", "index"))


def test_a_compose_is_taken_as_it_is_and_not_changed():
    compose = A.Compose([A.Rotate((30, 30), p=1.0), A.HorizontalFlip(p=1.0)])
    image, mask = apply(AlbumentationsTransform(compose, None), target=torch.ones_like(MASK))
    assert image.shape == IMAGE.shape
    assert set(mask.unique().tolist()) == {1, 255}
    assert compose.transforms[0].fill_mask == 0


def test_inputs_and_global_random_numbers_are_left_alone():
    image, mask, state = IMAGE.clone(), MASK.clone(), torch.get_rng_state()
    apply(AlbumentationsTransform([{"name": "RandomBrightnessContrast", "p": 1.0}], 32))
    assert torch.equal(image, IMAGE)
    assert torch.equal(mask, MASK)
    assert torch.equal(torch.get_rng_state(), state)
    assert mask.max() < len(CLASS_NAMES)


def test_it_can_be_sent_to_spawned_workers():
    transform = AlbumentationsTransform(GEOMETRY, 32)
    assert torch.equal(apply(pickle.loads(pickle.dumps(transform)))[0], apply(transform)[0])


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ([{"name": "HorizontalFlipp"}], "no transform 'HorizontalFlipp'. Did you mean HorizontalFlip"),
        ([{"name": "Compose_"}], "no transform 'Compose_'"),
        ([{"name": "os"}], "no transform 'os'"),
        ([{"name": "Rotate", "limits": 3}], "Rotate of albumentations has no option 'limits'. Did you mean limit"),
        ([{"p": 1.0}], "pipeline has {'p': 1.0}; expected a transform such as"),
        (["HorizontalFlip"], "pipeline has HorizontalFlip; expected a transform such as"),
        ([{"name": "OneOf", "transforms": [{"name": "Rotat"}]}], "no transform 'Rotat'"),
        ([{"name": "GridElasticDeform", "num_grid_xy": (4, 4), "magnitude": 9}], "class 0 and has no fill_mask. Leave"),
    ],
)
def test_a_wrong_pipeline_is_explained(pipeline, message):
    with pytest.raises(ValueError, match=message):
        AlbumentationsTransform(pipeline)


@pytest.mark.parametrize("name", ["Normalize", "ToFloat"])
def test_a_pipeline_that_leaves_uint8_is_explained(name):
    with pytest.raises(ValueError, match=r"float32 images with 3 channels; expected uint8 with 3\. Leave out"):
        apply(AlbumentationsTransform([{"name": name}]))


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(ImportError, match=r"pip install 'finetune-seg\[albumentations\]'"):
        AlbumentationsTransform(GEOMETRY)
