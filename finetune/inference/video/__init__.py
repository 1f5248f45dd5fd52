"""Videos: frames that follow each other are read, smoothed over time, and written with the sound of their video."""

from finetune.inference.video.options import VideoOptions
from finetune.inference.video.prediction import save_video
from finetune.inference.video.smoothing import TemporalSmoothing

__all__ = ["TemporalSmoothing", "VideoOptions", "save_video"]
