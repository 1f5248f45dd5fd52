import pickle

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from finetune.data import TrainSampler
from finetune.data.adapters import TorchvisionTransform
from finetune.data.dataset import counted_generator
from finetune.data.synthetic.drawing import draw
from tests.synthetic import SyntheticDataset

IMAGE, MASK = draw((70, 90))
GEOMETRY = [
    {"name": "ScaleJitter", "target_size": [70, 90], "scale_range": [0.6, 1.5]},
    {"name": "RandomRotation", "degrees": 40, "interpolation": "bilinear"},
    {"name": "RandomHorizontalFlip", "p": 0.5},
]


def apply(transform: TorchvisionTransform, epoch: int = 0, target: Tensor = MASK, image: Tensor = IMAGE):
    return transform(image, target, counted_generator(0, epoch, 0))


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("classes", [None, 1, 5])
def test_images_and_targets_of_any_number_of_channels_are_transformed(channels, classes):
    image = IMAGE[:1].expand(channels, -1, -1)
    target = MASK if classes is None else torch.ones(classes, 70, 90, dtype=torch.uint8)
    image, target = apply(TorchvisionTransform(GEOMETRY, crop=(48, 64)), image=image, target=target)
    assert (image.shape, image.dtype) == ((channels, 48, 64), torch.uint8)
    assert (target.shape, target.dtype) == ((48, 64) if classes is None else (classes, 48, 64), torch.uint8)
    assert type(image) is type(target) is Tensor
    assert image.is_contiguous()
    assert target.is_contiguous()


@pytest.mark.parametrize(
    "transform",
    [
        {"name": "RandomAffine", "degrees": 30, "fill": [10, 20, 30]},
        {"name": "ElasticTransform", "alpha": 400.0},
        {"name": "RandomApply", "p": 1.0, "transforms": [{"name": "RandomPerspective", "p": 1.0}]},
        {"name": "Pad", "padding": 20},
        v2.RandomZoomOut(fill={tv_tensors.Image: 0, tv_tensors.Mask: 9}, p=1.0),
        v2.Compose([v2.RandomRotation((30, 30), fill={tv_tensors.Image: 0, tv_tensors.Mask: 9})]),
    ],
    ids=str,
)
def test_uncovered_pixels_are_ignored_and_never_a_class(transform):
    for target in (torch.ones_like(MASK), torch.ones(6, 70, 90, dtype=torch.uint8)):
        for epoch in range(4):
            found = apply(TorchvisionTransform([transform], 120, ignore_index=9), epoch, target)[1]
            assert set(found.unique().tolist()) == {1, 9}
            assert target.dim() == 2 or (found == found[0]).all()


def test_a_fixed_pipeline_is_torchvisions_functions():
    pipeline = [{"name": "RandomRotation", "degrees": [30, 30]}, {"name": "Resize", "size": [35, 45]}]
    image, mask = apply(TorchvisionTransform(pipeline, None))
    assert torch.equal(image, F.resize(F.rotate(IMAGE, 30), [35, 45]))
    nearest = v2.InterpolationMode.NEAREST
    assert torch.equal(mask, F.resize(F.rotate(MASK[None], 30, fill=255), [35, 45], nearest)[0])


def test_image_and_target_stay_together():
    colors = torch.tensor([[20, 20, 20], [250, 30, 30], [30, 250, 30], [30, 30, 250], [220, 220, 20]])
    colored = colors[MASK.long()].permute(2, 0, 1).byte()
    for epoch in range(6):
        image, mask = apply(TorchvisionTransform(GEOMETRY, 64), epoch, image=colored)
        nearest = torch.cdist(image.flatten(1).T.float(), colors.float()).argmin(1).view_as(mask)
        assert (nearest == mask)[mask != 255].float().mean() > 0.9


def test_a_sample_is_a_function_of_its_generator():
    transform = TorchvisionTransform(GEOMETRY, 64)
    first, again, other = (apply(transform, epoch) for epoch in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_workers_do_not_change_a_sample():
    dataset = SyntheticDataset(6, 48, transform=TorchvisionTransform(GEOMETRY, 32))

    def epoch(workers: int) -> list[dict[str, Tensor]]:
        sampler = TrainSampler(len(dataset))
        sampler.set_epoch(5)
        return list(DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers))

    for here, there in zip(epoch(0), epoch(2), strict=True):
        assert all(torch.equal(here[name], there[name]) for name in ("image", "mask", "index"))


@pytest.mark.filterwarnings("ignore:.*currently passing through inputs of type tv_tensors.Mask")
def test_inputs_and_global_random_numbers_are_left_alone():
    image, mask, state = IMAGE.clone(), MASK.clone(), torch.get_rng_state()
    apply(TorchvisionTransform([{"name": "RandomErasing", "p": 1.0, "inplace": True}, *GEOMETRY], 32))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="Normalize"):  # also after an error
        apply(TorchvisionTransform([*GEOMETRY, v2.Normalize([0.5], [0.5])]))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(image, IMAGE)
    assert torch.equal(mask, MASK)


def test_it_can_be_sent_to_spawned_workers():
    transform = TorchvisionTransform(GEOMETRY, 32)
    assert torch.equal(apply(pickle.loads(pickle.dumps(transform)))[0], apply(transform)[0])


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (
            [{"name": "RandomHorizontalFlipp"}],
            "'RandomHorizontalFlipp'. Did you mean RandomHorizontalFlip",
        ),
        ([{"name": "functional"}], "no transform 'functional'"),
        ([{"name": "RandomRotation", "degree": 3}], "has no option 'degree'. Did you mean degrees"),
        ([{"name": "RandomRotation"}], "RandomRotation of torchvision cannot be built: .*degrees"),
        ([{"name": "RandomRotation", "degrees": 3, "interpolation": "linear"}], "'linear' is not a valid"),
        ([{"p": 1.0}], "pipeline has {'p': 1.0}; expected a transform such as"),
        (["RandomHorizontalFlip"], "pipeline has RandomHorizontalFlip; expected a transform such as"),
        ([{"name": "RandAugment"}], "RandAugment of torchvision does not take .* mask; use augment=trivial"),
        ([{"name": "CenterCrop", "size": 80}], "CenterCrop of torchvision gives what it adds .* the class 0; use"),
        (v2.Compose([v2.AugMix()]), "AugMix of torchvision does not take .*; use augment=trivial"),
        ([v2.MixUp(num_classes=3)], r"MixUp of torchvision .*; set augment\.mix\.cutmix"),
        ([v2.RandomRotation(9)], r"RandomRotation\(fill=0\) would give .* Set fill=.*tv_tensors.Mask: 255}"),
    ],
)
def test_a_wrong_pipeline_is_explained(pipeline, message):
    with pytest.raises(ValueError, match=message):
        TorchvisionTransform(pipeline)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (v2.Normalize([0.5], [0.5]), r"Normalize of torchvision fails on an image \(3, 70, 90\) and a mask \(70, 90\)"),
        ({"name": "RandomIoUCrop"}, "RandomIoUCrop of torchvision fails .*bounding boxes"),
        (v2.ToDtype(torch.float32, scale=True), r"returns Image torch\.float32 and Mask torch\.uint8"),
        ({"name": "ToPILImage"}, "returns Image .* unknown; expected torch.uint8 tensors and 3 channels"),
        (
            {"name": "Grayscale"},
            r"torch\.Size\(\[1, 70, 90\]\); expected torch\.uint8 tensors and 3 channels",
        ),
    ],
    ids=str,
)
def test_a_pipeline_that_leaves_uint8_or_needs_more_than_a_mask_is_explained(transform, message):
    with pytest.raises(ValueError, match=message):
        apply(TorchvisionTransform([transform], None))
