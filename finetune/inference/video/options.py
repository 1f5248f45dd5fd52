"""The settings of frames that follow each other."""

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoOptions:
    """How frames that follow each other are predicted.

    Attributes:
        smoothing: weight of the earlier frames in the probabilities of each frame, 0 to below 1; 0 for none.
        scene_cut: mean difference, in gray levels of 255, above which two frames belong to different scenes. In CamVid
            (480 x 360), frames 1/15 s apart differ by at most 9, and frames of different drives by at least 28.
        sequence: whether the images of a folder are frames, in the natural order of their names.

    Raises:
        ValueError: a number out of range, or a sequence or a limit of scenes without smoothing.
    """

    smoothing: float = 0.0
    scene_cut: float = 20.0
    sequence: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"video.smoothing={self.smoothing}: expected a number from 0 to below 1.")
        if not 0 <= self.scene_cut <= 255:
            raise ValueError(f"video.scene_cut={self.scene_cut}: expected gray levels from 0 to 255.")
        if self.scene_cut != type(self).scene_cut and not self.smoothing:
            raise ValueError(f"video.scene_cut={self.scene_cut} has no effect without video.smoothing, such as 0.5.")
        if self.sequence and not self.smoothing:
            raise ValueError("video.sequence=true changes nothing without smoothing: set video.smoothing, such as 0.5.")
