"""Build the options of frames that follow each other from the settings of `video`."""

from finetune.config.errors import raise_mistakes, usage
from finetune.config.options import Config
from finetune.config.settings import Settings
from finetune.inference.video import VideoOptions


def build_video(settings: Config) -> VideoOptions:
    """Return the options.

    Raises:
        ConfigError: unknown settings, or values of a wrong type or out of range.
    """
    described = Settings("video", settings, VideoOptions)
    raise_mistakes(described.unknown().values() or described.type_errors())
    with usage():
        return VideoOptions(**settings)
