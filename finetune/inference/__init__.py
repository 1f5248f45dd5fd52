"""Finished models at work on images."""

from finetune.inference.predictor import Predictor

__all__ = ["Predictor"]
