"""Build the views of test-time augmentation from the settings of `tta`."""

from collections.abc import Sequence

from finetune.builders.checks.settings import view_settings
from finetune.config.errors import raise_mistakes, usage
from finetune.config.options import Config
from finetune.models import PyramidModel
from finetune.models.views import Views


def build_views(settings: Config) -> Views | None:
    """Return the views, or None if there is one only: the image as it is.

    Raises:
        ConfigError: settings of a wrong type, or that make no views.
    """
    raise_mistakes(view_settings(settings).type_errors())
    with usage():
        views = Views(**settings)
    return None if views.all == Views().all else views


def use_views(settings: Config, models: Sequence[PyramidModel]) -> list[str]:
    """Give saved models the views of an evaluation or a prediction, and return lines about them.

    Settings that are null are those of the model.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    for model in models:
        model.views = build_views({**(model.views or Views()).config(), **given})
    return list(dict.fromkeys(f"{model.views.describe()} (tta)" for model in models if model.views is not None))
