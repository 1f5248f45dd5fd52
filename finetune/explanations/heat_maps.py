"""Heat maps of an image: the parts of it that the prediction of a class in a region depends on.

Models are in eval mode, without views and windows; images are normalized, (1, C, H, W); regions are bool, (H, W).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.models import Segmenter
from finetune.models.input_size import Size

BATCH = 4  # covered images that are computed at a time


def find_target(
    prediction: Tensor, classes: int, index: int | None = None, box: Sequence[int] | None = None
) -> tuple[int, Tensor]:
    """Return a class and a region: the box, or else the pixels that are predicted as the class.

    Args:
        prediction: class indices (H, W), or masks (K, H, W) of 0 and 1.
        classes: number of classes, K.
        index: of the class; None for the one with the most pixels. Of class indices, the first one is taken only if
            there is no other: it is often the background.
        box: top, left, bottom and right in pixels, the last two exclusive; None for the whole image.

    Raises:
        ValueError: the box has no pixel, or is not inside the image.
    """
    single = prediction.ndim == 2
    masks = (F.one_hot(prediction.long(), classes).movedim(-1, 0) if single else prediction) > 0
    inside = torch.ones_like(masks[0])
    if box is not None:
        (top, left, bottom, right), (height, width) = box, inside.shape
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise ValueError(f"region={list(box)}: expected [top,left,bottom,right] inside {height} x {width} pixels.")
        inside = torch.zeros_like(inside)
        inside[top:bottom, left:right] = True
    if index is None:
        counts = (masks & inside).flatten(1).sum(dim=1)[int(single) :]
        index = int(counts.argmax()) + single if counts.any() else 0
    return index, masks[index] if box is None else inside


def grad_cam(model: Segmenter, image: Tensor, index: int, region: Tensor, stride: int | None = None) -> Tensor:
    """Return the Seg-Grad-CAM (H, W) of the summed logits of a class in a region, 0 or more, in arbitrary units.

    The stride is that of the feature map's level in the pyramid; None is the coarsest.

    Raises:
        ValueError: the head reads no feature map of this level.

    Source: Vinogradova et al. 2020, https://arxiv.org/abs/2002.11434
    """
    strides = [level.stride for level in model.backbone.levels]
    if stride is not None and stride not in strides:
        raise ValueError(f"layer={stride}: the head reads feature maps of the levels {', '.join(map(str, strides))}.")
    with torch.enable_grad():  # from the image on, as the weights may be frozen
        logits, maps, padded = _forward(model, image.detach().requires_grad_())
        feature = maps[-1 if stride is None else strides.index(stride)]
        (gradient,) = torch.autograd.grad(logits[0, index][region].sum(), feature)
    weights = gradient[0].mean(dim=(1, 2))
    return _to_image(torch.einsum("c,chw->hw", weights, feature[0].detach()).relu(), padded, image)


@torch.no_grad()
def occlusion(
    probabilities: Callable[[Tensor], Tensor], image: Tensor, region: Tensor, patch: int = 64, stride: int | None = None
) -> Tensor:
    """Return the drop (H, W) of the mean probability in a region by a gray square, averaged over those on each pixel.

    Probabilities are those of a class (B, H, W), of normalized images (B, C, H, W). Squares are 0, the mean color of
    the weights. The stride is at most the side of a square, `patch`, both in pixels; None is half of it.

    Source: Zeiler & Fergus 2014, https://arxiv.org/abs/1311.2901
    """
    stride = max(patch // 2, 1) if stride is None else stride
    if not 1 <= stride <= patch:
        raise ValueError(f"patch={patch} stride={stride}: expected a stride from 1 to the size of the patch.")
    last = [max(side - patch, 0) for side in region.shape]
    rows, columns = ([slice(i, i + patch) for i in (*range(0, end, stride), end)] for end in last)
    squares = [(slice(None), row, column) for row in rows for column in columns]
    before = probabilities(image)[0, region].mean()
    drops, counts = (torch.zeros(1, *region.shape, device=image.device) for _ in range(2))
    for first in range(0, len(squares), BATCH):
        batch = squares[first : first + BATCH]
        covered = image.repeat(len(batch), 1, 1, 1)
        for each, square in zip(covered, batch, strict=True):
            each[square] = 0
        for after, square in zip(probabilities(covered)[:, region].mean(dim=1), batch, strict=True):
            drops[square] += before - after
            counts[square] += 1
    return (drops / counts)[0]


@torch.no_grad()
def attention_rollout(model: Segmenter, image: Tensor, region: Tensor) -> Tensor:
    """Return how much the tokens of a region attend to each pixel (H, W) through all blocks, 0 or more.

    A token counts by the fraction of its pixels in the region.

    Raises:
        ValueError: the backbone is no plain ViT, in which all tokens attend to all tokens.

    Source: Abnar & Zuidema 2020, https://arxiv.org/abs/2005.00928
    """
    matrices: list[Tensor] = []
    with ExitStack() as undo:
        for block in getattr(model.backbone.model, "blocks", ()):
            layer: Any = getattr(block, "attn", None)
            if hasattr(layer, "fused_attn") and hasattr(layer, "attn_drop"):
                undo.callback(setattr, layer, "fused_attn", layer.fused_attn)
                layer.fused_attn = False  # torch's fused attention never holds the matrix
                hook = layer.attn_drop.register_forward_hook(lambda *call: matrices.append(call[-1][0].mean(dim=0)))
                undo.callback(hook.remove)
        _, maps, padded = _forward(model, image)
    height, width = maps[-1].shape[-2:]
    prefix = model.backbone.num_prefix_tokens
    if {len(matrix) for matrix in matrices} != {prefix + height * width}:
        raise ValueError(
            f"method=rollout multiplies the attention of all tokens to all tokens, which backbone "
            f"'{model.backbone.name}' does not have: it is no plain ViT. Set method=gradcam or method=occlusion."
        )
    right, down = padded[1] - region.shape[1], padded[0] - region.shape[0]
    tokens = F.adaptive_avg_pool2d(F.pad(region.float(), (0, right, 0, down))[None], (height, width)).flatten()
    heat = tokens / tokens.sum() @ rollout(matrices)[prefix:, prefix:]
    return _to_image(heat.view(height, width), padded, image)


def rollout(matrices: Sequence[Tensor]) -> Tensor:
    """Return the attention of the last layer's tokens to those of the first, (N, N), whose rows add up to 1.

    Args:
        matrices: attention of each layer (N, N), first to last; residual connections count as much as attention.
    """
    joint = torch.eye(len(matrices[0])).to(matrices[0])
    for matrix in matrices:
        joint = (matrix @ joint + joint) / 2
    return joint


def _forward(model: Segmenter, image: Tensor) -> tuple[Tensor, list[Tensor], Size]:
    """Return logits (1, K, H, W), the backbone's feature maps (1, C, h, w), and the size of the image with padding."""
    passes: list[tuple[list[Tensor], Size]] = []
    hook = model.backbone.register_forward_hook(
        lambda _, inputs, outputs: passes.append((outputs[: len(model.backbone.levels)], inputs[0].shape[-2:]))
    )
    try:
        logits = model(image)
    finally:
        hook.remove()
    maps, (height, width) = passes[0]
    return logits, maps, (height * model.reduce, width * model.reduce)


def _to_image(heat: Tensor, padded: Size, image: Tensor) -> Tensor:
    """Return values on a feature map (h, w) at the size of the image (..., H, W), bilinearly, without its padding."""
    resized = F.interpolate(heat[None, None], padded, mode="bilinear", align_corners=False)[0, 0]
    return resized[: image.shape[-2], : image.shape[-1]]
