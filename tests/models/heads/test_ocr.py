"""Soft regions, and what pixels learn from them."""

import math

import torch
from torch.nn import functional as F

from finetune.models.heads.ocr import Relation, region_means
from tests.models.heads.pyramids import build, draw, pyramid_for


def test_a_region_is_the_mean_of_its_pixels() -> None:
    pixels = torch.tensor([[[[1.0, 2.0], [3.0, 10.0]], [[0.0, 0.0], [4.0, 8.0]]]])  # two channels, 2x2
    never = -math.inf
    scores = torch.tensor([[[[0.0, 0.0], [never, never]], [[never, never], [math.log(3), 0.0]]]])
    found = region_means(pixels, scores)
    # the first region is the upper row; the second has three quarters of the third pixel and a quarter of the last
    assert torch.allclose(found, torch.tensor([[[1.5, 0.0], [4.75, 5.0]]]))


def test_context_is_the_softmax_of_likeness_times_the_values() -> None:
    torch.manual_seed(0)
    relation = Relation(6, 4).eval()
    pixels, regions = torch.randn(2, 6, 3, 5), torch.randn(2, 7, 6)
    with torch.no_grad():
        columns = regions.transpose(1, 2)[..., None]
        query, key, value = relation.query(pixels), relation.key(columns), relation.value(columns)
        weights = torch.einsum("bkhw,bkr->bhwr", query, key[..., 0]).div(2).softmax(dim=-1)  # 2 is the root of 4
        expected = relation.widen(torch.einsum("bhwr,bkr->bkhw", weights, value[..., 0]))
        assert torch.allclose(relation(pixels, regions), expected, atol=1e-6)


def test_the_first_guess_is_there_to_learn_from_at_the_size_of_the_images() -> None:
    pyramid = pyramid_for("ocr")
    decoder, _ = build("ocr", pyramid, classes=4)
    features = draw(pyramid, 32, 64, batch=2)
    x, auxiliary = decoder.forward_with_auxiliary(features)
    assert torch.equal(x, decoder(features))
    assert [logits.shape for logits in auxiliary] == [(2, 4, 32, 64)]
    F.cross_entropy(auxiliary[0], torch.zeros(2, 32, 64, dtype=torch.long)).backward()
    assert all(p.grad is not None for p in decoder.guess.parameters())
    assert all(p.grad is None for p in decoder.relation.parameters())
