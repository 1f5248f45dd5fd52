"""Soft regions, and the attention of pixels to them."""

import math

import torch
from torch.nn import functional as F

from finetune.models.heads.ocr import Relation, region_means
from tests.models.heads.pyramids import build, draw, pyramid_for


def test_the_features_of_a_region_are_the_weighted_mean_of_its_pixels() -> None:
    pixels = torch.tensor([[[[1.0, 2.0], [3.0, 10.0]], [[0.0, 0.0], [4.0, 8.0]]]])  # two channels, 2x2
    never = -math.inf
    scores = torch.tensor([[[[0.0, 0.0], [never, never]], [[never, never], [math.log(3), 0.0]]]])
    means = region_means(pixels, scores)
    # the first region is the upper row; the second has three quarters of the third pixel and a quarter of the last
    assert torch.allclose(means, torch.tensor([[[1.5, 0.0], [4.75, 5.0]]]))


def test_context_is_softmax_attention_of_pixels_to_regions() -> None:
    torch.manual_seed(0)
    relation = Relation(6, 4).eval()
    pixels, regions = torch.randn(2, 6, 3, 5), torch.randn(2, 7, 6)
    with torch.no_grad():
        columns = regions.transpose(1, 2)[..., None]
        query, key, value = relation.query(pixels), relation.key(columns), relation.value(columns)
        weights = torch.einsum("bkhw,bkr->bhwr", query, key[..., 0]).div(2).softmax(dim=-1)  # 2 is the root of 4
        expected = relation.widen(torch.einsum("bhwr,bkr->bkhw", weights, value[..., 0]))
        assert torch.allclose(relation(pixels, regions), expected, atol=1e-6)


def test_the_coarse_logits_have_the_size_of_the_images_and_train_their_layers_only() -> None:
    pyramid = pyramid_for("ocr")
    decoder, _ = build("ocr", pyramid, classes=4)
    features = draw(pyramid, 32, 64, batch=2)
    x, auxiliary = decoder.forward_with_auxiliary(features)
    assert torch.equal(x, decoder(features))
    assert [logits.shape for logits in auxiliary] == [(2, 4, 32, 64)]
    F.cross_entropy(auxiliary[0], torch.zeros(2, 32, 64, dtype=torch.long)).backward()
    assert all(p.grad is not None for p in decoder.guess.parameters())
    assert all(p.grad is None for p in decoder.relation.parameters())
