"""Predictions of trained models, on images and in files."""

from finetune.inference.class_indices import ClassIndices
from finetune.inference.class_masks import ClassMasks
from finetune.inference.output import Output
from finetune.inference.predictor import Predictor

__all__ = ["ClassIndices", "ClassMasks", "Output", "Predictor"]
