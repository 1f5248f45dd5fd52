"""Centered kernel alignment (CKA) of features: how much fine-tuning changed each layer of a backbone."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.models.backbone import Backbone
from finetune.models.features import read_maps

SIDE = 8  # rows and columns of positions that are sampled from a feature map
MOST = 4096  # positions: memory grows with their square


@torch.no_grad()
def backbone_similarity(first: Backbone, second: Backbone, images: Iterable[Tensor]) -> list[tuple[str, float]]:
    """Return the name and CKA of each layer that the feature maps in use depend on, first to last.

    Args:
        first: in eval mode.
        second: of the same name and options, in eval mode.
        images: normalized, (1, C, H, W) each.
    """
    layers = range(max(second.indices) + 1)
    rows: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in layers]
    for image in images:
        size = second.input_size.fit(*image.shape[-2:])
        fitted = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        for side, backbone in enumerate((first, second)):
            for layer, feature in read_maps(backbone.model, fitted, layers)[0].items():
                rows[layer][side].append(sample_positions(feature).cpu())
    info = second.model.feature_info
    names = [str(entry["module"]) for entry in getattr(info, "info", info)]
    return [(names[layer], linear_cka(*map(_some, rows[layer]))) for layer in layers]


def _some(features: Sequence[Tensor]) -> Tensor:
    """Return the features (N, C) of all images, or of `MOST` positions that are spread over them evenly."""
    joined = torch.cat(list(features))
    return joined[torch.arange(MOST) * len(joined) // MOST] if len(joined) > MOST else joined


def sample_positions(feature: Tensor) -> Tensor:
    """Return the features (N, C) at up to 8 x 8 regular positions of each feature map (B, C, h, w)."""
    height, width = feature.shape[-2:]
    rows, columns = ((torch.arange(n := min(SIDE, side)) * 2 + 1) * side // (2 * n) for side in (height, width))
    return feature[:, :, rows[:, None], columns].permute(0, 2, 3, 1).flatten(0, 2)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear CKA of representations (N, C) and (N, D) of N examples, 4 or more; NaN if one is constant.

    It is 1 if a rotation and a scale turn one into the other. The estimate of HSIC has no bias, so unrelated
    features have a CKA near 0, above or below; with the usual one it would be near 1 for more features than examples.

    Source: Kornblith et al. 2019, https://arxiv.org/abs/1905.00414; estimate: Song et al. 2012, equation 5, as in
        Nguyen et al. 2021, https://arxiv.org/abs/2010.15327
    """
    if len(x) < 4:
        raise ValueError(f"CKA of {len(x)} positions in feature maps: expected 4 or more. Give more or larger images.")
    kernels = []
    for each in (x, y):
        centered = each.double() - each.double().mean(dim=0)  # changes no result, but keeps the digits
        kernels.append((centered @ centered.T).fill_diagonal_(0))
    cross, *own = (_hsic(kernels[i], kernels[j]) for i, j in ((0, 1), (0, 0), (1, 1)))
    return float(cross / (own[0] * own[1]).sqrt()) if min(own) > 0 else float("nan")


def _hsic(k: Tensor, other: Tensor) -> Tensor:
    """Return N (N - 3) times the Hilbert-Schmidt independence criterion of kernels (N, N) with a diagonal of 0."""
    n = len(k)
    means = k.sum() * other.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(dim=0) @ other.sum(dim=0))
    return (k * other).sum() + means
