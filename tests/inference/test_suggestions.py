"""Which images are suggested: the uncertain ones, each unlike the others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.inference import Predictor
from finetune.inference.suggestions import Candidate, look_at, suggest
from finetune.metrics.image_statistics import uncertainty
from finetune.models import Segmenter
from finetune.models.views import Views


def candidate(name: str, value: float, *features: float) -> Candidate:
    return Candidate(Path(name), value, torch.tensor(features))


def names(chosen: list[Candidate]) -> list[str]:
    return [str(each.path) for each in chosen]


def test_the_most_uncertain_image_is_first_and_then_the_one_that_differs_most() -> None:
    pool = [
        candidate("sure", 0.1, -1.0, -1.0),
        candidate("first", 0.9, 1.0, 0.0),
        candidate("alike", 0.89, 1.0, 0.01),
        candidate("other", 0.5, 0.0, 1.0),
        *(candidate(f"same_{index}", 0.6, 2.0, 0.02) for index in range(7)),
    ]
    assert names(suggest(pool, 2)) == [
        "first",
        "other",
    ]  # of the ten most uncertain ones, to which "sure" does not belong
    assert names(suggest(pool, 1)) == ["first"]


def test_all_images_of_a_small_pool_are_suggested_once() -> None:
    pool = [candidate(str(index), index / 10, 1.0, 0.0) for index in range(4)]
    assert sorted(names(suggest(pool, 9))) == ["0", "1", "2", "3"]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(Segmenter("test_resnet.r160_in1k", "linear", 3, weights="none"), "cpu", batch_size=2)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return paths


def test_images_are_seen_as_the_model_predicts_them(predictor: Predictor, photos: list[Path]) -> None:
    problems: list[str] = []
    found = list(look_at(predictor, [*photos, photos[0].with_name("missing.png")], problems))
    assert [each.path for each in found] == photos
    assert len(problems) == 1
    for each in found:
        image = torch.from_numpy(np.array(Image.open(each.path))).permute(2, 0, 1)[None]
        _, probabilities = predictor.predict_with_probabilities(image)
        assert probabilities is not None
        assert each.uncertainty == pytest.approx(float(uncertainty(probabilities)), rel=1e-5)
        with torch.inference_mode():
            coarsest = predictor.model.backbone(predictor.model.normalize(image))[-1]
        assert torch.allclose(each.features, coarsest.mean((2, 3))[0], atol=1e-5)
    assert not predictor.model.backbone._forward_hooks


def test_several_views_leave_one_row_of_features_an_image(predictor: Predictor, photos: list[Path]) -> None:
    predictor.model.views = Views(["horizontal"])
    try:
        found = list(look_at(predictor, photos, []))
    finally:
        predictor.model.views = None
    assert [len(each.features) for each in found] == [predictor.model.backbone.levels[-1].channels] * 3
    for each in found:
        image = torch.from_numpy(np.array(Image.open(each.path))).permute(2, 0, 1)[None]
        with torch.inference_mode():
            maps = predictor.model.backbone(predictor.model.normalize(torch.cat([image, image.flip(3)])))
        assert torch.allclose(each.features, maps[-1].mean((0, 2, 3)), atol=1e-5)
