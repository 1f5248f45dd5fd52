"""Build the post-processing from the settings of `post`."""

from inspect import signature
from typing import Any

import torch

from finetune.config.errors import ConfigError, raise_mistakes, usage
from finetune.config.options import Config
from finetune.config.settings import Settings
from finetune.inference import Output
from finetune.inference.post import POST_STEPS, PostProcessing
from finetune.io.messages import suggest

FROM_OUTPUT = ("class_names", "exclusive")  # arguments of steps that are no settings


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
        described = Settings(f"post.{name}", options or {}, POST_STEPS[name], FROM_OUTPUT)
        mistakes += described.unknown().values() or described.type_errors()
    raise_mistakes(mistakes)
    blank = output.decode(torch.zeros(1, len(output.class_names), 1, 1))
    known = dict(zip(FROM_OUTPUT, (output.class_names, blank.ndim == 3), strict=True))
    with usage():
        for name, options in (settings or {}).items():
            step: Any = POST_STEPS[name]
            own = {key: known[key] for key in FROM_OUTPUT if key in signature(step).parameters}
            steps[name] = step(**own, **(options or {}))
        post = PostProcessing(steps)
        post.clean(blank)  # fails now, not at the first image
        return post
