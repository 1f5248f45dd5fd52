"""Build the post-processing from the settings of `post`."""

from typing import Any

import torch

from finetune.config.errors import ConfigError, raise_mistakes, usage
from finetune.config.options import Config
from finetune.config.settings import Settings
from finetune.inference import Output
from finetune.inference.post import POST_STEPS, PostProcessing, RegionStep
from finetune.io.messages import suggest


def build_post(settings: Config | None, output: Output) -> PostProcessing:
    """Build the steps in their order.

    Args:
        settings: name of a step -> its options; None for no steps.
        output: of the model.

    Raises:
        ConfigError: an unknown step, options that it does not have or take, or classes that it cannot work with.
    """
    mistakes, steps = list[str](), {}
    for name, options in (settings or {}).items():
        if name not in POST_STEPS:
            raise ConfigError(f"post has no step '{name}'. {suggest(str(name), POST_STEPS)}")
        described = Settings(f"post.{name}", options or {}, POST_STEPS[name], ("class_names",))
        mistakes += described.unknown().values() or described.type_errors()
    raise_mistakes(mistakes)
    with usage():
        for name, options in (settings or {}).items():
            step: Any = POST_STEPS[name]
            known = {"class_names": output.class_names} if issubclass(step, RegionStep) else {}
            steps[name] = step(**known, **(options or {}))
        post = PostProcessing(steps)
        post.clean(output.decode(torch.zeros(1, len(output.class_names), 1, 1)))  # fails now, not at the first image
        return post
