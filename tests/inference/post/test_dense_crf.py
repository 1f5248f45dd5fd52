"""The dense CRF against sums over all pairs of pixels, and on images whose right answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from finetune.builders.post import build_post
from finetune.config.errors import ConfigError
from finetune.inference import ClassIndices, ClassMasks
from finetune.inference.post.dense_crf import DenseCRF

SMALL = DenseCRF(appearance_std=8.0, color_std=30.0)


def kernel(positions: np.ndarray) -> np.ndarray:
    """Return the Gaussian of all pairs of positions (N, d), normalized symmetrically."""
    weights = np.exp(-((positions[:, None] - positions[None]) ** 2).sum(-1) / 2)
    root = np.sqrt(weights.sum(1))
    return weights / root / root[:, None]


def by_hand(p: np.ndarray, image: np.ndarray, crf: DenseCRF) -> np.ndarray:
    """Return the mean field (K, H, W) of the CRF as in algorithm 1 of the paper."""
    place = np.stack(np.mgrid[: p.shape[1], : p.shape[2]]).reshape(2, -1).T
    color = image.reshape(len(image), -1).T.astype(float)
    near = crf.smoothness_weight * kernel(place / crf.smoothness_std)
    far = crf.appearance_weight * kernel(np.hstack([place / crf.appearance_std, color / crf.color_std]))
    unary = -np.log(p.reshape(len(p), -1).T)
    q = np.exp(-unary)
    for _ in range(crf.iterations):
        message = (near + far) @ q
        q = np.exp(-unary - (message.sum(1, keepdims=True) - message))  # Potts: what the other classes say
        q /= q.sum(1, keepdims=True)
    return q.T.reshape(p.shape)


def sample(bands: int = 3, classes: int = 3, size: tuple[int, int] = (24, 30)) -> tuple[np.ndarray, np.ndarray]:
    """Return uncertain probabilities (K, H, W) and an image (C, H, W) of three areas with some noise."""
    random, (height, width) = np.random.default_rng(0), size
    labels = np.zeros(size, int)
    labels[:, width // 2 :], labels[: height // 3] = 1, 2 % classes
    image = 60 + 70 * labels + random.normal(0, 8, (bands, *size))
    right = np.eye(classes)[labels].transpose(2, 0, 1)
    p = 0.4 * random.dirichlet(np.ones(classes), size).transpose(2, 0, 1) + 0.3 * right + 0.3 / classes
    return p, image.clip(0, 255).astype(np.uint8)


def refine(crf: DenseCRF, p: np.ndarray, image: np.ndarray) -> np.ndarray:
    return crf.refine(torch.from_numpy(p)[None], torch.from_numpy(image)[None])[0].numpy()


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_it_is_the_mean_field_of_the_paper_up_to_the_error_of_the_lattice(bands: int) -> None:
    p, image = sample(bands)
    found, expected = refine(SMALL, p, image), by_hand(p, image, SMALL)
    assert np.abs(found - expected).mean() < 0.01
    assert np.abs(found - expected).max() < 0.1
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.995
    assert np.abs(p - expected).mean() > 0.1  # far more than the tolerance
    assert np.allclose(found.sum(0), 1, atol=1e-5)


def test_kernels_are_normalized_on_both_sides() -> None:
    labels = np.zeros((24, 30), int)
    labels[:, :3] = 1  # pixels with few neighbors beside pixels with many
    first = np.where(labels == 0, 0.7, 0.3)
    p, image = np.stack([first, 1 - first]), np.stack([80 + 80 * labels] * 3).astype(np.uint8)
    crf = replace(SMALL, smoothness_weight=0.0)
    assert np.abs(refine(crf, p, image) - by_hand(p, image, crf)).max() < 0.015  # 0.027 if on one side only


def test_the_smoothness_kernel_is_exact() -> None:
    p, image = sample()
    crf = replace(SMALL, appearance_weight=0.0, smoothness_weight=2.0, smoothness_std=2.5)
    assert np.abs(refine(crf, p, image) - by_hand(p, image, crf)).max() < 1e-3


def test_labels_that_do_not_exclude_each_other_have_a_crf_each() -> None:
    p, image = sample(classes=4)
    found = refine(replace(SMALL, exclusive=False), p, image)
    for each, mask in zip(found, p, strict=True):
        two = refine(SMALL, np.stack([mask, 1 - mask]), image)
        assert np.abs(each - two[0]).max() < 1e-5
    assert np.abs(found.sum(0) - 1).max() > 0.1


def test_the_output_of_the_model_says_whether_labels_exclude_each_other() -> None:
    for output, exclusive in ((ClassIndices(["a", "b"]), True), (ClassMasks(["a", "b"]), False)):
        assert build_post({"dense_crf": None}, output).steps["dense_crf"] == DenseCRF(exclusive=exclusive)
    with pytest.raises(ConfigError, match=r"there is no setting post\.dense_crf\.exclusive"):
        build_post({"dense_crf": {"exclusive": True}}, ClassIndices(["a", "b"]))


def test_equal_probabilities_stay_equal_and_those_of_a_flat_image_keep_their_order() -> None:
    image = np.full((3, 20, 24), 90, np.uint8)
    found = refine(DenseCRF(), np.full((4, 20, 24), 0.25), image)
    assert np.allclose(found, 0.25, atol=1e-6)
    constant = np.broadcast_to(np.array([0.2, 0.5, 0.3])[:, None, None], (3, 20, 24)).copy()
    found = refine(replace(SMALL, appearance_weight=0.0, smoothness_weight=0.0), constant, image)
    assert np.allclose(found, constant, atol=1e-6)  # no kernel, no change
    assert (refine(DenseCRF(), constant, image).argmax(0) == 1).all()


def test_noise_is_cleaned_up_along_an_edge_of_color() -> None:
    labels = np.zeros((40, 48), int)
    labels[:, 20:] = 1
    image = np.stack([labels * 120 + 40] * 3).astype(np.uint8)
    wrong = np.random.default_rng(0).random(labels.shape) < 0.3
    first = np.where((labels == 0) != wrong, 0.7, 0.3)
    found = refine(DenseCRF(), np.stack([first, 1 - first]), image).argmax(0)
    assert (found == labels).all()
    smoothed = refine(DenseCRF(appearance_weight=0.0), np.stack([first, 1 - first]), image).argmax(0)
    assert (smoothed != labels).any()


def test_images_of_a_batch_are_refined_alone_and_at_any_size() -> None:
    (p, image), (q, other) = sample(), sample(classes=3)
    batch = torch.from_numpy(np.stack([p, q[..., ::-1]])), torch.from_numpy(np.stack([image, other[..., ::-1]]))
    found = SMALL.refine(*batch)
    assert torch.equal(found[0], SMALL.refine(batch[0][:1], batch[1][:1])[0])
    assert torch.equal(found[1], SMALL.refine(batch[0][1:], batch[1][1:])[0])
    for size in ((1, 1), (1, 7), (5, 1)):
        p, image = sample(size=size)
        assert np.isfinite(refine(DenseCRF(), p, image)).all()


def test_mixed_precision_does_not_round_the_positions() -> None:
    p, image = (torch.from_numpy(each)[None] for each in sample())
    with torch.autocast("cpu", torch.bfloat16):
        inside = SMALL.refine(p, image)
    assert torch.equal(inside, SMALL.refine(p, image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations=0: expected 1 or more"),
        ({"color_std": 0.0}, r"color_std=0\.0: expected a number above 0"),
        ({"appearance_weight": -1.0}, r"appearance_weight=-1\.0: expected a number of 0 or more"),
        ({"smoothness_weight": float("nan")}, "smoothness_weight=nan"),
    ],
)
def test_settings_without_a_meaning_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_post({"dense_crf": options}, ClassIndices(["a", "b"]))
