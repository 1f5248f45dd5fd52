"""An ONNX file of a model of objects: from uint8 images to a fixed number of boxes and masks."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from finetune.data import DataError
from finetune.data.synthetic.drawing import draw
from finetune.exporters.exporter import ExportError, refusal
from finetune.exporters.onnx_file import check_packages, trace
from finetune.io.atomic_write import PART
from finetune.models.heads.validation import check_choice
from finetune.models.input_size import Size
from finetune.models.instance_heads.yolact import CANDIDATES, Yolact, take
from finetune.models.instance_segmenter import InstanceSegmenter

OUTPUTS = ("boxes", "scores", "labels", "masks")
SIZES = ((133, 107), (96, 128))  # of the synthetic images; the first needs padding, so that padding is traced
LIMITS = torch.tensor([0.1, 1e-3, 0.01])  # of the differences: boxes in pixels, scores, 1 - IoU of masks
ROUNDING = 1e-5  # of scores
AGREEING = 0.99  # least share of the objects; rounding decides about some that are equal


class DeployedInstances(nn.Module):
    """Normalization, network, choice of boxes, and masks in one module.

    Args:
        model: with `head=yolact`, without adapters.
        nms: `inside`; or `outside` for runtimes without NonMaxSuppression: duplicates are left to the caller.

    Raises:
        ValueError: another head, or another value of `nms`.
    """

    def __init__(self, model: InstanceSegmenter, nms: str = "inside") -> None:
        super().__init__()
        if not isinstance(model.head, Yolact):
            raise ValueError(
                f"head={model.config()['head']} cannot be written as ONNX: it computes masks for as many boxes as it "
                f"finds. Train head=yolact, or export format=safetensors."
            )
        check_choice("nms", nms, ("inside", "outside"), group="export")
        self.model, self.head, self.nms = model, model.head, nms

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the k = `max_detections` boxes of the highest scores in images (B, C, H, W), uint8.

        Returns:
            boxes (B, k, 4), float32, pixels; scores (B, k), float32, falling, 0 where there are no more boxes; labels
            (B, k), int64; probabilities of masks (B, k, h, w), float32, which hold inside their boxes only. A cell of a
            mask has the stride of the finest map, 4 pixels or fewer; the last cells may lie beyond the image.
        """
        count, inside = self.head.max_detections, self.nms == "inside"
        maps, size = self.model.maps(self.model.normalize(images)), (images.shape[-2], images.shape[-1])
        candidates = self.head.candidates(maps, size, count * (CANDIDATES if inside else 1))
        boxes, scores, labels, coefficients, prototypes = candidates
        if inside:
            groups = labels + torch.arange(images.shape[0], device=images.device)[:, None] * self.model.classes
            kept = batched_nms(boxes.flatten(0, 1), scores.flatten(), groups.flatten(), self.head.nms)
            scores = scores * torch.zeros_like(scores).flatten().scatter(0, kept, 1.0).view_as(scores)
        scores, index = scores.topk(count)
        masks = torch.einsum("bkp,bphw->bkhw", take(coefficients, index), prototypes).sigmoid()
        return take(boxes, index), scores, labels.gather(1, index), masks


def differences(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Return how much the objects of an image differ in two outputs (N, 3): boxes in pixels, scores, 1 - IoU of masks.

    Each of our objects is compared with that one of theirs which is most like it among those of its label, as equal
    scores have no order. Those with the lowest scores may be in one output only, as both have a fixed number.
    """
    (boxes, scores, labels, masks), (their_boxes, their_scores, their_labels, their_masks) = ours, theirs
    compared = scores > their_scores.min() + ROUNDING
    box = (boxes[compared, None] - their_boxes).abs().amax(dim=-1)
    score = (scores[compared, None] - their_scores).abs()
    box = box.masked_fill(labels[compared, None] != their_labels, float("inf"))
    index = (box / LIMITS[0] + score / LIMITS[1]).argmin(dim=1, keepdim=True)
    own, other = masks[compared].flatten(1) > 0.5, their_masks[index[:, 0]].flatten(1) > 0.5
    mask = (own ^ other).sum(1) / (own | other).sum(1).clamp(min=1)
    return torch.stack([box.gather(1, index)[:, 0], score.gather(1, index)[:, 0], mask], dim=1)


def export_instances(
    model: InstanceSegmenter,
    path: Path,
    nms: str = "inside",
    size: Size | None = None,
    samples: Iterable[Tensor] = (),
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Write `DeployedInstances` as an ONNX file, compare it with the model, and keep no file that differs.

    Args:
        model: in eval mode on the CPU, without adapters.
        path: of the file.
        nms: as in `DeployedInstances`.
        size: height and width of the images, in pixels; None for any.
        samples: images (B, C, H, W), uint8, to compare on, in addition to synthetic ones.
        facts: plain data to write into the file.

    Returns:
        The agreement in words.

    Raises:
        ValueError: a head that cannot be exported, another value of `nms`, or packages that are not installed.
        ExportError: the model cannot be written, the file gives other objects, or the images show none to compare.
    """
    check_packages()
    import onnx
    import onnxruntime

    deployed = DeployedInstances(model, nms).eval()
    drawn = [_draw(model.backbone.in_channels, sides) for sides in ([size] if size is not None else SIZES)]
    axes: dict[str, dict[int, str]] = {name: {0: "batch"} for name in ("images", *OUTPUTS)}
    if size is None:
        axes["images"] |= {2: "height", 3: "width"}
        axes["masks"] |= {2: "rows", 3: "columns"}
    part = path.with_name(path.name + PART)
    try:
        trace(deployed, drawn[0][:2].flip(-1), part, OUTPUTS, axes)  # other images, and fewer, than those of the check
        if facts is not None:
            file = onnx.load(part)
            onnx.helper.set_model_props(file, {"finetune": json.dumps(facts)})
            onnx.save(file, part)
        session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
        agreement = _checked_agreement(_compare(deployed, session, chain(drawn, samples)))
        part.replace(path)
    except (ExportError, DataError, OSError):
        raise
    except Exception as error:  # those of exporters and runtimes have no common type
        raise refusal(model, error) from error
    finally:
        part.unlink(missing_ok=True)
    return agreement


def _compare(deployed: DeployedInstances, session: Any, images: Iterable[Tensor]) -> Tensor:
    """Return the differences (N, 3) between the objects of a model and those of its file."""
    parts = [torch.zeros(0, 3)]
    for batch in images:
        with torch.inference_mode():
            ours = deployed(batch)
        theirs = [torch.from_numpy(array) for array in session.run(list(OUTPUTS), {"images": batch.numpy()})]
        parts += map(differences, zip(*ours, strict=True), zip(*theirs, strict=True))
    return torch.cat(parts)


def _checked_agreement(found: Tensor) -> str:
    """Return differences (N, 3) in words, or raise ExportError if too many objects differ."""
    agreeing = int((found <= LIMITS).all(dim=1).sum())
    box, score, mask = torch.cat([found, torch.zeros(1, 3)]).amax(dim=0).tolist()
    agreement = (
        f"{agreeing} of {len(found)} objects agree; boxes differ by at most {box:.3g} pixels, scores by {score:.3g}, "
        f"masks by 1 - IoU = {mask:.3g} (limits {', '.join(f'{limit:g}' for limit in LIMITS.tolist())})"
    )
    if not len(found) or agreeing < AGREEING * len(found):
        raise ExportError(
            f"the ONNX file gives other objects than the model, or none: {agreement}. No file is left. "
            f"samples=IMAGES compares on images with objects."
        )
    return agreement


def _draw(channels: int, size: Size) -> Tensor:
    """Return three synthetic images (3, C, H, W), uint8."""
    images = torch.stack([draw(size, index=index)[0] for index in range(3)])
    return images[:, torch.arange(channels) % images.shape[1]]
