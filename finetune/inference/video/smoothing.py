"""Smoothing of probabilities over the frames of a video, so that masks flicker less."""

import torch
from torch import Tensor

from finetune.inference.video.scene_cuts import is_scene_cut, thumbnail


class TemporalSmoothing:
    """A step on the probabilities of frames in their order: their exponential moving average; see `ScoreStep`.

    The average starts again at a scene cut, and at a frame of another size.

    Args:
        smoothing: weight of the average so far, 0 to below 1; the new frame has the rest.
        scene_cut: mean difference of two frames, in gray levels, above which the average starts again.
    """

    def __init__(self, smoothing: float, scene_cut: float) -> None:
        self.smoothing = smoothing
        self.scene_cut = scene_cut
        self._before: tuple[Tensor, Tensor] | None = None  # average and thumbnail

    def refine(self, probabilities: Tensor, images: Tensor) -> Tensor:
        """Return the average up to each frame, (B, K, H, W)."""
        averages = []
        for average, image in zip(probabilities, images, strict=True):
            seen = thumbnail(image)
            if self._before is not None:
                before, seen_before = self._before
                if before.shape == average.shape and not is_scene_cut(seen_before, seen, self.scene_cut):
                    average = self.smoothing * before + (1 - self.smoothing) * average
            self._before = average, seen
            averages.append(average)
        return torch.stack(averages)
