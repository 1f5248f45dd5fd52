"""Post-processing of predictions: one table of steps, and one file for each or for a few that are alike."""

from collections.abc import Mapping

from finetune.inference.post.dense_crf import DenseCRF
from finetune.inference.post.guided_filter import GuidedFilter
from finetune.inference.post.post_processing import LabelStep, PostProcessing, ScoreStep
from finetune.inference.post.regions import FillHoles, LargestComponent, MinSize
from finetune.inference.post.smooth import Smooth

__all__ = ["POST_STEPS", "PostProcessing"]

POST_STEPS: Mapping[str, type[ScoreStep] | type[LabelStep]] = {
    "guided_filter": GuidedFilter,
    "dense_crf": DenseCRF,
    "smooth": Smooth,
    "min_size": MinSize,
    "largest_component": LargestComponent,
    "fill_holes": FillHoles,
}
